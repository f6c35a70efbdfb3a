// Device code of cross_entropy.h for long rows of 16-bit logits without a softcap. Several blocks share a row, each
// thread holds its part of it in registers: the loads of a row are all in flight at once, and a gradient that replaces
// its logits reads them once. The fast exponential is far more exact than the rounding of results to 16 bits.
// Bytes per element of size b: forward b, backward 2b, fused 2b.
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
    for_words([&](uint4& word, int column) {
      stay_packed(word);
      Vector vector;
      memcpy(&vector, &word, sizeof(word));
      visit(vector, column);
    });
  }
  __device__ void read(const T* row) {
    for_words([&](uint4& word, int column) { word = *reinterpret_cast<const uint4*>(row + column); });
  }
  __device__ void write_zeros(T* row) {
    for_words([&](uint4&, int column) { store<T, kVec>(row + column, Vector{}); });
  }

 private:
  template <typename Visit>
  __device__ void for_words(Visit&& visit) {
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      const int column = first_ + i * step_;
      if (column < vocab_) visit(words_[i], column);
    }
  }

  uint4 words_[kItems];
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

// The stats of the row, for one thread: those of all blocks.
__device__ inline RowStats cluster_stats(const Cluster& cluster, SharedStats* of_block) {
  RowStats all;
  for (int rank = 0; rank < cluster.blocks(); ++rank) all.max = fmaxf(all.max, cluster.shared_of(of_block, rank)->max);
  for (int rank = 0; rank < cluster.blocks(); ++rank) {
    const SharedStats part = *cluster.shared_of(of_block, rank);
    all.sum += part.sum * expf(part.max - all.max);
    all.total += part.total;
  }
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

// The forward or the fused pass over rows that the blocks of a cluster share.
template <typename T, int kItems, typename Args>
__global__ void __launch_bounds__(kPartThreads, kItems <= 8 ? 3 : 2) cross_entropy_parts_kernel(const Args args) {
  constexpr bool kGradient = std::is_same_v<Args, CrossEntropyFusedArgs>;
  constexpr int kWarp = 32;  // where there are clusters
  __shared__ SharedStats of_block;
  const Cluster cluster;
  const std::int64_t row_index = blockIdx.x / static_cast<unsigned>(cluster.blocks());
  const int label = counted_class(args.target, row_index, args.vocab);
  const bool is_first = threadIdx.x == 0, writes_results = is_first && cluster.rank() == 0;
  const T* row = static_cast<const T*>(args.logits.data) + row_index * args.logits.row_stride;
  T* out = nullptr;
  if constexpr (kGradient) out = static_cast<T*>(args.grad_logits);
  RowPart<T, kItems> part(cluster.rank(), cluster.blocks(), args.vocab);
  if (label < 0 && args.z_loss == 0.0) {
    if (writes_results) write_ignored_row(args, row_index);
    if constexpr (kGradient) part.write_zeros(out + row_index * args.logits.row_stride);
    return;
  }

  const float scale = args.logits.scale;
  part.read(row);
  const float target_value = writes_results && label >= 0 ? gpu::to_float(row[label]) * scale : 0.0f;
  const bool wants_total = args.label_smoothing != 0.0;
  const RowStats block = block_stats<kWarp, kPartThreads>(part_stats(part, scale, wants_total), wants_total);
  if (is_first) of_block = {block.max, block.sum, block.total};
  cluster.arrive();
  cluster.wait();

  const auto row_lse = [&] {
    const RowStats stats = cluster_stats(cluster, &of_block);
    const double lse = lse_of(stats);
    if (writes_results) write_row_results(args, row_index, lse, stats.total, label, target_value);
    return lse;
  };
  if constexpr (kGradient) {
    const RowGradient gradient = shared_row_gradient([&] {
      const RowSoftmax softmax = softmax_of(row_lse());
      const CrossEntropyScales scales = *args.scales;
      return row_gradient(scales, scales.grad_unit, args.label_smoothing, args.z_loss, args.vocab, softmax, label);
    });
    cluster.arrive();
    write_part_gradient(part, scale, gradient, out + row_index * args.logits.row_stride);
  } else {
    if (writes_results) row_lse();
    cluster.arrive();
  }
  cluster.wait();  // until its shared memory is not read any more
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
