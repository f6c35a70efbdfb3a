// The conversions of common/row_block.h at one instruction set level, see common/cpu_isa.h.
#pragma once

#include <cstdint>

#include "kernels/common/dtype.h"

namespace liger::kernels {

template <int kIsaLevel>
void widen_at_level(const Float16* from, float* to, std::int64_t count);
template <int kIsaLevel>
void narrow_at_level(const float* from, Float16* to, std::int64_t count);

}  // namespace liger::kernels
