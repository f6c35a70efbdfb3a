// weight_gradient.h on Hopper's matrix units.
#pragma once

#include "kernels/common/tiled_product.cuh"
#include "kernels/linear_cross_entropy/softmax_shift.cuh"
#include "kernels/linear_cross_entropy/weight_gradient.h"

namespace liger::kernels::hopper {

// By value, as a constant of the grid.
struct WeightGradient {
  ProductMaps maps;  // of u and scaled_hidden
  CUtensorMap upper, lower;
  ProductShape shape;
  int vocab;
  int hidden_size;
  bool is_first;
  bool is_last;
  const std::int32_t* row_of_class;
  const float* label_sums;
};

// Adds a tile to what is there, box by box. Two boxes of both parts are in shared memory at a time: while one is added
// to, the next one is on its way.
class WeightGradientTile : public TileFinish {
 public:
  __device__ WeightGradientTile(const WeightGradient& gradient, ProductShared& shared, int group)
      : TileFinish(shared, group), gradient_(gradient) {}

  __device__ void begin(TilePlace place) {
    if (!copies_) return;
    wait_for_stores_to_read();
    for (int pass = 0; pass < kSlots; ++pass) load(place, pass);
  }

  __device__ void finish(const float (&sums)[2][kFragment], TilePlace place) {
    add_half<0>(sums[0], place);
    add_half<1>(sums[1], place);
    ++tiles_;
  }

 private:
  static constexpr int kSlots = 2, kBoxes = kTileColumns / kBoxColumns, kPasses = 2 * kBoxes;
  static_assert(kPasses % kSlots == 0);

  // The two rows of a thread, 8 apart: of the label sums, or null.
  struct LabelRows {
    const float* row[2];
  };

  __device__ std::uint16_t* upper(int pass) const { return boxes_ + pass % kSlots * 2 * kBox; }
  __device__ std::uint8_t* lower(int pass) const { return reinterpret_cast<std::uint8_t*>(upper(pass) + kBox); }
  __device__ static TilePlace place_of(TilePlace tile, int pass) {
    return {tile.row + pass / kBoxes * kHalfRows, tile.column + pass % kBoxes * kBoxColumns};
  }

  __device__ void load(TilePlace tile, int pass) {
    if (gradient_.is_first) return;
    const TilePlace place = place_of(tile, pass);
    Barrier& loaded = loaded_[pass % kSlots];
    loaded.arrive_announcing(kBox * (sizeof(std::uint16_t) + sizeof(std::uint8_t)));
    load_tile_streaming(upper(pass), gradient_.upper, loaded, place.column, place.row);
    // Not as streaming: the box beside has the other half of each line.
    load_tile(lower(pass), gradient_.lower, loaded, place.column, place.row);
  }

  __device__ void store(TilePlace tile, int pass) {
    const TilePlace place = place_of(tile, pass);
    store_tile_streaming(gradient_.upper, upper(pass), place.column, place.row);
    if (!gradient_.is_last) store_tile(gradient_.lower, lower(pass), place.column, place.row);
    commit_stores();
  }

  template <int kHalf>
  __device__ void add_half(const float (&sums)[kFragment], TilePlace tile) {
    const int first =
        tile.row + kHalf * kHalfRows + static_cast<int>(threadIdx.x % kWarpGroup / 32 * 16 + threadIdx.x % 32 / 4);
    const LabelRows labels = {{label_row(first), label_row(first + 8)}};
#pragma unroll
    for (int box = 0; box < kBoxes; ++box) {
      const int pass = kHalf * kBoxes + box;
      wait(pass);
#pragma unroll
      for (int block = 0; block < kBoxColumns / 16; ++block) {
        float values[8];
#pragma unroll
        for (int i = 0; i < 8; ++i) values[i] = sums[(box * (kBoxColumns / 16) + block) * 8 + i];
        if (gradient_.row_of_class != nullptr) add_labels(values, labels, tile.column + box * kBoxColumns + block * 16);
        add_block(values, pass, block);
      }
      publish_shared();
      group_sync(barrier_);
      if (!copies_) continue;
      store(tile, pass);
      if (pass + kSlots >= kPasses) continue;
      wait_for_stores_to_read();
      load(tile, pass + kSlots);
    }
  }

  // Until the pass's boxes are there to be added to, or where nothing is added to, to be written.
  __device__ void wait(int pass) {
    if (gradient_.is_first) return group_sync(barrier_);
    loaded_[pass % kSlots].wait((tiles_ * (kPasses / kSlots) + pass / kSlots) & 1);
  }

  __device__ const float* label_row(int label) const {
    if (gradient_.row_of_class == nullptr) return nullptr;
    const int row = label < gradient_.vocab ? gradient_.row_of_class[label] : -1;
    return row < 0 ? nullptr : gradient_.label_sums + static_cast<std::int64_t>(row) * gradient_.hidden_size;
  }

  __device__ void add_labels(float (&values)[8], const LabelRows& labels, int first_column) const {
    const int column = first_column + static_cast<int>(threadIdx.x % 4) * 2;
#pragma unroll
    for (int pair = 0; pair < 4; ++pair) {
      const float* row = labels.row[pair % 2];
      const int at = column + pair / 2 * 8;
      if (row == nullptr || at >= gradient_.hidden_size) continue;
      const float2 sums = *reinterpret_cast<const float2*>(row + at);
      values[2 * pair] += sums.x;
      values[2 * pair + 1] += sums.y;
    }
  }

  __device__ void add_block(float (&values)[8], int pass, int block) const {
    const std::uint32_t at_upper = fragment_address(upper(pass), block);
    std::uint32_t* at_lower[2] = {lower_word(pass, block, 0), lower_word(pass, block, 8)};
    std::uint32_t high[4];
    if (!gradient_.is_first) {
      load_matrices(high, at_upper);
      const std::uint32_t low[2] = {*at_lower[0], *at_lower[1]};
#pragma unroll
      for (int pair = 0; pair < 4; ++pair) {
        // Bytes from the top: two of the upper part, one of the lower, and none.
        const unsigned of_low = pair / 2 == 0 ? low[pair % 2] : low[pair % 2] >> 16;
        values[2 * pair] += __uint_as_float(__byte_perm(high[pair], of_low, 0x1040) & 0xffffff00u);
        values[2 * pair + 1] += __uint_as_float(__byte_perm(high[pair], of_low, 0x3250) & 0xffffff00u);
      }
    }
    gradient_.is_last ? store_rounded(values, at_upper) : store_kept(values, at_upper, at_lower);
  }

  __device__ static void store_rounded(const float (&values)[8], std::uint32_t at_upper) {
    store_matrices(at_upper, {pack_bfloat16(values[0], values[1]), pack_bfloat16(values[2], values[3]),
                              pack_bfloat16(values[4], values[5]), pack_bfloat16(values[6], values[7])});
  }

  __device__ static void store_kept(const float (&values)[8], std::uint32_t at_upper,
                                    std::uint32_t* const (&at_lower)[2]) {
    std::uint32_t high[4], low[4];
#pragma unroll
    for (int pair = 0; pair < 4; ++pair) {
      const unsigned first = gpu::rounded_to_24_bits(values[2 * pair]);
      const unsigned second = gpu::rounded_to_24_bits(values[2 * pair + 1]);
      high[pair] = __byte_perm(first, second, 0x7632);
      low[pair] = __byte_perm(first, second, 0x0051);  // in its lower half
    }
    store_matrices(at_upper, high);
    *at_lower[0] = __byte_perm(low[0], low[2], 0x5410);
    *at_lower[1] = __byte_perm(low[1], low[3], 0x5410);
  }

  // The bytes of a thread in one of its two rows and 16 columns: see LowerBytes. In the copy engine's swizzle.
  __device__ std::uint32_t* lower_word(int pass, int block, int row_offset) const {
    const unsigned lane = threadIdx.x % 32;
    const unsigned row = threadIdx.x % kWarpGroup / 32 * 16 + lane / 4 + static_cast<unsigned>(row_offset);
    const unsigned at = row * kBoxColumns + (static_cast<unsigned>(block) ^ (row / 2 % 4)) * 16 + lane % 4 * 4;
    return reinterpret_cast<std::uint32_t*>(lower(pass) + at);
  }

  const WeightGradient& gradient_;
  int tiles_ = 0;
};

__global__ void __launch_bounds__(kProductThreads, 1)
    weight_gradient_kernel(const __grid_constant__ WeightGradient gradient) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(1024) unsigned char memory[];
  auto& shared = *reinterpret_cast<ProductShared*>(memory);
  tiled_product<Major::outer, Major::outer, false>(
      shared, gradient.maps, gradient.shape, ~std::uint64_t{0}, blockIdx.x % kCluster,
      [&](int group) { return WeightGradientTile(gradient, shared, group); });
#endif
}

}  // namespace liger::kernels::hopper
