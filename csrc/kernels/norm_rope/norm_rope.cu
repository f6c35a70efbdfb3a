#include "kernels/norm_rope/norm_rope_launch.h"

namespace liger::kernels {

namespace {

constexpr std::int64_t kMostBlocks = std::int64_t{1} << 30;

template <typename T, typename Table, typename Weight>
Status launch_forward(const NormRopeArgs& args, gpu::Stream stream) {
  return gpu::with_head_parts<T>(args, [&](auto vec, auto items) {
    const gpu::NormRopeLaunch launch = gpu::plan(args, vec, kMostBlocks);
    if (launch.blocks == 0) return Status();
    return gpu::with_warp_size([&](auto warp) {
      gpu::norm_rope_forward_kernel<T, Table, Weight, vec, items, warp>
          <<<launch.blocks, launch.block, 0, stream>>>(args, launch.grid);
      return gpu::launch_status();
    });
  });
}

}  // namespace

Status norm_rope_forward(const NormRopeArgs& args, const LaunchContext& context) {
  if (const Status status = gpu::fits_grid(args); !status.ok()) return status;
  if (args.rope.head_dim == 0) return Status();
  return dispatch_norm_rope_dtypes(args, [&](auto type, auto table, auto weight) {
    return launch_forward<typename decltype(type)::type, typename decltype(table)::type,
                          typename decltype(weight)::type>(args, gpu::stream_of(context));
  });
}

}  // namespace liger::kernels
