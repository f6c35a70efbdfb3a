// softmax_product.h on Hopper's matrix units.
#pragma once

#include "kernels/common/tiled_product.cuh"
#include "kernels/linear_cross_entropy/softmax_shift.cuh"

namespace liger::kernels::hopper {

using gpu::in_order;
using gpu::kLog2E;
using gpu::needs_other_shift;
using gpu::shift_of;

// By value, as a constant of the grid.
struct SoftmaxProduct {
  ProductMaps maps;
  CUtensorMap out;
  ProductShape shape;
  int rows;
  int vocab;
  bool writes;
  bool is_repeated;  // only rows whose shift was a bad guess
  float scale;
  SoftmaxRows row;
  CountedRows counted;
  float* partial_sums;  // [rows, column tiles]
};

// What happens to sums of products between the multiplication and the result. A thread of a warp group holds, of 64
// rows, two (`row` and `row` + 8), and of each the columns 8 * i + 2 * (lane % 4) and the next of every i.
class SoftmaxTile {
 public:
  __device__ SoftmaxTile(const SoftmaxProduct& product, ProductShared& shared, int group)
      : product_(product), writer_(shared, product.out, group) {}

  __device__ void begin(TilePlace) const {}
  __device__ void finish(float (&sums)[2][kFragment], TilePlace place) {
    finish_half(sums[0], place);
    finish_half(sums[1], {place.row + kHalfRows, place.column});
  }
  __device__ void end() { writer_.end(); }

 private:
  // Of one of a thread's two rows.
  struct Row {
    int index;
    bool exists;
    float offset;
    float largest = -INFINITY;
    float sum = 0.0f;
  };

  __device__ void finish_half(float (&sums)[kFragment], TilePlace place) {
    const int first = place.row + static_cast<int>(threadIdx.x % kWarpGroup / 32 * 16 + threadIdx.x % 32 / 4);
    if (place.column + kTileColumns > product_.vocab) hide_beyond(sums, place.column);
    Row upper = begin_row<0>(sums, first, place.column), lower = begin_row<1>(sums, first + 8, place.column);
    const float factor = product_.scale * kLog2E;
    const auto exponentiate = [&](float& value, Row& row) {
      row.largest = fmaxf(row.largest, value);
      value = gpu::exp2_flushed(fmaf(value, factor, row.offset));
      row.sum += value;
    };
    const auto change = [&](float(&values)[8]) {
#pragma unroll
      for (int i = 0; i < 8; ++i) exponentiate(values[i], i / 2 % 2 == 0 ? upper : lower);
    };
    if (product_.writes) {
      writer_.write(sums, place, change);
    } else {
      for_blocks(sums, [&](float(&values)[8], int) { change(values); });
    }
    finish_row(upper, place.column);
    finish_row(lower, place.column);
  }

  // Columns are compared by what they have in common in all lanes, which is known at compile time.
  static constexpr int common_column(int i) { return i / 4 * 8 + i % 2; }
  __device__ static int lane_column() { return static_cast<int>(threadIdx.x % 4) * 2; }

  __device__ void hide_beyond(float (&sums)[kFragment], int first_column) const {
    const int end = product_.vocab - first_column - lane_column();
#pragma unroll
    for (int i = 0; i < kFragment; ++i)
      if (common_column(i) >= end) sums[i] = -INFINITY;
  }

  // kPlace: 0 or 1, of the row among the thread's two.
  template <int kPlace>
  __device__ Row begin_row(float (&sums)[kFragment], int row, int first_column) const {
    const bool exists = row < product_.rows;
    const int label = exists ? product_.row.label[row] - first_column : -1;
    if (label >= 0 && label < kTileColumns) take_label<kPlace>(sums, row, label);
    const float shift = exists ? shift_of(product_.row, row, product_.is_repeated) : INFINITY;
    return {row, exists, -shift * kLog2E};
  }

  __device__ void finish_row(const Row& row, int first_column) const {
    float largest = row.largest, sum = row.sum;
    for (int lanes = 1; lanes < 4; lanes *= 2) {
      largest = fmaxf(largest, gpu::shuffle_xor<32>(largest, lanes));
      sum += gpu::shuffle_xor<32>(sum, lanes);
    }
    if (threadIdx.x % 4 != 0 || !row.exists) return;
    const std::int64_t parts = product_.shape.column_tiles;
    product_.partial_sums[row.index * parts + first_column / kTileColumns] = sum;
    atomicMax(product_.row.largest + row.index, in_order(largest * product_.scale));
  }

  // The row's own class counts apart.
  template <int kPlace>
  __device__ void take_label(float (&sums)[kFragment], int row, int label) const {
    const int common = label - lane_column();
#pragma unroll
    for (int i = 0; i < kFragment; ++i) {
      if (i / 2 % 2 != kPlace || common_column(i) != common) continue;
      product_.row.target_logit[row] = sums[i] * product_.scale;
      sums[i] = -INFINITY;
    }
  }

  const SoftmaxProduct& product_;
  HalfTileWriter writer_;
};

// Of each pair of tiles a bit, which pairs 64 apart share: whether one of its rows needs another shift. To repeat one
// that does not changes nothing.
__device__ inline std::uint64_t pairs_to_repeat(const SoftmaxProduct& product, unsigned long long& chosen) {
  if (threadIdx.x == 0) chosen = 0;
  __syncthreads();
  const int counted = gpu::counted_rows(product.counted, product.rows);
  for (int row = static_cast<int>(threadIdx.x); row < counted; row += static_cast<int>(blockDim.x))
    if (needs_other_shift(product.row, row)) atomicOr(&chosen, 1ull << (row / (kCluster * kTileRows) & 63));
  __syncthreads();
  return chosen;
}

__global__ void __launch_bounds__(kProductThreads, 1)
    softmax_product_kernel(const __grid_constant__ SoftmaxProduct product) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(1024) unsigned char memory[];
  __shared__ unsigned long long repeated;
  const std::uint64_t chosen = product.is_repeated ? pairs_to_repeat(product, repeated) : ~std::uint64_t{0};
  if (chosen == 0) return;
  ProductShape shape = product.shape;
  shape.row_pairs = pairs_of(gpu::counted_rows(product.counted, product.rows));
  auto& shared = *reinterpret_cast<ProductShared*>(memory);
  tiled_product<Major::inner, Major::inner, false>(shared, product.maps, shape, chosen, blockIdx.x % kCluster,
                                                   [&](int group) { return SoftmaxTile(product, shared, group); });
#endif
}

}  // namespace liger::kernels::hopper
