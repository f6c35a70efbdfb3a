// The gradient of a head's weight from the exponentials of softmax_product.h, summed over chunks of rows:
//   sum[class] (+)= sum over rows of u[row, class] * scaled_hidden[row]
// and for the classes of the rows themselves sums of label_factor * hidden_states.
//
// A chunk's sums are float32. Between chunks their upper 24 bits are kept, rounded to nearest, so within 2^-17: the
// upper 16 where the result will be, which is bfloat16 but for its rounding, and the other 8 beside it. The last chunk
// leaves the sum as bfloat16. So there is no pass over it, and half as much memory beside the result as in float32.
#pragma once

#include <cstdint>

#include "kernels/linear_cross_entropy/softmax_product.h"

namespace liger::kernels {

// The lower bytes of sums: [vocab, width]. Of each 16 columns, two and the two that are 8 further lie together: a
// thread has these when they are written.
struct LowerBytes {
  static constexpr std::int64_t width(std::int64_t hidden_size) { return (hidden_size + 15) / 16 * 16; }
  static constexpr std::int64_t place(std::int64_t column) {
    return column / 16 * 16 + column % 8 / 2 * 4 + column % 16 / 8 * 2 + column % 2;
  }
};

struct WeightGradientArgs {
  std::int64_t rows = 0;
  std::int64_t vocab = 0;
  std::int64_t hidden_size = 0;
  ProductMatrix exponentials;   // [rows, vocab]
  ProductMatrix scaled_hidden;  // [rows, hidden_size]
  void* upper = nullptr;        // [vocab, hidden_size]
  void* lower = nullptr;        // see LowerBytes; null where this chunk is the only one
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
  ProductMatrix hidden;
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
