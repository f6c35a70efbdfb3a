// RoPE on the CPU. A thread owns a tile of positions and turns every head of it, so that cos and sin are read and
// converted once. Where heads are neighbours in memory a tile is one position; where positions are, it is several, and
// a head's rows are read one after the other.
#include <cstdint>
#include <cstring>

#include "kernels/common/cpu_isa.h"
#include "kernels/common/row_block.h"
#include "kernels/rope/rope_positions.h"

namespace liger::kernels {
namespace LIGER_ISA_NAMESPACE {

constexpr std::int64_t kTilePositions = 16;
constexpr std::int64_t kTilePairs = 64;         // pairs of channels turned at a time
constexpr std::int64_t kGrainElements = 16384;  // least work worth a thread

// What one position of a tile multiplies: out[i] = x[i] * cos_first[i] + x[half + i] * sin_first[i] and
// out[half + i] = x[half + i] * cos_second[i] + x[i] * sin_second[i], signs included.
struct Rotation {
  float cos_first[kTilePairs];
  float cos_second[kTilePairs];
  float sin_first[kTilePairs];
  float sin_second[kTilePairs];
};

LIGER_ALWAYS_INLINE std::int64_t min_of(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

template <typename Table>
void read_table(const Table* __restrict table, float* __restrict out, std::int64_t count, float factor) {
  const ReadBlock<Table, kTilePairs> values(table, count);
#pragma omp simd
  for (std::int64_t i = 0; i < count; ++i) out[i] = factor * values[i];
}

template <typename Table>
void fill_rotation(const RopeArgs& args, const std::int64_t (&position)[3], std::int64_t begin, std::int64_t count,
                   Rotation& rotation) {
  const std::int64_t half = args.rotary_dim / 2;
  const auto* cos = static_cast<const Table*>(args.cos.data) + offset_of(position, args.cos.strides) + begin;
  const auto* sin = static_cast<const Table*>(args.sin.data) + offset_of(position, args.sin.strides) + begin;
  read_table(cos, rotation.cos_first, count, 1.0f);
  read_table(cos + half, rotation.cos_second, count, 1.0f);
  read_table(args.transpose ? sin + half : sin, rotation.sin_first, count, args.transpose ? 1.0f : -1.0f);
  read_table(args.transpose ? sin : sin + half, rotation.sin_second, count, args.transpose ? -1.0f : 1.0f);
}

template <typename T>
void turn(const Rotation& rotation, const T* __restrict first, const T* __restrict second, T* __restrict out_first,
          T* __restrict out_second, std::int64_t count) {
  const ReadBlock<T, kTilePairs> a(first, count), b(second, count);
  WriteBlock<T, kTilePairs> turned_a(out_first, count), turned_b(out_second, count);
#pragma omp simd
  for (std::int64_t i = 0; i < count; ++i) {
    turned_a.set(i, a[i] * rotation.cos_first[i] + b[i] * rotation.sin_first[i]);
    turned_b.set(i, b[i] * rotation.cos_second[i] + a[i] * rotation.sin_second[i]);
  }
  turned_a.finish();
  turned_b.finish();
}

// Positions [first, first + count) of the flattened positions, and where their rows start.
struct Tile {
  std::int64_t count;
  std::int64_t positions[kTilePositions][3];
};

template <typename T>
const T* in_row(const RopeOperand& operand, const std::int64_t (&position)[3], std::int64_t head) {
  return static_cast<const T*>(operand.in) + offset_of(position, operand.in_strides.positions) +
         head * operand.in_strides.head;
}

template <typename T>
T* out_row(const RopeOperand& operand, const std::int64_t (&position)[3], std::int64_t head) {
  return static_cast<T*>(operand.out) + offset_of(position, operand.out_strides.positions) +
         head * operand.out_strides.head;
}

template <typename T>
void turn_tile(const RopeArgs& args, const RopeOperand& operand, const Tile& tile, const Rotation* rotations,
               std::int64_t begin, std::int64_t count) {
  const std::int64_t half = args.rotary_dim / 2;
  for (std::int64_t head = 0; head < operand.heads; ++head) {
    for (std::int64_t p = 0; p < tile.count; ++p) {
      const T* in = in_row<T>(operand, tile.positions[p], head) + begin;
      T* out = out_row<T>(operand, tile.positions[p], head) + begin;
      turn(rotations[p], in, in + half, out, out + half, count);
    }
  }
}

// The channels that do not turn.
template <typename T>
void copy_rest(const RopeArgs& args, const RopeOperand& operand, const Tile& tile) {
  const auto bytes = static_cast<std::size_t>(args.head_dim - args.rotary_dim) * sizeof(T);
  if (bytes == 0) return;
  for (std::int64_t head = 0; head < operand.heads; ++head) {
    for (std::int64_t p = 0; p < tile.count; ++p) {
      std::memcpy(out_row<T>(operand, tile.positions[p], head) + args.rotary_dim,
                  in_row<T>(operand, tile.positions[p], head) + args.rotary_dim, bytes);
    }
  }
}

template <typename T, typename Table>
void rope_tile(const RopeArgs& args, const Tile& tile) {
  const std::int64_t half = args.rotary_dim / 2;
  Rotation rotations[kTilePositions];
  for (std::int64_t begin = 0; begin < half; begin += kTilePairs) {
    const std::int64_t count = min_of(kTilePairs, half - begin);
    for (std::int64_t p = 0; p < tile.count; ++p) {
      fill_rotation<Table>(args, tile.positions[p], begin, count, rotations[p]);
    }
    turn_tile<T>(args, args.query, tile, rotations, begin, count);
    turn_tile<T>(args, args.key, tile, rotations, begin, count);
  }
  copy_rest<T>(args, args.query, tile);
  copy_rest<T>(args, args.key, tile);
}

template <typename T, typename Table>
void rope_positions(const RopeArgs& args, std::int64_t begin, std::int64_t end, std::int64_t tile_positions) {
  for (std::int64_t first = begin; first < end; first += tile_positions) {
    Tile tile;
    tile.count = min_of(tile_positions, end - first);
    for (std::int64_t p = 0; p < tile.count; ++p) position_of(args, first + p, tile.positions[p]);
    rope_tile<T, Table>(args, tile);
  }
}

}  // namespace LIGER_ISA_NAMESPACE

namespace cpu {

using namespace LIGER_ISA_NAMESPACE;

template <>
Status rope<LIGER_ISA_LEVEL>(const RopeArgs& args, const LaunchContext& context) {
  const std::int64_t positions = count_positions(args);
  const std::int64_t elements = (args.query.heads + args.key.heads) * args.head_dim;  // of a position
  if (positions == 0 || elements == 0) return Status();
  const std::int64_t tile_positions = heads_are_neighbours(args) ? 1 : kTilePositions;
  const std::int64_t grain = 1 + kGrainElements / elements;
  return dispatch_rope_dtypes(args.dtype, args.table_dtype, [&](auto type, auto table) {
    for_ranges(context, positions, grain, [&](std::int64_t begin, std::int64_t end) {
      rope_positions<typename decltype(type)::type, typename decltype(table)::type>(args, begin, end, tile_positions);
    });
    return Status();
  });
}

}  // namespace cpu
}  // namespace liger::kernels
