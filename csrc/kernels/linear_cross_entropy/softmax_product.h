// The product of a language model's head with the softmax of its cross entropy, before the sum over a row is known:
//   z = scale * hidden_states @ weight^T,  u_j = exp(z_j - shift) for classes j other than the row's own, else 0
// with a shift of the row's own logit, as nearly as it is known before. Then of the cross entropy of a row with class y
//   S = sum_j u_j,  e = exp(z_y - shift),  row loss = log(1 + S / e)
//   d(row loss)/dz_j = u_j / (S + e) for j other than y, and -S / (S + e) for y
// Gradients are a factor of the row times products of u, and what the row's own class adds: that is the largest part by
// far where many classes are likely, and is kept in float32.
//
// Rows without a label are left out: softmax_order puts them behind all others, a chunk's rows are copied together, and
// products pass over tiles that have none. How many there are is known on the device alone.
//
// Where a class is so much likelier than the row's own that the exponentials leave the range in which all this is as
// exact, the row is computed again with its largest logit as the shift.
#pragma once

#include <cstdint>

#include "kernels/common/launch.h"
#include "kernels/common/product_matrix.h"
#include "kernels/cross_entropy/cross_entropy.h"

namespace liger::kernels {

// What is known of each row, [rows] each.
struct SoftmaxRows {
  std::int32_t* label = nullptr;    // -1: ignored
  float* shift = nullptr;           // infinity where the row is ignored
  std::int32_t* largest = nullptr;  // the largest z_j of other classes, as a number in the order of the floats
  float* target_logit = nullptr;    // z_y
};

// The rows of a chunk that have a label are its first.
struct CountedRows {
  const std::int32_t* all = nullptr;  // how many of all tokens have one
  std::int64_t first = 0;             // place of the chunk's first row among all tokens
};

// Tokens with a label in their order, then the others, from the last on.
struct SoftmaxOrderArgs {
  std::int64_t tokens = 0;
  CrossEntropyTarget target;
  std::int64_t vocab = 0;
  std::int32_t* order = nullptr;    // [tokens]
  std::int32_t* counted = nullptr;  // how many have a label
};

struct SoftmaxProductArgs {
  std::int64_t rows = 0;
  std::int64_t vocab = 0;
  std::int64_t hidden_size = 0;
  ProductMatrix hidden;  // [rows, hidden_size]
  ProductMatrix weight;  // [vocab, hidden_size]
  ProductMatrix out;     // [rows, vocab], gets u; null: only the sums are wanted
  float scale = 1.0f;
  SoftmaxRows row;
  CountedRows counted;
  float* partial_sums = nullptr;  // [rows, softmax_product_parts(vocab)]
};

// Labels, shifts and the rows themselves, before the product.
struct SoftmaxPrepareArgs {
  std::int64_t rows = 0;
  std::int64_t hidden_size = 0;
  ProductMatrix hidden;                 // of all tokens
  const std::int32_t* order = nullptr;  // [rows], the token of each
  void* ordered_hidden = nullptr;       // [rows, hidden_size], gets the tokens' hidden states; 0 without a label
  ProductMatrix weight;
  CrossEntropyTarget target;
  std::int64_t vocab = 0;
  float scale = 1.0f;
  SoftmaxRows row;
};

// After the product: losses, and the factors of the gradients. What is null is not wanted. What is of tokens counts
// all, in their own order.
struct SoftmaxFinishArgs {
  std::int64_t rows = 0;
  std::int64_t vocab = 0;
  std::int64_t hidden_size = 0;
  const std::int32_t* order = nullptr;  // [rows], the token of each
  SoftmaxRows row;
  const float* partial_sums = nullptr;
  const CrossEntropyScales* scales = nullptr;
  const float* grad_loss = nullptr;   // null: an upstream gradient of 1, in units of the scales' grad_unit
  std::int64_t grad_loss_stride = 0;  // 0: one value for all rows
  float scale = 1.0f;
  float* row_loss = nullptr;  // [tokens]
  double* lse = nullptr;      // [tokens]
  // d(loss)/d(hidden_states @ weight^T) is factor * u, and label_factor for the row's own class, [rows] each.
  float* factor = nullptr;
  float* label_factor = nullptr;
  void* ordered_hidden = nullptr;  // [rows, hidden_size], gets factor * itself
};

// Whether the current device and the arguments are for softmax_product: Hopper, 16-byte-aligned rows, and a positive
// finite scale.
bool supports_softmax_product(const SoftmaxProductArgs& args);
// Sums that the product leaves of each row.
std::int64_t softmax_product_parts(std::int64_t vocab);

Status softmax_order(const SoftmaxOrderArgs& args, const LaunchContext& context);
Status softmax_prepare(const SoftmaxPrepareArgs& args, const LaunchContext& context);
Status softmax_product(const SoftmaxProductArgs& args, const LaunchContext& context);
Status softmax_finish(const SoftmaxFinishArgs& args, const LaunchContext& context);

}  // namespace liger::kernels
