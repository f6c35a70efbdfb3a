// Launcher of rope.cuh.
#include <algorithm>
#include <climits>
#include <type_traits>

#include "kernels/rope/rope.cuh"
#include "kernels/rope/rope_width.h"

namespace liger::kernels {

namespace {

constexpr std::int64_t kMaxBlockZ = 64;
constexpr std::int64_t kMaxGridY = 65535;
constexpr std::int64_t kHeadLanes = 8;       // of a block, where a position's heads are neighbours in memory
constexpr std::int64_t kHeadsPerThread = 8;  // about how many heads one read of the tables serves

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// visitor(channels a thread moves together): 16 bytes, half of that, or one element.
template <typename T, typename Visitor>
void with_vector_width(int width, Visitor&& visitor) {
  constexpr int kVec = kVectorBytes / sizeof(T);
  if (width >= kVec) {
    visitor(std::integral_constant<int, kVec>{});
  } else if (width >= kVec / 2) {
    visitor(std::integral_constant<int, kVec / 2>{});
  } else {
    visitor(std::integral_constant<int, 1>{});
  }
}

// Lanes along the heads where those are neighbours, so that neighbouring lanes read neighbours.
std::int64_t head_lanes(const RopeArgs& args, std::int64_t heads, std::int64_t threads_per_row) {
  if (!heads_are_neighbours(args)) return 1;
  return std::min({kHeadLanes, heads, gpu::kRopeThreads / threads_per_row});
}

struct RopeLaunch {
  dim3 grid;
  dim3 block;
  gpu::RopeGrid args;
};

RopeLaunch plan(const RopeArgs& args, std::int64_t positions, int vec) {
  const std::int64_t heads = args.query.heads + args.key.heads;
  const std::int64_t vectors = args.rotary_dim / 2 / vec + (args.head_dim - args.rotary_dim) / vec;
  const std::int64_t x = std::min<std::int64_t>(vectors, gpu::kRopeThreads / 2);
  const std::int64_t y = head_lanes(args, heads, x);
  const std::int64_t z = std::min({gpu::kRopeThreads / (x * y), kMaxBlockZ, positions});
  const std::int64_t tiles = std::min(ceil_div(heads, y * kHeadsPerThread), kMaxGridY);
  const std::int64_t heads_per_block = ceil_div(ceil_div(heads, tiles), y) * y;
  RopeLaunch launch;
  launch.grid =
      dim3(static_cast<unsigned>(ceil_div(positions, z)), static_cast<unsigned>(ceil_div(heads, heads_per_block)));
  launch.block = dim3(static_cast<unsigned>(x), static_cast<unsigned>(y), static_cast<unsigned>(z));
  launch.args = {static_cast<unsigned>(positions), heads_per_block};
  return launch;
}

}  // namespace

Status rope(const RopeArgs& args, const LaunchContext& context) {
  const std::int64_t positions = count_positions(args);
  if (positions == 0 || args.query.heads + args.key.heads == 0 || args.head_dim == 0) return Status();
  if (positions > INT_MAX) return Status("more positions than a grid can hold");
  return dispatch_rope_dtypes(args.dtype, args.table_dtype, [&](auto type, auto table) {
    using T = typename decltype(type)::type;
    with_vector_width<T>(vector_width(args).width(), [&](auto vec) {
      const RopeLaunch launch = plan(args, positions, vec.value);
      gpu::rope_kernel<T, typename decltype(table)::type, vec.value>
          <<<launch.grid, launch.block, 0, gpu::stream_of(context)>>>(args, launch.args);
    });
    return gpu::launch_status();
  });
}

}  // namespace liger::kernels
