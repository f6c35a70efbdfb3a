// hidden_gradient.h on Hopper's matrix units.
#pragma once

#include "kernels/common/tiled_product.cuh"
#include "kernels/linear_cross_entropy/hidden_gradient.h"
#include "kernels/linear_cross_entropy/softmax_shift.cuh"

namespace liger::kernels::hopper {

// By value, as a constant of the grid.
struct HiddenProduct {
  ProductMaps maps;  // of u and weight
  ProductShape shape;
  int rows;
  int hidden_size;
  CountedRows counted;
  float* products;  // [parts, rows, hidden_size]
};

// Leaves sums as they are.
class HiddenProductTile {
 public:
  __device__ explicit HiddenProductTile(const HiddenProduct& product) : product_(product) {}

  __device__ void begin(TilePlace) const {}
  __device__ void finish(const float (&sums)[2][kFragment], TilePlace place) const {
    write_half(sums[0], place);
    write_half(sums[1], {place.row + kHalfRows, place.column, place.part});
  }
  __device__ void end() const {}

 private:
  // A thread has two rows, 8 apart, and of each the columns 8 * i + 2 * (lane % 4) and the next of every i.
  __device__ void write_half(const float (&sums)[kFragment], TilePlace place) const {
    const int row = place.row + static_cast<int>(threadIdx.x % kWarpGroup / 32 * 16 + threadIdx.x % 32 / 4);
    const int column = place.column + static_cast<int>(threadIdx.x % 4) * 2;
    float* upper =
        product_.products + (static_cast<std::int64_t>(place.part) * product_.rows + row) * product_.hidden_size;
    float* lower = upper + std::int64_t{8} * product_.hidden_size;
#pragma unroll
    for (int i = 0; i < kFragment / 4; ++i) {
      const int at = column + 8 * i;
      if (at >= product_.hidden_size) continue;
      if (row < product_.rows) *reinterpret_cast<float2*>(upper + at) = {sums[4 * i], sums[4 * i + 1]};
      if (row + 8 < product_.rows) *reinterpret_cast<float2*>(lower + at) = {sums[4 * i + 2], sums[4 * i + 3]};
    }
  }

  const HiddenProduct& product_;
};

__global__ void __launch_bounds__(kProductThreads, 1)
    hidden_product_kernel(const __grid_constant__ HiddenProduct product) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(1024) unsigned char memory[];
  ProductShape shape = product.shape;
  shape.row_pairs = pairs_of(gpu::counted_rows(product.counted, product.rows));
  auto& shared = *reinterpret_cast<ProductShared*>(memory);
  tiled_product<Major::inner, Major::outer, false>(shared, product.maps, shape, ~std::uint64_t{0},
                                                   blockIdx.x % kCluster,
                                                   [&](int) { return HiddenProductTile(product); });
#endif
}

}  // namespace liger::kernels::hopper
