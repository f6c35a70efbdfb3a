// Device code of what becomes of gradients after the loss: column_sum, since the gradient of a bias is the sum of the
// logits' gradient over rows, and scale_gradient.
#pragma once

#include "kernels/common/gpu.h"
#include "kernels/cross_entropy/cross_entropy.h"

namespace liger::kernels::gpu {

// A block of [kRowLanes, kColumnLanes] threads sums kColumnLanes * kVec columns.
template <typename T, int kVec, int kColumnLanes, int kRowLanes>
__global__ void __launch_bounds__(kColumnLanes* kRowLanes) column_sum_kernel(ColumnSumArgs args) {
  __shared__ float partial[kRowLanes][kColumnLanes * kVec];
  const int lane = static_cast<int>(threadIdx.x), row_lane = static_cast<int>(threadIdx.y);
  const std::int64_t column = (static_cast<std::int64_t>(blockIdx.x) * kColumnLanes + lane) * kVec;
  float sums[kVec] = {};
  if (column < args.columns) {
    const T* values = static_cast<const T*>(args.values) + column;
#pragma unroll 4
    for (std::int64_t row = row_lane; row < args.rows; row += kRowLanes) {
      const Packed<T, kVec> packed = load<T, kVec>(values + row * args.row_stride);
#pragma unroll
      for (int i = 0; i < kVec; ++i) sums[i] += gpu::to_float(packed.values[i]);
    }
  }
#pragma unroll
  for (int i = 0; i < kVec; ++i) partial[row_lane][i * kColumnLanes + lane] = sums[i];
  __syncthreads();
  if (row_lane != 0 || column >= args.columns) return;
#pragma unroll
  for (int i = 0; i < kVec; ++i) {
    float sum = args.accumulate ? args.sums[column + i] : 0.0f;
    for (int r = 0; r < kRowLanes; ++r) sum += partial[r][i * kColumnLanes + lane];
    args.sums[column + i] = sum;
  }
}

// Each thread scales kVec elements and, of a last block, one of those after the last vector. 2b bytes per element.
template <typename From, typename To, int kVec, int kThreads>
__global__ void __launch_bounds__(kThreads) scale_gradient_kernel(ScaleGradientArgs args) {
  const auto* values = static_cast<const From*>(args.values);
  auto* out = static_cast<To*>(args.out);
  const float factor = *args.factor;
  const std::int64_t thread = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const std::int64_t vectors = args.count / kVec, first = thread * kVec;
  if (thread < vectors) {
    const auto packed = load<From, kVec>(values + first);
    Packed<To, kVec> scaled;
#pragma unroll
    for (int i = 0; i < kVec; ++i) scaled.values[i] = gpu::from_float<To>(gpu::to_float(packed.values[i]) * factor);
    store<To, kVec>(out + first, scaled);
  }
  const std::int64_t rest = vectors * kVec + (thread - vectors);
  if (thread >= vectors && rest < args.count) out[rest] = gpu::from_float<To>(gpu::to_float(values[rest]) * factor);
}

}  // namespace liger::kernels::gpu
