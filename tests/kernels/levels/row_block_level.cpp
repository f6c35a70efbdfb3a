// Compiled once per instruction set, and so without GoogleTest: the linker may keep any copy of an inline function.
#include "row_block_level.h"

#include "kernels/common/row_block.h"

namespace liger::kernels {

template <>
void widen_at_level<LIGER_ISA_LEVEL>(const Float16* from, float* to, std::int64_t count) {
  LIGER_ISA_NAMESPACE::widen(from, to, count);
}

template <>
void narrow_at_level<LIGER_ISA_LEVEL>(const float* from, Float16* to, std::int64_t count) {
  LIGER_ISA_NAMESPACE::narrow(from, to, count);
}

}  // namespace liger::kernels
