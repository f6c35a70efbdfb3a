# What the build Python offers: pybind11, and torch's headers and libraries.
# torch is located, not imported, and its own CMake package is not used: that one demands a CUDA
# toolkit wherever torch was built with CUDA.

if(NOT LIGER_PYTHON AND NOT LIGER_TORCH)
  return()
endif()

if(LIGER_PYTHON)
  find_package(Python 3.11 REQUIRED COMPONENTS Interpreter Development.Module)
  execute_process(
    COMMAND ${Python_EXECUTABLE} -m pybind11 --cmakedir
    OUTPUT_VARIABLE liger_pybind11_dir OUTPUT_STRIP_TRAILING_WHITESPACE
    RESULT_VARIABLE liger_pybind11_failed)
  if(liger_pybind11_failed)
    message(FATAL_ERROR "${Python_EXECUTABLE} has no pybind11: pip install -r requirements/build.txt")
  endif()
  find_package(pybind11 CONFIG REQUIRED PATHS ${liger_pybind11_dir} NO_DEFAULT_PATH)
else()
  find_package(Python 3.11 REQUIRED COMPONENTS Interpreter)
endif()

if(NOT LIGER_TORCH)
  return()
endif()

execute_process(
  COMMAND
    ${Python_EXECUTABLE} -c
    "import importlib.util as u, importlib.metadata as m; print(u.find_spec('torch').submodule_search_locations[0], m.version('torch'), sep=';')"
  OUTPUT_VARIABLE liger_torch OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET
  RESULT_VARIABLE liger_torch_failed)
if(liger_torch_failed)
  message(FATAL_ERROR "${Python_EXECUTABLE} has no torch: pip install -r requirements/build.txt, or -DLIGER_TORCH=OFF")
endif()
list(GET liger_torch 0 LIGER_TORCH_DIR)
list(GET liger_torch 1 LIGER_TORCH_VERSION)
message(STATUS "torch ${LIGER_TORCH_VERSION} in ${LIGER_TORCH_DIR}")

# Imported library `name` from torch/lib/lib<file>.so, where that file exists.
function(liger_import_torch_library name file)
  set(path ${LIGER_TORCH_DIR}/lib/lib${file}.so)
  if(EXISTS ${path})
    add_library(${name} SHARED IMPORTED)
    set_target_properties(${name} PROPERTIES IMPORTED_LOCATION ${path} IMPORTED_NO_SONAME TRUE)
  endif()
endfunction()

liger_import_torch_library(liger_c10 c10)
liger_import_torch_library(liger_torch_cpu torch_cpu)
liger_import_torch_library(liger_torch_cuda torch_cuda)

add_library(liger_torch INTERFACE)
target_include_directories(liger_torch SYSTEM INTERFACE ${LIGER_TORCH_DIR}/include)
target_link_libraries(liger_torch INTERFACE liger_torch_cpu liger_c10)
