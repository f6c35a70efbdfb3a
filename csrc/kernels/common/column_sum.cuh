// Adds the partial sums that the blocks of a kernel left, each column always in the same order.
#pragma once

#include "kernels/common/gpu.h"

namespace liger::kernels::gpu {

struct ColumnSum {
  const float* partials = nullptr;  // [count, width]
  std::int64_t count = 0;
  void* out = nullptr;  // [width], or null where it is not wanted
};

// Each thread of a column takes every kRows-th partial row; their sums are added in the order of the threads.
template <typename T>
__global__ void __launch_bounds__(1024)
    column_sum_kernel(const ColumnSum first, const ColumnSum second, std::int64_t width) {
  constexpr int kColumns = 32, kRows = 32;
  __shared__ double sums[kRows][kColumns + 1];
  const ColumnSum wanted = blockIdx.y == 0 ? first : second;
  if (wanted.out == nullptr) return;
  const int x = static_cast<int>(threadIdx.x) % kColumns, y = static_cast<int>(threadIdx.x) / kColumns;
  const std::int64_t column = static_cast<std::int64_t>(blockIdx.x) * kColumns + x;
  double sum = 0.0;
  if (column < width) {
#pragma unroll 8
    for (std::int64_t row = y; row < wanted.count; row += kRows) sum += wanted.partials[row * width + column];
  }
  sums[y][x] = sum;
  __syncthreads();
  if (y != 0 || column >= width) return;
  double total = 0.0;
#pragma unroll
  for (int row = 0; row < kRows; ++row) total += sums[row][x];
  static_cast<T*>(wanted.out)[column] = from_float<T>(static_cast<float>(total));
}

// One or two sums of the same width in one launch; none where neither is wanted. `width` is at most that of a grid.
template <typename T>
Status add_columns(const ColumnSum& first, const ColumnSum& second, std::int64_t width, Stream stream) {
  if (width == 0 || (first.out == nullptr && second.out == nullptr)) return Status();
  const dim3 grid(static_cast<unsigned>((width + 31) / 32), second.out == nullptr ? 1 : 2);
  column_sum_kernel<T><<<grid, 1024, 0, stream>>>(first, second, width);
  return launch_status();
}

}  // namespace liger::kernels::gpu
