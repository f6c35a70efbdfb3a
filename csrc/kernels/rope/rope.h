// Rotary position embedding of query and key, halves paired. With half = rotary_dim / 2 and i < half:
//   out[i]        = x[i] * cos[i] - x[half + i] * sin[i]
//   out[half + i] = x[half + i] * cos[half + i] + x[i] * sin[half + i]
// and out = x from rotary_dim on; in float32 inside, one rounding. The backward pass is the transposed rotation:
//   out[i]        = x[i] * cos[i] + x[half + i] * sin[half + i]
//   out[half + i] = x[half + i] * cos[half + i] - x[i] * sin[i]
#pragma once

#include <cstdint>

#include "kernels/common/dtype.h"
#include "kernels/common/launch.h"

namespace liger::kernels {

inline constexpr int kRopePositionDims = 3;

// A row of head_dim elements stands at every position and head; its elements are neighbours. Strides are in elements
// and may be zero for what is read.
struct RopeLayout {
  std::int64_t positions[kRopePositionDims];
  std::int64_t head;
};

// Query or key (or their gradients): [positions..., heads, head_dim].
struct RopeOperand {
  const void* in = nullptr;
  void* out = nullptr;
  std::int64_t heads = 0;
  RopeLayout in_strides{};
  RopeLayout out_strides{};
};

// cos or sin: [positions..., rotary_dim], one for all heads.
struct RopeTable {
  const void* data = nullptr;
  std::int64_t strides[kRopePositionDims]{};
};

struct RopeArgs {
  RopeOperand query;
  RopeOperand key;
  RopeTable cos;
  RopeTable sin;
  std::int64_t positions[kRopePositionDims]{};
  std::int64_t head_dim = 0;
  std::int64_t rotary_dim = 0;  // even, at most head_dim
  ScalarType dtype = ScalarType::float32;
  ScalarType table_dtype = ScalarType::float32;  // float32 or dtype
  bool transpose = false;                        // the backward pass
};

Status rope(const RopeArgs& args, const LaunchContext& context);

LIGER_ALWAYS_INLINE std::int64_t count_positions(const RopeArgs& args) {
  return args.positions[0] * args.positions[1] * args.positions[2];
}

// Are the heads of a position nearer in memory than neighbouring positions are?
LIGER_ALWAYS_INLINE bool heads_are_neighbours(const RopeArgs& args) {
  const RopeLayout& strides = args.query.heads > 0 ? args.query.in_strides : args.key.in_strides;
  for (int dim = kRopePositionDims - 1; dim >= 0; --dim) {
    if (args.positions[dim] > 1) return strides.head < strides.positions[dim];
  }
  return true;
}

// Calls visitor(TypeTag<element type>, TypeTag<table type>) for a supported combination, or gives a failure.
template <typename Visitor>
Status dispatch_rope_dtypes(ScalarType dtype, ScalarType table_dtype, Visitor&& visitor) {
  return dispatch_dtype(dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    if (table_dtype == DtypeTraits<T>::scalar_type) return visitor(tag, tag);
    if constexpr (DtypeTraits<T>::scalar_type != ScalarType::float32) {
      if (table_dtype == ScalarType::float32) return visitor(tag, TypeTag<float>{});
    }
    return Status("cos and sin must be float32 or have the dtype of query");
  });
}

// The CPU kernels for one instruction set, see common/cpu_isa.h.
namespace cpu {
template <int kIsaLevel>
Status rope(const RopeArgs& args, const LaunchContext& context);
}  // namespace cpu

}  // namespace liger::kernels
