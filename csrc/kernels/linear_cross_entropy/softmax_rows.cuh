// What happens to rows before and after softmax_product.
#pragma once

#include <cmath>

#include "kernels/common/gpu.h"
#include "kernels/common/reduce.cuh"
#include "kernels/cross_entropy/cross_entropy.cuh"
#include "kernels/linear_cross_entropy/softmax_shift.cuh"
#include "kernels/linear_cross_entropy/weight_gradient.h"

namespace liger::kernels::gpu {

constexpr int kRowThreads = 256;

__device__ inline const BFloat16* row_of(const ProductMatrix& matrix, std::int64_t row) {
  return static_cast<const BFloat16*>(matrix.data) + row * matrix.row_stride;
}

// A warp for each row.
template <int kWarp>
__global__ void softmax_prepare_kernel(SoftmaxPrepareArgs args) {
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * (kRowThreads / kWarp) + threadIdx.x / kWarp;
  if (row >= args.rows) return;
  const int label = counted_class(args.target, row, args.vocab);
  const BFloat16 *hidden = row_of(args.hidden, row), *weight = row_of(args.weight, label < 0 ? 0 : label);
  float sum = 0.0f;
  constexpr int kVec = 8;
  for (std::int64_t i = threadIdx.x % kWarp * kVec; label >= 0 && i < args.hidden_size; i += kWarp * kVec) {
    const auto h = load<BFloat16, kVec>(hidden + i), w = load<BFloat16, kVec>(weight + i);
#pragma unroll
    for (int j = 0; j < kVec; ++j) sum += gpu::to_float(h.values[j]) * gpu::to_float(w.values[j]);
  }
  sum = warp_reduce<kWarp>(sum);
  if (threadIdx.x % kWarp != 0) return;
  args.row.label[row] = label;
  args.row.shift[row] = label < 0 ? INFINITY : sum * args.scale;
  args.row.largest[row] = in_order(-INFINITY);
  args.row.target_logit[row] = 0.0f;
}

// What is known of a row once its sum of u is.
struct FinishedRow {
  double lse;
  float loss;
  double total;  // of e^(z_j - shift) over all classes
};

__device__ inline FinishedRow finished_row(const SoftmaxRows& rows, std::int64_t row, double sum) {
  if (rows.label[row] < 0) return {0.0, 0.0f, 0.0};
  const double shift = shift_of(rows, row, true), target = rows.target_logit[row];
  const double total = sum + exp(target - shift), lse = shift + log(total);
  return {lse, static_cast<float>(lse - target), total};
}

// By one thread. Returns the factor of the row's gradients.
__device__ inline float finish_row(const SoftmaxFinishArgs& args, std::int64_t row, double sum) {
  const FinishedRow finished = finished_row(args.row, row, sum);
  if (args.row_loss != nullptr) args.row_loss[row] = finished.loss;
  if (args.lse != nullptr) args.lse[row] = finished.lse;
  if (args.factor == nullptr) return 0.0f;
  const double upstream =
      args.grad_loss == nullptr ? args.scales->grad_unit : args.grad_loss[row * args.grad_loss_stride];
  const double factor =
      args.row.label[row] < 0 ? 0.0 : upstream / args.scales->ce_divisor * args.scale / finished.total;
  args.label_factor[row] = static_cast<float>(-factor * sum);
  return args.factor[row] = static_cast<float>(factor);
}

// A block for each row.
template <int kWarp>
__global__ void softmax_finish_kernel(SoftmaxFinishArgs args, int parts) {
  __shared__ double sums[kRowThreads / kWarp];
  __shared__ float factor;
  const std::int64_t row = blockIdx.x;
  double sum = 0.0;
  for (int part = static_cast<int>(threadIdx.x); part < parts; part += kRowThreads)
    sum += args.partial_sums[row * parts + part];
  sum = block_reduce<kWarp, kRowThreads>(sum, sums);
  if (threadIdx.x == 0) factor = finish_row(args, row, sum);
  if (args.scaled_hidden == nullptr) return;
  __syncthreads();
  const BFloat16* hidden = row_of(args.hidden, row);
  BFloat16* scaled = static_cast<BFloat16*>(args.scaled_hidden) + row * args.hidden_size;
  constexpr int kVec = 8;
  for (std::int64_t i = threadIdx.x * kVec; i < args.hidden_size; i += kRowThreads * kVec) {
    auto values = load<BFloat16, kVec>(hidden + i);
#pragma unroll
    for (BFloat16& value : values.values) value = from_float<BFloat16>(gpu::to_float(value) * factor);
    store(scaled + i, values);
  }
}

// A block for each row.
__global__ void softmax_grad_hidden_kernel(SoftmaxGradHiddenArgs args) {
  const std::int64_t row = blockIdx.x, first = row * args.hidden_size;
  const int label = args.label[row];
  const float factor = args.factor[row], label_factor = args.label_factor[row];
  const BFloat16* weight = row_of(args.weight, label < 0 ? 0 : label);
  auto* grad_hidden = static_cast<BFloat16*>(args.grad_hidden) + first;
  constexpr int kVec = 8;
  for (std::int64_t i = threadIdx.x * kVec; i < args.hidden_size; i += kRowThreads * kVec) {
    Packed<BFloat16, kVec> out = {};
    if (label >= 0) {
      const auto product = load<float, kVec>(args.product + first + i);
      const auto of_label = load<BFloat16, kVec>(weight + i);
#pragma unroll
      for (int j = 0; j < kVec; ++j)
        out.values[j] =
            from_float<BFloat16>(fmaf(factor, product.values[j], label_factor * gpu::to_float(of_label.values[j])));
    }
    store(grad_hidden + i, out);
  }
}

__global__ void fill_kernel(std::int32_t* values, std::int32_t value, std::int64_t count) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kRowThreads + threadIdx.x;
  if (i < count) values[i] = value;
}

// visit(row) for the rows from `first` on that have its label, in their order. By all threads of a block.
template <typename Visitor>
__device__ inline void for_same_label(const LabelSumsArgs& args, std::int64_t first, Visitor&& visit) {
  constexpr int kWord = sizeof(uint4);
  __shared__ __align__(kWord) unsigned char matches[kRowThreads];
  for (std::int64_t begin = first; begin < args.rows; begin += kRowThreads) {
    const std::int64_t own = begin + threadIdx.x;
    const bool is_same = own < args.rows && args.label[own] == args.label[first];
    matches[threadIdx.x] = is_same ? 1 : 0;
    if (__syncthreads_or(is_same) != 0) {
      for (int word = 0; word < kRowThreads; word += kWord) {
        const uint4 some = *reinterpret_cast<const uint4*>(matches + word);
        if ((some.x | some.y | some.z | some.w) == 0) continue;
        for (int i = word; i < word + kWord; ++i)
          if (matches[i] != 0) visit(begin + i);
      }
    }
    __syncthreads();
  }
}

__device__ inline bool is_first_of_label(const LabelSumsArgs& args, std::int64_t row) {
  bool found = false;
  for (std::int64_t other = threadIdx.x; other < row; other += kRowThreads)
    found = found || args.label[other] == args.label[row];
  return __syncthreads_or(found) == 0;
}

// Adds to sums of which 24 bits are kept.
template <int kVec>
__device__ inline void add_to_kept(const LabelSumsArgs& args, std::int64_t label, std::int64_t column,
                                   const Packed<float, kVec>& sums) {
  auto* upper = static_cast<std::uint16_t*>(args.upper) + label * args.hidden_size + column;
  auto* lower = static_cast<std::uint8_t*>(args.lower) + label * LowerBytes::width(args.hidden_size);
  auto high = load<std::uint16_t, kVec>(upper);
#pragma unroll
  for (int i = 0; i < kVec; ++i) {
    std::uint8_t& low = lower[LowerBytes::place(column + i)];
    const unsigned bits = static_cast<unsigned>(high.values[i]) << 16 | static_cast<unsigned>(low) << 8;
    const unsigned sum = rounded_to_24_bits(__uint_as_float(bits) + sums.values[i]);
    high.values[i] = static_cast<std::uint16_t>(sum >> 16);
    low = static_cast<std::uint8_t>(sum >> 8);
  }
  store(upper, high);
}

// A block for each row and kRowThreads vectors of it.
__global__ void label_sums_kernel(LabelSumsArgs args) {
  constexpr int kVec = 8;
  const std::int64_t row = blockIdx.x;
  const std::int64_t column = (static_cast<std::int64_t>(blockIdx.y) * kRowThreads + threadIdx.x) * kVec;
  const std::int32_t label = args.label[row];
  if (label < 0 || !is_first_of_label(args, row)) return;
  const bool exists = column < args.hidden_size;
  Packed<float, kVec> sums = {};
  for_same_label(args, row, [&](std::int64_t other) {
    if (!exists) return;
    const auto hidden = load<BFloat16, kVec>(row_of(args.hidden, other) + column);
#pragma unroll
    for (int i = 0; i < kVec; ++i)
      sums.values[i] = fmaf(args.label_factor[other], gpu::to_float(hidden.values[i]), sums.values[i]);
  });
  if (args.upper == nullptr && blockIdx.y == 0 && threadIdx.x == 0)
    args.row_of_class[label] = static_cast<std::int32_t>(row);
  if (!exists) return;
  if (args.upper != nullptr) {
    add_to_kept(args, label, column, sums);
  } else {
    store(args.label_sums + row * args.hidden_size + column, sums);
  }
}

}  // namespace liger::kernels::gpu
