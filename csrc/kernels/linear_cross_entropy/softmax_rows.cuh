// What happens to rows before and after softmax_product.
#pragma once

#include <cmath>

#include "kernels/common/gpu.h"
#include "kernels/common/reduce.cuh"
#include "kernels/cross_entropy/cross_entropy.cuh"
#include "kernels/linear_cross_entropy/hidden_gradient.h"
#include "kernels/linear_cross_entropy/softmax_shift.cuh"
#include "kernels/linear_cross_entropy/weight_gradient.h"

namespace liger::kernels::gpu {

constexpr int kRowThreads = 256;

__device__ inline const BFloat16* row_of(const ProductMatrix& matrix, std::int64_t row) {
  return static_cast<const BFloat16*>(matrix.data) + row * matrix.row_stride;
}

constexpr int kOrderThreads = 1024, kOrderTokens = 8;  // of each thread, one after the other

struct Scanned {
  int upto;  // the sum of the values of threads before and of the own
  int total;
};

// By all threads of a block. Values of `sums` are read until the caller's next barrier.
__device__ inline Scanned scan(int value, int (&sums)[2][kOrderThreads]) {
  const int thread = static_cast<int>(threadIdx.x);
  int now = 0;
  sums[0][thread] = value;
  __syncthreads();
  for (int step = 1; step < kOrderThreads; step *= 2) {
    sums[1 - now][thread] = sums[now][thread] + (thread >= step ? sums[now][thread - step] : 0);
    now = 1 - now;
    __syncthreads();
  }
  return {sums[now][thread], sums[now][kOrderThreads - 1]};
}

// Of kOrderTokens tokens from `first` on a bit each: whether it has a label.
__device__ inline unsigned labelled(const SoftmaxOrderArgs& args, std::int64_t first) {
  unsigned found = 0;
#pragma unroll
  for (int i = 0; i < kOrderTokens; ++i)
    if (first + i < args.tokens && counted_class(args.target, first + i, args.vocab) >= 0) found |= 1u << i;
  return found;
}

// One block.
__global__ void __launch_bounds__(kOrderThreads) softmax_order_kernel(SoftmaxOrderArgs args) {
  __shared__ int sums[2][kOrderThreads];
  std::int64_t counted = 0;
  for (std::int64_t begin = 0; begin < args.tokens; begin += kOrderThreads * kOrderTokens) {
    const std::int64_t first = begin + static_cast<std::int64_t>(threadIdx.x) * kOrderTokens;
    const unsigned own = labelled(args, first);
    const Scanned scanned = scan(__popc(own), sums);
    std::int64_t before = counted + scanned.upto - __popc(own);  // with a label
    for (std::int64_t token = first; token < min(first + kOrderTokens, args.tokens); ++token) {
      const bool has_label = (own >> (token - first) & 1u) != 0;
      args.order[has_label ? before : args.tokens - 1 - (token - before)] = static_cast<std::int32_t>(token);
      before += has_label ? 1 : 0;
    }
    counted += scanned.total;
    __syncthreads();
  }
  if (threadIdx.x == 0) *args.counted = static_cast<std::int32_t>(counted);
}

// A warp for each row.
template <int kWarp>
__global__ void softmax_prepare_kernel(SoftmaxPrepareArgs args) {
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * (kRowThreads / kWarp) + threadIdx.x / kWarp;
  if (row >= args.rows) return;
  const std::int64_t token = args.order[row];
  const int label = counted_class(args.target, token, args.vocab);
  const BFloat16 *hidden = row_of(args.hidden, token), *weight = row_of(args.weight, label < 0 ? 0 : label);
  auto* ordered = static_cast<BFloat16*>(args.ordered_hidden) + row * args.hidden_size;
  float sum = 0.0f;
  constexpr int kVec = 8;
  for (std::int64_t i = threadIdx.x % kWarp * kVec; i < args.hidden_size; i += kWarp * kVec) {
    Packed<BFloat16, kVec> h = {};
    if (label >= 0) {
      h = load<BFloat16, kVec>(hidden + i);
      const auto w = load<BFloat16, kVec>(weight + i);
#pragma unroll
      for (int j = 0; j < kVec; ++j) sum += gpu::to_float(h.values[j]) * gpu::to_float(w.values[j]);
    }
    store(ordered + i, h);
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
  const std::int64_t token = args.order[row];
  if (args.row_loss != nullptr) args.row_loss[token] = finished.loss;
  if (args.lse != nullptr) args.lse[token] = finished.lse;
  if (args.factor == nullptr) return 0.0f;
  const double upstream =
      args.grad_loss == nullptr ? args.scales->grad_unit : args.grad_loss[token * args.grad_loss_stride];
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
  const bool has_label = args.row.label[row] >= 0;  // otherwise the product may have passed over it
  double sum = 0.0;
  for (int part = static_cast<int>(threadIdx.x); has_label && part < parts; part += kRowThreads)
    sum += args.partial_sums[row * parts + part];
  sum = block_reduce<kWarp, kRowThreads>(sum, sums);
  if (threadIdx.x == 0) factor = finish_row(args, row, sum);
  if (args.ordered_hidden == nullptr || !has_label) return;
  __syncthreads();
  BFloat16* hidden = static_cast<BFloat16*>(args.ordered_hidden) + row * args.hidden_size;
  constexpr int kVec = 8;
  for (std::int64_t i = threadIdx.x * kVec; i < args.hidden_size; i += kRowThreads * kVec) {
    auto values = load<BFloat16, kVec>(hidden + i);
#pragma unroll
    for (BFloat16& value : values.values) value = from_float<BFloat16>(gpu::to_float(value) * factor);
    store(hidden + i, values);
  }
}

// The sum of the parts, in their order.
template <int kVec>
__device__ inline Packed<float, kVec> product_at(const SoftmaxGradHiddenArgs& args, std::int64_t element) {
  auto sum = load<float, kVec>(args.products + element);
  for (std::int64_t part = 1; part < args.parts; ++part) {
    const auto more = load<float, kVec>(args.products + part * args.rows * args.hidden_size + element);
#pragma unroll
    for (int j = 0; j < kVec; ++j) sum.values[j] += more.values[j];
  }
  return sum;
}

// A block for each row.
__global__ void softmax_grad_hidden_kernel(SoftmaxGradHiddenArgs args) {
  const std::int64_t row = blockIdx.x;
  const int label = args.label[row];
  const float factor = args.factor[row], label_factor = args.label_factor[row];
  const BFloat16* weight = row_of(args.weight, label < 0 ? 0 : label);
  auto* grad_hidden = static_cast<BFloat16*>(args.grad_hidden) + args.order[row] * args.hidden_size;
  constexpr int kVec = 8;
  for (std::int64_t i = threadIdx.x * kVec; i < args.hidden_size; i += kRowThreads * kVec) {
    Packed<BFloat16, kVec> out = {};
    if (label >= 0) {
      const auto product = product_at<kVec>(args, row * args.hidden_size + i);
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

// One of the sums of which 20 bits are kept, and what is added to it.
__device__ inline unsigned added_to_kept(std::uint16_t high, unsigned low, float value) {
  return rounded_to_20_bits(__uint_as_float(static_cast<unsigned>(high) << 16 | low << 12) + value);
}

// Adds to sums of a class from an even column on.
template <int kVec>
__device__ inline void add_to_kept(const LabelSumsArgs& args, std::int64_t label, std::int64_t column,
                                   const Packed<float, kVec>& sums) {
  auto* upper = static_cast<std::uint16_t*>(args.upper) + label * args.hidden_size + column;
  auto* lower = static_cast<std::uint8_t*>(args.lower);
  auto high = load<std::uint16_t, kVec>(upper);
#pragma unroll
  for (int i = 0; i < kVec; i += 2) {
    std::uint8_t& low = lower[LowerBits::place(label, column + i, args.hidden_size)];
    const unsigned first = added_to_kept(high.values[i], low & 0xfu, sums.values[i]);
    const unsigned second = added_to_kept(high.values[i + 1], low >> 4, sums.values[i + 1]);
    high.values[i] = static_cast<std::uint16_t>(first >> 16);
    high.values[i + 1] = static_cast<std::uint16_t>(second >> 16);
    low = static_cast<std::uint8_t>((first >> 12 & 0xfu) | (second >> 8 & 0xf0u));
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
    const auto hidden = load<BFloat16, kVec>(row_of(args.hidden, args.order[other]) + column);
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
