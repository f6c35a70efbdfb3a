// Launchers of cross_entropy_parts.cuh. Each gives nothing where the arguments, or the device, are not for it.
#pragma once

#include <optional>

#include "kernels/cross_entropy/cross_entropy.h"

namespace liger::kernels {

std::optional<Status> cross_entropy_backward_in_parts(const CrossEntropyBackwardArgs& args,
                                                      const LaunchContext& context);
std::optional<Status> cross_entropy_fused_in_parts(const CrossEntropyFusedArgs& args, const LaunchContext& context);

}  // namespace liger::kernels
