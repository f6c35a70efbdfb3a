#include "kernels/common/column_sum.cuh"
#include "kernels/norm_rope/norm_rope_backward.cuh"
#include "kernels/norm_rope/norm_rope_launch.h"

namespace liger::kernels {

namespace {

// As many blocks as the multiprocessors hold at once: each leaves partial sums to be added.
std::int64_t most_blocks() { return std::int64_t{gpu::multiprocessor_count()} * gpu::kHeadBlocks; }

template <typename Weight>
Status add_partials(const NormRopeArgs& args, const gpu::NormRopeLaunch& launch, gpu::Stream stream) {
  if (args.workspace == nullptr) return Status();
  const std::int64_t query_blocks = launch.grid.query_blocks, width = args.rope.head_dim;
  return gpu::add_columns<Weight>({args.workspace, query_blocks, args.query.grad_weight},
                                  {args.workspace + query_blocks * width, launch.key_blocks, args.key.grad_weight},
                                  width, stream);
}

template <typename T, typename Table, typename Weight>
Status launch_backward(const NormRopeArgs& args, gpu::Stream stream) {
  return gpu::with_head_parts<T>(args, [&](auto vec, auto items) {
    const gpu::NormRopeLaunch launch = gpu::plan(args, vec, most_blocks());
    if (launch.blocks == 0) return add_partials<Weight>(args, launch, stream);
    const Status status = gpu::with_warp_size([&](auto warp) {
      gpu::norm_rope_backward_kernel<T, Table, Weight, vec, items, warp>
          <<<launch.blocks, launch.block, 0, stream>>>(args, launch.grid);
      return gpu::launch_status();
    });
    return status.ok() ? add_partials<Weight>(args, launch, stream) : status;
  });
}

}  // namespace

// One row for each block. Query and key have one each at least.
std::int64_t norm_rope_backward_workspace(const NormRopeArgs& args, const LaunchContext&) {
  return (most_blocks() + 1) * args.rope.head_dim;
}

Status norm_rope_backward(const NormRopeArgs& args, const LaunchContext& context) {
  if (const Status status = gpu::fits_grid(args); !status.ok()) return status;
  if (args.rope.head_dim == 0) return Status();
  return dispatch_norm_rope_dtypes(args, [&](auto type, auto table, auto weight) {
    return launch_backward<typename decltype(type)::type, typename decltype(table)::type,
                           typename decltype(weight)::type>(args, gpu::stream_of(context));
  });
}

}  // namespace liger::kernels
