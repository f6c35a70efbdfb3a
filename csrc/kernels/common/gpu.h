// The GPU runtime and intrinsics under our own names: the only file that knows whether CUDA or HIP compiles it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "kernels/common/dtype.h"
#include "kernels/common/launch.h"
#include "kernels/common/packed.h"

#ifdef __HIP__
#include <hip/hip_fp16.h>
#include <hip/hip_runtime.h>
#else
#include <cooperative_groups.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
// Part of the device library; <cassert> declares it in debug builds only.
extern "C" __host__ __device__ void __assert_fail(const char* assertion, const char* file, unsigned line,
                                                  const char* function) noexcept __attribute__((__noreturn__));
#endif

namespace liger::kernels::gpu {

#ifdef __HIP__
using Stream = hipStream_t;
using Error = hipError_t;
inline constexpr Error kSuccess = hipSuccess;
inline Error last_error() { return hipGetLastError(); }
inline const char* message_of(Error error) { return hipGetErrorString(error); }
inline Error current_device(int* device) { return hipGetDevice(device); }
inline Error multiprocessors_of(int device, int* count) {
  return hipDeviceGetAttribute(count, hipDeviceAttributeMultiprocessorCount, device);
}
inline Error warp_size_of(int device, int* size) {
  return hipDeviceGetAttribute(size, hipDeviceAttributeWarpSize, device);
}
template <typename Kernel>
bool runs_in_clusters(Kernel*) {
  return false;
}
template <typename Args>
Error launch_in_clusters(void (*)(Args), unsigned, unsigned, unsigned, Stream, const Args&, std::size_t = 0) {
  return hipErrorNotSupported;
}
#else
using Stream = cudaStream_t;
using Error = cudaError_t;
inline constexpr Error kSuccess = cudaSuccess;
inline Error last_error() { return cudaGetLastError(); }
inline const char* message_of(Error error) { return cudaGetErrorString(error); }
inline Error current_device(int* device) { return cudaGetDevice(device); }
inline Error multiprocessors_of(int device, int* count) {
  return cudaDeviceGetAttribute(count, cudaDevAttrMultiProcessorCount, device);
}
inline Error warp_size_of(int, int* size) {
  *size = 32;
  return cudaSuccess;
}
// Whether the current device has clusters and the kernel's code for it was compiled with them.
template <typename Kernel>
bool runs_in_clusters(Kernel* kernel) {
  int device = 0, major = 0;
  cudaFuncAttributes attributes;
  return current_device(&device) == kSuccess &&
         cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == kSuccess && major >= 9 &&
         cudaFuncGetAttributes(&attributes, kernel) == kSuccess && attributes.binaryVersion >= 90;
}
// `blocks` is a multiple of `cluster`, which is at most 8; `shared_bytes` are those that the kernel does not declare.
template <typename Args>
Error launch_in_clusters(void (*kernel)(Args), unsigned blocks, unsigned threads, unsigned cluster, Stream stream,
                         const Args& args, std::size_t shared_bytes = 0) {
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = cluster;
  attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = blocks;
  config.blockDim = threads;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, kernel, args);
}
#endif

inline Stream stream_of(const LaunchContext& context) { return static_cast<Stream>(context.stream); }

// After a kernel launch: its configuration error if it had one. Waits for nothing.
inline Status launch_status() {
  const Error error = last_error();
  return error == kSuccess ? Status() : Status(message_of(error));
}

// Of the current device; 1 where the runtime cannot tell, so that a grid is never empty.
inline int multiprocessor_count() {
  int device = 0, count = 1;
  if (current_device(&device) != kSuccess || multiprocessors_of(device, &count) != kSuccess) return 1;
  return count;
}

inline int warp_size() {
  int device = 0, size = 32;
  if (current_device(&device) != kSuccess || warp_size_of(device, &size) != kSuccess) return 32;
  return size;
}

// visitor(std::integral_constant<int, warp width>{}) for the current device.
template <typename Visitor>
decltype(auto) with_warp_size(Visitor&& visitor) {
#ifdef __HIP__
  if (warp_size() == 64) return visitor(std::integral_constant<int, 64>{});
#endif
  return visitor(std::integral_constant<int, 32>{});
}

#ifdef __HIP__
// Stops the kernel, and with it the device's context, where an input breaks a promise that the host cannot check.
__device__ inline void fail_unless(bool condition, const char*) {
  if (!condition) abort();
}

template <int kWarp, typename T>
__device__ inline T shuffle_xor(T value, int lanes) {
  return __shfl_xor(value, lanes, kWarp);
}

__device__ inline BFloat16 bfloat16_from(float value) {
  const unsigned bits = __float_as_uint(value);
  const unsigned rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
  const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
  return {static_cast<std::uint16_t>(is_nan ? (bits >> 16) | 0x40u : rounded >> 16)};
}
template <typename T>
__device__ inline T load_streaming(const T* address) {
  return *address;
}

template <typename Word>
__device__ inline void store_word(Word* address, const Word& word) {
  *address = word;
}

__device__ inline void stay_packed(uint4&) {}

__device__ inline float exp2_flushed(float value) { return exp2f(value); }
__device__ inline float inverse_flushed(float value) { return __builtin_amdgcn_rcpf(value); }
#else
// Stops the kernel, and with it the device's context, where an input breaks a promise that the host cannot check. As
// `assert`, but in release builds too.
__device__ inline void fail_unless(bool condition, const char* message) {
  if (!condition) __assert_fail(message, __FILE__, __LINE__, __func__);
}

template <int kWarp, typename T>
__device__ inline T shuffle_xor(T value, int lanes) {
  return __shfl_xor_sync(0xffffffffu, value, lanes, kWarp);
}

__device__ inline BFloat16 bfloat16_from(float value) { return {__bfloat16_as_ushort(__float2bfloat16_rn(value))}; }
// Data that is used once: keep it from displacing what the L2 cache can serve again.
template <typename T>
__device__ inline T load_streaming(const T* address) {
  if constexpr (sizeof(T) == 16) {
    const uint4 raw = __ldcs(reinterpret_cast<const uint4*>(address));
    return *reinterpret_cast<const T*>(&raw);
  } else {
    return *address;
  }
}

// To global memory. The compiler takes the assignment of a vector that is in registers apart into stores of its
// components, and puts them together again only sometimes.
template <typename Word>
__device__ inline void store_word(Word* address, const Word& word) {
  if constexpr (sizeof(Word) == 16) {
    asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(address), "r"(word.x), "r"(word.y), "r"(word.z),
                 "r"(word.w)
                 : "memory");
  } else if constexpr (sizeof(Word) == 8) {
    asm volatile("st.global.v2.u32 [%0], {%1, %2};" ::"l"(address), "r"(word.x), "r"(word.y) : "memory");
  } else {
    *address = word;
  }
}

// The compiler takes packed 16-bit elements that lie in registers apart as soon as it can, into twice as many: not
// before this.
__device__ inline void stay_packed(uint4& word) {
  asm volatile("" : "+r"(word.x), "+r"(word.y), "+r"(word.z), "+r"(word.w));
}

// 2^value and 1 / value within two units in the last place, where subnormal numbers may become 0: one instruction each,
// a third of what __expf and __fdividef take.
__device__ inline float exp2_flushed(float value) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(value));
  return result;
}
__device__ inline float inverse_flushed(float value) {
  float result;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(value));
  return result;
}
#endif

// e^value, with a relative error of |value| * 2^-24 and some units in the last place.
__device__ inline float exp_flushed(float value) { return exp2_flushed(value * 1.44269504f); }

// The blocks of a launch in clusters that can read each other's shared memory. Between arrive() and wait() of all their
// threads lies a barrier.
#if !defined(__HIP__) && defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
class Cluster {
 public:
  __device__ int rank() const { return static_cast<int>(group_.block_rank()); }
  __device__ int blocks() const { return static_cast<int>(group_.num_blocks()); }
  __device__ void arrive() const { group_.barrier_arrive(); }
  __device__ void wait() const { group_.barrier_wait(); }
  // What `shared` is in the block of that rank.
  template <typename T>
  __device__ T* shared_of(T* shared, int rank) const {
    return group_.map_shared_rank(shared, static_cast<unsigned>(rank));
  }

 private:
  cooperative_groups::cluster_group group_ = cooperative_groups::this_cluster();
};
#else
// Where there are none, each block is one of its own.
class Cluster {
 public:
  __device__ int rank() const { return 0; }
  __device__ int blocks() const { return 1; }
  __device__ void arrive() const {}
  __device__ void wait() const { __syncthreads(); }
  template <typename T>
  __device__ T* shared_of(T* shared, int) const {
    return shared;
  }
};
#endif

// Called as gpu::to_float: argument lookup would find the host's as well.
__device__ inline float to_float(float value) { return value; }
__device__ inline float to_float(BFloat16 value) { return __uint_as_float(static_cast<unsigned>(value.bits) << 16); }
__device__ inline float to_float(Float16 value) { return __half2float(__ushort_as_half(value.bits)); }

template <typename T>
__device__ T from_float(float value);
template <>
__device__ inline float from_float<float>(float value) {
  return value;
}
template <>
__device__ inline BFloat16 from_float<BFloat16>(float value) {
  return bfloat16_from(value);
}
template <>
__device__ inline Float16 from_float<Float16>(float value) {
  return {__half_as_ushort(__float2half_rn(value))};
}

template <typename T>
__device__ inline float rounded_to(float value) {
  return gpu::to_float(gpu::from_float<T>(value));
}

template <typename T, int N>
__device__ inline Packed<T, N> load(const T* address) {
  return *reinterpret_cast<const Packed<T, N>*>(address);
}

template <typename T, int N>
__device__ inline void stay_packed(Packed<T, N>& vector) {
  if constexpr (sizeof(vector) == sizeof(uint4)) {
    uint4 word;
    memcpy(&word, &vector, sizeof(word));
    stay_packed(word);
    memcpy(&vector, &word, sizeof(word));
  }
}

// The type of an access of that many bytes.
template <int kBytes>
struct Word;
template <>
struct Word<16> {
  using type = uint4;
};
template <>
struct Word<8> {
  using type = uint2;
};
template <>
struct Word<4> {
  using type = unsigned;
};
template <>
struct Word<2> {
  using type = unsigned short;
};

// To global memory, by whole words.
template <typename T, int N>
__device__ inline void store(T* address, const Packed<T, N>& value) {
  constexpr int kBytes = sizeof(value) < kVectorBytes ? sizeof(value) : kVectorBytes;
  using Access = typename Word<kBytes>::type;
  Access words[sizeof(value) / kBytes];
  memcpy(words, &value, sizeof(value));
#pragma unroll
  for (int i = 0; i < static_cast<int>(sizeof(value) / kBytes); ++i)
    store_word(reinterpret_cast<Access*>(address) + i, words[i]);
}

}  // namespace liger::kernels::gpu
