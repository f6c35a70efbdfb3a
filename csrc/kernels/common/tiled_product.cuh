// A matrix product for sm_90a whose tiles go through a function before they are written: f(a @ b^T) with bfloat16
// a [rows, inner] and b [columns, inner].
//
// A block is one warp that copies tiles of a and b to shared memory, and two warp groups that multiply them, each a
// tile of the result of its own: while one multiplies, the other is at what follows. Two blocks, one below the other,
// form a cluster and share the tiles of b. Clusters walk over pairs of tiles, all rows of some columns before the next
// ones, so that b is read once and a stays in the cache.
#pragma once

#include "kernels/common/hopper.cuh"

namespace liger::kernels::hopper {

constexpr int kTileRows = 128, kTileColumns = 192, kInnerStep = 64;
constexpr int kBoxColumns = 64;           // of a tile that the copy engine takes: 128 bytes
constexpr int kHalfRows = kTileRows / 2;  // of the matrix instruction
constexpr int kFragment = 96;             // floats of half a tile that a thread of a warp group holds
constexpr int kCluster = 2;               // blocks, with rows of their own
// Of a tile of b, that a block copies for both.
constexpr int kSharedColumns = kTileColumns / kCluster, kSharedInner = kInnerStep / kCluster;
constexpr int kStages = 4;
constexpr int kProductThreads = 3 * kWarpGroup;

struct ProductShape {
  int row_pairs;  // tiles of rows, two by two
  int column_tiles;
  int inner_steps;  // of each part
  int parts = 1;    // of the inner dimension, each multiplied apart, so that there are tiles for all blocks
};

__host__ __device__ constexpr int pairs_of(int rows) {
  return (rows + kTileRows * kCluster - 1) / (kTileRows * kCluster);
}

struct ProductMaps {
  CUtensorMap a;
  CUtensorMap b[kCluster];  // the same, or where tiles of two matrices are multiplied with at once, both
};

constexpr int kBox = kHalfRows * kBoxColumns;  // elements that the copy engine takes at once from a result
constexpr int kOutBoxes = 4, kSlots = 3;       // of each group, and how many loads to them it may count apart

struct ProductShared {
  alignas(1024) std::uint16_t a[kStages][kTileRows * kInnerStep];
  alignas(1024) std::uint16_t b[kStages][kTileColumns * kInnerStep];
  alignas(1024) std::uint16_t out[2][kOutBoxes * kBox];  // of each group, for what it does with its tiles
  Barrier full[kStages], empty[kStages], turn[2], loaded[2][kSlots];
};

constexpr unsigned kStageBytes = (kTileRows + kTileColumns) * kInnerStep * sizeof(std::uint16_t);

// Where a tile, or half of one, begins.
struct TilePlace {
  int row;
  int column;
  int part = 0;
};

// visit(place of the block's tile, how many tiles came before it). Clusters at work at the same time share rows and
// columns. Pairs of rows whose bit (those of pairs 64 apart are the same) is not in `chosen` are passed over.
template <typename Visitor>
__device__ inline void for_tiles(const ProductShape& shape, std::uint64_t chosen, unsigned rank, Visitor&& visit) {
  constexpr int kGroup = 8;  // pairs of rows whose columns are walked over together
  const int clusters = static_cast<int>(gridDim.x) / kCluster, tiles = shape.row_pairs * shape.column_tiles;
  int count = 0;
  for (int of_all = static_cast<int>(blockIdx.x) / kCluster; of_all < tiles * shape.parts; of_all += clusters) {
    const int part = of_all / tiles, tile = of_all - part * tiles;
    const int first = tile / (kGroup * shape.column_tiles) * kGroup, in_group = tile - first * shape.column_tiles;
    const int pairs = min(kGroup, shape.row_pairs - first), pair = first + in_group % pairs;
    if ((chosen >> (pair & 63) & 1) == 0) continue;
    const int row = (pair * kCluster + static_cast<int>(rank)) * kTileRows, column = in_group / pairs * kTileColumns;
    visit(TilePlace{row, column, part}, count++);
  }
}

// How tiles of an operand lie in shared memory.
template <Major kMajor>
struct OperandTile {
  static constexpr unsigned kBoxBytes = kBoxColumns * kInnerStep * sizeof(std::uint16_t);
  // Between steps of 16 of the inner dimension, and between halves of 64 of the own, as descriptors count bytes.
  static constexpr unsigned kInnerOffset = kMajor == Major::inner ? 32 >> 4 : 16 * 128 >> 4;
  static constexpr unsigned kHalfOffset = kHalfRows * kInnerStep * sizeof(std::uint16_t) >> 4;
  __device__ static std::uint64_t descriptor(const void* tile) {
    return matrix_descriptor<kMajor>(shared_address(tile), kBoxBytes);
  }
};

// Copies of the block's own tile of a.
template <Major kMajor>
__device__ inline void copy_a(std::uint16_t* tile, const CUtensorMap& map, Barrier& full, int row, int inner) {
  if constexpr (kMajor == Major::inner) {
    load_tile(tile, map, full, inner, row);
  } else {
    for (int box = 0; box < kTileRows; box += kBoxColumns)
      load_tile(tile + box * kInnerStep, map, full, row + box, inner);
  }
}

// Copies of its part of the cluster's tile of b, to all blocks: of columns, or where those are neighbours of the inner
// dimension. kPair: each block has its part from a matrix of its own.
template <Major kMajor, bool kPair>
__device__ inline void copy_b(std::uint16_t* tile, const CUtensorMap& map, Barrier& full, int column, int inner,
                              int rank) {
  constexpr std::uint16_t kAll = (1 << kCluster) - 1;
  if constexpr (kMajor == Major::inner) {
    const int own = rank * kSharedColumns;
    load_tile_for(kAll, tile + own * kInnerStep, map, full, inner, kPair ? column / kCluster : column + own);
  } else {
    static_assert(!kPair);
    const int own = rank * kSharedInner;
    for (int box = 0; box < kTileColumns; box += kBoxColumns)
      load_tile_for(kAll, tile + box * kInnerStep + own * kBoxColumns, map, full, column + box, inner + own);
  }
}

// By one thread.
template <Major kA, Major kB, bool kPair>
__device__ inline void copy_operands(ProductShared& shared, const ProductMaps& maps, const ProductShape& shape,
                                     std::uint64_t chosen, unsigned rank) {
  unsigned step = 0;
  for_tiles(shape, chosen, rank, [&](TilePlace place, int) {
    for (int inner = 0; inner < shape.inner_steps; ++inner, ++step) {
      const unsigned stage = step % kStages, is_odd = step / kStages & 1;
      Barrier& full = shared.full[stage];
      shared.empty[stage].wait(is_odd ^ 1);
      const int at = (place.part * shape.inner_steps + inner) * kInnerStep;
      full.arrive_announcing(kStageBytes);
      copy_a<kA>(shared.a[stage], maps.a, full, place.row, at);
      copy_b<kB, kPair>(shared.b[stage], maps.b[rank], full, place.column, at, static_cast<int>(rank));
    }
  });
}

// One tile: products over all of the inner dimension. `step` counts the stages of all tiles.
template <Major kA, Major kB>
class TileProduct {
 public:
  __device__ TileProduct(ProductShared& shared, int group) : shared_(shared), group_(group) {}

  __device__ void run(float (&sums)[2][kFragment], int count, int inner_steps) {
    // A barrier tells phases apart by parity alone: this group may look at the next stages only when the other one has
    // seen those before.
    if (count > 0) shared_.turn[group_].wait((count - 1) / 2 & 1);
    unsigned step = static_cast<unsigned>(count) * static_cast<unsigned>(inner_steps);
    clear(sums);  // there may be no step at all
    for (int inner = 0; inner < inner_steps; ++inner, ++step) {
      shared_.full[step % kStages].wait(step / kStages & 1);
      multiply_stage(sums, step % kStages);
      if (inner == 0) continue;
      wait_for_products<1>();
      release((step - 1) % kStages);
    }
    if (threadIdx.x % 32 == 0) shared_.turn[1 - group_].arrive();
    wait_for_products<0>();
    read_after_products(sums[0]);
    read_after_products(sums[1]);
    if (inner_steps > 0) release((step - 1) % kStages);
  }

 private:
  __device__ static void clear(float (&sums)[2][kFragment]) {
#pragma unroll
    for (int i = 0; i < kFragment; ++i) sums[0][i] = sums[1][i] = 0.0f;
  }

  __device__ void multiply_stage(float (&sums)[2][kFragment], unsigned stage) {
    using A = OperandTile<kA>;
    using B = OperandTile<kB>;
    const std::uint64_t a = A::descriptor(shared_.a[stage]), b = B::descriptor(shared_.b[stage]);
    begin_products();
#pragma unroll
    for (unsigned k = 0; k < kInnerStep / 16; ++k) {
      const std::uint64_t a_step = a + k * A::kInnerOffset, b_step = b + k * B::kInnerOffset;
      multiply_64x192x16<kA, kB>(sums[0], a_step, b_step);
      multiply_64x192x16<kA, kB>(sums[1], a_step + A::kHalfOffset, b_step);
    }
    commit_products();
  }

  // Both blocks' copies may write to the stage once both are done with it.
  __device__ void release(unsigned stage) {
    if (threadIdx.x % kWarpGroup < kCluster) shared_.empty[stage].arrive_in(threadIdx.x % kWarpGroup);
  }

  ProductShared& shared_;
  int group_;
};

// visit(8 floats of a thread's fragment of half a tile: of two rows, 8 apart, columns 0, 1, 8 and 9 from the lane's
// first in a block of 16; the block). A few values at a time: the sums of products leave no registers for more.
template <typename Visitor>
__device__ inline void for_blocks(const float (&values)[kFragment], Visitor&& visit) {
#pragma unroll
  for (int block = 0; block < kTileColumns / 16; ++block) {
    float of_block[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) of_block[i] = values[block * 8 + i];
    visit(of_block, block);
  }
}

// Of a lane's row in a block of 16 columns of a box, in the swizzle of the copy engine: for the instructions that move
// matrices between shared memory and fragments.
__device__ inline std::uint32_t fragment_address(const std::uint16_t* box, int block) {
  constexpr unsigned kRowBytes = kBoxColumns * sizeof(std::uint16_t);
  const unsigned lane = threadIdx.x % 32, row = threadIdx.x % kWarpGroup / 32 * 16 + lane % 16;
  return shared_address(box) + row * kRowBytes + ((static_cast<unsigned>(block) * 2 + lane / 16) ^ (row % 8)) * 16;
}

// The same in a box of half as many columns.
constexpr int kNarrowColumns = kBoxColumns / 2, kNarrowBox = kHalfRows * kNarrowColumns;

__device__ inline std::uint32_t narrow_fragment_address(const std::uint16_t* box, int block) {
  constexpr unsigned kRowBytes = kNarrowColumns * sizeof(std::uint16_t);
  const unsigned lane = threadIdx.x % 32, row = threadIdx.x % kWarpGroup / 32 * 16 + lane % 16;
  return shared_address(box) + row * kRowBytes + ((static_cast<unsigned>(block) * 2 + lane / 16) ^ (row / 2 % 4)) * 16;
}

// What a warp group does with its tiles' sums, whose fragments are those of multiply_64x192x16: the part that all such
// classes have. One thread of the group talks to the copy engine.
class TileFinish {
 public:
  __device__ void end() {
    if (copies_) wait_for_stores_to_read();
  }

 protected:
  __device__ TileFinish(ProductShared& shared, int group)
      : boxes_(shared.out[group]),
        loaded_(shared.loaded[group]),
        barrier_(1 + group),
        copies_(threadIdx.x % kWarpGroup == 0) {}

  std::uint16_t* boxes_;
  Barrier* loaded_;
  int barrier_;
  bool copies_;
};

// Half a tile, as bfloat16, through shared memory to its place.
class HalfTileWriter : public TileFinish {
 public:
  __device__ HalfTileWriter(ProductShared& shared, const CUtensorMap& out, int group)
      : TileFinish(shared, group), out_(out) {}

  // change(8 floats of a block): before they are written.
  template <typename Change>
  __device__ void write(const float (&values)[kFragment], TilePlace place, Change&& change) {
    if (copies_) wait_for_stores_to_read();
    group_sync(barrier_);
    for_blocks(values, [&](float(&v)[8], int block) {
      constexpr int kBlocks = kBoxColumns / 16;
      change(v);
      store_matrices(
          fragment_address(boxes_ + block / kBlocks * kBox, block % kBlocks),
          {pack_bfloat16(v[0], v[1]), pack_bfloat16(v[2], v[3]), pack_bfloat16(v[4], v[5]), pack_bfloat16(v[6], v[7])});
    });
    publish_shared();
    group_sync(barrier_);
    if (!copies_) return;
    for (int box = 0; box < kTileColumns / kBoxColumns; ++box)
      store_tile(out_, boxes_ + box * kBox, place.column + box * kBoxColumns, place.row);
    commit_stores();
  }

 private:
  const CUtensorMap& out_;
};

__device__ inline void init_barriers(ProductShared& shared) {
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < kStages; ++stage) {
      shared.full[stage].init(1);
      shared.empty[stage].init(kCluster);
    }
    for (Barrier& turn : shared.turn) turn.init(kWarpGroup / 32);
    for (auto& of_group : shared.loaded)
      for (Barrier& loaded : of_group) loaded.init(1);
    publish_barriers();
  }
  cluster_sync();
}

// By all threads of a block. A warp group makes a Finish of its number, which gets each of its tiles: begin(place)
// before the products, finish(their sums, place) after them, and end() after the last. kPair: b is two matrices; a tile
// has half of its columns of each, and its place counts those of both.
template <Major kA, Major kB, bool kPair, typename MakeFinish>
__device__ inline void tiled_product(ProductShared& shared, const ProductMaps& maps, const ProductShape& shape,
                                     std::uint64_t chosen, unsigned rank, MakeFinish&& make_finish) {
  init_barriers(shared);
  if (threadIdx.x < kWarpGroup) {
    give_registers<40>();
    if (threadIdx.x == 0) copy_operands<kA, kB, kPair>(shared, maps, shape, chosen, rank);
  } else {
    take_registers<232>();
    const int group = static_cast<int>(threadIdx.x) / kWarpGroup - 1;
    TileProduct<kA, kB> product(shared, group);
    auto finish = make_finish(group);
    for_tiles(shape, chosen, rank, [&](TilePlace place, int count) {
      if (count % 2 != group) return;
      float sums[2][kFragment];
      finish.begin(place);
      product.run(sums, count, shape.inner_steps);
      finish.finish(sums, place);
    });
    finish.end();
  }
  cluster_sync();  // nobody may signal a block that is gone
}

}  // namespace liger::kernels::hopper
