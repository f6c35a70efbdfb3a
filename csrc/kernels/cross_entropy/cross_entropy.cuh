// Device code of cross_entropy.h. One block owns one row, in the forward pass one after the other. The forward pass
// keeps a running maximum and sum per thread, so it reads each logit once; the backward pass reads and writes each
// once; the fused kernel does both in place, its second pass going backwards through the row so that it starts with
// what the L2 cache still holds. Bytes per element of size b: forward b, backward 2b, fused 2b of memory and b of L2.
#pragma once

#include "kernels/cross_entropy/row_stats.cuh"

namespace liger::kernels::gpu {

__device__ inline std::int64_t class_of(const CrossEntropyTarget& target, std::int64_t row) {
  return target.is_int64 ? static_cast<const std::int64_t*>(target.classes)[row]
                         : static_cast<const std::int32_t*>(target.classes)[row];
}

// The class of a row, or -1 where it is ignored.
__device__ inline int counted_class(const CrossEntropyTarget& target, std::int64_t row, std::int64_t vocab) {
  const std::int64_t label = class_of(target, row);
  if (label == target.ignore_index) return -1;
  fail_unless(label >= 0 && label < vocab, "cross_entropy: target out of bounds");
  return static_cast<int>(label);
}

// total: the sum of u. label < 0: ignored. For one thread.
template <typename Args>
__device__ inline void write_row_results(const Args& args, std::int64_t row, double lse, double total, int label,
                                         float target_value) {
  double loss = 0.0;
  if (label >= 0) {
    const double smoothing = args.label_smoothing;
    loss = lse - target_value;
    if (smoothing != 0.0) loss = (1.0 - smoothing) * loss + smoothing * (lse - total / args.vocab);
  }
  args.row_loss[row] = static_cast<float>(loss);
  args.lse[row] = lse;
}

// For one thread of the block: float64 logarithms are slow.
__device__ inline double lse_of(const RowStats& stats) { return stats.max + log(stats.sum); }

template <typename Args>
__device__ inline void write_ignored_row(const Args& args, std::int64_t row) {
  args.row_loss[row] = 0.0f;
  args.lse[row] = 0.0;
}

__device__ inline RowSoftmax softmax_of(double lse) {
  const auto shift = static_cast<float>(lse);
  return {shift, exp(static_cast<double>(shift) - lse), lse};
}

// One thread's computation for the whole block.
template <typename Compute>
__device__ inline RowGradient shared_row_gradient(Compute&& compute) {
  __shared__ RowGradient gradient;
  if (threadIdx.x == 0) gradient = compute();
  __syncthreads();
  return gradient;
}

template <typename T, bool kSoftcap>
__device__ inline T element_gradient(const LogitMap& map, const RowGradient& row, T logit, float extra, int column) {
  const float value = transform<kSoftcap>(map, gpu::to_float(logit));
  float gradient = extra;
  if (!row.is_zero) {
    const float subtract = column == row.label ? row.label_offset : row.offset;
    gradient += fmaf(row.weight, expf(value - row.shift), -subtract);
  }
  return gpu::from_float<T>(gradient * slope<kSoftcap>(map, value));
}

// kCount vectors, `step` elements apart, all read before the first is written: in place the compiler may not reorder
// them.
template <typename T, bool kSoftcap, int kCount>
__device__ inline void write_gradient_vectors(const LogitMap& map, const RowGradient& gradient, const T* row,
                                              const T* extra, T* out, int column, int step) {
  constexpr int kVec = kVectorBytes / sizeof(T);
  Packed<T, kVec> packed[kCount], more[kCount];
#pragma unroll
  for (int k = 0; k < kCount; ++k) {
    packed[k] = load<T, kVec>(row + column + k * step);
    if (extra != nullptr) more[k] = load<T, kVec>(extra + column + k * step);
  }
#pragma unroll
  for (int k = 0; k < kCount; ++k) {
#pragma unroll
    for (int i = 0; i < kVec; ++i) {
      const float add = extra != nullptr ? gpu::to_float(more[k].values[i]) : 0.0f;
      T& value = packed[k].values[i];
      value = element_gradient<T, kSoftcap>(map, gradient, value, add, column + k * step + i);
    }
    store<T, kVec>(out + column + k * step, packed[k]);
  }
}

template <typename T, bool kSoftcap, int kThreads>
__device__ inline void write_row_gradient(const LogitMap& map, const RowGradient& gradient, const T* row,
                                          const T* extra, T* out, const RowSplit& split) {
  constexpr int kVec = kVectorBytes / sizeof(T);
  const int thread = static_cast<int>(threadIdx.x);
  int vector = split.vectors - 1 - thread;
  for (; vector >= kThreads; vector -= 2 * kThreads)
    write_gradient_vectors<T, kSoftcap, 2>(map, gradient, row, extra, out, split.head + vector * kVec,
                                           -kThreads * kVec);
  if (vector >= 0)
    write_gradient_vectors<T, kSoftcap, 1>(map, gradient, row, extra, out, split.head + vector * kVec, 0);
  for (int edge = thread; edge < split.edges; edge += kThreads) {
    const int column = edge_column<T>(split, edge);
    const float add = extra != nullptr ? gpu::to_float(extra[column]) : 0.0f;
    out[column] = element_gradient<T, kSoftcap>(map, gradient, row[column], add, column);
  }
}

template <typename T, int kThreads>
__device__ inline void write_zeros(T* out, const RowSplit& split) {
  constexpr int kVec = kVectorBytes / sizeof(T);
  const int thread = static_cast<int>(threadIdx.x);
  Packed<T, kVec> zeros;
#pragma unroll
  for (int i = 0; i < kVec; ++i) zeros.values[i] = gpu::from_float<T>(0.0f);
  for (int vector = thread; vector < split.vectors; vector += kThreads)
    store<T, kVec>(out + split.head + vector * kVec, zeros);
  for (int edge = thread; edge < split.edges; edge += kThreads)
    out[edge_column<T>(split, edge)] = gpu::from_float<T>(0.0f);
}

// Threads of a multiprocessor that run the forward pass, in several blocks, so that some read while others reduce. With
// half as many again an H100 reads 0.92 times as fast.
inline constexpr int kForwardThreads = 1024;

// Each block takes rows in turn. One warp writes what became of a row while the others read the next one.
template <typename T, bool kSoftcap, bool kWrite, int kWarp, int kThreads>
__global__ void __launch_bounds__(kThreads, kForwardThreads / kThreads)
    cross_entropy_forward_kernel(CrossEntropyForwardArgs args, LogitMap map, bool use_vectors) {
  // Two, in turn: until the next barrier the first warp may read those of the row before.
  __shared__ SharedStats of_warps[2][kThreads / kWarp];
  const int vocab = static_cast<int>(args.vocab);
  const bool is_first = threadIdx.x == 0, wants_total = args.label_smoothing != 0.0;
  int turn = 0;
  for (std::int64_t row_index = blockIdx.x; row_index < args.rows; row_index += gridDim.x) {
    const int label = counted_class(args.target, row_index, args.vocab);
    if (!kWrite && label < 0 && args.z_loss == 0.0) {
      if (is_first) write_ignored_row(args, row_index);
      continue;
    }
    const T* row = static_cast<const T*>(args.logits.data) + row_index * args.logits.row_stride;
    T* transformed = kWrite ? static_cast<T*>(args.transformed) + row_index * args.transformed_stride : nullptr;
    float target_value = 0.0f;
    if (is_first && label >= 0) {
      T target_logit = row[label];
      target_value = transform_element<T, kSoftcap, kWrite>(map, target_logit);
    }
    if constexpr (kWrite) __syncthreads();  // the target's logit is about to be overwritten
    const RowReader<T, kSoftcap, kWrite, kThreads> reader{map, row, transformed, split_row(row, vocab, use_vectors),
                                                          wants_total};
    const RowStats stats = block_stats<kWarp, kThreads>(reader.stats(), wants_total, of_warps[turn]);
    if (is_first) write_row_results(args, row_index, lse_of(stats), stats.total, label, target_value);
    turn ^= 1;
  }
}

template <typename T, bool kSoftcap, int kThreads>
__global__ void __launch_bounds__(kThreads)
    cross_entropy_backward_kernel(CrossEntropyBackwardArgs args, LogitMap map, bool use_vectors) {
  const std::int64_t row_index = blockIdx.x;
  const int vocab = static_cast<int>(args.vocab);
  const RowGradient gradient = shared_row_gradient([&] {
    if (args.grad_loss == nullptr) return RowGradient{0.0f, 0.0f, 0.0f, 0.0f, -1, true};
    const int label = counted_class(args.target, row_index, args.vocab);
    return row_gradient(*args.scales, args.grad_loss[row_index * args.grad_loss_stride], args.label_smoothing,
                        args.z_loss, args.vocab, softmax_of(args.lse[row_index]), label);
  });
  const T* row = static_cast<const T*>(args.logits.data) + row_index * args.logits.row_stride;
  T* out = static_cast<T*>(args.grad_logits) + row_index * args.grad_stride;
  const RowSplit split = split_row(row, vocab, use_vectors);
  const T* extra = static_cast<const T*>(args.grad_transformed);
  if (gradient.is_zero && extra == nullptr) return write_zeros<T, kThreads>(out, split);
  if (extra != nullptr) extra += row_index * args.grad_transformed_stride;
  write_row_gradient<T, kSoftcap, kThreads>(map, gradient, row, extra, out, split);
}

template <typename T, bool kSoftcap, int kWarp, int kThreads>
__global__ void __launch_bounds__(kThreads)
    cross_entropy_fused_kernel(CrossEntropyFusedArgs args, LogitMap map, bool use_vectors) {
  const std::int64_t row_index = blockIdx.x;
  const int vocab = static_cast<int>(args.vocab);
  const int label = counted_class(args.target, row_index, args.vocab);
  const bool is_first = threadIdx.x == 0;
  T* row = static_cast<T*>(args.grad_logits) + row_index * args.logits.row_stride;
  const RowSplit split = split_row(row, vocab, use_vectors);
  if (label < 0 && args.z_loss == 0.0) {
    if (is_first) write_ignored_row(args, row_index);
    return write_zeros<T, kThreads>(row, split);
  }
  __shared__ SharedStats of_warps[kThreads / kWarp];
  const bool wants_total = args.label_smoothing != 0.0;
  float target_value = 0.0f;  // read before the barriers of block_stats, overwritten after them
  if (is_first && label >= 0) target_value = transform<kSoftcap>(map, gpu::to_float(row[label]));
  const RowReader<T, kSoftcap, false, kThreads> reader{map, row, nullptr, split, wants_total};
  const RowStats stats = block_stats<kWarp, kThreads>(reader.stats(), wants_total, of_warps);
  const RowGradient gradient = shared_row_gradient([&] {
    const double lse = lse_of(stats);
    write_row_results(args, row_index, lse, stats.total, label, target_value);
    const CrossEntropyScales scales = *args.scales;
    return row_gradient(scales, scales.grad_unit, args.label_smoothing, args.z_loss, args.vocab, softmax_of(lse),
                        label);
  });
  write_row_gradient<T, kSoftcap, kThreads>(map, gradient, row, static_cast<const T*>(nullptr), row, split);
}

// One block counts the targets.
template <int kWarp, int kThreads>
__global__ void __launch_bounds__(kThreads) cross_entropy_scales_kernel(CrossEntropyScalesArgs args) {
  __shared__ int counts[kThreads / kWarp];
  int mine = 0;
  if (args.is_mean) {
    for (std::int64_t row = threadIdx.x; row < args.rows; row += kThreads)
      mine += class_of(args.target, row) != args.target.ignore_index;
  }
  const int counted = block_reduce<kWarp, kThreads>(mine, counts);
  if (threadIdx.x != 0) return;
  const CrossEntropyScales scales = make_scales(args, counted);
  *args.scales = scales;
  if (args.inverse_grad_unit != nullptr) *args.inverse_grad_unit = static_cast<float>(1.0 / scales.grad_unit);
}

// One block adds the rows up, in float64: as many values as tokens.
template <typename T, int kWarp, int kThreads>
__global__ void __launch_bounds__(kThreads) cross_entropy_sum_kernel(CrossEntropyReduceArgs args) {
  __shared__ double losses[kThreads / kWarp], squares[kThreads / kWarp];
  double loss = 0.0, square = 0.0;
  for (std::int64_t row = threadIdx.x; row < args.rows; row += kThreads) {
    loss += args.row_loss[row];
    if (args.z_loss != 0.0) square += args.lse[row] * args.lse[row];
  }
  loss = block_reduce<kWarp, kThreads>(loss, losses);
  square = block_reduce<kWarp, kThreads>(square, squares);
  if (threadIdx.x == 0) *static_cast<T*>(args.loss) = gpu::from_float<T>(total_loss(args, loss, square));
}

template <typename T, int kThreads>
__global__ void __launch_bounds__(kThreads) cross_entropy_rows_kernel(CrossEntropyReduceArgs args) {
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (row >= args.rows) return;
  const double square = args.z_loss == 0.0 ? 0.0 : args.z_loss * args.lse[row] * args.lse[row];
  static_cast<T*>(args.loss)[row] = gpu::from_float<T>(static_cast<float>(args.row_loss[row] + square));
}

}  // namespace liger::kernels::gpu
