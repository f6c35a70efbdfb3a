// A chunk of linear_cross_entropy whose logits never exist: the product that would make them leaves their exponentials
// in bfloat16, see kernels/linear_cross_entropy/softmax_product.h. Gradients are made of those by softmax_gradients.h.
#pragma once

#include <cstdint>
#include <optional>

#include "kernels/linear_cross_entropy/softmax_product.h"
#include "ops/linear_cross_entropy.h"

namespace liger::ops {

// The tokens that have a label in their order, and then the others.
struct TokenOrder {
  Tensor tokens;   // [tokens] in int32
  Tensor counted;  // [1] in int32: how many have a label
};

inline TokenOrder token_order(const Problem& problem, const DeviceScope& scope) {
  TokenOrder order{new_empty(problem.hidden, Shape{problem.tokens}, TorchDtype::Int),
                   new_empty(problem.hidden, Shape{1}, TorchDtype::Int)};
  kernels::SoftmaxOrderArgs args;
  args.tokens = problem.tokens;
  args.target = target_from(problem.classes, problem.options, 0);
  args.vocab = problem.vocab;
  args.order = static_cast<std::int32_t*>(order.tokens.mutable_data_ptr());
  args.counted = static_cast<std::int32_t*>(order.counted.mutable_data_ptr());
  require_ok(problem.op, kernels::softmax_order(args, scope.context()));
  return order;
}

// Rows of a chunk: in the order of token_order.
struct ChunkRows {
  const TokenOrder& order;
  std::int64_t first;
  std::int64_t count;

  const std::int32_t* tokens() const { return static_cast<const std::int32_t*>(order.tokens.const_data_ptr()) + first; }
  kernels::CountedRows counted() const {
    return {static_cast<const std::int32_t*>(order.counted.const_data_ptr()), first};
  }
};

inline kernels::ProductMatrix matrix_of(const Tensor& matrix) { return {matrix.const_data_ptr(), matrix.stride(0)}; }

// The gradient of a chunk's logits: a factor of each row times a matrix, and a value of each row for its own class.
struct ScaledExponentials {
  Tensor matrix;  // [rows, vocab], 0 at the rows' own classes; not written where a tile has no row with a label
  Tensor factor;  // these two [rows] in float32
  Tensor label_factor;
  Tensor labels;         // [rows] in int32, -1 where ignored
  Tensor scaled_hidden;  // [rows, hidden_size]: factor * hidden_states, where the weight's gradient is needed
};

class SoftmaxChunk {
 public:
  // rows: the most that `run` is given. Without gradients the exponentials are not kept.
  SoftmaxChunk(const Problem& problem, const Needs& needs, std::int64_t rows)
      : problem_(problem),
        scales_hidden_(needs.weight),
        labels_(new_empty(problem.hidden, Shape{rows}, TorchDtype::Int)),
        largest_(new_empty(problem.hidden, Shape{rows}, TorchDtype::Int)),
        shifts_(floats(Shape{rows})),
        target_logits_(floats(Shape{rows})),
        factors_(floats(Shape{rows})),
        label_factors_(floats(Shape{rows})),
        partial_sums_(floats(Shape{rows, kernels::softmax_product_parts(problem.vocab)})),
        ordered_hidden_(new_empty(problem.hidden, Shape{rows, problem.hidden_size})) {
    if (needs.any()) exponentials_ = problem.chunk_buffer(rows);
  }

  static bool suits(const Problem& problem) {
    const CrossEntropyOptions& options = problem.options;
    const bool is_plain = !problem.bias && options.softcap == 0.0f && options.label_smoothing == 0.0;
    if (problem.dtype != kernels::ScalarType::bfloat16 || !is_plain || options.z_loss != 0.0) return false;
    kernels::SoftmaxProductArgs args = product_args(problem, problem.hidden);
    args.out.row_stride = kRowAlignment / 2;  // as that of a buffer
    return kernels::supports_softmax_product(args);
  }

  // Bytes that a chunk of so many rows takes.
  static std::int64_t bytes(const Problem& problem, const Needs& needs, std::int64_t rows) {
    const std::int64_t exponentials = needs.any() ? problem.vocab * kHalfBytes : 0;
    return rows * (exponentials + problem.hidden_size * kHalfBytes +
                   kernels::softmax_product_parts(problem.vocab) * kFloatBytes);
  }

  // upstream: null where it is 1, in units of the scales' grad_unit. results: null where they are not wanted.
  void run(const ChunkRows& rows, const ScalesBuffer& scales, const LossGradient* upstream, RowResults* results,
           const DeviceScope& scope) {
    prepare(rows, scope);
    multiply(rows, scope);
    finish(rows, scales, upstream, results, scope);
  }

  // Of the rows of the last run.
  ScaledExponentials grad_logits(std::int64_t rows) const {
    const auto leading = [rows](const Tensor& tensor) { return rows_of(tensor, 0, rows); };
    return {leading(*exponentials_), leading(factors_), leading(label_factors_), leading(labels_),
            leading(ordered_hidden_)};
  }

 private:
  static constexpr std::int64_t kHalfBytes = 2, kFloatBytes = 4;

  static kernels::SoftmaxProductArgs product_args(const Problem& problem, const Tensor& hidden) {
    kernels::SoftmaxProductArgs args;
    args.rows = hidden.size(0);
    args.vocab = problem.vocab;
    args.hidden_size = problem.hidden_size;
    args.hidden = matrix_of(hidden);
    args.weight = matrix_of(problem.weight);
    args.scale = problem.options.logit_scale;
    return args;
  }

  Tensor floats(const Shape& shape) const { return new_empty(problem_.hidden, shape, TorchDtype::Float); }
  static float* floats_of(Tensor& tensor) { return static_cast<float*>(tensor.mutable_data_ptr()); }
  static std::int32_t* integers_of(Tensor& tensor) { return static_cast<std::int32_t*>(tensor.mutable_data_ptr()); }
  kernels::SoftmaxRows row_data() {
    return {integers_of(labels_), floats_of(shifts_), integers_of(largest_), floats_of(target_logits_)};
  }

  void prepare(const ChunkRows& rows, const DeviceScope& scope) {
    kernels::SoftmaxPrepareArgs args;
    args.rows = rows.count;
    args.hidden_size = problem_.hidden_size;
    args.hidden = matrix_of(problem_.hidden);
    args.order = rows.tokens();
    args.ordered_hidden = ordered_hidden_.mutable_data_ptr();
    args.weight = matrix_of(problem_.weight);
    args.target = target_from(problem_.classes, problem_.options, 0);
    args.vocab = problem_.vocab;
    args.scale = problem_.options.logit_scale;
    args.row = row_data();
    require_ok(problem_.op, kernels::softmax_prepare(args, scope.context()));
  }

  void multiply(const ChunkRows& rows, const DeviceScope& scope) {
    kernels::SoftmaxProductArgs args = product_args(problem_, rows_of(ordered_hidden_, 0, rows.count));
    if (exponentials_) args.out = matrix_of(*exponentials_);
    args.row = row_data();
    args.counted = rows.counted();
    args.partial_sums = floats_of(partial_sums_);
    require_ok(problem_.op, kernels::softmax_product(args, scope.context()));
  }

  void finish(const ChunkRows& rows, const ScalesBuffer& scales, const LossGradient* upstream, RowResults* results,
              const DeviceScope& scope) {
    kernels::SoftmaxFinishArgs args;
    args.rows = rows.count;
    args.vocab = problem_.vocab;
    args.hidden_size = problem_.hidden_size;
    args.order = rows.tokens();
    args.row = row_data();
    args.partial_sums = floats_of(partial_sums_);
    args.scales = scales.get();
    if (upstream != nullptr) {
      args.grad_loss = upstream->at(0);
      args.grad_loss_stride = upstream->stride;
    }
    args.scale = problem_.options.logit_scale;
    if (results != nullptr) {
      args.row_loss = results->row_loss_at(0);
      args.lse = results->lse_at(0);
    }
    if (exponentials_) {
      args.factor = floats_of(factors_);
      args.label_factor = floats_of(label_factors_);
    }
    if (scales_hidden_) args.ordered_hidden = ordered_hidden_.mutable_data_ptr();
    require_ok(problem_.op, kernels::softmax_finish(args, scope.context()));
  }

  const Problem& problem_;
  bool scales_hidden_;
  Tensor labels_, largest_;                                  // [rows] in int32
  Tensor shifts_, target_logits_, factors_, label_factors_;  // [rows] in float32
  Tensor partial_sums_;                                      // [rows, parts] in float32
  Tensor ordered_hidden_;                                    // [rows, hidden_size]
  std::optional<Tensor> exponentials_;                       // [rows, vocab] in bfloat16
};

}  // namespace liger::ops
