// linear_cross_entropy by chunks of softmax_chunk.h, and the gradients that they add up to.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>

#include "kernels/linear_cross_entropy/hidden_gradient.h"
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
        lower_(new_empty(problem.hidden, Shape{lower_bytes(problem, needs, chunk_rows)}, TorchDtype::Byte)) {}

  // Bytes beside the results that chunks of so many rows take.
  static std::int64_t bytes(const Problem& problem, const Needs& needs, std::int64_t chunk_rows) {
    const std::int64_t parts = kernels::hidden_product_parts(chunk_rows, problem.hidden_size);
    const std::int64_t sums = chunk_rows * problem.hidden_size * std::int64_t{sizeof(float)};
    const bool is_only = chunk_rows >= problem.tokens;
    return (needs.hidden ? parts * sums : 0) +
           (needs.weight && is_only ? sums : lower_bytes(problem, needs, chunk_rows));
  }

  void add(const ScaledExponentials& grad_logits, const ChunkRows& rows, const DeviceScope& scope) {
    if (needs_.hidden) add_hidden(grad_logits, rows, scope);
    if (needs_.weight) add_weight(grad_logits, rows, scope);
  }

  const Gradients& result() const { return result_; }

 private:
  Shape weight_shape(bool needed) const { return needed ? Shape{problem_.vocab, problem_.hidden_size} : Shape{0}; }
  static std::int64_t lower_bytes(const Problem& problem, const Needs& needs, std::int64_t chunk_rows) {
    const bool is_needed = needs.weight && chunk_rows < problem.tokens;
    return is_needed ? kernels::LowerBits::bytes(problem.vocab, problem.hidden_size) : 0;
  }
  static const float* floats_of(const Tensor& tensor) { return static_cast<const float*>(tensor.const_data_ptr()); }
  static const std::int32_t* integers_of(const Tensor& tensor) {
    return static_cast<const std::int32_t*>(tensor.const_data_ptr());
  }

  void add_hidden(const ScaledExponentials& grad_logits, const ChunkRows& rows, const DeviceScope& scope) {
    const std::int64_t parts = kernels::hidden_product_parts(rows.count, problem_.hidden_size);
    Tensor products = new_empty(problem_.hidden, Shape{parts, rows.count, problem_.hidden_size}, TorchDtype::Float);
    multiply_hidden(grad_logits, rows, products, scope);
    kernels::SoftmaxGradHiddenArgs args;
    args.rows = rows.count;
    args.hidden_size = problem_.hidden_size;
    args.parts = parts;
    args.products = floats_of(products);
    args.factor = floats_of(grad_logits.factor);
    args.label_factor = floats_of(grad_logits.label_factor);
    args.label = integers_of(grad_logits.labels);
    args.order = rows.tokens();
    args.weight = matrix_of(problem_.weight);
    args.grad_hidden = hidden_rows_.mutable_data_ptr();
    require_ok(problem_.op, kernels::softmax_grad_hidden(args, scope.context()));
  }

  void multiply_hidden(const ScaledExponentials& grad_logits, const ChunkRows& rows, Tensor& products,
                       const DeviceScope& scope) const {
    kernels::HiddenProductArgs args;
    args.rows = rows.count;
    args.vocab = problem_.vocab;
    args.hidden_size = problem_.hidden_size;
    args.exponentials = matrix_of(grad_logits.matrix);
    args.weight = matrix_of(problem_.weight);
    args.counted = rows.counted();
    args.parts = products.size(0);
    args.products = static_cast<float*>(products.mutable_data_ptr());
    require_ok(problem_.op, kernels::hidden_product(args, scope.context()));
  }

  // Labels go to the sums of other chunks, which wait for nobody; where there are none, through memory of their own.
  void add_weight(const ScaledExponentials& grad_logits, const ChunkRows& rows, const DeviceScope& scope) {
    const bool is_first = rows.first == 0, is_last = rows.first + rows.count == problem_.tokens;
    const bool is_only = is_first && is_last;
    Tensor row_of_class = new_empty(problem_.hidden, Shape{is_only ? problem_.vocab : 0}, TorchDtype::Int);
    Tensor sums = new_empty(problem_.hidden, Shape{is_only ? rows.count : 0, problem_.hidden_size}, TorchDtype::Float);
    kernels::LabelSumsArgs labels = label_args(grad_logits, rows);
    kernels::WeightGradientArgs args = product_args(grad_logits, rows);
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

  kernels::WeightGradientArgs product_args(const ScaledExponentials& grad_logits, const ChunkRows& rows) {
    kernels::WeightGradientArgs args;
    args.rows = rows.count;
    args.vocab = problem_.vocab;
    args.hidden_size = problem_.hidden_size;
    args.exponentials = matrix_of(grad_logits.matrix);
    args.scaled_hidden = matrix_of(grad_logits.scaled_hidden);
    args.upper = result_.weight.mutable_data_ptr();
    args.lower = lower_.numel() > 0 ? lower_.mutable_data_ptr() : nullptr;
    args.counted = rows.counted();
    return args;
  }

  kernels::LabelSumsArgs label_args(const ScaledExponentials& grad_logits, const ChunkRows& rows) {
    kernels::LabelSumsArgs args;
    args.rows = rows.count;
    args.vocab = problem_.vocab;
    args.hidden_size = problem_.hidden_size;
    args.hidden = matrix_of(problem_.hidden);
    args.order = rows.tokens();
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
  Tensor lower_;        // bits of the weight's sums; empty where one chunk has all rows
};

// Rows of all chunks but the last: as many as kMostBytes hold beside the gradients, but at least kFewest.
inline std::int64_t softmax_chunk_rows(const Problem& problem, const Needs& needs, std::int64_t requested) {
  constexpr std::int64_t kMostBytes = 600'000'000;
  constexpr std::int64_t kMultiple = 256;  // a pair of tiles
  // Every chunk reads and writes the sums of dW: with fewer rows that takes longer than it is hidden behind the product
  // that they add up (on an H100 2 to 5 % of the whole with 1536 rows, 5 to 10 % with 1024). More rows than kMost gain
  // nothing.
  constexpr std::int64_t kFewest = 2048, kMost = 8192;
  if (requested > 0) return std::min(requested, problem.tokens);
  const auto fits = [&](std::int64_t rows) {
    return SoftmaxChunk::bytes(problem, needs, rows) + SoftmaxGradients::bytes(problem, needs, rows) <= kMostBytes;
  };
  std::int64_t rows = std::min(problem.tokens, kMost);
  while (rows > kFewest && !fits(rows)) rows = (rows - 1) / kMultiple * kMultiple;
  const std::int64_t chunks = (problem.tokens + rows - 1) / rows;
  return std::min(round_up((problem.tokens + chunks - 1) / chunks, kMultiple), problem.tokens);
}

// upstream: null where it is 1, in units of the scales' grad_unit. results: null where row losses are not wanted.
// requested_rows: of a chunk; 0: as many as is best. Nothing where the kernels do not suit.
inline std::optional<Gradients> softmax_gradients(const Problem& problem, const Needs& needs,
                                                  std::int64_t requested_rows, const ScalesBuffer& scales,
                                                  const LossGradient* upstream, RowResults* results,
                                                  const DeviceScope& scope) {
  if (problem.tokens == 0 || !SoftmaxChunk::suits(problem)) return std::nullopt;
  const std::int64_t chunk_rows = softmax_chunk_rows(problem, needs, requested_rows);
  const TokenOrder order = token_order(problem, scope);
  SoftmaxChunk chunk(problem, needs, chunk_rows);
  SoftmaxGradients gradients(problem, needs, chunk_rows);
  for (std::int64_t first = 0; first < problem.tokens; first += chunk_rows) {
    const ChunkRows rows{order, first, std::min(chunk_rows, problem.tokens - first)};
    chunk.run(rows, scales, upstream, results, scope);
    if (needs.any()) gradients.add(chunk.grad_logits(rows.count), rows, scope);
  }
  return gradients.result();
}

}  // namespace liger::ops
