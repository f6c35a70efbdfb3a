// What the host does to run a kernel that is made of tiled_product.cuh. For translation units of CUDA that are compiled
// with LIGER_HOPPER, which says that there is code for sm_90a among theirs.
#pragma once

#include "kernels/common/tensor_map.h"
#include "kernels/common/tiled_product.cuh"

namespace liger::kernels::hopper {

inline std::int64_t tiles_of(std::int64_t extent, std::int64_t tile) { return (extent + tile - 1) / tile; }

// Whether the current device runs code for sm_90a.
inline bool is_hopper() {
  int device = 0, major = 0, minor = 0;
  return gpu::current_device(&device) == gpu::kSuccess &&
         cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess &&
         cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) == cudaSuccess && major == 9 &&
         minor == 0;
}

// One cluster for every two multiprocessors: they stay until all tiles are done.
template <typename Args>
Status launch_product(void (*kernel)(Args), const Args& args, const LaunchContext& context) {
  constexpr std::size_t kBytes = sizeof(ProductShared);
  gpu::Error error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  if (error != gpu::kSuccess) return Status(gpu::message_of(error));
  const auto blocks = static_cast<unsigned>(std::max(1, gpu::multiprocessor_count() / kCluster) * kCluster);
  error = gpu::launch_in_clusters(kernel, blocks, kProductThreads, kCluster, gpu::stream_of(context), args, kBytes);
  return error == gpu::kSuccess ? gpu::launch_status() : Status(gpu::message_of(error));
}

}  // namespace liger::kernels::hopper
