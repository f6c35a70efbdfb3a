#include "kernels/common/cpu_isa.h"

namespace liger::kernels {

namespace {

int detect_isa_level() {
#if LIGER_ISA_COUNT > 1
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (!avx2) return 0;
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  return avx512 ? 2 : 1;
#else
  return 0;
#endif
}

}  // namespace

int isa_level() {
  static const int level = detect_isa_level();
  return level;
}

}  // namespace liger::kernels
