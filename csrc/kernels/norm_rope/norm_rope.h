// RMSNorm of every head of query and key, and the rotation of what it gives (see rope/rope.h), in float32 inside with
// one rounding at the end:
//   n = x / sqrt(mean(x^2) + eps) * (weight_offset + weight);  out = rotated(n)
// The backward pass, with g = grad_out turned back, m = g * (weight_offset + weight) and r = 1 / sqrt(mean(x^2) + eps):
//   grad_x = r * m - r^3 / head_dim * <m, x> * x;  grad_weight = sum over positions and heads of g * x * r
#pragma once

#include <cstdint>

#include "kernels/common/dtype.h"
#include "kernels/common/launch.h"
#include "kernels/rope/rope.h"

namespace liger::kernels {

inline constexpr std::int64_t kNormRopeWidest = 512;  // head_dim, which is even

// Of query or key, beside its RopeOperand.
struct NormRopeOperand {
  const void* weight = nullptr;  // [head_dim] or null
  // In the backward pass:
  const void* hidden = nullptr;  // what was normalised
  RopeLayout hidden_strides{};
  void* grad_weight = nullptr;  // [head_dim], or null where it is not wanted
};

// `rope.transpose` is the backward pass: `in` are then the gradients of the results, `out` those of query and key.
struct NormRopeArgs {
  RopeArgs rope;
  NormRopeOperand query;
  NormRopeOperand key;
  float eps = 0.0f;
  float weight_offset = 0.0f;
  ScalarType weight_dtype = ScalarType::float32;  // of both weights: float32 or rope.dtype
  float* workspace = nullptr;  // norm_rope_backward_workspace() floats, aligned to 8 bytes; null without grad_weight
};

Status norm_rope_forward(const NormRopeArgs& args, const LaunchContext& context);
Status norm_rope_backward(const NormRopeArgs& args, const LaunchContext& context);
std::int64_t norm_rope_backward_workspace(const NormRopeArgs& args, const LaunchContext& context);

// Calls visitor(TypeTag<element type>, TypeTag<table type>, TypeTag<weight type>), or gives a failure.
template <typename Visitor>
Status dispatch_norm_rope_dtypes(const NormRopeArgs& args, Visitor&& visitor) {
  if (args.rope.head_dim % 2 != 0 || args.rope.head_dim > kNormRopeWidest) {
    return Status("head_dim must be even and at most 512");
  }
  return dispatch_rope_dtypes(args.rope.dtype, args.rope.table_dtype, [&](auto type, auto table) {
    using T = typename decltype(type)::type;
    if (args.weight_dtype == args.rope.dtype) return visitor(type, table, type);
    if constexpr (DtypeTraits<T>::scalar_type != ScalarType::float32) {
      if (args.weight_dtype == ScalarType::float32) return visitor(type, table, TypeTag<float>{});
    }
    return Status("weights must be float32 or have the dtype of query");
  });
}

// The CPU kernels for one instruction set, see common/cpu_isa.h. Positions are split into `parts`, each with its own
// sums of weight gradients.
namespace cpu {
std::int64_t norm_rope_backward_parts(const NormRopeArgs& args, const LaunchContext& context);
template <int kIsaLevel>
Status norm_rope_forward(const NormRopeArgs& args, const LaunchContext& context);
template <int kIsaLevel>
Status norm_rope_backward(const NormRopeArgs& args, const LaunchContext& context);
}  // namespace cpu

}  // namespace liger::kernels
