// The gated linear unit on the CPU. Work is split by elements, not rows, so that one long row uses every thread.
#include <algorithm>
#include <cstdint>
#include <cstring>

#include "kernels/common/cpu_isa.h"
#include "kernels/common/row_block.h"
#include "kernels/common/vec_math.h"
#include "kernels/glu/glu.h"

namespace liger::kernels {
namespace LIGER_ISA_NAMESPACE {

constexpr std::int64_t kGrainElements = 16384;  // least work worth a thread
constexpr float kLargestFloat = 3.402823466e38f;

// A loop that uses only one of them computes only that.
struct Activated {
  float value;
  float slope;
};

// From rest = cdf(-|x|), the smaller one of cdf and 1 - cdf, and cdf'(x). Nothing cancels, and max(x, 0) - |x| * rest
// is one rounding less than x * (1 - rest).
LIGER_ALWAYS_INLINE Activated gated(float x, float rest, float density) {
  const float magnitude = vec_abs(x) > kLargestFloat ? kLargestFloat : vec_abs(x);  // infinity times 0 is NaN
  const float positive = x > 0.0f ? x : 0.0f;
  return {positive - magnitude * rest, (x < 0.0f ? rest : 1.0f - rest) + x * density};
}

// cdf(x) = 1 / (1 + exp(-z)), with z of the sign of x.
LIGER_ALWAYS_INLINE Activated sigmoid_gated(float x, float z, float z_slope) {
  const float e = vec_exp(-vec_abs(z));  // never overflows
  const float rest = e / (1.0f + e);
  return gated(x, rest, z_slope * (rest * (1.0f - rest)));
}

// The tail of the normal distribution as exp(-x^2 / 2), which its density needs too, times a polynomial in t, fit to an
// absolute error of 6e-9 (8e-8 in float arithmetic).
LIGER_ALWAYS_INLINE Activated normal_gated(float x) {
  const float e = vec_exp(-0.5f * x * x);
  const float t = 1.0f / (1.0f + 0.44f * vec_abs(x));
  float p = -3.297612185e-2f;
  p = p * t + 2.000599042e-1f;
  p = p * t - 4.616696278e-1f;
  p = p * t + 4.128870012e-1f;
  p = p * t + 3.364992139e-3f;
  p = p * t + 2.055325249e-1f;
  p = p * t + 1.728013326e-1f;
  return gated(x, e * (p * t), kInverseSqrtTwoPi * e);
}

template <Activation kActivation>
LIGER_ALWAYS_INLINE Activated activated(float x) {
  if constexpr (kActivation == Activation::gelu) {
    return normal_gated(x);
  } else if constexpr (kActivation == Activation::gelu_tanh) {
    const float cubic = kGeluCubic * x * x;
    return sigmoid_gated(x, kTwoSqrtTwoOverPi * x * (1.0f + cubic), kTwoSqrtTwoOverPi * (1.0f + 3.0f * cubic));
  } else {
    return sigmoid_gated(x, x, 1.0f);
  }
}

// Every element goes through these loops of one length, so that its bits do not depend on where it is or on how work is
// split: the compiler may fuse a loop's main part and its remainder differently.
constexpr std::int64_t kBlock = 128;

template <Activation kActivation, typename T>
__attribute__((noinline)) void forward_block(const T* __restrict gate, const T* __restrict up, T* __restrict out) {
  const ReadBlock<T, kBlock> gates(gate, kBlock), ups(up, kBlock);
  WriteBlock<T, kBlock> outs(out, kBlock);
#pragma omp simd
  for (std::int64_t j = 0; j < kBlock; ++j) outs.set_result(j, activated<kActivation>(gates[j]).value * ups[j]);
  outs.finish();
}

template <Activation kActivation, typename T>
__attribute__((noinline)) void backward_block(const T* __restrict grad_out, const T* __restrict gate,
                                              const T* __restrict up, T* __restrict grad_gate, T* __restrict grad_up) {
  const ReadBlock<T, kBlock> grads(grad_out, kBlock), gates(gate, kBlock), ups(up, kBlock);
  WriteBlock<T, kBlock> gate_grads(grad_gate, kBlock), up_grads(grad_up, kBlock);
#pragma omp simd
  for (std::int64_t j = 0; j < kBlock; ++j) {
    const Activated act = activated<kActivation>(gates[j]);
    gate_grads.set_result(j, grads[j] * ups[j] * act.slope);
    up_grads.set_result(j, grads[j] * act.value);
  }
  gate_grads.finish();
  up_grads.finish();
}

// The start of a block, the rest of which is zero.
template <typename T>
struct PartialBlock {
  T values[kBlock] = {};

  PartialBlock() = default;
  PartialBlock(const T* from, std::int64_t count) { std::memcpy(values, from, count * sizeof(T)); }
  void write(T* to, std::int64_t count) const { std::memcpy(to, values, count * sizeof(T)); }
};

template <Activation kActivation, typename T>
void forward_span(const T* gate, const T* up, T* out, std::int64_t count) {
  std::int64_t j = 0;
  for (; j + kBlock <= count; j += kBlock) forward_block<kActivation>(gate + j, up + j, out + j);
  if (j == count) return;
  const PartialBlock<T> last_gate(gate + j, count - j), last_up(up + j, count - j);
  PartialBlock<T> last_out;
  forward_block<kActivation>(last_gate.values, last_up.values, last_out.values);
  last_out.write(out + j, count - j);
}

// At most a block, through copies: a result may lie over its operand.
template <Activation kActivation, typename T>
void backward_part(const T* grad_out, const T* gate, const T* up, T* grad_gate, T* grad_up, T* out,
                   std::int64_t count) {
  const PartialBlock<T> grads(grad_out, count), gates(gate, count), ups(up, count);
  PartialBlock<T> gate_result, up_result, out_result;
  backward_block<kActivation>(grads.values, gates.values, ups.values, gate_result.values, up_result.values);
  gate_result.write(grad_gate, count);
  up_result.write(grad_up, count);
  if (out == nullptr) return;
  forward_block<kActivation>(gates.values, ups.values, out_result.values);
  out_result.write(out, count);
}

template <Activation kActivation, typename T>
void backward_span(const T* grad_out, const T* gate, const T* up, T* grad_gate, T* grad_up, T* out,
                   std::int64_t count) {
  const bool over_inputs = grad_gate == gate || grad_up == up;
  std::int64_t j = 0;
  for (; j + kBlock <= count && !over_inputs; j += kBlock) {
    backward_block<kActivation>(grad_out + j, gate + j, up + j, grad_gate + j, grad_up + j);
    if (out != nullptr) forward_block<kActivation>(gate + j, up + j, out + j);
  }
  for (; j < count; j += kBlock) {
    backward_part<kActivation>(grad_out + j, gate + j, up + j, grad_gate + j, grad_up + j,
                               out == nullptr ? out : out + j, std::min(kBlock, count - j));
  }
}

// span(row, column, count) for the pieces of rows that elements [begin, end) of all rows lie in.
template <typename Span>
void for_spans(std::int64_t width, std::int64_t begin, std::int64_t end, Span&& span) {
  std::int64_t row = begin / width, column = begin % width;
  while (begin < end) {
    const std::int64_t count = width - column < end - begin ? width - column : end - begin;
    span(row, column, count);
    begin += count;
    column = 0;
    ++row;
  }
}

}  // namespace LIGER_ISA_NAMESPACE

namespace cpu {

using namespace LIGER_ISA_NAMESPACE;

template <>
Status glu_forward<LIGER_ISA_LEVEL>(const GluArgs& args, const LaunchContext& context) {
  dispatch_dtype(args.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    dispatch_activation(args.activation, [&](auto activation) {
      const auto span = [&](std::int64_t row, std::int64_t column, std::int64_t count) {
        forward_span<activation.value>(static_cast<const T*>(args.gate) + row * args.gate_stride + column,
                                       static_cast<const T*>(args.up) + row * args.up_stride + column,
                                       static_cast<T*>(args.out) + row * args.out_stride + column, count);
      };
      for_ranges(context, args.rows * args.width, kGrainElements,
                 [&](std::int64_t begin, std::int64_t end) { for_spans(args.width, begin, end, span); });
    });
  });
  return {};
}

template <>
Status glu_backward<LIGER_ISA_LEVEL>(const GluBackwardArgs& args, const LaunchContext& context) {
  dispatch_dtype(args.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    dispatch_activation(args.activation, [&](auto activation) {
      const auto span = [&](std::int64_t row, std::int64_t column, std::int64_t count) {
        auto* out = static_cast<T*>(args.out);
        backward_span<activation.value>(static_cast<const T*>(args.grad_out) + row * args.grad_out_stride + column,
                                        static_cast<const T*>(args.gate) + row * args.gate_stride + column,
                                        static_cast<const T*>(args.up) + row * args.up_stride + column,
                                        static_cast<T*>(args.grad_gate) + row * args.grad_gate_stride + column,
                                        static_cast<T*>(args.grad_up) + row * args.grad_up_stride + column,
                                        out == nullptr ? out : out + row * args.out_stride + column, count);
      };
      for_ranges(context, args.rows * args.width, kGrainElements,
                 [&](std::int64_t begin, std::int64_t end) { for_spans(args.width, begin, end, span); });
    });
  });
  return {};
}

}  // namespace cpu
}  // namespace liger::kernels
