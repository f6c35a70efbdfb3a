// The gradient of hidden_states from the exponentials of softmax_product.h:
//   grad_hidden[row] = factor[row] * sum over classes of u[row, class] * weight[class] + label_factor[row] * weight[y]
// Sums are float32, and rounded once. Where the result has too few tiles for all multiprocessors, or few more than they
// are, classes are summed in parts.
#pragma once

#include <cstdint>

#include "kernels/linear_cross_entropy/softmax_product.h"

namespace liger::kernels {

struct HiddenProductArgs {
  std::int64_t rows = 0;
  std::int64_t vocab = 0;
  std::int64_t hidden_size = 0;
  ProductMatrix exponentials;  // [rows, vocab]
  ProductMatrix weight;        // [vocab, hidden_size]
  CountedRows counted;         // the others are not multiplied
  std::int64_t parts = 1;
  float* products = nullptr;  // [parts, rows, hidden_size]
};

struct SoftmaxGradHiddenArgs {
  std::int64_t rows = 0;
  std::int64_t hidden_size = 0;
  std::int64_t parts = 1;
  const float* products = nullptr;  // [parts, rows, hidden_size]
  const float* factor = nullptr;    // these [rows] each
  const float* label_factor = nullptr;
  const std::int32_t* label = nullptr;  // -1: ignored, and so is the product
  const std::int32_t* order = nullptr;  // the token of each row
  ProductMatrix weight;
  void* grad_hidden = nullptr;  // [tokens, hidden_size] in bfloat16
};

// In how many parts the current device has the products of so many rows done soonest.
std::int64_t hidden_product_parts(std::int64_t rows, std::int64_t hidden_size);

// Where supports_softmax_product holds.
Status hidden_product(const HiddenProductArgs& args, const LaunchContext& context);
Status softmax_grad_hidden(const SoftmaxGradHiddenArgs& args, const LaunchContext& context);

}  // namespace liger::kernels
