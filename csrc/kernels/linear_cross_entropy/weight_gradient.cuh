// weight_gradient.h on Hopper's matrix units.
#pragma once

#include "kernels/common/tiled_product.cuh"
#include "kernels/linear_cross_entropy/softmax_shift.cuh"
#include "kernels/linear_cross_entropy/weight_gradient.h"

namespace liger::kernels::hopper {

// By value, as a constant of the grid.
struct WeightGradient {
  ProductMaps maps;  // of u and scaled_hidden
  CUtensorMap upper;
  unsigned char* lower;
  ProductShape shape;
  int vocab;
  int hidden_size;
  bool is_first;
  bool is_last;
  int rows;
  CountedRows counted;
  const std::int32_t* row_of_class;
  const float* label_sums;
};

// Adds a tile to what is there, box by box. kSlots boxes of both parts are in shared memory at a time: while one is
// added to, the next ones are on their way.
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
  static constexpr int kBoxes = kTileColumns / kBoxColumns, kPasses = 2 * kBoxes;
  static constexpr int kSlot = kBox + static_cast<int>(LowerBits::kBoxBytes / sizeof(std::uint16_t));
  static_assert(kPasses % kSlots == 0 && kSlots * kSlot <= kOutBoxes * kBox);

  // The two rows of a thread, 8 apart: of the label sums, or null.
  struct LabelRows {
    const float* row[2];
  };

  __device__ std::uint16_t* upper(int pass) const { return boxes_ + pass % kSlots * kSlot; }
  __device__ std::uint16_t* lower(int pass) const { return upper(pass) + kBox; }
  // Of this thread: a word for each 16 columns of the box.
  __device__ uint4& own_lower(int pass) const {
    return reinterpret_cast<uint4*>(lower(pass))[threadIdx.x % kWarpGroup];
  }
  __device__ bool has_lower(TilePlace box) const {
    return box.row < gradient_.vocab && box.column < gradient_.hidden_size;
  }
  __device__ unsigned char* lower_in_memory(TilePlace box) const {
    const std::int64_t row = box.row / LowerBits::kBox, column = box.column / LowerBits::kBox;
    return gradient_.lower + (row * LowerBits::boxes(gradient_.hidden_size) + column) * LowerBits::kBoxBytes;
  }
  __device__ static TilePlace place_of(TilePlace tile, int pass) {
    return {tile.row + pass / kBoxes * kHalfRows, tile.column + pass % kBoxes * kBoxColumns};
  }

  __device__ void load(TilePlace tile, int pass) {
    if (gradient_.is_first) return;
    const TilePlace place = place_of(tile, pass);
    Barrier& loaded = loaded_[pass % kSlots];
    const bool loads_lower = has_lower(place);
    loaded.arrive_announcing(kBox * sizeof(std::uint16_t) + (loads_lower ? LowerBits::kBoxBytes : 0));
    load_tile_streaming(upper(pass), gradient_.upper, loaded, place.column, place.row);
    if (loads_lower) load_bytes(lower(pass), lower_in_memory(place), loaded, LowerBits::kBoxBytes);
  }

  __device__ void store(TilePlace tile, int pass) {
    const TilePlace place = place_of(tile, pass);
    store_tile_streaming(gradient_.upper, upper(pass), place.column, place.row);
    if (!gradient_.is_last && has_lower(place)) store_bytes(lower_in_memory(place), lower(pass), LowerBits::kBoxBytes);
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
      uint4 packed = {};
      if (!gradient_.is_first) packed = own_lower(pass);
      std::uint32_t words[kBoxColumns / 16] = {packed.x, packed.y, packed.z, packed.w};
#pragma unroll
      for (int block = 0; block < kBoxColumns / 16; ++block) {
        float values[8];
#pragma unroll
        for (int i = 0; i < 8; ++i) values[i] = sums[(box * (kBoxColumns / 16) + block) * 8 + i];
        if (gradient_.row_of_class != nullptr) add_labels(values, labels, tile.column + box * kBoxColumns + block * 16);
        add_block(values, fragment_address(upper(pass), block), words[block]);
      }
      if (!gradient_.is_last) own_lower(pass) = {words[0], words[1], words[2], words[3]};
      publish_shared();
      group_sync(barrier_);
      if (!copies_) continue;
      store(tile, pass);
      if (pass == 0 || pass - 1 + kSlots >= kPasses) continue;
      wait_for_stores_to_read<1>();
      load(tile, pass - 1 + kSlots);
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

  // `lower`: of each value 4 bits, the first lowest.
  __device__ void add_block(float (&values)[8], std::uint32_t at_upper, std::uint32_t& lower) const {
    if (!gradient_.is_first) {
      std::uint32_t high[4];
      load_matrices(high, at_upper);
#pragma unroll
      for (int pair = 0; pair < 4; ++pair) {
        const std::uint32_t bits = lower >> 8 * pair;
        values[2 * pair] += __uint_as_float(high[pair] << 16 | (bits & 0xfu) << 12);
        values[2 * pair + 1] += __uint_as_float((high[pair] & 0xffff0000u) | (bits & 0xf0u) << 8);
      }
    }
    gradient_.is_last ? store_rounded(values, at_upper) : store_kept(values, at_upper, lower);
  }

  __device__ static void store_rounded(const float (&values)[8], std::uint32_t at_upper) {
    store_matrices(at_upper, {pack_bfloat16(values[0], values[1]), pack_bfloat16(values[2], values[3]),
                              pack_bfloat16(values[4], values[5]), pack_bfloat16(values[6], values[7])});
  }

  __device__ static void store_kept(const float (&values)[8], std::uint32_t at_upper, std::uint32_t& lower) {
    std::uint32_t high[4];
    lower = 0;
#pragma unroll
    for (int pair = 0; pair < 4; ++pair) {
      const unsigned first = gpu::rounded_to_20_bits(values[2 * pair]);
      const unsigned second = gpu::rounded_to_20_bits(values[2 * pair + 1]);
      high[pair] = __byte_perm(first, second, 0x7632);
      lower |= ((first >> 12 & 0xfu) | (second >> 8 & 0xf0u)) << 8 * pair;
    }
    store_matrices(at_upper, high);
  }

  const WeightGradient& gradient_;
  int tiles_ = 0;
};

__global__ void __launch_bounds__(kProductThreads, 1)
    weight_gradient_kernel(const __grid_constant__ WeightGradient gradient) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(1024) unsigned char memory[];
  const int counted = gpu::counted_rows(gradient.counted, gradient.rows);
  if (counted == 0 && !gradient.is_first && !gradient.is_last) return;  // the sums stay
  ProductShape shape = gradient.shape;
  shape.inner_steps = (counted + kInnerStep - 1) / kInnerStep;
  auto& shared = *reinterpret_cast<ProductShared*>(memory);
  tiled_product<Major::outer, Major::outer, false>(
      shared, gradient.maps, shape, ~std::uint64_t{0}, blockIdx.x % kCluster,
      [&](int group) { return WeightGradientTile(gradient, shared, group); });
#endif
}

}  // namespace liger::kernels::hopper
