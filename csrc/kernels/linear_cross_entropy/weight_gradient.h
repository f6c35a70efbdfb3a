// The gradient of a head's weight from the exponentials of softmax_product.h, summed over chunks of rows:
//   sum[class] (+)= sum over rows of u[row, class] * scaled_hidden[row]
// and for the classes of the rows themselves sums of label_factor * hidden_states.
//
// A chunk's sums are float32. Between chunks their upper 20 bits are kept, rounded to nearest, so within 2^-13, where
// the result's own rounding is within 2^-9: the upper 16 bits where the result will be, which is bfloat16 but for its
// rounding, and the other 4 beside it. The last chunk leaves the sum as bfloat16. So there is no pass over it, and a
// quarter of the result's memory beside it.
#pragma once

#include <cstdint>

#include "kernels/linear_cross_entropy/softmax_product.h"

namespace liger::kernels {

// The lower 4 bits of the kept sums, as the threads of a warp group hold them: boxes of 64 x 64 of the result, in each
// 16 bytes of every thread, of which 4 are of its values in 16 columns. A byte has two columns that are neighbours.
struct LowerBits {
  static constexpr std::int64_t kBox = 64, kBoxBytes = kBox * kBox / 2;
  static constexpr std::int64_t boxes(std::int64_t extent) { return (extent + kBox - 1) / kBox; }
  static constexpr std::int64_t bytes(std::int64_t vocab, std::int64_t hidden_size) {
    return boxes(vocab) * boxes(hidden_size) * kBoxBytes;
  }
  // Of the byte that has the bits of an even column and, above them, those of the next.
  static constexpr std::int64_t place(std::int64_t row, std::int64_t column, std::int64_t hidden_size) {
    const std::int64_t box = row / kBox * boxes(hidden_size) + column / kBox;
    const std::int64_t thread = row % kBox / 16 * 32 + row % 8 * 4 + column % 8 / 2;
    return box * kBoxBytes + thread * 16 + column % kBox / 16 * 4 + column % 16 / 8 * 2 + row % 16 / 8;
  }
};

struct WeightGradientArgs {
  std::int64_t rows = 0;
  std::int64_t vocab = 0;
  std::int64_t hidden_size = 0;
  ProductMatrix exponentials;   // [rows, vocab]
  ProductMatrix scaled_hidden;  // [rows, hidden_size]
  void* upper = nullptr;        // [vocab, hidden_size]
  void* lower = nullptr;        // see LowerBits; null where this chunk is the only one
  CountedRows counted;          // the others are not multiplied
  bool is_first = true;
  bool is_last = true;
  // Label sums that are added. Rows are waited for: to be left to label_sums where it can, before or after.
  const std::int32_t* row_of_class = nullptr;  // [vocab], -1: nothing to be added; null: nothing at all
  const float* label_sums = nullptr;           // [rows, hidden_size]
};

// Sums of label_factor * hidden_states over rows of the same label, in their order: added to those of chunks, or kept
// at the first of those rows.
struct LabelSumsArgs {
  std::int64_t rows = 0;
  std::int64_t vocab = 0;
  std::int64_t hidden_size = 0;
  ProductMatrix hidden;                 // of all tokens
  const std::int32_t* order = nullptr;  // [rows], the token of each
  const float* label_factor = nullptr;  // [rows]
  const std::int32_t* label = nullptr;  // [rows], -1: ignored
  void* upper = nullptr;                // as above; null: kept
  void* lower = nullptr;
  std::int32_t* row_of_class = nullptr;  // [vocab]
  float* label_sums = nullptr;           // [rows, hidden_size]
};

// Where supports_softmax_product holds.
Status label_sums(const LabelSumsArgs& args, const LaunchContext& context);
Status weight_gradient(const WeightGradientArgs& args, const LaunchContext& context);

}  // namespace liger::kernels
