// linear_cross_entropy by chunks of softmax_chunk.h, and the gradients that they add up to.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>

#include "kernels/linear_cross_entropy/weight_gradient.h"
#include "ops/softmax_chunk.h"

namespace liger::ops {

class SoftmaxGradients {
 public:
  // chunk_rows: of all chunks but the last.
  SoftmaxGradients(const Problem& problem, const Needs& needs, std::int64_t chunk_rows)
      : problem_(problem),
        needs_(needs),
        result_{new_empty(problem.hidden, needs.hidden ? problem.hidden_shape : Shape{0}),
                new_empty(problem.hidden, weight_shape(needs.weight)),
                new_empty(problem.hidden, Shape{0}, TorchDtype::Float)},
        hidden_rows_(as_matrix(result_.hidden, needs.hidden ? problem.tokens : 0, problem.hidden_size)),
        lower_(new_empty(problem.hidden, lower_shape(needs.weight && chunk_rows < problem.tokens), TorchDtype::Byte)) {}

  void add(const ScaledExponentials& grad_logits, std::int64_t first_row, const DeviceScope& scope) {
    if (needs_.hidden) add_hidden(grad_logits, first_row, scope);
    if (needs_.weight) add_weight(grad_logits, first_row, scope);
  }

  const Gradients& result() const { return result_; }

 private:
  Shape weight_shape(bool needed) const { return needed ? Shape{problem_.vocab, problem_.hidden_size} : Shape{0}; }
  Shape lower_shape(bool needed) const {
    return needed ? Shape{problem_.vocab, kernels::LowerBytes::width(problem_.hidden_size)} : Shape{0};
  }
  static kernels::ProductMatrix matrix_of(const Tensor& matrix) { return {matrix.const_data_ptr(), matrix.stride(0)}; }
  static const float* floats_of(const Tensor& tensor) { return static_cast<const float*>(tensor.const_data_ptr()); }
  static const std::int32_t* integers_of(const Tensor& tensor) {
    return static_cast<const std::int32_t*>(tensor.const_data_ptr());
  }

  void add_hidden(const ScaledExponentials& grad_logits, std::int64_t first_row, const DeviceScope& scope) {
    const std::int64_t rows = grad_logits.matrix.size(0);
    Tensor product = new_empty(problem_.hidden, Shape{rows, problem_.hidden_size}, TorchDtype::Float);
    add_matmul(product, grad_logits.matrix, problem_.weight, false);
    kernels::SoftmaxGradHiddenArgs args;
    args.rows = rows;
    args.hidden_size = problem_.hidden_size;
    args.product = floats_of(product);
    args.factor = floats_of(grad_logits.factor);
    args.label_factor = floats_of(grad_logits.label_factor);
    args.label = integers_of(grad_logits.labels);
    args.weight = matrix_of(problem_.weight);
    args.grad_hidden = rows_of(hidden_rows_, first_row, rows).mutable_data_ptr();
    require_ok(problem_.op, kernels::softmax_grad_hidden(args, scope.context()));
  }

  // Labels go to the sums of other chunks, which wait for nobody; where there are none, through memory of their own.
  void add_weight(const ScaledExponentials& grad_logits, std::int64_t first_row, const DeviceScope& scope) {
    const std::int64_t rows = grad_logits.matrix.size(0);
    const bool is_first = first_row == 0, is_last = first_row + rows == problem_.tokens, is_only = is_first && is_last;
    Tensor row_of_class = new_empty(problem_.hidden, Shape{is_only ? problem_.vocab : 0}, TorchDtype::Int);
    Tensor sums = new_empty(problem_.hidden, Shape{is_only ? rows : 0, problem_.hidden_size}, TorchDtype::Float);
    kernels::LabelSumsArgs labels = label_args(grad_logits, first_row);
    kernels::WeightGradientArgs args = product_args(grad_logits);
    args.is_first = is_first;
    args.is_last = is_last;
    if (is_only) {
      labels.upper = nullptr;
      args.row_of_class = labels.row_of_class = static_cast<std::int32_t*>(row_of_class.mutable_data_ptr());
      args.label_sums = labels.label_sums = static_cast<float*>(sums.mutable_data_ptr());
    }
    if (!is_first || is_only) require_ok(problem_.op, kernels::label_sums(labels, scope.context()));
    require_ok(problem_.op, kernels::weight_gradient(args, scope.context()));
    if (is_first && !is_only) require_ok(problem_.op, kernels::label_sums(labels, scope.context()));
  }

  kernels::WeightGradientArgs product_args(const ScaledExponentials& grad_logits) {
    kernels::WeightGradientArgs args;
    args.rows = grad_logits.matrix.size(0);
    args.vocab = problem_.vocab;
    args.hidden_size = problem_.hidden_size;
    args.exponentials = matrix_of(grad_logits.matrix);
    args.scaled_hidden = matrix_of(*grad_logits.scaled_hidden);
    args.upper = result_.weight.mutable_data_ptr();
    args.lower = lower_.numel() > 0 ? lower_.mutable_data_ptr() : nullptr;
    return args;
  }

  kernels::LabelSumsArgs label_args(const ScaledExponentials& grad_logits, std::int64_t first_row) {
    kernels::LabelSumsArgs args;
    args.rows = grad_logits.matrix.size(0);
    args.vocab = problem_.vocab;
    args.hidden_size = problem_.hidden_size;
    args.hidden = matrix_of(rows_of(problem_.hidden, first_row, args.rows));
    args.label_factor = floats_of(grad_logits.label_factor);
    args.label = integers_of(grad_logits.labels);
    args.upper = result_.weight.mutable_data_ptr();
    args.lower = lower_.numel() > 0 ? lower_.mutable_data_ptr() : nullptr;
    return args;
  }

  const Problem& problem_;
  Needs needs_;
  Gradients result_;
  Tensor hidden_rows_;  // [tokens, hidden_size]
  Tensor lower_;        // bytes of the weight's sums; empty where one chunk has all rows
};

// upstream: null where it is 1, in units of the scales' grad_unit. results: null where row losses are not wanted.
// Nothing where the kernels do not suit.
inline std::optional<Gradients> softmax_gradients(const Problem& problem, const Needs& needs, std::int64_t chunk_rows,
                                                  const ScalesBuffer& scales, const LossGradient* upstream,
                                                  RowResults* results, const DeviceScope& scope) {
  if (problem.tokens == 0 || !SoftmaxChunk::suits(problem)) return std::nullopt;
  SoftmaxChunk chunk(problem, needs, chunk_rows);
  SoftmaxGradients gradients(problem, needs, chunk_rows);
  for (std::int64_t first = 0; first < problem.tokens; first += chunk_rows) {
    const std::int64_t rows = std::min(chunk_rows, problem.tokens - first);
    chunk.run(first, rows, scales, upstream, results, scope);
    if (needs.any()) gradients.add(chunk.grad_logits(rows), first, scope);
  }
  return gradients.result();
}

}  // namespace liger::ops
