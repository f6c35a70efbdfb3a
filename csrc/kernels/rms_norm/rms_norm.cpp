#include "kernels/rms_norm/rms_norm.h"

#include <algorithm>

#include "kernels/common/cpu_isa.h"

namespace liger::kernels {

namespace cpu {

std::int64_t rms_norm_backward_parts(const RmsNormBackwardArgs& args, const LaunchContext& context) {
  constexpr std::int64_t kGrainElements = 16384;  // least work worth a thread
  const std::int64_t worth = args.rows * args.width / kGrainElements;
  return std::max<std::int64_t>(1, std::min<std::int64_t>({context.num_threads, args.rows, worth}));
}

std::int64_t rms_norm_backward_part_floats(std::int64_t width) { return 2 * width; }  // doubles

}  // namespace cpu

Status rms_norm_forward(const RmsNormArgs& args, const LaunchContext& context) {
  return with_isa_level([&](auto level) { return cpu::rms_norm_forward<level>(args, context); });
}

Status rms_norm_backward(const RmsNormBackwardArgs& args, const LaunchContext& context) {
  return with_isa_level([&](auto level) { return cpu::rms_norm_backward<level>(args, context); });
}

std::int64_t rms_norm_backward_workspace(const RmsNormBackwardArgs& args, const LaunchContext& context) {
  return cpu::rms_norm_backward_parts(args, context) * cpu::rms_norm_backward_part_floats(args.width);
}

}  // namespace liger::kernels
