// Gated linear unit: out = act(gate) * up, in float32 inside, one rounding at the end.
// Every activation is x times a distribution function, act(x) = x * cdf(x), so act'(x) = cdf(x) + x * cdf'(x):
//   silu       cdf(x) = 1 / (1 + exp(-x))
//   gelu       cdf(x) = (1 + erf(x / sqrt(2))) / 2
//   gelu_tanh  cdf(x) = (1 + tanh(z)) / 2 = 1 / (1 + exp(-2 z)),  z = sqrt(2 / pi) * (x + 0.044715 x^3)
#pragma once

#include <cstdint>
#include <initializer_list>
#include <type_traits>

#include "kernels/common/dtype.h"
#include "kernels/common/launch.h"

namespace liger::kernels {

enum class Activation : std::uint8_t { silu, gelu, gelu_tanh };

// All tensors have one dtype and rows with unit stride; the strides are from row to row, in elements, so that the
// halves of a packed [rows, 2 * width] tensor can be any of them.
struct GluArgs {
  const void* gate;  // [rows, width]
  const void* up;    // [rows, width]
  void* out;         // [rows, width]
  std::int64_t rows;
  std::int64_t width;
  std::int64_t gate_stride;
  std::int64_t up_stride;
  std::int64_t out_stride;
  Activation activation;
  ScalarType dtype;
};

// grad_gate = grad_out * up * act'(gate);  grad_up = grad_out * act(gate)
// and `out` of the forward pass again: in half types bit for bit. Results may lie where operands do, each over its own:
// out over grad_out, grad_gate over gate and grad_up over up, with its strides.
struct GluBackwardArgs {
  const void* grad_out;  // [rows, width]
  const void* gate;      // [rows, width]
  const void* up;        // [rows, width]
  void* grad_gate;       // [rows, width]
  void* grad_up;         // [rows, width]
  void* out;             // [rows, width], or null where it is not wanted
  std::int64_t rows;
  std::int64_t width;
  std::int64_t grad_out_stride;
  std::int64_t gate_stride;
  std::int64_t up_stride;
  std::int64_t grad_gate_stride;
  std::int64_t grad_up_stride;
  std::int64_t out_stride;
  Activation activation;
  ScalarType dtype;
};

Status glu_forward(const GluArgs& args, const LaunchContext& context);
Status glu_backward(const GluBackwardArgs& args, const LaunchContext& context);

inline constexpr float kSqrtHalf = 0.707106781f;
inline constexpr float kInverseSqrtTwoPi = 0.398942280f;
inline constexpr float kTwoSqrtTwoOverPi = 1.59576912f;
inline constexpr float kGeluCubic = 0.044715f;

// Calls visitor(std::integral_constant<Activation, ...>{}).
template <typename Visitor>
decltype(auto) dispatch_activation(Activation activation, Visitor&& visitor) {
  switch (activation) {
    case Activation::gelu:
      return visitor(std::integral_constant<Activation, Activation::gelu>{});
    case Activation::gelu_tanh:
      return visitor(std::integral_constant<Activation, Activation::gelu_tanh>{});
    case Activation::silu:
      break;
  }
  return visitor(std::integral_constant<Activation, Activation::silu>{});
}

// Rows that follow each other without a gap in every tensor are one long row.
template <typename Args>
Args with_merged_rows(Args args, std::initializer_list<std::int64_t> strides) {
  for (const std::int64_t stride : strides) {
    if (stride != args.width) return args;
  }
  args.width *= args.rows;
  args.rows = 1;
  return args;
}

inline GluArgs with_merged_rows(const GluArgs& args) {
  return with_merged_rows(args, {args.gate_stride, args.up_stride, args.out_stride});
}

inline GluBackwardArgs with_merged_rows(const GluBackwardArgs& args) {
  return with_merged_rows(args, {args.grad_out_stride, args.gate_stride, args.up_stride, args.grad_gate_stride,
                                 args.grad_up_stride, args.out_stride});
}

// The CPU kernels for one instruction set, see common/cpu_isa.h.
namespace cpu {
template <int kIsaLevel>
Status glu_forward(const GluArgs& args, const LaunchContext& context);
template <int kIsaLevel>
Status glu_backward(const GluBackwardArgs& args, const LaunchContext& context);
}  // namespace cpu

}  // namespace liger::kernels
