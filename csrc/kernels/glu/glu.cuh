// Device code of glu.h. One launch covers the vectors of all rows; a thread owns kCount of them, a block's width apart,
// and reads them all before it uses the first. Accumulates nothing; computes in float32.
// Bytes per element of size b: forward 3b, backward 5b, or 6b where it gives the output again.
#pragma once

#include "kernels/common/gpu.h"
#include "kernels/glu/glu.h"

namespace liger::kernels::gpu {

inline constexpr int kGluThreads = 256;

// How the blocks walk [rows, width]. One division finds a thread's first vector; the next ones are steps away.
struct GluWalk {
  std::int64_t vectors;          // of all rows
  std::int64_t vectors_per_row;  // > 0
  std::int64_t row_step;         // kGluThreads vectors on are row_step rows and vector_step vectors on
  std::int64_t vector_step;
  int tail;  // elements after the last vector; of a single row only
};

struct GluPosition {
  std::int64_t row;
  std::int64_t vector;  // within the row

  __device__ GluPosition(const GluWalk& walk, std::int64_t index)
      : row(index / walk.vectors_per_row), vector(index - row * walk.vectors_per_row) {}

  __device__ void advance(const GluWalk& walk) {
    row += walk.row_step;
    vector += walk.vector_step;
    if (vector < walk.vectors_per_row) return;
    vector -= walk.vectors_per_row;
    ++row;
  }
  template <int kVec>
  __device__ std::int64_t offset(std::int64_t row_stride) const {
    return row * row_stride + vector * kVec;
  }
};

template <typename T, int kVec>
__device__ inline Packed<T, kVec> glu_read(const T* address) {
  return load_streaming(reinterpret_cast<const Packed<T, kVec>*>(address));
}

// What is fused is said: left to the compiler, the forward and the backward kernel may round a value differently.
struct Activated {
  float value;
  float slope;
};

// Where results are rounded to 16 bits, the fast exponential is far more exact than that rounding.
template <typename T>
__device__ inline float glu_exp(float x) {
  if constexpr (sizeof(T) == 2) return __expf(x);
  return expf(x);
}

// For cdf(x) = 1 / (1 + exp(-z)) and results of 16 bits, in few instructions: where the exponential overflows cdf is 0,
// and what cancels in 1 - cdf is far less than cdf.
__device__ inline Activated sigmoid_gated_fast(float x, float z, float z_slope) {
  const float cdf = inverse_flushed(1.0f + exp_flushed(-z));
  return {x * cdf, cdf * fmaf(x * z_slope, 1.0f - cdf, 1.0f)};
}

// Of cdf and 1 - cdf, `rest` is the smaller one, at most 1/2. Computed first, it never overflows and nothing cancels;
// x - x * rest is one rounding less than x * most.
template <typename T>
__device__ inline Activated sigmoid_gated(float x, float z, float z_slope) {
  if constexpr (sizeof(T) == 2) return sigmoid_gated_fast(x, z, z_slope);
  const float e = expf(-fabsf(z));
  const float rest = e / (1.0f + e);
  const float most = 1.0f - rest;
  const float value = rest > 0.0f ? fmaf(-x, rest, x) : x;  // x may be infinite
  return {z < 0.0f ? x * rest : value, (z < 0.0f ? rest : most) + x * (z_slope * (rest * most))};
}

template <typename T, Activation kActivation>
__device__ inline Activated activated(float x) {
  if constexpr (kActivation == Activation::gelu) {
    const float cdf = 0.5f + 0.5f * erff(x * kSqrtHalf);
    return {x * cdf, cdf + x * (kInverseSqrtTwoPi * glu_exp<T>(-0.5f * x * x))};
  } else if constexpr (kActivation == Activation::gelu_tanh) {
    const float cubic = kGeluCubic * x;  // without its last factor, which is fused with the sum
    return sigmoid_gated<T>(x, kTwoSqrtTwoOverPi * x * fmaf(cubic, x, 1.0f),
                            kTwoSqrtTwoOverPi * fmaf(3.0f * cubic, x, 1.0f));
  } else {
    return sigmoid_gated<T>(x, x, 1.0f);
  }
}

template <typename T, Activation kActivation>
__device__ inline T glu_value(T gate, T up) {
  return gpu::from_float<T>(activated<T, kActivation>(gpu::to_float(gate)).value * gpu::to_float(up));
}

template <typename T>
struct GluGradient {
  T gate;
  T up;
  T out;
};

template <typename T, Activation kActivation>
__device__ inline GluGradient<T> glu_gradient(T grad_out, T gate, T up) {
  const float dy = gpu::to_float(grad_out);
  const Activated act = activated<T, kActivation>(gpu::to_float(gate));
  return {gpu::from_float<T>(dy * gpu::to_float(up) * act.slope), gpu::from_float<T>(dy * act.value),
          gpu::from_float<T>(act.value * gpu::to_float(up))};
}

// The element after the last vector that this thread owns, or -1.
__device__ inline std::int64_t glu_tail_column(const GluWalk& walk, std::int64_t width) {
  const int thread = static_cast<int>(threadIdx.x);
  return blockIdx.x + 1 == gridDim.x && thread < walk.tail ? width - walk.tail + thread : -1;
}

template <typename T, Activation kActivation, int kVec, int kCount>
__global__ void __launch_bounds__(kGluThreads) glu_forward_kernel(const GluArgs args, const GluWalk walk) {
  const auto* gate = static_cast<const T*>(args.gate);
  const auto* up = static_cast<const T*>(args.up);
  auto* out = static_cast<T*>(args.out);
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * (kGluThreads * kCount) + threadIdx.x;

  Packed<T, kVec> gates[kCount], ups[kCount];
  std::int64_t out_offsets[kCount];
  GluPosition position(walk, first);
#pragma unroll
  for (int k = 0; k < kCount; ++k) {
    out_offsets[k] = position.offset<kVec>(args.out_stride);
    if (first + k * kGluThreads < walk.vectors) {
      gates[k] = glu_read<T, kVec>(gate + position.offset<kVec>(args.gate_stride));
      ups[k] = glu_read<T, kVec>(up + position.offset<kVec>(args.up_stride));
    }
    position.advance(walk);
  }
#pragma unroll
  for (int k = 0; k < kCount; ++k) {
    if (first + k * kGluThreads >= walk.vectors) break;
    Packed<T, kVec> result;
#pragma unroll
    for (int i = 0; i < kVec; ++i) result.values[i] = glu_value<T, kActivation>(gates[k].values[i], ups[k].values[i]);
    store<T, kVec>(out + out_offsets[k], result);
  }
  const std::int64_t column = glu_tail_column(walk, args.width);
  if (column >= 0) out[column] = glu_value<T, kActivation>(gate[column], up[column]);
}

template <typename T, Activation kActivation, int kVec, int kCount>
__global__ void __launch_bounds__(kGluThreads) glu_backward_kernel(const GluBackwardArgs args, const GluWalk walk) {
  const auto* grad_out = static_cast<const T*>(args.grad_out);
  const auto* gate = static_cast<const T*>(args.gate);
  const auto* up = static_cast<const T*>(args.up);
  auto* grad_gate = static_cast<T*>(args.grad_gate);
  auto* grad_up = static_cast<T*>(args.grad_up);
  auto* out = static_cast<T*>(args.out);
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * (kGluThreads * kCount) + threadIdx.x;

  Packed<T, kVec> grads[kCount], gates[kCount], ups[kCount];
  std::int64_t gate_offsets[kCount], up_offsets[kCount], out_offsets[kCount];
  GluPosition position(walk, first);
#pragma unroll
  for (int k = 0; k < kCount; ++k) {
    gate_offsets[k] = position.offset<kVec>(args.grad_gate_stride);
    up_offsets[k] = position.offset<kVec>(args.grad_up_stride);
    out_offsets[k] = position.offset<kVec>(args.out_stride);
    if (first + k * kGluThreads < walk.vectors) {
      grads[k] = glu_read<T, kVec>(grad_out + position.offset<kVec>(args.grad_out_stride));
      gates[k] = glu_read<T, kVec>(gate + position.offset<kVec>(args.gate_stride));
      ups[k] = glu_read<T, kVec>(up + position.offset<kVec>(args.up_stride));
    }
    position.advance(walk);
  }
#pragma unroll
  for (int k = 0; k < kCount; ++k) {
    if (first + k * kGluThreads >= walk.vectors) break;
    Packed<T, kVec> gate_result, up_result, out_result;
#pragma unroll
    for (int i = 0; i < kVec; ++i) {
      const auto gradient = glu_gradient<T, kActivation>(grads[k].values[i], gates[k].values[i], ups[k].values[i]);
      gate_result.values[i] = gradient.gate;
      up_result.values[i] = gradient.up;
      out_result.values[i] = gradient.out;
    }
    store<T, kVec>(grad_gate + gate_offsets[k], gate_result);
    store<T, kVec>(grad_up + up_offsets[k], up_result);
    if (out != nullptr) store<T, kVec>(out + out_offsets[k], out_result);
  }
  const std::int64_t column = glu_tail_column(walk, args.width);
  if (column < 0) return;
  const auto gradient = glu_gradient<T, kActivation>(grad_out[column], gate[column], up[column]);
  grad_gate[column] = gradient.gate;
  grad_up[column] = gradient.up;
  if (out != nullptr) out[column] = gradient.out;
}

}  // namespace liger::kernels::gpu
