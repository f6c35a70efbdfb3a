# Decides whether the CUDA ops are built; sets LIGER_BUILD_CUDA.

set(LIGER_BUILD_CUDA OFF)
if(LIGER_CUDA STREQUAL "OFF" OR NOT LIGER_TORCH)
  return()
endif()

find_program(LIGER_NVCC nvcc HINTS ENV CUDACXX ENV CUDA_HOME ENV CUDA_PATH PATHS /usr/local/cuda PATH_SUFFIXES bin)
set(missing "")
if(NOT LIGER_NVCC)
  set(missing "nvcc was not found")
elseif(NOT TARGET liger_torch_cuda)
  set(missing "torch ${LIGER_TORCH_VERSION} has no CUDA libraries")
endif()
if(missing)
  if(LIGER_CUDA STREQUAL "ON")
    message(FATAL_ERROR "LIGER_CUDA=ON, but ${missing}")
  endif()
  message(STATUS "CUDA ops: not built, ${missing}")
  return()
endif()

set(LIGER_BUILD_CUDA ON)
if(NOT CMAKE_CUDA_COMPILER)
  set(CMAKE_CUDA_COMPILER ${LIGER_NVCC})
endif()
set(CMAKE_CUDA_ARCHITECTURES ${LIGER_CUDA_ARCHITECTURES})
# Some kernels are made of instructions that only this architecture has.
set(LIGER_HOPPER OFF)
if("${LIGER_CUDA_ARCHITECTURES}" MATCHES "90a")
  set(LIGER_HOPPER ON)
endif()
# The runtime library is the one torch has already loaded.
set(CMAKE_CUDA_RUNTIME_LIBRARY Shared)
set(CMAKE_CUDA_STANDARD 17)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
enable_language(CUDA)
find_package(CUDAToolkit REQUIRED)

# cuBLAS from the toolkit, or where that has none from the packages that torch depends on.
foreach(library cublas cublasLt)
  if(NOT TARGET CUDA::${library})
    set(cuda_packages ${LIGER_TORCH_DIR}/../nvidia/cu${CUDAToolkit_VERSION_MAJOR})
    find_path(LIGER_CUBLAS_INCLUDE_DIR cublas_v2.h HINTS ${cuda_packages}/include REQUIRED)
    find_library(LIGER_${library} NAMES lib${library}.so.${CUDAToolkit_VERSION_MAJOR} HINTS ${cuda_packages}/lib REQUIRED)
    add_library(CUDA::${library} SHARED IMPORTED)
    set_target_properties(
      CUDA::${library} PROPERTIES IMPORTED_LOCATION ${LIGER_${library}}
                                  INTERFACE_INCLUDE_DIRECTORIES ${LIGER_CUBLAS_INCLUDE_DIR})
  endif()
endforeach()
message(STATUS "CUDA ops: built by nvcc ${CMAKE_CUDA_COMPILER_VERSION} for ${LIGER_CUDA_ARCHITECTURES}")
