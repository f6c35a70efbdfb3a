// The oracle: the gated linear unit in plain loops, in the accumulator type that the test chooses, with the activations
// as they are usually written.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/common/dtype.h"
#include "kernels/glu/glu.h"

namespace liger::kernels {

template <typename Acc>
struct ActivationRef {
  Acc value;
  Acc slope;
};

template <typename Acc>
ActivationRef<Acc> silu_ref(Acc x) {
  const Acc sigmoid = Acc(1) / (Acc(1) + std::exp(-x));
  return {x * sigmoid, sigmoid * (Acc(1) + x * (Acc(1) - sigmoid))};
}

template <typename Acc>
ActivationRef<Acc> gelu_ref(Acc x) {
  const Acc pi = std::acos(Acc(-1));
  const Acc cdf = std::erfc(-x / std::sqrt(Acc(2))) / Acc(2);
  return {x * cdf, cdf + x * std::exp(-x * x / Acc(2)) / std::sqrt(Acc(2) * pi)};
}

template <typename Acc>
ActivationRef<Acc> gelu_tanh_ref(Acc x) {
  const Acc scale = std::sqrt(Acc(2) / std::acos(Acc(-1)));
  const Acc cubic = Acc(0.044715);
  const Acc tanh = std::tanh(scale * (x + cubic * x * x * x));
  const Acc inner_slope = scale * (Acc(1) + Acc(3) * cubic * x * x);
  return {x * (Acc(1) + tanh) / Acc(2), (Acc(1) + tanh) / Acc(2) + x * (Acc(1) - tanh * tanh) * inner_slope / Acc(2)};
}

template <typename Acc>
ActivationRef<Acc> activation_ref(Activation activation, Acc x) {
  switch (activation) {
    case Activation::gelu:
      return gelu_ref(x);
    case Activation::gelu_tanh:
      return gelu_tanh_ref(x);
    case Activation::silu:
      break;
  }
  return silu_ref(x);
}

template <typename Acc, typename T>
Acc element_ref(const void* tensor, std::int64_t index) {
  return Acc(to_float(static_cast<const T*>(tensor)[index]));
}

// out: [rows, width]
template <typename Acc, typename T>
void glu_forward_ref(const GluArgs& args, std::vector<Acc>& out) {
  out.assign(args.rows * args.width, Acc(0));
  for (std::int64_t row = 0; row < args.rows; ++row) {
    for (std::int64_t column = 0; column < args.width; ++column) {
      const Acc gate = element_ref<Acc, T>(args.gate, row * args.gate_stride + column);
      const Acc up = element_ref<Acc, T>(args.up, row * args.up_stride + column);
      out[row * args.width + column] = activation_ref(args.activation, gate).value * up;
    }
  }
}

// grad_gate, grad_up: [rows, width]
template <typename Acc, typename T>
void glu_backward_ref(const GluBackwardArgs& args, std::vector<Acc>& grad_gate, std::vector<Acc>& grad_up) {
  grad_gate.assign(args.rows * args.width, Acc(0));
  grad_up.assign(args.rows * args.width, Acc(0));
  for (std::int64_t row = 0; row < args.rows; ++row) {
    for (std::int64_t column = 0; column < args.width; ++column) {
      const Acc dy = element_ref<Acc, T>(args.grad_out, row * args.grad_out_stride + column);
      const Acc gate = element_ref<Acc, T>(args.gate, row * args.gate_stride + column);
      const Acc up = element_ref<Acc, T>(args.up, row * args.up_stride + column);
      const auto at = activation_ref(args.activation, gate);
      grad_gate[row * args.width + column] = dy * up * at.slope;
      grad_up[row * args.width + column] = dy * at.value;
    }
  }
}

}  // namespace liger::kernels
