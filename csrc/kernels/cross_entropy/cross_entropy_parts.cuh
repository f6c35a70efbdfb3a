// Device code of cross_entropy.h for long rows of 16-bit logits. Several blocks share a row, each thread holds its part
// of it in registers, so that a gradient that replaces its logits reads them once. The fast exponential is far more
// exact than the rounding of results to 16 bits. Bytes per element of size b: backward 2b, fused 2b.
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

// z -> u, as LogitMap: with x = z * scale and e = exp(-2 |x| / softcap)
//   u = softcap * tanh(x / softcap) = softcap * sign(x) * (1 - e) / (1 + e)
//   du/dx = 1 - tanh(x / softcap)^2 = 4 * e / (1 + e)^2, which is exact where tanh is near 1, too.
template <bool kSoftcap>
class PartMap {
 public:
  struct Point {
    float power;  // e^(u - shift)
    float slope;  // du/dz = slope * slope_scale()
  };

  __device__ explicit PartMap(const CrossEntropyLogits& logits) : scale_(logits.scale), softcap_(logits.softcap) {
    if constexpr (!kSoftcap) return;
    signed_softcap_ = copysignf(softcap_, scale_);
    to_exponent_ = -2.0f * kLog2E * fabsf(scale_) / softcap_;
  }

  __device__ float scaled(float logit) const { return logit * scale_; }
  // u of what is scaled; keeps its order.
  __device__ float capped(float scaled) const { return kSoftcap ? softcap_ * tanhf(scaled / softcap_) : scaled; }
  __device__ float value(float logit) const {
    if constexpr (!kSoftcap) return scaled(logit);
    return signed_softcap_ * tanh_of(logit, exponential(logit));
  }
  __device__ Point at(float logit, float shift) const {
    if constexpr (!kSoftcap) return {exp_flushed(scaled(logit) - shift), 1.0f};
    const Exponential exponential = this->exponential(logit);
    const float exponent = fmaf(signed_softcap_ * kLog2E, tanh_of(logit, exponential), -shift * kLog2E);
    return {exp2_flushed(exponent), exponential.e * exponential.inverse * exponential.inverse};
  }
  __device__ float slope_scale() const { return kSoftcap ? 4.0f * scale_ : scale_; }

 private:
  static constexpr float kLog2E = 1.44269504f;

  struct Exponential {
    float e;
    float inverse;  // 1 / (1 + e)
  };
  __device__ Exponential exponential(float logit) const {
    const float e = exp2_flushed(fabsf(logit) * to_exponent_);
    return {e, inverse_flushed(1.0f + e)};
  }
  // In the sign of the logit, not that of x.
  __device__ static float tanh_of(float logit, const Exponential& exponential) {
    return copysignf((1.0f - exponential.e) * exponential.inverse, logit);
  }

  float scale_;
  float softcap_;
  float signed_softcap_ = 0.0f;
  float to_exponent_ = 0.0f;
};

template <typename T, int kItems, bool kSoftcap>
__device__ inline ThreadStats part_stats(RowPart<T, kItems>& part, const PartMap<kSoftcap>& map, bool wants_total) {
  using Vector = typename RowPart<T, kItems>::Vector;
  ThreadStats stats;
  part.for_vectors([&](const Vector& vector, int) {
#pragma unroll
    for (T logit : vector.values) stats.max = fmaxf(stats.max, map.scaled(gpu::to_float(logit)));
  });
  stats.max = map.capped(stats.max);
  part.for_vectors([&](const Vector& vector, int) {
    float sum = 0.0f;  // of its own: short chains of additions are more exact, and independent
#pragma unroll
    for (T logit : vector.values) sum += map.at(gpu::to_float(logit), stats.max).power;
    stats.sum += sum;
  });
  if (!wants_total) return stats;
  part.for_vectors([&](const Vector& vector, int) {
    float total = 0.0f;
#pragma unroll
    for (T logit : vector.values) total += map.value(gpu::to_float(logit));
    stats.total += total;
  });
  return stats;
}

inline constexpr int kPartWarp = 32;  // where there are clusters
inline constexpr int kMostClusterBlocks = 8;
inline constexpr int kMostRowWarps = kMostClusterBlocks * kPartThreads / kPartWarp;

// Each warp gives its stats to all blocks of the cluster; `of_warps` holds those of the whole row after the next
// barrier.
__device__ inline void share_stats(const Cluster& cluster, const ThreadStats& mine, bool wants_total,
                                   SharedStats* of_warps) {
  const int lane = static_cast<int>(threadIdx.x) % kPartWarp, warp = static_cast<int>(threadIdx.x) / kPartWarp;
  const SharedStats stats = warp_stats<kPartWarp>(mine, wants_total);
  const int slot = cluster.rank() * (kPartThreads / kPartWarp) + warp;
  if (lane < cluster.blocks()) cluster.shared_of(of_warps, lane)[slot] = stats;
}

// An element of a vector that lies in registers, which cannot be indexed.
template <typename T, int kVec>
__device__ inline T element_of(const Packed<T, kVec>& vector, int index) {
  T result = vector.values[0];
#pragma unroll
  for (int e = 1; e < kVec; ++e) result = index == e ? vector.values[e] : result;
  return result;
}

template <typename T, int kVec>
__device__ inline void replace(Packed<T, kVec>& vector, int index, T value) {
#pragma unroll
  for (int e = 0; e < kVec; ++e) vector.values[e] = index == e ? value : vector.values[e];
}

template <typename T, int kItems, bool kSoftcap>
__device__ inline void write_part_gradient(RowPart<T, kItems>& part, const PartMap<kSoftcap>& map,
                                           const RowGradient& gradient, T* out) {
  using Vector = typename RowPart<T, kItems>::Vector;
  constexpr int kVec = RowPart<T, kItems>::kVec;
  const float weight = gradient.weight * map.slope_scale(), offset = gradient.offset * map.slope_scale();
  const float label_offset = gradient.label_offset * map.slope_scale();
  const auto element = [&](T logit, float subtract) {
    const auto [power, slope] = map.at(gpu::to_float(logit), gradient.shift);
    return gpu::from_float<T>(fmaf(weight, power, -subtract) * slope);
  };
  part.for_vectors([&](const Vector& vector, int column) {
    Vector result;
#pragma unroll
    for (int e = 0; e < kVec; ++e) result.values[e] = element(vector.values[e], offset);
    const int label = static_cast<int>(gradient.label) - column;
    if (label >= 0 && label < kVec)
      replace(result, label, element(element_of(vector, label), label_offset));  // hardly ever
    store<T, kVec>(out + column, result);
  });
}

// Forward and backward at once, over rows that the blocks of a cluster share. While one block of a multiprocessor waits
// for its cluster the others must read and write: a fourth is worth the few words that it spills.
template <typename T, int kItems, bool kSoftcap>
__global__ void __launch_bounds__(kPartThreads, kItems <= 8 ? 4 : 2)
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

  const PartMap<kSoftcap> map(args.logits);
  part.read(row);
  const float target_value = writes_results && label >= 0 ? map.capped(map.scaled(gpu::to_float(row[label]))) : 0.0f;
  const bool wants_total = args.label_smoothing != 0.0;
  const ThreadStats mine = part_stats(part, map, wants_total);
  cluster.wait();
  share_stats(cluster, mine, wants_total, of_warps);
  cluster.arrive();
  cluster.wait();

  if (threadIdx.x < kPartWarp) {
    const RowStats stats = row_stats<kPartWarp>(of_warps, cluster.blocks() * kPartThreads / kPartWarp);
    if (threadIdx.x == 0) {
      const double lse = lse_of(stats);
      if (writes_results) write_row_results(args, row_index, lse, stats.total, label, target_value);
      const CrossEntropyScales scales = *args.scales;
      gradient =
          row_gradient(scales, scales.grad_unit, args.label_smoothing, args.z_loss, args.vocab, softmax_of(lse), label);
    }
  }
  __syncthreads();
  write_part_gradient(part, map, gradient, row);
}

// Backward of rows that `blocks` blocks share, without a gradient that reaches the logits directly.
template <typename T, int kItems, bool kSoftcap>
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
  write_part_gradient(part, PartMap<kSoftcap>(args.logits), gradient, out);
}

}  // namespace liger::kernels::gpu
