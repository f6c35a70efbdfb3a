#include "kernels/rms_norm/rms_norm_backward.cuh"

namespace liger::kernels {

std::int64_t rms_norm_backward_workspace(const RmsNormBackwardArgs& args, const LaunchContext&) {
  return gpu::backward_blocks(args.rows, args.width) * args.width;
}

Status rms_norm_backward(const RmsNormBackwardArgs& args, const LaunchContext& context) {
  if (args.rows == 0) return Status();
  return dispatch_rms_norm_dtypes(
      args.hidden_dtype, args.weight_dtype, args.out_dtype, args.weight != nullptr,
      [&](auto hidden, auto weight, auto out) {
        return gpu::RmsNormBackward<typename decltype(hidden)::type, typename decltype(weight)::type,
                                    typename decltype(out)::type>(args, context)
            .launch();
      });
}

}  // namespace liger::kernels
