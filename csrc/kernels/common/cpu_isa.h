// The CPU kernels are built once per instruction set (levels 0 baseline, 1 AVX2, 2 AVX-512), each copy inside namespace
// LIGER_ISA_NAMESPACE, and define the specialisation for LIGER_ISA_LEVEL of an entry point template.
#pragma once

#include <type_traits>

#ifndef LIGER_ISA_COUNT
#define LIGER_ISA_COUNT 1
#endif

namespace liger::kernels {

// The best level that was built and that this machine runs.
int isa_level();

// visitor(std::integral_constant<int, level>{}) for that level.
template <typename Visitor>
decltype(auto) with_isa_level(Visitor&& visitor) {
#if LIGER_ISA_COUNT > 1
  switch (isa_level()) {
    case 2:
      return visitor(std::integral_constant<int, 2>{});
    case 1:
      return visitor(std::integral_constant<int, 1>{});
    default:
      break;
  }
#endif
  return visitor(std::integral_constant<int, 0>{});
}

}  // namespace liger::kernels
