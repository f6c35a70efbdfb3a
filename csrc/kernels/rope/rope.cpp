#include "kernels/rope/rope.h"

#include "kernels/common/cpu_isa.h"

namespace liger::kernels {

Status rope(const RopeArgs& args, const LaunchContext& context) {
  return with_isa_level([&](auto level) { return cpu::rope<level>(args, context); });
}

}  // namespace liger::kernels
