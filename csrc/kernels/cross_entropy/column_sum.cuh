// Device code of column_sum: the gradient of a bias is the sum of the logits' gradient over rows.
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

}  // namespace liger::kernels::gpu
