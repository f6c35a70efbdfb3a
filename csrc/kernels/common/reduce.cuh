// Sums and maxima over the lanes of a warp and the warps of a block. Every lane gets the result, always combined in the
// same order, so that equal inputs give equal bits. The warp's width is a template parameter chosen on the host.
#pragma once

#include "kernels/common/gpu.h"

namespace liger::kernels::gpu {

struct Sum {
  template <typename T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};

struct Max {
  __device__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

// Over groups of kWidth neighbouring lanes; kWidth is a power of two, at most the warp's width.
template <int kWarp, int kWidth = kWarp, typename T, typename Combine = Sum>
__device__ inline T warp_reduce(T value, Combine combine = {}) {
#pragma unroll
  for (int lanes = kWidth / 2; lanes > 0; lanes /= 2) value = combine(value, shuffle_xor<kWarp>(value, lanes));
  return value;
}

// As warp_reduce, where the groups' width is known when the kernel is launched. It is the same for the whole warp.
template <int kWarp, typename T>
__device__ inline T group_sum(T value, int width) {
  for (int lanes = width / 2; lanes > 0; lanes /= 2) value += shuffle_xor<kWarp>(value, lanes);
  return value;
}

// Over all kThreads threads of the block. `shared` holds kThreads / kWarp values; the caller may reuse it after its own
// next barrier.
template <int kWarp, int kThreads, typename T, typename Combine = Sum>
__device__ inline T block_reduce(T value, T* shared, Combine combine = {}) {
  constexpr int kWarps = kThreads / kWarp;
  value = warp_reduce<kWarp>(value, combine);
  if constexpr (kWarps == 1) return value;
  const int thread = static_cast<int>(threadIdx.x);
  if (thread % kWarp == 0) shared[thread / kWarp] = value;
  __syncthreads();
  T total = shared[0];
#pragma unroll
  for (int warp = 1; warp < kWarps; ++warp) total = combine(total, shared[warp]);
  return total;
}

}  // namespace liger::kernels::gpu
