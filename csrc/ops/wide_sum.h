// A sum of matrix products that is kept in float32 and becomes a matrix of a half type without memory of its own for
// it.
//
// The result, [rows, columns] in the half type, is allocated at once. Its memory holds the float32 sums of the first
// half of the rows; those of the other rows have memory beside it. In the end the former are narrowed where they are,
// then the latter into the second half. So never more is needed than for the float32 sums alone.
#pragma once

#include <algorithm>
#include <cstdint>

#include "ops/check.h"
#include "ops/matmul.h"

namespace liger::ops {

class WideSum {
 public:
  // A float32 result is the sum itself.
  WideSum(const Tensor& like, std::int64_t rows, std::int64_t columns, TorchDtype dtype)
      : head_rows_(dtype == TorchDtype::Float ? 0 : rows / 2 / kRowMultiple * kRowMultiple),
        columns_(columns),
        result_(new_empty(like, Shape{rows, columns}, dtype)),
        tail_(dtype == TorchDtype::Float ? result_
                                         : new_empty(like, Shape{rows - head_rows_, columns}, TorchDtype::Float)) {}

  // What is allocated beside the result.
  static std::int64_t extra_bytes(std::int64_t rows, std::int64_t columns, TorchDtype dtype) {
    constexpr std::int64_t kHalfSize = 2;
    return dtype == TorchDtype::Float ? 0 : rows * columns * kHalfSize;
  }

  // The sum (+)= a^T @ b, with a [k, rows] and b [k, columns].
  void add(const Tensor& a, const Tensor& b, bool accumulate) {
    const std::int64_t tail_rows = a.size(1) - head_rows_;
    if (head_rows_ > 0) {
      Tensor head = wide_head();
      add_matmul(head, transposed(columns_of(a, 0, head_rows_)), b, accumulate);
    }
    add_matmul(tail_, transposed(columns_of(a, head_rows_, tail_rows)), b, accumulate);
  }

  // The sum, rounded to the result's dtype. To be called once, after the last `add`.
  Tensor finish() {
    if (result_.scalar_type() == TorchDtype::Float) return result_;
    if (head_rows_ > 0) narrow_head();
    Tensor rest = torch::stable::narrow(result_, 0, head_rows_, tail_.size(0));
    torch::stable::copy_(rest, tail_);
    return result_;
  }

 private:
  static constexpr std::int64_t kRowMultiple = 64;               // keeps both halves aligned for products
  static constexpr std::int64_t kFirst = std::int64_t{1} << 20;  // elements that are narrowed through a copy

  static Tensor columns_of(const Tensor& matrix, std::int64_t first, std::int64_t count) {
    Tensor handle = matrix;
    return torch::stable::narrow(handle, 1, first, count);
  }

  // A view of the result's memory, for as long as that lives: [head_rows, columns].
  Tensor wide_head() {
    const Shape shape{head_rows_, columns_}, strides{columns_, 1};
    return torch::stable::from_blob(result_.mutable_data_ptr(), {shape.data(), shape.size()},
                                    {strides.data(), strides.size()}, result_.device(), TorchDtype::Float);
  }

  // Elements [begin, 2 * begin) come from the bytes [4 * begin, 8 * begin) and go to [2 * begin, 4 * begin), which hold
  // only what went to its place before. So each step narrows as much as all before it.
  void narrow_head() {
    const Shape flat{-1};
    const Tensor head = wide_head();
    Tensor wide = torch::stable::reshape(head, {flat.data(), flat.size()});
    Tensor narrow = torch::stable::reshape(result_, {flat.data(), flat.size()});
    const std::int64_t count = head_rows_ * columns_;
    const std::int64_t first = std::min(count, kFirst);
    Tensor start = torch::stable::narrow(narrow, 0, 0, first);
    torch::stable::copy_(start, torch::stable::to(torch::stable::narrow(wide, 0, 0, first), result_.scalar_type()));
    for (std::int64_t begin = first; begin < count; begin *= 2) {
      const std::int64_t step = std::min(begin, count - begin);
      Tensor target = torch::stable::narrow(narrow, 0, begin, step);
      torch::stable::copy_(target, torch::stable::narrow(wide, 0, begin, step));
    }
  }

  std::int64_t head_rows_;
  std::int64_t columns_;
  Tensor result_;
  Tensor tail_;  // [rows - head_rows, columns] in float32
};

}  // namespace liger::ops
