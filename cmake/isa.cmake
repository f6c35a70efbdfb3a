# CPU kernels are compiled once per instruction set and picked at run time.
# Each copy gets LIGER_ISA_NAMESPACE (baseline, avx2, avx512): the kernel and every template it uses
# live in a namespace of that name, so that the linker never merges code of two levels.

set(LIGER_ISA_LEVELS baseline)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  list(APPEND LIGER_ISA_LEVELS avx2 avx512)
endif()
set(LIGER_ISA_FLAGS_baseline "")
set(LIGER_ISA_FLAGS_avx2 -mavx2 -mfma -mf16c)
set(LIGER_ISA_FLAGS_avx512 ${LIGER_ISA_FLAGS_avx2} -mavx512f -mavx512bw -mavx512vl -mavx512dq -mprefer-vector-width=512)
list(LENGTH LIGER_ISA_LEVELS liger_isa_count)

# Adds to `target` one object library per instruction set over the given sources.
# -ffp-contract=fast: ISO mode turns fused multiply-add off. errno and traps keep loops scalar.
function(liger_add_isa_objects target)
  set(level_number 0)
  foreach(level ${LIGER_ISA_LEVELS})
    set(objects ${target}_${level})
    add_library(${objects} OBJECT ${ARGN})
    target_link_libraries(${objects} PRIVATE liger_options)
    target_compile_definitions(
      ${objects} PRIVATE LIGER_DEVICE_CPU=1 LIGER_ISA_NAMESPACE=${level} LIGER_ISA_LEVEL=${level_number}
                         LIGER_ISA_COUNT=${liger_isa_count})
    target_compile_options(
      ${objects} PRIVATE -O3 -fvisibility=hidden -fvisibility-inlines-hidden -ffp-contract=fast -fno-math-errno
                         -fno-trapping-math -fopenmp-simd ${LIGER_ISA_FLAGS_${level}})
    target_sources(${target} PRIVATE $<TARGET_OBJECTS:${objects}>)
    math(EXPR level_number "${level_number} + 1")
  endforeach()
endfunction()
