// linear_cross_entropy: logits = hidden_states @ weight^T (+ bias) and their cross entropy, a chunk of rows at a time,
// so that the logits of all tokens never exist at once. Per chunk: one product makes the logits, one kernel turns them
// into row losses and, in place, into their gradient, and two products take that to hidden_states and weight. Where
// softmax_chunk.h suits, the products do the kernel's work.
#include "ops/linear_cross_entropy.h"

#include <algorithm>
#include <cstdint>
#include <optional>
#include <tuple>

#if defined(LIGER_DEVICE_CUDA)
#include "ops/softmax_gradients.h"
#endif

namespace liger::ops {

namespace {

// logits: [rows, vocab]; with `writes_transformed` they become what the loss is computed of.
void forward_rows(const Problem& problem, Tensor& logits, std::int64_t first_row, bool writes_transformed,
                  RowResults& results, const DeviceScope& scope) {
  kernels::CrossEntropyForwardArgs args;
  args.rows = logits.size(0);
  args.vocab = problem.vocab;
  args.logits = problem.logits_at(logits);
  args.target = target_from(problem.classes, problem.options, first_row);
  args.label_smoothing = problem.options.label_smoothing;
  args.z_loss = problem.options.z_loss;
  args.row_loss = results.row_loss_at(first_row);
  args.lse = results.lse_at(first_row);
  args.transformed = writes_transformed ? logits.mutable_data_ptr() : nullptr;
  args.transformed_stride = logits.stride(0);
  require_ok(problem.op, kernels::cross_entropy_forward(args, scope.context()));
}

// The logits become their gradient for an upstream gradient of 1, in units of the scales' grad_unit.
void fused_rows(const Problem& problem, Tensor& logits, std::int64_t first_row, const ScalesBuffer& scales,
                RowResults& results, const DeviceScope& scope) {
  kernels::CrossEntropyFusedArgs args;
  args.rows = logits.size(0);
  args.vocab = problem.vocab;
  args.logits = problem.logits_at(logits);
  args.target = target_from(problem.classes, problem.options, first_row);
  args.label_smoothing = problem.options.label_smoothing;
  args.z_loss = problem.options.z_loss;
  args.scales = scales.get();
  args.row_loss = results.row_loss_at(first_row);
  args.lse = results.lse_at(first_row);
  args.grad_logits = logits.mutable_data_ptr();
  require_ok(problem.op, kernels::cross_entropy_fused(args, scope.context()));
}

// visit(logits of a chunk [rows, vocab], its first row); the visitor may overwrite the logits.
template <typename Visitor>
void for_logit_chunks(const Problem& problem, std::int64_t chunk_rows, Visitor&& visit) {
  if (problem.tokens == 0) return;
  const Tensor buffer = problem.chunk_buffer(chunk_rows);
  for (std::int64_t first = 0; first < problem.tokens; first += chunk_rows) {
    const std::int64_t rows = std::min(chunk_rows, problem.tokens - first);
    Tensor logits = rows_of(buffer, 0, rows);
    problem.write_logits(logits, first);
    visit(logits, first);
  }
}

#if !defined(LIGER_DEVICE_CUDA)
std::optional<Gradients> softmax_gradients(const Problem&, const Needs&, std::int64_t, const ScalesBuffer&,
                                           const LossGradient*, RowResults*, const DeviceScope&) {
  return std::nullopt;
}
#endif

// As softmax_gradients, for all problems.
Gradients logit_gradients(const Problem& problem, const Needs& needs, std::int64_t chunk_rows,
                          const ScalesBuffer& scales, RowResults& results, const DeviceScope& scope) {
  GradientSums gradients(problem, needs, chunk_rows);
  for_logit_chunks(problem, chunk_rows, [&](Tensor& logits, std::int64_t first) {
    if (!needs.any()) return forward_rows(problem, logits, first, false, results, scope);
    fused_rows(problem, logits, first, scales, results, scope);
    gradients.add(logits, first, scope);
  });
  return gradients.result();
}

using ForwardResult = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

ForwardResult run_forward(const Problem& problem, TorchDtype out_dtype, const Needs& needs,
                          std::int64_t requested_rows) {
  require(!needs.any() || problem.options.reduction != Reduction::none, "liger::", problem.op,
          ": gradients with reduction \"none\" depend on the upstream gradient; use linear_cross_entropy_backward");
  const DeviceScope scope(problem.hidden);
  const NoGrad no_grad;
  Tensor grad_scale = new_empty(problem.hidden, Shape{}, TorchDtype::Float);
  const ScalesBuffer scales = compute_scales(problem.op, problem.classes, problem.options, scope,
                                             static_cast<float*>(grad_scale.mutable_data_ptr()));
  RowResults results(problem);
  const std::int64_t chunk_rows = problem.chunk_rows(requested_rows, needs.weight);
  std::optional<Gradients> gradients =
      softmax_gradients(problem, needs, requested_rows, scales, nullptr, &results, scope);
  if (!gradients) gradients = logit_gradients(problem, needs, chunk_rows, scales, results, scope);
  Tensor loss = reduce_rows(problem.op, results.row_loss, results.lse, problem.target_shape, problem.options, out_dtype,
                            scales, scope);
  return {loss, results.lse, gradients->hidden, gradients->weight, gradients->bias, grad_scale};
}

ForwardResult linear_cross_entropy_forward(const Tensor& hidden_states, const Tensor& weight, const Tensor& target,
                                           const std::optional<Tensor>& bias, int64_t ignore_index,
                                           const Text& reduction, double label_smoothing, double logit_scale,
                                           double softcap, double z_loss, std::optional<TorchDtype> out_dtype,
                                           bool needs_grad_hidden_states, bool needs_grad_weight, bool needs_grad_bias,
                                           int64_t chunk_rows) {
  constexpr const char* kOp = "linear_cross_entropy";
  const auto options = make_options(kOp, ignore_index, reduction, label_smoothing, logit_scale, softcap, z_loss);
  const Problem problem = make_problem(kOp, hidden_states, weight, target, bias, options);
  const Needs needs{needs_grad_hidden_states, needs_grad_weight, needs_grad_bias && bias.has_value()};
  return run_forward(problem, loss_dtype(kOp, out_dtype), needs, chunk_rows);
}

Tensor linear_cross_entropy(const Tensor& hidden_states, const Tensor& weight, const Tensor& target,
                            const std::optional<Tensor>& bias, int64_t ignore_index, const Text& reduction,
                            double label_smoothing, double logit_scale, double softcap, double z_loss,
                            std::optional<TorchDtype> out_dtype) {
  return std::get<0>(linear_cross_entropy_forward(hidden_states, weight, target, bias, ignore_index, reduction,
                                                  label_smoothing, logit_scale, softcap, z_loss, out_dtype, false,
                                                  false, false, 0));
}

std::tuple<Tensor, Tensor, Tensor> linear_cross_entropy_with_logits_forward(
    const Tensor& hidden_states, const Tensor& weight, const Tensor& target, const std::optional<Tensor>& bias,
    int64_t ignore_index, const Text& reduction, double label_smoothing, double logit_scale, double softcap,
    double z_loss, std::optional<TorchDtype> out_dtype) {
  constexpr const char* kOp = "linear_cross_entropy_with_logits";
  const auto options = make_options(kOp, ignore_index, reduction, label_smoothing, logit_scale, softcap, z_loss);
  const TorchDtype dtype = loss_dtype(kOp, out_dtype);
  const Problem problem = make_problem(kOp, hidden_states, weight, target, bias, options);
  const DeviceScope scope(problem.hidden);
  const NoGrad no_grad;
  Shape logits_shape = problem.hidden_shape;
  logits_shape.back() = problem.vocab;
  const Tensor logits = new_empty(problem.hidden, logits_shape);
  const ScalesBuffer scales = compute_scales(kOp, problem.classes, options, scope);
  RowResults results(problem);
  if (problem.tokens > 0) {
    Tensor matrix = as_matrix(logits, problem.tokens, problem.vocab);
    problem.write_logits(matrix, 0);
    const bool is_plain = options.logit_scale == 1.0f && options.softcap == 0.0f;
    forward_rows(problem, matrix, 0, !is_plain, results, scope);
  }
  Tensor loss = reduce_rows(kOp, results.row_loss, results.lse, problem.target_shape, options, dtype, scales, scope);
  return {loss, logits, results.lse};
}

std::tuple<Tensor, Tensor> linear_cross_entropy_with_logits(const Tensor& hidden_states, const Tensor& weight,
                                                            const Tensor& target, const std::optional<Tensor>& bias,
                                                            int64_t ignore_index, const Text& reduction,
                                                            double label_smoothing, double logit_scale, double softcap,
                                                            double z_loss, std::optional<TorchDtype> out_dtype) {
  const auto [loss, logits, lse] =
      linear_cross_entropy_with_logits_forward(hidden_states, weight, target, bias, ignore_index, reduction,
                                               label_smoothing, logit_scale, softcap, z_loss, out_dtype);
  return {loss, logits};
}

// What reaches the logits from upstream: through the loss, and directly where the logits are an output.
struct Upstream {
  std::optional<LossGradient> loss;
  std::optional<Tensor> logits;       // the transformed logits of the forward pass, [tokens, vocab]
  std::optional<Tensor> grad_logits;  // [tokens, vocab]
  Tensor lse;                         // [tokens]
};

Upstream make_upstream(const Problem& problem, const std::optional<Tensor>& grad_loss,
                       const std::optional<Tensor>& grad_logits, const std::optional<Tensor>& logits,
                       const Tensor& lse) {
  const char* op = problem.op;
  require(!grad_logits || logits, Argument{op, "grad_logits"}, " needs the logits of the forward pass");
  require_dtype({op, "lse"}, lse, TorchDtype::Double);
  require_shape({op, "lse"}, lse, {problem.tokens});
  const auto as_logits = [&](const char* name, const std::optional<Tensor>& tensor) -> std::optional<Tensor> {
    if (!tensor) return std::nullopt;
    require_dtype({op, name}, *tensor, problem.torch_dtype());
    require(tensor->numel() == problem.tokens * problem.vocab, Argument{op, name}, " must have ", problem.tokens, " x ",
            problem.vocab, " elements, got shape ", ShapeOf{*tensor});
    return as_matrix(*tensor, problem.tokens, problem.vocab);
  };
  std::optional<LossGradient> loss;
  if (grad_loss) loss = loss_gradient(op, *grad_loss, problem.options, problem.tokens);
  return {loss, as_logits("logits", logits), as_logits("grad_logits", grad_logits), as_contiguous(lse)};
}

// source: logits of a chunk, made here or in the forward pass; grad_logits: where their gradient goes.
void backward_rows(const Problem& problem, const Upstream& upstream, const Tensor& source, Tensor& grad_logits,
                   std::int64_t first_row, const ScalesBuffer& scales, const DeviceScope& scope) {
  kernels::CrossEntropyBackwardArgs args;
  args.rows = grad_logits.size(0);
  args.vocab = problem.vocab;
  args.logits = problem.logits_at(source);
  args.logits.is_transformed = upstream.logits.has_value();
  args.target = target_from(problem.classes, problem.options, first_row);
  args.label_smoothing = problem.options.label_smoothing;
  args.z_loss = problem.options.z_loss;
  args.lse = static_cast<const double*>(upstream.lse.const_data_ptr()) + first_row;
  if (upstream.loss) {
    args.grad_loss = upstream.loss->at(first_row);
    args.grad_loss_stride = upstream.loss->stride;
  }
  if (upstream.grad_logits) {
    const Tensor rows = rows_of(*upstream.grad_logits, first_row, args.rows);
    args.grad_transformed = rows.const_data_ptr();
    args.grad_transformed_stride = rows.stride(0);
  }
  args.scales = scales.get();
  args.grad_logits = grad_logits.mutable_data_ptr();
  args.grad_stride = grad_logits.stride(0);
  require_ok(problem.op, kernels::cross_entropy_backward(args, scope.context()));
}

// Of logits that the forward pass has kept.
void add_kept_chunks(const Problem& problem, const Upstream& upstream, std::int64_t chunk_rows,
                     const ScalesBuffer& scales, GradientSums& gradients, const DeviceScope& scope) {
  const Tensor buffer = problem.chunk_buffer(chunk_rows);
  for (std::int64_t first = 0; first < problem.tokens; first += chunk_rows) {
    const std::int64_t rows = std::min(chunk_rows, problem.tokens - first);
    Tensor grad_logits = rows_of(buffer, 0, rows);
    backward_rows(problem, upstream, rows_of(*upstream.logits, first, rows), grad_logits, first, scales, scope);
    gradients.add(grad_logits, first, scope);
  }
}

Gradients backward_gradients(const Problem& problem, const Upstream& upstream, const Needs& needs,
                             std::int64_t requested_rows, const DeviceScope& scope) {
  const ScalesBuffer scales = compute_scales(problem.op, problem.classes, problem.options, scope);
  const std::int64_t chunk_rows = problem.chunk_rows(requested_rows, needs.weight);
  if (!upstream.logits && upstream.loss) {
    const auto result = softmax_gradients(problem, needs, requested_rows, scales, &*upstream.loss, nullptr, scope);
    if (result) return *result;
  }
  GradientSums gradients(problem, needs, chunk_rows);
  if (upstream.logits) {
    add_kept_chunks(problem, upstream, chunk_rows, scales, gradients, scope);
  } else {
    for_logit_chunks(problem, chunk_rows, [&](Tensor& logits, std::int64_t first) {
      backward_rows(problem, upstream, logits, logits, first, scales, scope);
      gradients.add(logits, first, scope);
    });
  }
  return gradients.result();
}

std::tuple<Tensor, Tensor, Tensor> linear_cross_entropy_backward(
    const std::optional<Tensor>& grad_loss, const std::optional<Tensor>& grad_logits, const Tensor& hidden_states,
    const Tensor& weight, const Tensor& target, const std::optional<Tensor>& bias, const std::optional<Tensor>& logits,
    const Tensor& lse, int64_t ignore_index, const Text& reduction, double label_smoothing, double logit_scale,
    double softcap, double z_loss, bool needs_grad_hidden_states, bool needs_grad_weight, bool needs_grad_bias,
    int64_t chunk_rows) {
  constexpr const char* kOp = "linear_cross_entropy_backward";
  const auto options = make_options(kOp, ignore_index, reduction, label_smoothing, logit_scale, softcap, z_loss);
  const Problem problem = make_problem(kOp, hidden_states, weight, target, bias, options);
  const Needs needs{needs_grad_hidden_states, needs_grad_weight, needs_grad_bias && bias.has_value()};
  const DeviceScope scope(problem.hidden);
  const NoGrad no_grad;
  const Upstream upstream = make_upstream(problem, grad_loss, grad_logits, logits, lse);
  const Gradients gradients = needs.any() && problem.tokens > 0
                                  ? backward_gradients(problem, upstream, needs, chunk_rows, scope)
                                  : GradientSums(problem, needs, problem.chunk_rows(chunk_rows, needs.weight)).result();
  return {gradients.hidden, gradients.weight, as_dtype(gradients.bias, problem.torch_dtype())};
}

Tensor linear_cross_entropy_scale(const Tensor& gradient, const Tensor& scale, TorchDtype dtype) {
  constexpr const char* kOp = "linear_cross_entropy_scale";
  const Argument argument{kOp, "gradient"}, factor{kOp, "scale"};
  kernels::ScaleGradientArgs args;
  args.out_dtype = kernel_dtype({kOp, "dtype"}, dtype);
  args.dtype = kernel_dtype(argument, gradient);
  require(args.dtype == args.out_dtype || args.dtype == kernels::ScalarType::float32, argument, " must be ", dtype,
          " or float32, got ", gradient.scalar_type());
  require_dtype(factor, scale, TorchDtype::Float);
  require(scale.numel() == 1, factor, " must have 1 element, got shape ", ShapeOf{scale});
  require_same_device(factor, scale, argument, gradient);
  const DeviceScope scope(gradient);
  const Tensor values = as_contiguous(gradient);
  Tensor out = new_empty(gradient, shape_of(gradient), dtype);
  args.count = values.numel();
  args.values = values.const_data_ptr();
  args.factor = static_cast<const float*>(scale.const_data_ptr());
  args.out = out.mutable_data_ptr();
  require_ok(kOp, kernels::scale_gradient(args, scope.context()));
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(liger, LIGER_DISPATCH_KEY, m) {
  m.impl("linear_cross_entropy", TORCH_BOX(&linear_cross_entropy));
  m.impl("linear_cross_entropy_forward", TORCH_BOX(&linear_cross_entropy_forward));
  m.impl("linear_cross_entropy_with_logits", TORCH_BOX(&linear_cross_entropy_with_logits));
  m.impl("linear_cross_entropy_with_logits_forward", TORCH_BOX(&linear_cross_entropy_with_logits_forward));
  m.impl("linear_cross_entropy_scale", TORCH_BOX(&linear_cross_entropy_scale));
  m.impl("linear_cross_entropy_backward", TORCH_BOX(&linear_cross_entropy_backward));
}

}  // namespace liger::ops
