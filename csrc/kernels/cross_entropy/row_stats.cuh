// How the threads of a block read a row of logits: each once, keeping a running maximum and sum of its own.
#pragma once

#include "kernels/common/reduce.cuh"
#include "kernels/cross_entropy/cross_entropy.h"

namespace liger::kernels::gpu {

// Below every finite logit; a running maximum that starts here stays finite where all logits so far are -infinity.
inline constexpr float kLowestFloat = -3.402823466e38f;

// How a block walks a row: 16-byte vectors, and the few elements before the first and after the last of them.
struct RowSplit {
  int head;     // elements before the first vector
  int vectors;  // of kVectorBytes each
  int edges;    // elements outside of vectors
};

template <typename T>
__device__ inline RowSplit split_row(const T* row, int vocab, bool use_vectors) {
  constexpr int kVec = kVectorBytes / sizeof(T);
  if (!use_vectors) return {vocab, 0, vocab};
  const int past_boundary = static_cast<int>(reinterpret_cast<std::uintptr_t>(row) % kVectorBytes / sizeof(T));
  const int head = min((kVec - past_boundary) % kVec, vocab);
  const int vectors = (vocab - head) / kVec;
  return {head, vectors, vocab - vectors * kVec};
}

template <typename T>
__device__ inline int edge_column(const RowSplit& split, int edge) {
  constexpr int kVec = kVectorBytes / sizeof(T);
  return edge < split.head ? edge : edge + split.vectors * kVec;
}

template <bool kSoftcap>
__device__ inline float transform(const LogitMap& map, float logit) {
  logit *= map.scale;
  if constexpr (!kSoftcap) return logit;
  return map.softcap > 0.0f ? map.softcap * tanhf(logit / map.softcap) : logit;
}

template <bool kSoftcap>
__device__ inline float slope(const LogitMap& map, float transformed) {
  if constexpr (!kSoftcap) return map.slope_scale;
  if (map.slope_softcap <= 0.0f) return map.slope_scale;
  const float ratio = transformed / map.slope_softcap;
  return map.slope_scale * (1.0f - ratio * ratio);
}

template <typename Sum>
struct Stats {
  float max = kLowestFloat;
  Sum sum = 0;    // of exp(u - max)
  Sum total = 0;  // of u
};
using ThreadStats = Stats<float>;
using RowStats = Stats<double>;

// The few values of a call have a sum of their own: short chains of additions are more exact.
// exp_flushed is wrong by a unit or two in the last place and, of a power e^-d, by d * 2^-23; as d * e^-d is below 0.4,
// that is no more than another unit of the largest power. The largest is exactly 1, so that the loss of a row in which
// one logit is far above all others is exactly 0. One FMA, u * log2(e) - max * log2(e), would not give that: the
// largest power would be wrong by up to max * 2^-24.
template <int kSize>
__device__ inline void absorb(ThreadStats& stats, const float (&values)[kSize], bool wants_total) {
  float max = stats.max, sum = 0.0f, total = 0.0f;
#pragma unroll
  for (float value : values) max = fmaxf(max, value);
#pragma unroll
  for (float value : values) sum += exp_flushed(value - max);
  stats.sum = fmaf(stats.sum, exp_flushed(stats.max - max), sum);
  stats.max = max;
  if (!wants_total) return;
#pragma unroll
  for (float value : values) total += value;
  stats.total += total;
}

// u of a logit. Where kWrite is set, u is rounded and replaces the logit, and the rounded value is what counts.
template <typename T, bool kSoftcap, bool kWrite>
__device__ inline float transform_element(const LogitMap& map, T& logit) {
  const float value = transform<kSoftcap>(map, gpu::to_float(logit));
  if constexpr (!kWrite) return value;
  logit = gpu::from_float<T>(value);
  return gpu::to_float(logit);
}

// A row as one thread of kThreads reads it, and writes it where kWrite is set.
template <typename T, bool kSoftcap, bool kWrite, int kThreads>
struct RowReader {
  static constexpr int kVec = kVectorBytes / sizeof(T);
  static constexpr int kUnroll = kSoftcap || kWrite ? 2 : 4;  // tanh and stores need the registers

  const LogitMap& map;
  const T* row;
  T* transformed;
  RowSplit split;
  bool wants_total;

  // Reads kUnroll vectors, or those of them within the row, before it uses the first. Single vectors at the end of a
  // row would each wait for memory.
  __device__ void absorb_vectors(ThreadStats& stats, int first) const {
    Packed<T, kVec> packed[kUnroll];
#pragma unroll
    for (int k = 0; k < kUnroll; ++k) {
      const int vector = first + k * kThreads;
      if (vector < split.vectors) packed[k] = load<T, kVec>(row + split.head + vector * kVec);
    }
#pragma unroll
    for (int k = 0; k < kUnroll; ++k) {
      const int vector = first + k * kThreads;
      if (vector >= split.vectors) break;
      stay_packed(packed[k]);
      float values[kVec];
#pragma unroll
      for (int i = 0; i < kVec; ++i) values[i] = transform_element<T, kSoftcap, kWrite>(map, packed[k].values[i]);
      if constexpr (kWrite) store<T, kVec>(transformed + split.head + vector * kVec, packed[k]);
      absorb(stats, values, wants_total);
    }
  }

  __device__ void absorb_edge(ThreadStats& stats, int edge) const {
    const int column = edge_column<T>(split, edge);
    T element = row[column];
    const float value[1] = {transform_element<T, kSoftcap, kWrite>(map, element)};
    if constexpr (kWrite) transformed[column] = element;
    absorb(stats, value, wants_total);
  }

  __device__ ThreadStats stats() const {
    const int thread = static_cast<int>(threadIdx.x);
    ThreadStats stats;
    for (int edge = thread; edge < split.edges; edge += kThreads) absorb_edge(stats, edge);
    for (int vector = thread; vector < split.vectors; vector += kUnroll * kThreads) absorb_vectors(stats, vector);
    return stats;
  }
};

// RowStats that shared memory can hold: nothing initialises it.
struct SharedStats {
  float max;
  double sum;
  double total;
};

// For a whole warp.
template <int kWarp>
__device__ inline SharedStats warp_stats(const ThreadStats& mine, bool wants_total) {
  SharedStats stats;
  stats.max = warp_reduce<kWarp>(mine.max, Max{});
  stats.sum = warp_reduce<kWarp>(static_cast<double>(mine.sum * exp_flushed(mine.max - stats.max)));
  stats.total = wants_total ? warp_reduce<kWarp>(static_cast<double>(mine.total)) : 0.0;
  return stats;
}

// The stats of the row from those of `count` warps, for a whole warp.
template <int kWarp>
__device__ inline RowStats row_stats(const SharedStats* of_warps, int count) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  RowStats all;
  for (int i = lane; i < count; i += kWarp) all.max = fmaxf(all.max, of_warps[i].max);
  all.max = warp_reduce<kWarp>(all.max, Max{});
  for (int i = lane; i < count; i += kWarp) {
    all.sum += of_warps[i].sum * exp_flushed(of_warps[i].max - all.max);
    all.total += of_warps[i].total;
  }
  all.sum = warp_reduce<kWarp>(all.sum);
  all.total = warp_reduce<kWarp>(all.total);
  return all;
}

// The stats of the row, in the first warp.
template <int kWarp, int kThreads>
__device__ inline RowStats block_stats(const ThreadStats& mine, bool wants_total, SharedStats* of_warps) {
  const int thread = static_cast<int>(threadIdx.x);
  const SharedStats stats = warp_stats<kWarp>(mine, wants_total);
  if (thread % kWarp == 0) of_warps[thread / kWarp] = stats;
  __syncthreads();
  return thread < kWarp ? row_stats<kWarp>(of_warps, kThreads / kWarp) : RowStats{};
}

}  // namespace liger::kernels::gpu
