// What is taken from a row's logits before their exponentials, see softmax_product.h.
#pragma once

#include <cstdint>

#include "kernels/common/gpu.h"
#include "kernels/linear_cross_entropy/softmax_product.h"

namespace liger::kernels::gpu {

constexpr float kLog2E = 1.44269504f;
constexpr float kFarthest = 40.0f;  // that a logit may lie above the shift

// A number with the order of the floats, and back.
__device__ inline std::int32_t in_order(float value) {
  const std::int32_t bits = __float_as_int(value);
  return bits < 0 ? bits ^ 0x7fffffff : bits;
}
__device__ inline float from_order(std::int32_t number) {
  return __int_as_float(number < 0 ? number ^ 0x7fffffff : number);
}

__device__ inline bool needs_other_shift(const SoftmaxRows& rows, std::int64_t row) {
  return from_order(rows.largest[row]) - rows.shift[row] > kFarthest;
}

// knows_largest: whether all logits of the row have been seen
__device__ inline float shift_of(const SoftmaxRows& rows, std::int64_t row, bool knows_largest) {
  return knows_largest && needs_other_shift(rows, row) ? from_order(rows.largest[row]) : rows.shift[row];
}

// The bits of a number with the last 12 rounded away: to nearest, ties to even.
__device__ inline unsigned rounded_to_20_bits(float value) {
  const unsigned bits = __float_as_uint(value);
  return value == value ? bits + 0x7ffu + (bits >> 12 & 1u) : bits;
}

// How many rows of a chunk have a label.
__device__ inline int counted_rows(const CountedRows& counted, int rows) {
  const std::int64_t left = *counted.all - counted.first;
  return static_cast<int>(max(std::int64_t{0}, min(std::int64_t{rows}, left)));
}

}  // namespace liger::kernels::gpu
