#include "kernels/rms_norm/rms_norm.cuh"

namespace liger::kernels {

Status rms_norm_forward(const RmsNormArgs& args, const LaunchContext& context) {
  if (args.rows == 0) return Status();
  return dispatch_rms_norm_dtypes(
      args.hidden_dtype, args.weight_dtype, args.out_dtype, args.weight != nullptr,
      [&](auto hidden, auto weight, auto out) {
        return gpu::RmsNormForward<typename decltype(hidden)::type, typename decltype(weight)::type,
                                   typename decltype(out)::type>(args, context)
            .launch();
      });
}

}  // namespace liger::kernels
