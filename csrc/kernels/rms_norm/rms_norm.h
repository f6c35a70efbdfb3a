// RMSNorm, alone or after a residual addition.
//   x = hidden_states (+ residual, rounded to the common dtype and kept as `sum`)
//   rstd = 1 / sqrt(mean(x^2) + eps);  u = x * rstd, rounded to x's dtype where round_before_weight
//   out = u * (weight_offset + weight), in float32 inside, one rounding at the end
#pragma once

#include <cstdint>

#include "kernels/common/dtype.h"
#include "kernels/common/launch.h"

namespace liger::kernels {

// (hidden, weight, out) dtypes: all equal; half hidden with float32 weight and out half or float32; without a weight,
// out as hidden or float32. Rows have unit stride; the strides are from row to row, in elements.
struct RmsNormArgs {
  const void* hidden_states;  // [rows, width]
  const void* residual;       // [rows, width] or null
  const void* weight;         // [width] or null
  void* out;                  // [rows, width], contiguous
  void* sum;                  // [rows, width], contiguous; with a residual only
  float* rstd;                // [rows] or null
  std::int64_t rows;
  std::int64_t width;
  std::int64_t hidden_stride;
  std::int64_t residual_stride;
  float eps;
  float weight_offset;
  bool round_before_weight;
  ScalarType hidden_dtype;
  ScalarType weight_dtype;  // hidden_dtype where there is no weight
  ScalarType out_dtype;
};

// With m = grad_out * (weight_offset + weight):
//   grad_hidden = rstd * m - rstd^3 / width * <m, x> * x (+ grad_sum);  grad_weight = sum over rows of grad_out * u
// and `out` of the forward pass again: in half types bit for bit. (On the CPU float32 there uses a more exact rstd.)
struct RmsNormBackwardArgs {
  const void* grad_out;       // [rows, width] in out_dtype
  const void* grad_sum;       // [rows, width] in hidden_dtype, or null
  const void* hidden_states;  // [rows, width], what was normalised (the sum after a residual addition)
  const void* weight;         // [width] or null
  const float* rstd;          // [rows]
  void* grad_hidden_states;   // [rows, width], contiguous
  void* grad_weight;          // [width] in weight_dtype, or null where it is not wanted
  void* out;                  // [rows, width] in out_dtype, contiguous, or null where it is not wanted
  float* workspace;           // rms_norm_backward_workspace() floats, aligned to 8 bytes; null without grad_weight
  std::int64_t rows;
  std::int64_t width;
  std::int64_t grad_out_stride;
  std::int64_t grad_sum_stride;
  std::int64_t hidden_stride;
  float weight_offset;
  bool round_before_weight;
  ScalarType hidden_dtype;
  ScalarType weight_dtype;
  ScalarType out_dtype;
};

Status rms_norm_forward(const RmsNormArgs& args, const LaunchContext& context);
Status rms_norm_backward(const RmsNormBackwardArgs& args, const LaunchContext& context);
// How many floats of workspace the weight gradient of these sizes needs.
std::int64_t rms_norm_backward_workspace(const RmsNormBackwardArgs& args, const LaunchContext& context);

// Calls visitor(TypeTag<Hidden>, TypeTag<Weight>, TypeTag<Out>) for a supported combination, or gives a failure.
template <typename Visitor>
Status dispatch_rms_norm_dtypes(ScalarType hidden, ScalarType weight, ScalarType out, bool has_weight,
                                Visitor&& visitor) {
  return dispatch_dtype(hidden, [&](auto hidden_tag) {
    using Hidden = typename decltype(hidden_tag)::type;
    constexpr ScalarType kHidden = DtypeTraits<Hidden>::scalar_type;
    if (out == kHidden && (weight == kHidden || !has_weight)) return visitor(hidden_tag, hidden_tag, hidden_tag);
    if constexpr (kHidden != ScalarType::float32) {
      const bool wide_weight = weight == ScalarType::float32 || !has_weight;
      if (wide_weight && out == kHidden) return visitor(hidden_tag, TypeTag<float>{}, hidden_tag);
      if (wide_weight && out == ScalarType::float32) return visitor(hidden_tag, TypeTag<float>{}, TypeTag<float>{});
    }
    return Status("this combination of hidden_states, weight and out dtypes is not supported");
  });
}

// The CPU kernels for one instruction set, see common/cpu_isa.h. Rows are split into `parts`, each with its own
// workspace.
namespace cpu {
std::int64_t rms_norm_backward_parts(const RmsNormBackwardArgs& args, const LaunchContext& context);
std::int64_t rms_norm_backward_part_floats(std::int64_t width);
template <int kIsaLevel>
Status rms_norm_forward(const RmsNormArgs& args, const LaunchContext& context);
template <int kIsaLevel>
Status rms_norm_backward(const RmsNormBackwardArgs& args, const LaunchContext& context);
}  // namespace cpu

}  // namespace liger::kernels
