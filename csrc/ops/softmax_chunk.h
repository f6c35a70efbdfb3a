// A chunk of linear_cross_entropy whose logits never exist: the product that would make them leaves their exponentials
// in bfloat16, see kernels/linear_cross_entropy/softmax_product.h. Gradients are made of those by softmax_gradients.h.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>

#include "kernels/linear_cross_entropy/softmax_product.h"
#include "ops/linear_cross_entropy.h"

namespace liger::ops {

// The gradient of a chunk's logits: a factor of each row times a matrix, and a value of each row for its own class.
struct ScaledExponentials {
  Tensor matrix;  // [rows, vocab], 0 at the rows' own classes
  Tensor factor;  // these two [rows] in float32
  Tensor label_factor;
  Tensor labels;                        // [rows] in int32, -1 where ignored
  std::optional<Tensor> scaled_hidden;  // [rows, hidden_size]: factor * hidden_states
};

class SoftmaxChunk {
 public:
  // rows: the most that `run` is given. Without gradients the exponentials are not kept.
  SoftmaxChunk(const Problem& problem, const Needs& needs, std::int64_t rows)
      : problem_(problem),
        labels_(new_empty(problem.hidden, Shape{rows}, TorchDtype::Int)),
        largest_(new_empty(problem.hidden, Shape{rows}, TorchDtype::Int)),
        shifts_(floats(Shape{rows})),
        target_logits_(floats(Shape{rows})),
        factors_(floats(Shape{rows})),
        label_factors_(floats(Shape{rows})),
        partial_sums_(floats(Shape{rows, kernels::softmax_product_parts(problem.vocab)})) {
    if (needs.any()) exponentials_ = problem.chunk_buffer(rows);
    if (needs.weight) scaled_hidden_ = new_empty(problem.hidden, Shape{rows, problem.hidden_size});
  }

  static bool suits(const Problem& problem) {
    const CrossEntropyOptions& options = problem.options;
    const bool is_plain = !problem.bias && options.softcap == 0.0f && options.label_smoothing == 0.0;
    if (problem.dtype != kernels::ScalarType::bfloat16 || !is_plain || options.z_loss != 0.0) return false;
    kernels::SoftmaxProductArgs args = product_args(problem, 0, problem.tokens);
    args.out.row_stride = kRowAlignment / 2;  // as that of a buffer
    return kernels::supports_softmax_product(args);
  }

  // Of the tokens from first_row on. upstream: null where it is 1, in units of the scales' grad_unit. results: null
  // where they are not wanted.
  void run(std::int64_t first_row, std::int64_t rows, const ScalesBuffer& scales, const LossGradient* upstream,
           RowResults* results, const DeviceScope& scope) {
    prepare(first_row, rows, scope);
    multiply(first_row, rows, scope);
    finish(first_row, rows, scales, upstream, results, scope);
  }

  // Of the rows of the last run.
  ScaledExponentials grad_logits(std::int64_t rows) const {
    const auto leading = [rows](const Tensor& tensor) { return rows_of(tensor, 0, rows); };
    return {leading(*exponentials_), leading(factors_), leading(label_factors_), leading(labels_),
            scaled_hidden_ ? std::optional<Tensor>(leading(*scaled_hidden_)) : std::nullopt};
  }

 private:
  static kernels::ProductMatrix matrix_of(const Tensor& matrix) { return {matrix.const_data_ptr(), matrix.stride(0)}; }

  static kernels::SoftmaxProductArgs product_args(const Problem& problem, std::int64_t first_row, std::int64_t rows) {
    kernels::SoftmaxProductArgs args;
    args.rows = rows;
    args.vocab = problem.vocab;
    args.hidden_size = problem.hidden_size;
    args.hidden = matrix_of(rows_of(problem.hidden, first_row, rows));
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

  void prepare(std::int64_t first_row, std::int64_t rows, const DeviceScope& scope) {
    kernels::SoftmaxPrepareArgs args;
    args.rows = rows;
    args.hidden_size = problem_.hidden_size;
    args.hidden = matrix_of(rows_of(problem_.hidden, first_row, rows));
    args.weight = matrix_of(problem_.weight);
    args.target = target_from(problem_.classes, problem_.options, first_row);
    args.vocab = problem_.vocab;
    args.scale = problem_.options.logit_scale;
    args.row = row_data();
    require_ok(problem_.op, kernels::softmax_prepare(args, scope.context()));
  }

  void multiply(std::int64_t first_row, std::int64_t rows, const DeviceScope& scope) {
    kernels::SoftmaxProductArgs args = product_args(problem_, first_row, rows);
    if (exponentials_) args.out = matrix_of(*exponentials_);
    args.row = row_data();
    args.partial_sums = floats_of(partial_sums_);
    require_ok(problem_.op, kernels::softmax_product(args, scope.context()));
  }

  void finish(std::int64_t first_row, std::int64_t rows, const ScalesBuffer& scales, const LossGradient* upstream,
              RowResults* results, const DeviceScope& scope) {
    kernels::SoftmaxFinishArgs args;
    args.rows = rows;
    args.vocab = problem_.vocab;
    args.hidden_size = problem_.hidden_size;
    args.hidden = matrix_of(rows_of(problem_.hidden, first_row, rows));
    args.row = row_data();
    args.partial_sums = floats_of(partial_sums_);
    args.scales = scales.get();
    if (upstream != nullptr) {
      args.grad_loss = upstream->at(first_row);
      args.grad_loss_stride = upstream->stride;
    }
    args.scale = problem_.options.logit_scale;
    if (results != nullptr) {
      args.row_loss = results->row_loss_at(first_row);
      args.lse = results->lse_at(first_row);
    }
    if (exponentials_) {
      args.factor = floats_of(factors_);
      args.label_factor = floats_of(label_factors_);
    }
    if (scaled_hidden_) args.scaled_hidden = scaled_hidden_->mutable_data_ptr();
    require_ok(problem_.op, kernels::softmax_finish(args, scope.context()));
  }

  const Problem& problem_;
  Tensor labels_, largest_;                                  // [rows] in int32
  Tensor shifts_, target_logits_, factors_, label_factors_;  // [rows] in float32
  Tensor partial_sums_;                                      // [rows, parts] in float32
  std::optional<Tensor> exponentials_, scaled_hidden_;       // [rows, vocab] and [rows, hidden_size] in bfloat16
};

}  // namespace liger::ops
