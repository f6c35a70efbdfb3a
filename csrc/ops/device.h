// What differs between the two libraries that the files of this folder are compiled into: the dispatch key, and how a
// kernel is launched.
#pragma once

#include "kernels/common/launch.h"
#include "ops/check.h"
#include "ops/stable.h"

#if defined(LIGER_DEVICE_CUDA)
#define LIGER_DISPATCH_KEY CUDA
#elif defined(LIGER_DEVICE_CPU)
#define LIGER_DISPATCH_KEY CPU
#else
#error "define LIGER_DEVICE_CPU or LIGER_DEVICE_CUDA"
#endif

namespace liger::ops {

#if defined(LIGER_DEVICE_CUDA)

// Makes the tensor's device current while it lives, and launches on that device's current stream.
class DeviceScope {
 public:
  explicit DeviceScope(const Tensor& tensor) : guard_(tensor.get_device_index()) {
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &context_.stream));
  }
  const kernels::LaunchContext& context() const { return context_; }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  kernels::LaunchContext context_;
};

#else

// Lends torch's thread pool to the kernels.
class DeviceScope {
 public:
  explicit DeviceScope(const Tensor&) {
    context_.num_threads = static_cast<int>(torch::stable::get_num_threads());
    context_.parallel_for = [](std::int64_t count, std::int64_t grain, kernels::RangeBody body, void* state) {
      torch::stable::parallel_for(0, count, grain,
                                  [=](std::int64_t begin, std::int64_t end) { body(begin, end, state); });
    };
  }
  const kernels::LaunchContext& context() const { return context_; }

 private:
  kernels::LaunchContext context_;
};

#endif

}  // namespace liger::ops
