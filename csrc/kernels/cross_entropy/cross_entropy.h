// Cross entropy of one row of logits z[vocab] and a class y, in float32:
//   u = softcap * tanh(z * logit_scale / softcap), or z * logit_scale where softcap is 0
//   lse = log(sum_j exp(u_j)),  p_j = exp(u_j - lse)
//   row loss = (1 - s) * (lse - u_y) + s * (lse - mean_j u_j), 0 where y is ignore_index
//   d(row loss)/du_j = p_j - s / vocab - (1 - s) * [j == y]
// and a loss over rows: sum(row loss) / ce_divisor + z_loss * sum(lse^2) / z_divisor.
// lse is kept in float64: rounded to float32 its error would be that of every p_j of the row.
// Rows have any stride; elements of a row are neighbours.
#pragma once

#include <cstdint>

#include "kernels/common/dtype.h"
#include "kernels/common/launch.h"

namespace liger::kernels {

// How a loss is made of rows. Lies in device memory, so that nothing waits for the number of counted targets.
struct CrossEntropyScales {
  double ce_divisor;  // targets that are not ignored (mean), or 1
  double z_divisor;   // rows (mean), or 1
  // A power of two with 0.5 < grad_unit / ce_divisor <= 1. Gradients that are stored before the upstream gradient is
  // known are multiplied by it: float16 does not underflow, and dividing by it is exact.
  double grad_unit;
};

struct CrossEntropyTarget {
  const void* classes = nullptr;  // [rows]
  bool is_int64 = true;           // or int32
  std::int64_t ignore_index = -100;
};

struct CrossEntropyLogits {
  const void* data = nullptr;  // [rows, vocab]
  ScalarType dtype = ScalarType::float32;
  std::int64_t row_stride = 0;
  float scale = 1.0f;
  float softcap = 0.0f;
  // data holds u already: scale and softcap only enter the derivative.
  bool is_transformed = false;
};

// The two maps that a kernel evaluates per element: z -> u, and u -> du/dz.
struct LogitMap {
  float scale;
  float softcap;
  float slope_scale;
  float slope_softcap;
};

LIGER_ALWAYS_INLINE LogitMap logit_map(const CrossEntropyLogits& logits) {
  if (logits.is_transformed) return {1.0f, 0.0f, logits.scale, logits.softcap};
  return {logits.scale, logits.softcap, logits.scale, logits.softcap};
}

struct CrossEntropyScalesArgs {
  std::int64_t rows = 0;
  CrossEntropyTarget target;
  bool is_mean = false;
  double z_loss = 0.0;
  CrossEntropyScales* scales = nullptr;
  float* inverse_grad_unit = nullptr;  // if set, gets 1 / grad_unit
};

constexpr CrossEntropyScales make_scales(const CrossEntropyScalesArgs& args, std::int64_t counted) {
  const double ce_divisor = args.is_mean ? static_cast<double>(counted) : 1.0;
  const double z_divisor = args.is_mean ? static_cast<double>(args.rows) : 1.0;
  double unit = 1.0;
  while (2.0 * unit <= ce_divisor) unit *= 2.0;
  return {ce_divisor, z_divisor, unit};
}

struct CrossEntropyForwardArgs {
  std::int64_t rows = 0;
  std::int64_t vocab = 0;
  CrossEntropyLogits logits;
  CrossEntropyTarget target;
  double label_smoothing = 0.0;
  double z_loss = 0.0;        // where it is 0, ignored rows are not read and their lse is 0
  float* row_loss = nullptr;  // [rows]
  double* lse = nullptr;      // [rows]
  // If set, u is rounded to the dtype of the logits and written here (possibly over them), and the loss is that of the
  // rounded values.
  void* transformed = nullptr;
  std::int64_t transformed_stride = 0;
};

struct CrossEntropyReduceArgs {
  std::int64_t rows = 0;
  const float* row_loss = nullptr;
  const double* lse = nullptr;
  bool is_per_row = false;  // one loss per row, else one in all
  double z_loss = 0.0;
  const CrossEntropyScales* scales = nullptr;
  void* loss = nullptr;  // [rows] or one value
  ScalarType loss_dtype = ScalarType::float32;
};

constexpr float total_loss(const CrossEntropyReduceArgs& args, double loss, double squares) {
  const double mean = loss / args.scales->ce_divisor;
  return static_cast<float>(args.z_loss == 0.0 ? mean : mean + args.z_loss * (squares / args.scales->z_divisor));
}

// p_j = factor * exp(u_j - shift)
struct RowSoftmax {
  float shift;
  double factor;
  double lse;
};

// du_j = weight * exp(u_j - shift) - (j == label ? label_offset : offset)
struct RowGradient {
  float shift;
  float weight;
  float offset;
  float label_offset;
  std::int64_t label;  // -1: ignored
  bool is_zero;
};

// Once per row, in float64: a rounding here would be an error of every element. upstream: of the loss.
LIGER_ALWAYS_INLINE constexpr RowGradient row_gradient(const CrossEntropyScales& scales, double upstream,
                                                       double smoothing, double z_loss, std::int64_t vocab,
                                                       const RowSoftmax& softmax, std::int64_t label) {
  const double likelihood = label < 0 ? 0.0 : upstream / scales.ce_divisor;
  const double square = z_loss == 0.0 ? 0.0 : 2.0 * z_loss * upstream / scales.z_divisor * softmax.lse;
  const double offset = likelihood * smoothing / static_cast<double>(vocab);
  return {softmax.shift,
          static_cast<float>((likelihood + square) * softmax.factor),
          static_cast<float>(offset),
          static_cast<float>(offset + likelihood * (1.0 - smoothing)),
          label,
          label < 0 && z_loss == 0.0};
}

// grad_j = du_j/dz_j * (upstream * d(loss)/du_j + grad_transformed_j)
struct CrossEntropyBackwardArgs {
  std::int64_t rows = 0;
  std::int64_t vocab = 0;
  CrossEntropyLogits logits;
  CrossEntropyTarget target;
  double label_smoothing = 0.0;
  double z_loss = 0.0;
  const double* lse = nullptr;             // [rows]
  const float* grad_loss = nullptr;        // null: no gradient comes through the loss
  std::int64_t grad_loss_stride = 0;       // 0: one value for all rows
  const void* grad_transformed = nullptr;  // [rows, vocab] in the dtype of the logits, or null
  std::int64_t grad_transformed_stride = 0;
  const CrossEntropyScales* scales = nullptr;
  void* grad_logits = nullptr;  // [rows, vocab], may be the logits or grad_transformed
  std::int64_t grad_stride = 0;
};

// Forward and backward at once for an upstream gradient of 1: the gradient, in grad_unit, replaces the logits.
struct CrossEntropyFusedArgs {
  std::int64_t rows = 0;
  std::int64_t vocab = 0;
  CrossEntropyLogits logits;
  CrossEntropyTarget target;
  double label_smoothing = 0.0;
  double z_loss = 0.0;
  const CrossEntropyScales* scales = nullptr;
  float* row_loss = nullptr;    // [rows]
  double* lse = nullptr;        // [rows]
  void* grad_logits = nullptr;  // logits.data
};

// sums[j] (+)= sum over rows of values[row, j], in float32.
struct ColumnSumArgs {
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  const void* values = nullptr;  // [rows, columns]
  ScalarType dtype = ScalarType::float32;
  std::int64_t row_stride = 0;
  bool accumulate = false;
  float* sums = nullptr;  // [columns]
};

// out[i] = values[i] * factor in float32, rounded once: a gradient that was formed for an upstream gradient of 1.
struct ScaleGradientArgs {
  std::int64_t count = 0;
  const void* values = nullptr;  // [count], of out_dtype or float32
  ScalarType dtype = ScalarType::float32;
  const float* factor = nullptr;  // where the values are
  void* out = nullptr;            // [count]
  ScalarType out_dtype = ScalarType::float32;
};

// visitor(type of the values, type of the result)
template <typename Visitor>
void dispatch_scale_dtypes(const ScaleGradientArgs& args, Visitor&& visitor) {
  dispatch_dtype(args.out_dtype,
                 [&](auto to) { args.dtype == args.out_dtype ? visitor(to, to) : visitor(TypeTag<float>{}, to); });
}

Status cross_entropy_scales(const CrossEntropyScalesArgs& args, const LaunchContext& context);
Status cross_entropy_forward(const CrossEntropyForwardArgs& args, const LaunchContext& context);
Status cross_entropy_reduce(const CrossEntropyReduceArgs& args, const LaunchContext& context);
Status cross_entropy_backward(const CrossEntropyBackwardArgs& args, const LaunchContext& context);
Status cross_entropy_fused(const CrossEntropyFusedArgs& args, const LaunchContext& context);
Status column_sum(const ColumnSumArgs& args, const LaunchContext& context);
Status scale_gradient(const ScaleGradientArgs& args, const LaunchContext& context);

// The CPU kernels for one instruction set, see common/cpu_isa.h.
namespace cpu {
template <int kIsaLevel>
Status cross_entropy_forward(const CrossEntropyForwardArgs& args, const LaunchContext& context);
template <int kIsaLevel>
Status cross_entropy_backward(const CrossEntropyBackwardArgs& args, const LaunchContext& context);
template <int kIsaLevel>
Status cross_entropy_fused(const CrossEntropyFusedArgs& args, const LaunchContext& context);
template <int kIsaLevel>
Status column_sum(const ColumnSumArgs& args, const LaunchContext& context);
template <int kIsaLevel>
Status scale_gradient(const ScaleGradientArgs& args, const LaunchContext& context);
}  // namespace cpu

}  // namespace liger::kernels
