// How the GPU kernels of norm_rope are launched.
#pragma once

#include <algorithm>
#include <climits>
#include <type_traits>

#include "kernels/norm_rope/norm_rope.cuh"
#include "kernels/rope/rope_width.h"

namespace liger::kernels::gpu {

inline constexpr std::int64_t kFewestLanes = 4;  // of a head: a block has at most 64 positions
inline constexpr std::int64_t kMostHeadLanes = 4;

inline std::int64_t power_of_two_from(std::int64_t count) {
  std::int64_t power = 1;
  while (power < count) power *= 2;
  return power;
}

// Of query and key; those without heads count as none.
inline int vector_width(const NormRopeArgs& args) {
  VectorWidth width = vector_width(args.rope);
  width.multiple((args.rope.head_dim - args.rope.rotary_dim) / 2);
  width.pointer(args.query.weight, size_of(args.weight_dtype)).pointer(args.key.weight, size_of(args.weight_dtype));
  for (const NormRopeOperand* operand : {&args.query, &args.key}) {
    if (operand->hidden == nullptr) continue;
    width.pointer(operand->hidden, size_of(args.rope.dtype));
    restrict_to(width, operand->hidden_strides);
  }
  return width.width();
}

// visitor(channels in a vector, pairs of vectors of a thread), as constants. A head has at most 32 lanes.
template <typename T, typename Visitor>
Status with_head_parts(const NormRopeArgs& args, Visitor&& visitor) {
  constexpr int kVec = kVectorBytes / sizeof(T);
  using One = std::integral_constant<int, 1>;
  using FullVector = std::integral_constant<int, kVec>;
  if (vector_width(args) < kVec) return visitor(One{}, std::integral_constant<int, 8>{});
  if constexpr (kNormRopeWidest > 32 * 2 * kVec) {
    if (args.rope.head_dim > 32 * 2 * kVec) return visitor(FullVector{}, std::integral_constant<int, 2>{});
  }
  return visitor(FullVector{}, One{});
}

// A block of kHeadThreads: lanes of a head, heads next to each other in memory, positions.
inline dim3 head_block(const NormRopeArgs& args, int vec) {
  const RopeArgs& rope = args.rope;
  const std::int64_t pairs = (rope.head_dim / 2 + vec - 1) / vec;
  const std::int64_t x = std::clamp<std::int64_t>(power_of_two_from(pairs), kFewestLanes, 32);
  const std::int64_t fewest_heads = std::min(rope.query.heads, rope.key.heads);
  std::int64_t y = heads_are_neighbours(rope) ? kMostHeadLanes : 1;
  while (y > 1 && y > fewest_heads) y /= 2;
  return dim3(static_cast<unsigned>(x), static_cast<unsigned>(y), static_cast<unsigned>(kHeadThreads / (x * y)));
}

struct NormRopeLaunch {
  dim3 block;
  unsigned blocks = 0;
  unsigned key_blocks = 0;
  NormRopeGrid grid{};
};

// At most `limit` blocks for query and key together, in proportion to their heads; at least one for each that has any.
inline NormRopeLaunch plan(const NormRopeArgs& args, int vec, std::int64_t limit) {
  NormRopeLaunch launch;
  const std::int64_t positions = count_positions(args.rope), heads = args.rope.query.heads + args.rope.key.heads;
  launch.block = head_block(args, vec);
  launch.grid.positions = static_cast<unsigned>(positions);
  const std::int64_t tiles = (positions + launch.block.z - 1) / launch.block.z;
  const auto blocks_for = [&](const RopeOperand& operand) {
    if (operand.heads == 0) return 0u;
    return static_cast<unsigned>(std::min(tiles, std::max<std::int64_t>(1, limit * operand.heads / heads)));
  };
  launch.grid.query_blocks = blocks_for(args.rope.query);
  launch.key_blocks = blocks_for(args.rope.key);
  launch.blocks = launch.grid.query_blocks + launch.key_blocks;
  return launch;
}

inline Status fits_grid(const NormRopeArgs& args) {
  return count_positions(args.rope) > INT_MAX ? Status("more positions than a grid can hold") : Status();
}

}  // namespace liger::kernels::gpu
