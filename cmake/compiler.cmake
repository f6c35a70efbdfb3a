# Compiler cache and warnings, for every target.

find_program(LIGER_CCACHE ccache)
if(LIGER_CCACHE)
  foreach(language CXX CUDA)
    if(NOT CMAKE_${language}_COMPILER_LAUNCHER)
      set(CMAKE_${language}_COMPILER_LAUNCHER ${LIGER_CCACHE})
    endif()
  endforeach()
endif()

add_library(liger_options INTERFACE)
target_compile_features(liger_options INTERFACE cxx_std_17)
target_include_directories(liger_options INTERFACE ${PROJECT_SOURCE_DIR}/csrc)
# GCC 12 takes the inactive members of a std::variant for uninitialised.
target_compile_options(liger_options INTERFACE "$<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-Wno-maybe-uninitialized>")
if(LIGER_WARNINGS_AS_ERRORS)
  target_compile_options(
    liger_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Werror>
                            $<$<COMPILE_LANGUAGE:CUDA>:-Werror=all-warnings>)
endif()

# Sources of one folder, looked up again at every build so that adding a file is enough.
function(liger_glob result)
  file(GLOB files CONFIGURE_DEPENDS ${ARGN})
  list(SORT files)
  set(${result} ${files} PARENT_SCOPE)
endfunction()
