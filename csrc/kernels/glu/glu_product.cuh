// glu_product.h on Hopper's matrix units.
#pragma once

#include "kernels/common/tiled_product.cuh"
#include "kernels/glu/glu.cuh"
#include "kernels/glu/glu_product.h"

namespace liger::kernels::hopper {

// By value, as a constant of the grid.
struct GluProduct {
  ProductMaps maps;
  CUtensorMap gate, up, out;  // written forward; backward gate and up are read
  CUtensorMap grad_gate, grad_up;
  ProductShape shape;
};

// Of two packed bfloat16, the first or the second.
__device__ inline float half_of(std::uint32_t pair, int which) {
  return __uint_as_float(which == 0 ? pair << 16 : pair & 0xffff0000u);
}

// A thread has gate and up of the same places: they are the first and the second half of its columns. 32 of those go to
// memory at a time, through one of two slots of shared memory.
template <Activation kActivation>
class GluTile : public TileFinish {
 public:
  __device__ GluTile(const GluProduct& product, ProductShared& shared, int group)
      : TileFinish(shared, group), product_(product) {}

  __device__ void begin(TilePlace) const {}
  __device__ void finish(const float (&sums)[2][kFragment], TilePlace place) {
    const TilePlace upper = {place.row, place.column / 2};
    finish_half<0>(sums[0], upper);
    finish_half<1>(sums[1], {upper.row + kHalfRows, upper.column});
  }

 private:
  static constexpr int kOutputs = 3, kBoxes = kTileColumns / 2 / kNarrowColumns;
  static_assert(2 * kOutputs * kNarrowBox <= kOutBoxes * kBox);

  template <int kHalf>
  __device__ void finish_half(const float (&sums)[kFragment], TilePlace place) {
#pragma unroll
    for (int box = 0; box < kBoxes; ++box) {
      std::uint16_t* slot = boxes_ + (kHalf * kBoxes + box) % 2 * kOutputs * kNarrowBox;
      if (copies_) wait_for_stores_to_read<1>();
      group_sync(barrier_);
#pragma unroll
      for (int block = 0; block < kNarrowColumns / 16; ++block) {
        const int first = (box * (kNarrowColumns / 16) + block) * 8;
        write_block(sums + first, sums + kFragment / 2 + first, slot, block);
      }
      publish_shared();
      group_sync(barrier_);
      if (copies_) store(slot, {place.row, place.column + box * kNarrowColumns});
    }
  }

  __device__ static void write_block(const float* gates, const float* ups, std::uint16_t* slot, int block) {
    std::uint32_t gate[4], up[4], out[4];
#pragma unroll
    for (int pair = 0; pair < 4; ++pair) {
      gate[pair] = pack_bfloat16(gates[2 * pair], gates[2 * pair + 1]);
      up[pair] = pack_bfloat16(ups[2 * pair], ups[2 * pair + 1]);
      const auto value = [&](int which) {
        return gpu::activated<BFloat16, kActivation>(half_of(gate[pair], which)).value * half_of(up[pair], which);
      };
      out[pair] = pack_bfloat16(value(0), value(1));
    }
    store_matrices(narrow_fragment_address(slot, block), gate);
    store_matrices(narrow_fragment_address(slot + kNarrowBox, block), up);
    store_matrices(narrow_fragment_address(slot + 2 * kNarrowBox, block), out);
  }

  __device__ void store(const std::uint16_t* slot, TilePlace place) const {
    store_tile(product_.gate, slot, place.column, place.row);
    store_tile(product_.up, slot + kNarrowBox, place.column, place.row);
    store_tile(product_.out, slot + 2 * kNarrowBox, place.column, place.row);
    commit_stores();
  }

  const GluProduct& product_;
};

// gate and up come to one of three slots of shared memory and leave it as their gradients, 32 columns at a time; out
// has two slots beside them.
template <Activation kActivation>
class GluGradientTile : public TileFinish {
 public:
  __device__ GluGradientTile(const GluProduct& product, ProductShared& shared, int group)
      : TileFinish(shared, group), product_(product) {}

  __device__ void begin(TilePlace place) {
    if (!copies_) return;
    wait_for_stores_to_read();
    for (int pass = 0; pass < kSlots - 1; ++pass) load(place, pass);
  }
  __device__ void finish(const float (&sums)[2][kFragment], TilePlace place) {
    finish_half<0>(sums[0], place);
    finish_half<1>(sums[1], place);
    ++tiles_;
  }

 private:
  static constexpr int kBoxes = kTileColumns / kNarrowColumns, kPasses = 2 * kBoxes;
  static_assert(kPasses % kSlots == 0 && (2 * kSlots + 2) * kNarrowBox <= kOutBoxes * kBox);

  __device__ std::uint16_t* gate(int pass) const { return boxes_ + pass % kSlots * 2 * kNarrowBox; }
  __device__ std::uint16_t* up(int pass) const { return gate(pass) + kNarrowBox; }
  __device__ std::uint16_t* out(int pass) const { return boxes_ + (2 * kSlots + pass % 2) * kNarrowBox; }
  __device__ static TilePlace place_of(TilePlace tile, int pass) {
    return {tile.row + pass / kBoxes * kHalfRows, tile.column + pass % kBoxes * kNarrowColumns};
  }

  __device__ void load(TilePlace tile, int pass) {
    const TilePlace place = place_of(tile, pass);
    Barrier& loaded = loaded_[pass % kSlots];
    loaded.arrive_announcing(2 * kNarrowBox * sizeof(std::uint16_t));
    load_tile(gate(pass), product_.gate, loaded, place.column, place.row);
    load_tile(up(pass), product_.up, loaded, place.column, place.row);
  }

  __device__ void store(TilePlace tile, int pass) {
    const TilePlace place = place_of(tile, pass);
    store_tile(product_.grad_gate, gate(pass), place.column, place.row);
    store_tile(product_.grad_up, up(pass), place.column, place.row);
    store_tile(product_.out, out(pass), place.column, place.row);
    commit_stores();
  }

  template <int kHalf>
  __device__ void finish_half(const float (&sums)[kFragment], TilePlace tile) {
#pragma unroll
    for (int box = 0; box < kBoxes; ++box) {
      const int pass = kHalf * kBoxes + box;
      group_sync(barrier_);  // the slot of out is free: see the wait below
      loaded_[pass % kSlots].wait((tiles_ * (kPasses / kSlots) + pass / kSlots) & 1);
#pragma unroll
      for (int block = 0; block < kNarrowColumns / 16; ++block)
        write_block(sums + (box * (kNarrowColumns / 16) + block) * 8, pass, block);
      publish_shared();
      group_sync(barrier_);
      if (!copies_) continue;
      store(tile, pass);
      wait_for_stores_to_read<1>();
      if (pass + kSlots - 1 < kPasses) load(tile, pass + kSlots - 1);
    }
  }

  __device__ void write_block(const float* sums, int pass, int block) const {
    const std::uint32_t at_gate = narrow_fragment_address(gate(pass), block);
    const std::uint32_t at_up = narrow_fragment_address(up(pass), block);
    std::uint32_t gates[4], ups[4], outs[4];
    load_matrices(gates, at_gate);
    load_matrices(ups, at_up);
#pragma unroll
    for (int pair = 0; pair < 4; ++pair) {
      const std::uint32_t grads = pack_bfloat16(sums[2 * pair], sums[2 * pair + 1]);
      float of_gate[2], of_up[2], of_out[2];
#pragma unroll
      for (int which = 0; which < 2; ++which) {
        const auto act = gpu::activated<BFloat16, kActivation>(half_of(gates[pair], which));
        const float grad = half_of(grads, which), up = half_of(ups[pair], which);
        of_gate[which] = grad * up * act.slope;
        of_up[which] = grad * act.value;
        of_out[which] = act.value * up;
      }
      gates[pair] = pack_bfloat16(of_gate[0], of_gate[1]);
      ups[pair] = pack_bfloat16(of_up[0], of_up[1]);
      outs[pair] = pack_bfloat16(of_out[0], of_out[1]);
    }
    store_matrices(at_gate, gates);
    store_matrices(at_up, ups);
    store_matrices(narrow_fragment_address(out(pass), block), outs);
  }

  const GluProduct& product_;
  int tiles_ = 0;
};

template <Activation kActivation>
__global__ void __launch_bounds__(kProductThreads, 1) glu_product_kernel(const __grid_constant__ GluProduct product) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(1024) unsigned char memory[];
  auto& shared = *reinterpret_cast<ProductShared*>(memory);
  tiled_product<Major::inner, Major::inner, true>(
      shared, product.maps, product.shape, ~std::uint64_t{0}, blockIdx.x % kCluster,
      [&](int group) { return GluTile<kActivation>(product, shared, group); });
#endif
}

template <Activation kActivation>
__global__ void __launch_bounds__(kProductThreads, 1)
    glu_product_backward_kernel(const __grid_constant__ GluProduct product) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(1024) unsigned char memory[];
  auto& shared = *reinterpret_cast<ProductShared*>(memory);
  tiled_product<Major::inner, Major::outer, false>(
      shared, product.maps, product.shape, ~std::uint64_t{0}, blockIdx.x % kCluster,
      [&](int group) { return GluGradientTile<kActivation>(product, shared, group); });
#endif
}

}  // namespace liger::kernels::hopper
