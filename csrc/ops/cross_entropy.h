// What the cross entropy ops share: their options, the checks of their arguments, and the pieces of the kernels' args.
#pragma once

#include <optional>
#include <stdexcept>
#include <string>

#include "kernels/cross_entropy/cross_entropy.h"
#include "ops/check.h"
#include "ops/device.h"

namespace liger::ops {

enum class Reduction { none, mean, sum };

inline Reduction parse_reduction(const char* op, const std::string& text) {
  if (text == "none") return Reduction::none;
  if (text == "mean") return Reduction::mean;
  require(text == "sum", Argument{op, "reduction"}, " must be \"none\", \"mean\" or \"sum\", got \"", text, "\"");
  return Reduction::sum;
}

struct CrossEntropyOptions {
  std::int64_t ignore_index;
  Reduction reduction;
  double label_smoothing;
  float logit_scale;
  float softcap;
  double z_loss;
};

inline CrossEntropyOptions make_options(const char* op, std::int64_t ignore_index, const Text& reduction,
                                        double label_smoothing, double logit_scale, double softcap, double z_loss) {
  require(label_smoothing >= 0.0 && label_smoothing <= 1.0, Argument{op, "label_smoothing"},
          " must be between 0 and 1, got ", label_smoothing);
  require(softcap >= 0.0, Argument{op, "softcap"}, " must not be negative, got ", softcap);
  return {ignore_index,
          parse_reduction(op, reduction.value),
          label_smoothing,
          static_cast<float>(logit_scale),
          static_cast<float>(softcap),
          z_loss};
}

// The dtype of the loss: float32 unless asked otherwise.
inline TorchDtype loss_dtype(const char* op, std::optional<TorchDtype> out_dtype) {
  const TorchDtype dtype = out_dtype.value_or(TorchDtype::Float);
  kernel_dtype({op, "out_dtype"}, dtype);
  return dtype;
}

inline kernels::CrossEntropyTarget target_from(const Tensor& target, const CrossEntropyOptions& options,
                                               std::int64_t first_row) {
  const bool is_int64 = target.scalar_type() == TorchDtype::Long;
  const auto* bytes = static_cast<const char*>(target.const_data_ptr());
  return {bytes + first_row * (is_int64 ? 8 : 4), is_int64, options.ignore_index};
}

#if defined(LIGER_DEVICE_CUDA)
// The kernels stop with a device-side assertion, as torch's do: looking here would wait for the device.
inline void require_targets_in_range(const kernels::CrossEntropyTarget&, std::int64_t, std::int64_t) {}
#else
inline void require_targets_in_range(const kernels::CrossEntropyTarget& target, std::int64_t rows, std::int64_t vocab) {
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::int64_t label = target.is_int64 ? static_cast<const std::int64_t*>(target.classes)[row]
                                               : static_cast<const std::int32_t*>(target.classes)[row];
    if (label != target.ignore_index && (label < 0 || label >= vocab))
      throw std::out_of_range("Target " + std::to_string(label) + " is out of bounds.");
  }
}
#endif

// Checked and contiguous: one class per row, each in range.
inline Tensor checked_target(const char* op, const Tensor& target, const Argument& rows_argument, const Tensor& like,
                             std::int64_t rows, std::int64_t vocab, const CrossEntropyOptions& options) {
  const Argument argument{op, "target"};
  const auto dtype = target.scalar_type();
  require(dtype == TorchDtype::Long || dtype == TorchDtype::Int, argument, " must be int64 or int32, got ", dtype);
  require_same_device(argument, target, rows_argument, like);
  require(target.numel() == rows, argument, " must have one element per row of ", rows_argument.name, " (", rows,
          "), got shape ", ShapeOf{target});
  Tensor classes = as_contiguous(target);
  require_targets_in_range(target_from(classes, options, 0), rows, vocab);
  return classes;
}

// The scales in device memory, and optionally 1 / grad_unit as a tensor of its own.
struct ScalesBuffer {
  Tensor memory;

  kernels::CrossEntropyScales* get() const {
    return static_cast<kernels::CrossEntropyScales*>(const_cast<Tensor&>(memory).mutable_data_ptr());
  }
};

inline ScalesBuffer compute_scales(const char* op, const Tensor& target, const CrossEntropyOptions& options,
                                   const DeviceScope& scope, float* inverse_grad_unit = nullptr) {
  constexpr std::int64_t kDoubles = sizeof(kernels::CrossEntropyScales) / sizeof(double);
  static_assert(kDoubles * sizeof(double) == sizeof(kernels::CrossEntropyScales));
  ScalesBuffer buffer{new_empty(target, Shape{kDoubles}, TorchDtype::Double)};
  kernels::CrossEntropyScalesArgs args;
  args.rows = target.numel();
  args.target = target_from(target, options, 0);
  args.is_mean = options.reduction == Reduction::mean;
  args.z_loss = options.z_loss;
  args.scales = buffer.get();
  args.inverse_grad_unit = inverse_grad_unit;
  require_ok(op, kernels::cross_entropy_scales(args, scope.context()));
  return buffer;
}

// The loss over all rows: of the target's shape where the reduction is "none", else a single value.
inline Tensor reduce_rows(const char* op, const Tensor& row_loss, const Tensor& lse, const Shape& target_shape,
                          const CrossEntropyOptions& options, TorchDtype dtype, const ScalesBuffer& scales,
                          const DeviceScope& scope) {
  const bool is_per_row = options.reduction == Reduction::none;
  Tensor loss = new_empty(row_loss, is_per_row ? target_shape : Shape{}, dtype);
  kernels::CrossEntropyReduceArgs args;
  args.rows = row_loss.numel();
  args.row_loss = static_cast<const float*>(row_loss.const_data_ptr());
  args.lse = static_cast<const double*>(lse.const_data_ptr());
  args.is_per_row = is_per_row;
  args.z_loss = options.z_loss;
  args.scales = scales.get();
  args.loss = loss.mutable_data_ptr();
  args.loss_dtype = kernel_dtype({op, "out_dtype"}, dtype);
  require_ok(op, kernels::cross_entropy_reduce(args, scope.context()));
  return loss;
}

// The upstream gradient of the loss as float32, and how far apart the values of two rows lie.
struct LossGradient {
  Tensor values;
  std::int64_t stride;

  const float* at(std::int64_t row) const { return static_cast<const float*>(values.const_data_ptr()) + row * stride; }
};

inline LossGradient loss_gradient(const char* op, const Tensor& grad_loss, const CrossEntropyOptions& options,
                                  std::int64_t rows) {
  const bool is_per_row = options.reduction == Reduction::none;
  require(grad_loss.numel() == (is_per_row ? rows : 1), Argument{op, "grad_loss"}, " must have ", is_per_row ? rows : 1,
          " element(s), got shape ", ShapeOf{grad_loss});
  const Tensor wide = torch::stable::to(grad_loss, TorchDtype::Float);
  return {as_contiguous(wide), is_per_row ? 1 : 0};
}

}  // namespace liger::ops
