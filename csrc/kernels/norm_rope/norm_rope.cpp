#include "kernels/norm_rope/norm_rope.h"

#include <algorithm>

#include "kernels/common/cpu_isa.h"

namespace liger::kernels {

namespace cpu {

std::int64_t norm_rope_backward_parts(const NormRopeArgs& args, const LaunchContext& context) {
  constexpr std::int64_t kGrainElements = 16384;  // least work worth a thread
  const RopeArgs& rope = args.rope;
  const std::int64_t positions = count_positions(rope);
  const std::int64_t worth = positions * (rope.query.heads + rope.key.heads) * rope.head_dim / kGrainElements;
  return std::max<std::int64_t>(1, std::min<std::int64_t>({context.num_threads, positions, worth}));
}

}  // namespace cpu

Status norm_rope_forward(const NormRopeArgs& args, const LaunchContext& context) {
  return with_isa_level([&](auto level) { return cpu::norm_rope_forward<level>(args, context); });
}

Status norm_rope_backward(const NormRopeArgs& args, const LaunchContext& context) {
  return with_isa_level([&](auto level) { return cpu::norm_rope_backward<level>(args, context); });
}

// Sums in double for query and key, of every part.
std::int64_t norm_rope_backward_workspace(const NormRopeArgs& args, const LaunchContext& context) {
  return cpu::norm_rope_backward_parts(args, context) * 4 * args.rope.head_dim;
}

}  // namespace liger::kernels
