#include "kernels/common/cpu_isa.h"

#if LIGER_ISA_COUNT > 1
#include <cpuid.h>
#endif

namespace liger::kernels {

namespace {

#if LIGER_ISA_COUNT > 1
// Asked of the processor, because not every compiler that has the builtin knows the name. That the operating system
// saves the registers is part of the answer for AVX2.
bool supports_f16c() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}
#endif

int detect_isa_level() {
#if LIGER_ISA_COUNT > 1
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && supports_f16c();
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
