// cross_entropy: the loss of given logits, and its gradient.
#include "ops/cross_entropy.h"

#include <tuple>

namespace liger::ops {

namespace {

kernels::CrossEntropyLogits logits_from(const char* op, const RowView& rows, const CrossEntropyOptions& options) {
  return {rows.data(), kernel_dtype({op, "logits"}, rows.tensor), rows.stride, options.logit_scale, options.softcap,
          false};
}

RowView checked_logits(const char* op, const Tensor& logits) {
  const Argument argument{op, "logits"};
  require_min_rank(argument, logits, 1);
  require(logits.size(logits.dim() - 1) > 0, argument, " must have at least one class, got shape ", ShapeOf{logits});
  return row_view(logits);
}

std::tuple<Tensor, Tensor> forward(const char* op, const Tensor& logits, const Tensor& target,
                                   const CrossEntropyOptions& options, std::optional<TorchDtype> out_dtype) {
  const RowView rows = checked_logits(op, logits);
  const TorchDtype dtype = loss_dtype(op, out_dtype);
  kernels::CrossEntropyForwardArgs args;
  args.logits = logits_from(op, rows, options);
  const Tensor classes = checked_target(op, target, {op, "logits"}, logits, rows.rows, rows.width, options);
  const DeviceScope scope(logits);
  Tensor row_loss = new_empty(logits, Shape{rows.rows}, TorchDtype::Float);
  Tensor lse = new_empty(logits, Shape{rows.rows}, TorchDtype::Double);
  const ScalesBuffer scales = compute_scales(op, classes, options, scope);
  args.rows = rows.rows;
  args.vocab = rows.width;
  args.target = target_from(classes, options, 0);
  args.label_smoothing = options.label_smoothing;
  args.z_loss = options.z_loss;
  args.row_loss = static_cast<float*>(row_loss.mutable_data_ptr());
  args.lse = static_cast<double*>(lse.mutable_data_ptr());
  require_ok(op, kernels::cross_entropy_forward(args, scope.context()));
  return {reduce_rows(op, row_loss, lse, shape_of(target), options, dtype, scales, scope), lse};
}

std::tuple<Tensor, Tensor> cross_entropy_forward(const Tensor& logits, const Tensor& target, int64_t ignore_index,
                                                 const Text& reduction, double label_smoothing, double logit_scale,
                                                 double softcap, double z_loss, std::optional<TorchDtype> out_dtype) {
  constexpr const char* kOp = "cross_entropy";
  const auto options = make_options(kOp, ignore_index, reduction, label_smoothing, logit_scale, softcap, z_loss);
  return forward(kOp, logits, target, options, out_dtype);
}

Tensor cross_entropy(const Tensor& logits, const Tensor& target, int64_t ignore_index, const Text& reduction,
                     double label_smoothing, double logit_scale, double softcap, double z_loss,
                     std::optional<TorchDtype> out_dtype) {
  return std::get<0>(cross_entropy_forward(logits, target, ignore_index, reduction, label_smoothing, logit_scale,
                                           softcap, z_loss, out_dtype));
}

Tensor cross_entropy_backward(const Tensor& grad_loss, const Tensor& logits, const Tensor& target, const Tensor& lse,
                              int64_t ignore_index, const Text& reduction, double label_smoothing, double logit_scale,
                              double softcap, double z_loss) {
  constexpr const char* kOp = "cross_entropy_backward";
  const auto options = make_options(kOp, ignore_index, reduction, label_smoothing, logit_scale, softcap, z_loss);
  const RowView rows = checked_logits(kOp, logits);
  const Tensor classes = checked_target(kOp, target, {kOp, "logits"}, logits, rows.rows, rows.width, options);
  require_dtype({kOp, "lse"}, lse, TorchDtype::Double);
  require_shape({kOp, "lse"}, lse, {rows.rows});
  const DeviceScope scope(logits);
  Tensor grad_logits = new_empty(logits, shape_of(logits));
  const ScalesBuffer scales = compute_scales(kOp, classes, options, scope);
  const LossGradient upstream = loss_gradient(kOp, grad_loss, options, rows.rows);
  const Tensor row_lse = as_contiguous(lse);
  kernels::CrossEntropyBackwardArgs args;
  args.rows = rows.rows;
  args.vocab = rows.width;
  args.logits = logits_from(kOp, rows, options);
  args.target = target_from(classes, options, 0);
  args.label_smoothing = options.label_smoothing;
  args.z_loss = options.z_loss;
  args.lse = static_cast<const double*>(row_lse.const_data_ptr());
  args.grad_loss = upstream.at(0);
  args.grad_loss_stride = upstream.stride;
  args.scales = scales.get();
  args.grad_logits = grad_logits.mutable_data_ptr();
  args.grad_stride = rows.width;
  require_ok(kOp, kernels::cross_entropy_backward(args, scope.context()));
  return grad_logits;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(liger, LIGER_DISPATCH_KEY, m) {
  m.impl("cross_entropy", TORCH_BOX(&cross_entropy));
  m.impl("cross_entropy_forward", TORCH_BOX(&cross_entropy_forward));
  m.impl("cross_entropy_backward", TORCH_BOX(&cross_entropy_backward));
}

}  // namespace liger::ops
