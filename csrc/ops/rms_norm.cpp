// rms_norm and add_rms_norm: argument checks, allocation, registration. The formula is in kernels/rms_norm/rms_norm.h.
#include "kernels/rms_norm/rms_norm.h"

#include <tuple>

#include "ops/device.h"

namespace liger::ops {
namespace {

using kernels::RmsNormArgs;
using kernels::RmsNormBackwardArgs;

struct Options {
  double eps;
  double weight_offset;
  bool round_before_weight;
  std::optional<TorchDtype> out_dtype;
};

struct Outputs {
  Tensor out, sum, rstd;
};

Shape leading_shape(const Tensor& tensor) {
  Shape shape = shape_of(tensor);
  shape.pop_back();
  return shape;
}

void check_weight(const char* op, const Tensor& weight, const Tensor& hidden_states) {
  const Argument argument{op, "weight"};
  require_same_device(argument, weight, {op, "hidden_states"}, hidden_states);
  require_shape(argument, weight, {hidden_states.size(hidden_states.dim() - 1)});
}

// The kernels' dtype rule as a sentence, before anything is allocated.
void check_dtypes(const char* op, TorchDtype hidden, std::optional<TorchDtype> weight, TorchDtype out) {
  kernel_dtype({op, "hidden_states"}, hidden);
  const bool half = hidden != TorchDtype::Float;
  const bool out_fits = out == hidden || (half && out == TorchDtype::Float && weight != hidden);
  require(out_fits, "liger::", op, ": out_dtype ", out, " is not supported with hidden_states ", hidden, " and weight ",
          weight);
  const bool weight_fits = !weight || *weight == hidden || (half && *weight == TorchDtype::Float);
  require(weight_fits, "liger::", op, ": weight must be ", hidden, half ? " or float32" : "", ", got ", weight);
}

void fill_weight(const std::optional<Tensor>& weight, const void** data, kernels::ScalarType* dtype,
                 kernels::ScalarType hidden_dtype) {
  *data = weight ? weight->const_data_ptr() : nullptr;
  *dtype = weight ? kernel_dtype({"rms_norm", "weight"}, *weight) : hidden_dtype;
}

std::optional<Tensor> dense(const std::optional<Tensor>& weight) {
  if (!weight) return std::nullopt;
  return as_contiguous(*weight);
}

Outputs allocate(const Tensor& hidden_states, bool with_sum, bool with_rstd, TorchDtype out_dtype) {
  const Shape shape = shape_of(hidden_states);
  Outputs outputs{new_empty(hidden_states, shape, out_dtype), hidden_states, hidden_states};
  if (with_sum) outputs.sum = new_empty(hidden_states, shape);
  if (with_rstd) outputs.rstd = new_empty(hidden_states, leading_shape(hidden_states), TorchDtype::Float);
  return outputs;
}

Outputs run_forward(const char* op, const Tensor& hidden_states, const std::optional<Tensor>& residual,
                    const std::optional<Tensor>& weight, const Options& options, bool with_rstd) {
  require_min_rank({op, "hidden_states"}, hidden_states, 1);
  if (weight) check_weight(op, *weight, hidden_states);
  const TorchDtype dtype = hidden_states.scalar_type();
  const TorchDtype out_dtype = options.out_dtype.value_or(dtype);
  check_dtypes(op, dtype, weight ? std::optional(weight->scalar_type()) : std::nullopt, out_dtype);
  if (residual) {
    require_same_device({op, "residual"}, *residual, {op, "hidden_states"}, hidden_states);
    require_dtype({op, "residual"}, *residual, dtype);
    require_shape({op, "residual"}, *residual, shape_of(hidden_states));
  }

  const DeviceScope scope(hidden_states);
  Outputs outputs = allocate(hidden_states, residual.has_value(), with_rstd, out_dtype);
  const RowView hidden = row_view(hidden_states);
  const RowView added = residual ? row_view(*residual) : RowView{};
  const auto dense_weight = dense(weight);
  RmsNormArgs args{};
  args.hidden_states = hidden.data();
  args.residual = residual ? added.data() : nullptr;
  args.out = outputs.out.mutable_data_ptr();
  args.sum = residual ? outputs.sum.mutable_data_ptr() : nullptr;
  args.rstd = with_rstd ? static_cast<float*>(outputs.rstd.mutable_data_ptr()) : nullptr;
  args.rows = hidden.rows;
  args.width = hidden.width;
  args.hidden_stride = hidden.stride;
  args.residual_stride = added.stride;
  args.eps = static_cast<float>(options.eps);
  args.weight_offset = static_cast<float>(options.weight_offset);
  args.round_before_weight = options.round_before_weight;
  args.hidden_dtype = kernel_dtype({op, "hidden_states"}, hidden_states);
  args.out_dtype = kernel_dtype({op, "out_dtype"}, out_dtype);
  fill_weight(dense_weight, &args.weight, &args.weight_dtype, args.hidden_dtype);
  if (args.rows > 0) require_ok(op, kernels::rms_norm_forward(args, scope.context()));
  return outputs;
}

Tensor rms_norm(const Tensor& hidden_states, const std::optional<Tensor>& weight, double eps, double weight_offset,
                bool round_before_weight, std::optional<TorchDtype> out_dtype) {
  const Options options{eps, weight_offset, round_before_weight, out_dtype};
  return run_forward("rms_norm", hidden_states, std::nullopt, weight, options, false).out;
}

std::tuple<Tensor, Tensor> rms_norm_forward(const Tensor& hidden_states, const std::optional<Tensor>& weight,
                                            double eps, double weight_offset, bool round_before_weight,
                                            std::optional<TorchDtype> out_dtype) {
  const Options options{eps, weight_offset, round_before_weight, out_dtype};
  const Outputs outputs = run_forward("rms_norm", hidden_states, std::nullopt, weight, options, true);
  return {outputs.out, outputs.rstd};
}

std::tuple<Tensor, Tensor> add_rms_norm(const Tensor& hidden_states, const Tensor& residual,
                                        const std::optional<Tensor>& weight, double eps, double weight_offset,
                                        bool round_before_weight, std::optional<TorchDtype> out_dtype) {
  const Options options{eps, weight_offset, round_before_weight, out_dtype};
  const Outputs outputs = run_forward("add_rms_norm", hidden_states, residual, weight, options, false);
  return {outputs.out, outputs.sum};
}

std::tuple<Tensor, Tensor, Tensor> add_rms_norm_forward(const Tensor& hidden_states, const Tensor& residual,
                                                        const std::optional<Tensor>& weight, double eps,
                                                        double weight_offset, bool round_before_weight,
                                                        std::optional<TorchDtype> out_dtype) {
  const Options options{eps, weight_offset, round_before_weight, out_dtype};
  const Outputs outputs = run_forward("add_rms_norm", hidden_states, residual, weight, options, true);
  return {outputs.out, outputs.sum, outputs.rstd};
}

void check_backward(const char* op, const Tensor& grad_out, const std::optional<Tensor>& grad_sum,
                    const Tensor& hidden_states, const std::optional<Tensor>& weight, const Tensor& rstd) {
  require_min_rank({op, "hidden_states"}, hidden_states, 1);
  const Shape shape = shape_of(hidden_states);
  const TorchDtype dtype = hidden_states.scalar_type();
  const Argument first{op, "hidden_states"};
  require_same_device({op, "grad_out"}, grad_out, first, hidden_states);
  require_shape({op, "grad_out"}, grad_out, shape);
  if (weight) check_weight(op, *weight, hidden_states);
  check_dtypes(op, dtype, weight ? std::optional(weight->scalar_type()) : std::nullopt, grad_out.scalar_type());
  if (grad_sum) {
    require_same_device({op, "grad_sum"}, *grad_sum, first, hidden_states);
    require_dtype({op, "grad_sum"}, *grad_sum, dtype);
    require_shape({op, "grad_sum"}, *grad_sum, shape);
  }
  require_same_device({op, "rstd"}, rstd, first, hidden_states);
  require_dtype({op, "rstd"}, rstd, TorchDtype::Float);
  require_shape({op, "rstd"}, rstd, leading_shape(hidden_states));
}

std::tuple<Tensor, Tensor, Tensor> rms_norm_backward(const Tensor& grad_out, const std::optional<Tensor>& grad_sum,
                                                     const Tensor& hidden_states, const std::optional<Tensor>& weight,
                                                     const Tensor& rstd, double weight_offset, bool round_before_weight,
                                                     bool needs_weight_grad, bool needs_out) {
  const char* op = "rms_norm_backward";
  check_backward(op, grad_out, grad_sum, hidden_states, weight, rstd);
  require(weight || !needs_weight_grad, "liger::", op, ": needs_weight_grad is true, but weight is None");

  const DeviceScope scope(hidden_states);
  Tensor grad_hidden = new_empty(hidden_states, shape_of(hidden_states));
  const RowView hidden = row_view(hidden_states);
  const TorchDtype weight_dtype = weight ? weight->scalar_type() : hidden_states.scalar_type();
  const Shape weight_shape = {needs_weight_grad ? hidden_states.size(hidden_states.dim() - 1) : 0};
  const Shape out_shape = needs_out ? shape_of(hidden_states) : Shape{0};
  Tensor out = new_empty(hidden_states, out_shape, grad_out.scalar_type());
  if (hidden.rows == 0) return {grad_hidden, new_zeros(hidden_states, weight_shape, weight_dtype), out};
  Tensor grad_weight = new_empty(hidden_states, weight_shape, weight_dtype);

  const RowView grads = row_view(grad_out);
  const RowView added = grad_sum ? row_view(*grad_sum) : RowView{};
  const auto dense_weight = dense(weight);
  const Tensor dense_rstd = as_contiguous(rstd);
  RmsNormBackwardArgs args{};
  args.grad_out = grads.data();
  args.grad_sum = grad_sum ? added.data() : nullptr;
  args.hidden_states = hidden.data();
  args.rstd = static_cast<const float*>(dense_rstd.const_data_ptr());
  args.grad_hidden_states = grad_hidden.mutable_data_ptr();
  args.grad_weight = needs_weight_grad ? grad_weight.mutable_data_ptr() : nullptr;
  args.out = needs_out ? out.mutable_data_ptr() : nullptr;
  args.rows = hidden.rows;
  args.width = hidden.width;
  args.grad_out_stride = grads.stride;
  args.grad_sum_stride = added.stride;
  args.hidden_stride = hidden.stride;
  args.weight_offset = static_cast<float>(weight_offset);
  args.round_before_weight = round_before_weight;
  args.hidden_dtype = kernel_dtype({op, "hidden_states"}, hidden_states);
  args.out_dtype = kernel_dtype({op, "grad_out"}, grad_out);
  fill_weight(dense_weight, &args.weight, &args.weight_dtype, args.hidden_dtype);
  const std::int64_t floats = needs_weight_grad ? kernels::rms_norm_backward_workspace(args, scope.context()) : 0;
  const Tensor workspace = new_empty(hidden_states, Shape{floats}, TorchDtype::Float);
  args.workspace = static_cast<float*>(workspace.mutable_data_ptr());
  require_ok(op, kernels::rms_norm_backward(args, scope.context()));
  return {grad_hidden, grad_weight, out};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(liger, LIGER_DISPATCH_KEY, m) {
  m.impl("rms_norm", TORCH_BOX(&rms_norm));
  m.impl("rms_norm_forward", TORCH_BOX(&rms_norm_forward));
  m.impl("rms_norm_backward", TORCH_BOX(&rms_norm_backward));
  m.impl("add_rms_norm", TORCH_BOX(&add_rms_norm));
  m.impl("add_rms_norm_forward", TORCH_BOX(&add_rms_norm_forward));
}

}  // namespace liger::ops
