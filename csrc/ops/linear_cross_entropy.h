// What linear_cross_entropy works on: its checked arguments, how they are cut into chunks, and the sums of the chunks'
// gradients.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>

#include "ops/cross_entropy.h"
#include "ops/matmul.h"
#include "ops/wide_sum.h"

namespace liger::ops {

#if defined(LIGER_DEVICE_CUDA)
inline constexpr bool kIsCpu = false;
inline constexpr std::int64_t kChunkBytes = std::int64_t{512}
                                            << 20;  // of logits; large enough to keep the products efficient
// With half of them the sums of dW, which every chunk reads and writes, take as long as the product that they add up.
inline constexpr std::int64_t kFewestRows = 2048;
inline constexpr std::int64_t kRowAlignment = 128;  // bytes, so that rows suit tensor cores and wide loads
#else
inline constexpr bool kIsCpu = true;
// Of float32 logits. 2048 tokens of hidden size 512 over a vocabulary of 32000 are as fast in chunks of 64 MiB as in
// one; with 32 MiB the forward pass loses a tenth.
inline constexpr std::int64_t kChunkBytes = std::int64_t{64} << 20;
inline constexpr std::int64_t kFewestRows = 1;
inline constexpr std::int64_t kRowAlignment = 1;
#endif
inline constexpr std::int64_t kRowMultiple = 128;  // rows of a product's tile

inline std::int64_t round_up(std::int64_t value, std::int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// Rows per chunk: as many as kChunkBytes hold, evened out over the chunks. All tokens at once where that takes no more
// memory than such a chunk and the sums of gradients over chunks.
inline std::int64_t chunk_size(std::int64_t tokens, std::int64_t row_bytes, std::int64_t sum_bytes,
                               std::int64_t requested) {
  if (requested > 0) return std::min(requested, tokens);
  std::int64_t limit = std::max(kFewestRows, kChunkBytes / row_bytes);
  if (tokens <= limit + sum_bytes / row_bytes) return tokens;
  if (limit >= kRowMultiple) limit = limit / kRowMultiple * kRowMultiple;
  const std::int64_t chunks = (tokens + limit - 1) / limit;
  const std::int64_t rows = (tokens + chunks - 1) / chunks;
  return limit >= kRowMultiple ? round_up(rows, kRowMultiple) : rows;
}

inline Tensor rows_of(const Tensor& matrix, std::int64_t first, std::int64_t count) {
  Tensor handle = matrix;
  return torch::stable::narrow(handle, 0, first, count);
}

inline Tensor as_matrix(const Tensor& tensor, std::int64_t rows, std::int64_t columns) {
  const Shape shape{rows, columns};
  return torch::stable::reshape(as_contiguous(tensor), {shape.data(), shape.size()});
}

// The checked arguments.
struct Problem {
  const char* op;
  Tensor hidden;               // [tokens, hidden_size]
  Tensor weight;               // [vocab, hidden_size], in the dtype that products are computed in
  std::optional<Tensor> bias;  // [vocab]
  Tensor classes;              // [tokens]
  CrossEntropyOptions options;
  Shape hidden_shape;
  Shape target_shape;
  std::int64_t tokens;
  std::int64_t hidden_size;
  std::int64_t vocab;
  kernels::ScalarType dtype;

  TorchDtype torch_dtype() const { return hidden.scalar_type(); }
  // logits: [rows, vocab], of the tokens from `first_row` on
  void write_logits(Tensor& logits, std::int64_t first_row) const {
    matmul_out(rows_of(hidden, first_row, logits.size(0)), transposed(weight), logits, bias);
  }

  kernels::CrossEntropyLogits logits_at(const Tensor& logits) const {
    return {logits.const_data_ptr(), dtype, logits.stride(0), options.logit_scale, options.softcap, false};
  }
  std::int64_t chunk_rows(std::int64_t requested, bool needs_grad_weight) const {
    require(requested >= 0, Argument{op, "chunk_rows"}, " must not be negative, got ", requested);
    // The CPU's products of half types pass through float32.
    const std::int64_t row_bytes = vocab * kernels::size_of(kIsCpu ? kernels::ScalarType::float32 : dtype);
    const std::int64_t sum_bytes = needs_grad_weight ? WideSum::extra_bytes(vocab, hidden_size, torch_dtype()) : 0;
    return chunk_size(tokens, row_bytes, sum_bytes, requested);
  }
  // Uninitialised logits of one chunk, [rows, vocab], in rows that start aligned.
  Tensor chunk_buffer(std::int64_t rows) const {
    const std::int64_t width = round_up(vocab, std::max<std::int64_t>(1, kRowAlignment / kernels::size_of(dtype)));
    Tensor buffer = new_empty(hidden, Shape{rows, width});
    return width == vocab ? buffer : torch::stable::narrow(buffer, 1, 0, vocab);
  }
};

inline void check_dtypes(const char* op, const Tensor& hidden, const Tensor& weight,
                         const std::optional<Tensor>& bias) {
  require(weight.scalar_type() == hidden.scalar_type(), Argument{op, "weight"},
          " must have the dtype of hidden_states (", hidden.scalar_type(), "), got ", weight.scalar_type());
  require_same_device({op, "weight"}, weight, {op, "hidden_states"}, hidden);
  if (!bias) return;
  require(bias->scalar_type() == hidden.scalar_type(), Argument{op, "bias"}, " must have the dtype of hidden_states (",
          hidden.scalar_type(), "), got ", bias->scalar_type());
  require_shape({op, "bias"}, *bias, {weight.size(0)});
  require_same_device({op, "bias"}, *bias, {op, "hidden_states"}, hidden);
}

inline Problem make_problem(const char* op, const Tensor& hidden_states, const Tensor& weight, const Tensor& target,
                            const std::optional<Tensor>& bias, const CrossEntropyOptions& options) {
  const auto dtype = kernel_dtype({op, "hidden_states"}, hidden_states);
  require_min_rank({op, "hidden_states"}, hidden_states, 1);
  const std::int64_t hidden_size = hidden_states.size(hidden_states.dim() - 1);
  require(weight.dim() == 2 && weight.size(1) == hidden_size && weight.size(0) > 0, Argument{op, "weight"},
          " must have shape [vocab, ", hidden_size, "], got ", ShapeOf{weight});
  check_dtypes(op, hidden_states, weight, bias);
  Shape leading = shape_of(hidden_states);
  leading.pop_back();
  std::int64_t tokens = 1;
  for (const std::int64_t extent : leading) tokens *= extent;
  const std::int64_t vocab = weight.size(0);
  return {op,
          as_matrix(hidden_states, tokens, hidden_size),
          as_product_operand(as_contiguous(weight)),
          bias ? std::optional<Tensor>(as_contiguous(*bias)) : std::nullopt,
          checked_target(op, target, {op, "hidden_states"}, hidden_states, tokens, vocab, options),
          options,
          shape_of(hidden_states),
          shape_of(target),
          tokens,
          hidden_size,
          vocab,
          dtype};
}

struct Needs {
  bool hidden;
  bool weight;
  bool bias;
  bool any() const { return hidden || weight || bias; }
};

// Row losses (float32) and lse (float64) of all tokens, [tokens].
struct RowResults {
  Tensor row_loss;
  Tensor lse;

  explicit RowResults(const Problem& problem)
      : row_loss(new_empty(problem.hidden, Shape{problem.tokens}, TorchDtype::Float)),
        lse(new_empty(problem.hidden, Shape{problem.tokens}, TorchDtype::Double)) {}
  float* row_loss_at(std::int64_t row) { return static_cast<float*>(row_loss.mutable_data_ptr()) + row; }
  double* lse_at(std::int64_t row) { return static_cast<double*>(lse.mutable_data_ptr()) + row; }
};

// Empty where not needed.
struct Gradients {
  Tensor hidden;  // these two in the problem's dtype
  Tensor weight;
  Tensor bias;  // float32
};

// What the chunks' gradients of the logits add up to.
class GradientSums {
 public:
  // chunk_rows: of all chunks but the last.
  GradientSums(const Problem& problem, const Needs& needs, std::int64_t chunk_rows) : problem_(problem), needs_(needs) {
    const Shape weight_shape{problem.vocab, problem.hidden_size};
    const bool sums_weight = needs.weight && chunk_rows < problem.tokens;
    result_.hidden = new_empty(problem.hidden, needs.hidden ? problem.hidden_shape : Shape{0});
    result_.weight = make(needs.weight && !sums_weight, weight_shape, problem.torch_dtype());
    if (sums_weight) weight_sum_.emplace(problem.hidden, problem.vocab, problem.hidden_size, problem.torch_dtype());
    result_.bias = make(needs.bias, {problem.vocab}, TorchDtype::Float);
    if (needs.hidden) hidden_rows_ = as_matrix(result_.hidden, problem.tokens, problem.hidden_size);
  }

  // grad_logits: [rows, vocab], of the tokens from `first_row` on
  void add(const Tensor& grad_logits, std::int64_t first_row, const DeviceScope& scope) {
    const std::int64_t rows = grad_logits.size(0);
    if (needs_.hidden) {
      Tensor out = rows_of(*hidden_rows_, first_row, rows);
      matmul_out(grad_logits, problem_.weight, out);
    }
    if (needs_.weight) add_weight(grad_logits, rows_of(problem_.hidden, first_row, rows), first_row);
    if (needs_.bias) add_bias(grad_logits, first_row > 0, scope);
  }

  // Once all chunks are added.
  const Gradients& result() const { return result_; }

 private:
  Tensor make(bool needed, const Shape& shape, TorchDtype dtype) const {
    if (!needed) return new_empty(problem_.hidden, Shape{0}, dtype);
    return problem_.tokens == 0 ? new_zeros(problem_.hidden, shape, dtype) : new_empty(problem_.hidden, shape, dtype);
  }

  void add_weight(const Tensor& grad_logits, const Tensor& hidden_rows, std::int64_t first_row) {
    if (!weight_sum_) return matmul_out(transposed(grad_logits), hidden_rows, result_.weight);
    weight_sum_->add(grad_logits, hidden_rows, first_row > 0);
    if (first_row + grad_logits.size(0) == problem_.tokens) result_.weight = weight_sum_->finish();
  }

  void add_bias(const Tensor& grad_logits, bool accumulate, const DeviceScope& scope) {
    kernels::ColumnSumArgs args;
    args.rows = grad_logits.size(0);
    args.columns = problem_.vocab;
    args.values = grad_logits.const_data_ptr();
    args.dtype = problem_.dtype;
    args.row_stride = grad_logits.stride(0);
    args.accumulate = accumulate;
    args.sums = static_cast<float*>(result_.bias.mutable_data_ptr());
    require_ok(problem_.op, kernels::column_sum(args, scope.context()));
  }

  const Problem& problem_;
  Needs needs_;
  Gradients result_;
  std::optional<Tensor> hidden_rows_;
  std::optional<WideSum> weight_sum_;
};

}  // namespace liger::ops
