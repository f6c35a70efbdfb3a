// Launchers of softmax_rows.cuh.
#include "kernels/linear_cross_entropy/softmax_rows.cuh"

namespace liger::kernels {

namespace {

unsigned blocks_for(std::int64_t count, std::int64_t per_block) {
  return static_cast<unsigned>((count + per_block - 1) / per_block);
}

}  // namespace

Status softmax_order(const SoftmaxOrderArgs& args, const LaunchContext& context) {
  gpu::softmax_order_kernel<<<1, gpu::kOrderThreads, 0, gpu::stream_of(context)>>>(args);
  return gpu::launch_status();
}

Status softmax_prepare(const SoftmaxPrepareArgs& args, const LaunchContext& context) {
  if (args.rows == 0) return {};
  gpu::with_warp_size([&](auto warp) {
    const unsigned blocks = blocks_for(args.rows, gpu::kRowThreads / warp.value);
    gpu::softmax_prepare_kernel<warp.value><<<blocks, gpu::kRowThreads, 0, gpu::stream_of(context)>>>(args);
  });
  return gpu::launch_status();
}

Status softmax_finish(const SoftmaxFinishArgs& args, const LaunchContext& context) {
  if (args.rows == 0) return {};
  const auto parts = static_cast<int>(softmax_product_parts(args.vocab));
  gpu::with_warp_size([&](auto warp) {
    gpu::softmax_finish_kernel<warp.value>
        <<<static_cast<unsigned>(args.rows), gpu::kRowThreads, 0, gpu::stream_of(context)>>>(args, parts);
  });
  return gpu::launch_status();
}

Status softmax_grad_hidden(const SoftmaxGradHiddenArgs& args, const LaunchContext& context) {
  if (args.rows == 0) return {};
  gpu::softmax_grad_hidden_kernel<<<static_cast<unsigned>(args.rows), gpu::kRowThreads, 0, gpu::stream_of(context)>>>(
      args);
  return gpu::launch_status();
}

Status label_sums(const LabelSumsArgs& args, const LaunchContext& context) {
  if (args.rows == 0) return {};
  const gpu::Stream stream = gpu::stream_of(context);
  if (args.upper == nullptr) {
    gpu::fill_kernel<<<blocks_for(args.vocab, gpu::kRowThreads), gpu::kRowThreads, 0, stream>>>(args.row_of_class, -1,
                                                                                                args.vocab);
  }
  const dim3 blocks(static_cast<unsigned>(args.rows), blocks_for(args.hidden_size, std::int64_t{gpu::kRowThreads} * 8));
  gpu::label_sums_kernel<<<blocks, gpu::kRowThreads, 0, stream>>>(args);
  return gpu::launch_status();
}

}  // namespace liger::kernels
