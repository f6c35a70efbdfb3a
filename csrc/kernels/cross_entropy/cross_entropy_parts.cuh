// Device code of cross_entropy.h for long rows of 16-bit logits without a softcap. Several blocks share a row, each
// thread holds its part of it in registers, so that a gradient that replaces its logits reads them once. While a
// cluster of blocks works on a row, its next one is on the way into shared memory, where each thread finds its own
// part. The fast exponential is far more exact than the rounding of results to 16 bits. Bytes per element of size b:
// forward b, backward 2b, fused 2b.
#pragma once

#include "kernels/cross_entropy/cross_entropy.cuh"

namespace liger::kernels::gpu {

inline constexpr int kPartThreads = 256;

// The vectors of a row that a thread of one of `blocks` blocks holds: kItems or fewer, as far apart as the blocks have
// threads.
template <typename T, int kItems>
class RowPart {
 public:
  static constexpr int kVec = kVectorBytes / sizeof(T);
  using Vector = Packed<T, kVec>;

  __device__ RowPart(int rank, int blocks, std::int64_t vocab)
      : first_((rank * kPartThreads + static_cast<int>(threadIdx.x)) * kVec),
        step_(blocks * kPartThreads * kVec),
        vocab_(static_cast<int>(vocab)) {}

  // visit(vector, its first column)
  template <typename Visit>
  __device__ void for_vectors(Visit&& visit) {
    for_items([&](int i, int column) {
      stay_packed(vectors_[i]);
      visit(vectors_[i], column);
    });
  }
  __device__ void read(const T* row) {
    for_items([&](int i, int column) { vectors_[i] = load<T, kVec>(row + column); });
  }
  __device__ void write_zeros(T* row) {
    for_items([&](int, int column) { store<T, kVec>(row + column, Vector{}); });
  }

 private:
  // visit(item, its first column) for those within the row.
  template <typename Visit>
  __device__ void for_items(Visit&& visit) {
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      const int column = first_ + i * step_;
      if (column < vocab_) visit(i, column);
    }
  }

  Vector vectors_[kItems];
  int first_;
  int step_;
  int vocab_;
};

template <typename T, int kItems>
__device__ inline ThreadStats part_stats(RowPart<T, kItems>& part, float scale, bool wants_total) {
  using Vector = typename RowPart<T, kItems>::Vector;
  ThreadStats stats;
  part.for_vectors([&](const Vector& vector, int) {
#pragma unroll
    for (T logit : vector.values) stats.max = fmaxf(stats.max, gpu::to_float(logit) * scale);
  });
  part.for_vectors([&](const Vector& vector, int) {
    float sum = 0.0f;  // of its own: short chains of additions are more exact, and independent
#pragma unroll
    for (T logit : vector.values) sum += __expf(gpu::to_float(logit) * scale - stats.max);
    stats.sum += sum;
  });
  if (!wants_total) return stats;
  part.for_vectors([&](const Vector& vector, int) {
    float total = 0.0f;
#pragma unroll
    for (T logit : vector.values) total += gpu::to_float(logit) * scale;
    stats.total += total;
  });
  return stats;
}

// RowStats that shared memory can hold: nothing initialises it.
struct SharedStats {
  float max;
  double sum;
  double total;
};

inline constexpr int kPartWarp = 32;  // where there are clusters
inline constexpr int kMostClusterBlocks = 8;
inline constexpr int kMostRowWarps = kMostClusterBlocks * kPartThreads / kPartWarp;

// Each warp gives its stats to all blocks of the cluster; `of_warps` holds those of the whole row after the next
// barrier.
__device__ inline void share_stats(const Cluster& cluster, const ThreadStats& mine, bool wants_total,
                                   SharedStats* of_warps) {
  const int lane = static_cast<int>(threadIdx.x) % kPartWarp, warp = static_cast<int>(threadIdx.x) / kPartWarp;
  SharedStats stats;
  stats.max = warp_reduce<kPartWarp>(mine.max, Max{});
  stats.sum = warp_reduce<kPartWarp>(static_cast<double>(mine.sum * expf(mine.max - stats.max)));
  stats.total = wants_total ? warp_reduce<kPartWarp>(static_cast<double>(mine.total)) : 0.0;
  const int slot = cluster.rank() * (kPartThreads / kPartWarp) + warp;
  if (lane < cluster.blocks()) cluster.shared_of(of_warps, lane)[slot] = stats;
}

// The stats of the row, for a whole warp.
__device__ inline RowStats row_stats(const Cluster& cluster, const SharedStats* of_warps) {
  const int lane = static_cast<int>(threadIdx.x) % kPartWarp, count = cluster.blocks() * kPartThreads / kPartWarp;
  RowStats all;
  for (int i = lane; i < count; i += kPartWarp) all.max = fmaxf(all.max, of_warps[i].max);
  all.max = warp_reduce<kPartWarp>(all.max, Max{});
  for (int i = lane; i < count; i += kPartWarp) {
    all.sum += of_warps[i].sum * expf(of_warps[i].max - all.max);
    all.total += of_warps[i].total;
  }
  all.sum = warp_reduce<kPartWarp>(all.sum);
  all.total = warp_reduce<kPartWarp>(all.total);
  return all;
}

template <typename T, int kItems>
__device__ inline void write_part_gradient(RowPart<T, kItems>& part, float scale, const RowGradient& gradient, T* out) {
  using Vector = typename RowPart<T, kItems>::Vector;
  constexpr int kVec = RowPart<T, kItems>::kVec;
  const float weight = gradient.weight * scale, offset = gradient.offset * scale;
  const float label_offset = gradient.label_offset * scale;
  part.for_vectors([&](const Vector& vector, int column) {
    Vector result;
    const int label = static_cast<int>(gradient.label) - column;
#pragma unroll
    for (int e = 0; e < kVec; ++e) {
      const float power = __expf(gpu::to_float(vector.values[e]) * scale - gradient.shift);
      const float value = fmaf(weight, power, e == label ? -label_offset : -offset);
      result.values[e] = gpu::from_float<T>(value);
    }
    store<T, kVec>(out + column, result);
  });
}

// Forward and backward at once, over rows that the blocks of a cluster share.
template <typename T, int kItems>
__global__ void __launch_bounds__(kPartThreads, kItems <= 8 ? 3 : 2)
    cross_entropy_parts_fused_kernel(const CrossEntropyFusedArgs args) {
  __shared__ SharedStats of_warps[kMostRowWarps];
  __shared__ RowGradient gradient;
  const Cluster cluster;
  cluster.arrive();  // and wait below: a block's shared memory is there once it runs
  const std::int64_t row_index = blockIdx.x / static_cast<unsigned>(cluster.blocks());
  const int label = counted_class(args.target, row_index, args.vocab);
  const bool writes_results = threadIdx.x == 0 && cluster.rank() == 0;
  T* row = static_cast<T*>(args.grad_logits) + row_index * args.logits.row_stride;
  RowPart<T, kItems> part(cluster.rank(), cluster.blocks(), args.vocab);
  if (label < 0 && args.z_loss == 0.0) {
    if (writes_results) write_ignored_row(args, row_index);
    part.write_zeros(row);
    return cluster.wait();
  }

  const float scale = args.logits.scale;
  part.read(row);
  const float target_value = writes_results && label >= 0 ? gpu::to_float(row[label]) * scale : 0.0f;
  const bool wants_total = args.label_smoothing != 0.0;
  const ThreadStats mine = part_stats(part, scale, wants_total);
  cluster.wait();
  share_stats(cluster, mine, wants_total, of_warps);
  cluster.arrive();
  cluster.wait();

  if (threadIdx.x < kPartWarp) {
    const RowStats stats = row_stats(cluster, of_warps);
    if (threadIdx.x == 0) {
      const double lse = lse_of(stats);
      if (writes_results) write_row_results(args, row_index, lse, stats.total, label, target_value);
      const CrossEntropyScales scales = *args.scales;
      gradient =
          row_gradient(scales, scales.grad_unit, args.label_smoothing, args.z_loss, args.vocab, softmax_of(lse), label);
    }
  }
  __syncthreads();
  write_part_gradient(part, scale, gradient, row);
}

// Backward of rows that `blocks` blocks share, without a gradient that reaches the logits directly.
template <typename T, int kItems>
__global__ void __launch_bounds__(kPartThreads, kItems <= 8 ? 3 : 2)
    cross_entropy_parts_backward_kernel(const CrossEntropyBackwardArgs args, int blocks) {
  const int rank = static_cast<int>(blockIdx.x % static_cast<unsigned>(blocks));
  const std::int64_t row_index = blockIdx.x / static_cast<unsigned>(blocks);
  const int label = counted_class(args.target, row_index, args.vocab);
  RowPart<T, kItems> part(rank, blocks, args.vocab);
  T* out = static_cast<T*>(args.grad_logits) + row_index * args.grad_stride;
  if (label < 0 && args.z_loss == 0.0) return part.write_zeros(out);
  part.read(static_cast<const T*>(args.logits.data) + row_index * args.logits.row_stride);
  const RowGradient gradient = shared_row_gradient([&] {
    return row_gradient(*args.scales, args.grad_loss[row_index * args.grad_loss_stride], args.label_smoothing,
                        args.z_loss, args.vocab, softmax_of(args.lse[row_index]), label);
  });
  write_part_gradient(part, args.logits.scale, gradient, out);
}

}  // namespace liger::kernels::gpu
