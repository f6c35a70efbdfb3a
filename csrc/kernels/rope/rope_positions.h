// Where the rows of a position stand, for the CPU kernels.
#pragma once

#include <cstdint>

#include "kernels/rope/rope.h"

namespace liger::kernels {
namespace LIGER_ISA_NAMESPACE {

// Of a flat index.
LIGER_ALWAYS_INLINE void position_of(const RopeArgs& args, std::int64_t index,
                                     std::int64_t (&position)[kRopePositionDims]) {
  position[2] = index % args.positions[2];
  const std::int64_t outer = index / args.positions[2];
  position[1] = outer % args.positions[1];
  position[0] = outer / args.positions[1];
}

LIGER_ALWAYS_INLINE std::int64_t offset_of(const std::int64_t (&position)[kRopePositionDims],
                                           const std::int64_t (&strides)[kRopePositionDims]) {
  return position[0] * strides[0] + position[1] * strides[1] + position[2] * strides[2];
}

}  // namespace LIGER_ISA_NAMESPACE
}  // namespace liger::kernels
