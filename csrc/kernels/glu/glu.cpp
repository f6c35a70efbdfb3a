#include "kernels/glu/glu.h"

#include "kernels/common/cpu_isa.h"

namespace liger::kernels {

Status glu_forward(const GluArgs& args, const LaunchContext& context) {
  if (args.rows == 0 || args.width == 0) return {};
  return with_isa_level([&](auto level) { return cpu::glu_forward<level>(with_merged_rows(args), context); });
}

Status glu_backward(const GluBackwardArgs& args, const LaunchContext& context) {
  if (args.rows == 0 || args.width == 0) return {};
  return with_isa_level([&](auto level) { return cpu::glu_backward<level>(with_merged_rows(args), context); });
}

}  // namespace liger::kernels
