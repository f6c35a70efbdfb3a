// What the ops of gated linear units share: checks of their arguments, and the calls of the kernels.
#pragma once

#include <string>

#include "kernels/glu/glu.h"
#include "ops/check.h"
#include "ops/device.h"

namespace liger::ops {

inline kernels::Activation parse_activation(const char* op, const std::string& text) {
  if (text == "silu") return kernels::Activation::silu;
  if (text == "gelu") return kernels::Activation::gelu;
  require(text == "gelu_tanh", Argument{op, "activation"}, " must be \"silu\", \"gelu\" or \"gelu_tanh\", got \"", text,
          "\"");
  return kernels::Activation::gelu_tanh;
}

inline void require_like(const char* op, const char* name, const Tensor& tensor, const char* like_name,
                         const Tensor& like, const Shape& shape) {
  const Argument argument{op, name};
  require_same_device(argument, tensor, {op, like_name}, like);
  require_dtype(argument, tensor, like.scalar_type());
  require_shape(argument, tensor, shape);
}

inline void check_pair(const char* op, const Tensor& gate, const Tensor& up) {
  require_min_rank({op, "gate"}, gate, 1);
  kernel_dtype({op, "gate"}, gate);
  require_like(op, "up", up, "gate", gate, shape_of(gate));
}

// out: contiguous, of the operands' shape
inline void fill_glu(const char* op, const Tensor& gate, const Tensor& up, const Text& activation, const Tensor& out) {
  kernels::GluArgs args;
  args.activation = parse_activation(op, activation.value);
  args.dtype = kernel_dtype({op, "gate"}, gate);
  const DeviceScope scope(gate);
  const RowView gates = row_view(gate), ups = row_view(up);
  args.gate = gates.data();
  args.up = ups.data();
  args.out = out.mutable_data_ptr();
  args.rows = gates.rows;
  args.width = gates.width;
  args.gate_stride = gates.stride;
  args.up_stride = ups.stride;
  args.out_stride = gates.width;
  require_ok(op, kernels::glu_forward(args, scope.context()));
}

// Else the kernel would write to a copy, or twice to one place.
inline void require_own_rows(const char* op, const char* name, const Tensor& overwritten) {
  const auto stride = row_stride(overwritten);
  require(stride && *stride >= overwritten.size(overwritten.dim() - 1), Argument{op, name},
          " must have contiguous rows at equal distances: it is overwritten");
}

// Fills results that have rows of their own, or for `out` none where it is not wanted. A result may be its operand,
// each of whose elements is read before it is overwritten: `out` for grad_out, grad_gate for gate, grad_up for up.
inline void fill_gradients(const char* op, const Tensor& grad_out, const Tensor& gate, const Tensor& up,
                           const Text& activation, const Tensor& grad_gate, const Tensor& grad_up, const Tensor& out) {
  kernels::GluBackwardArgs args;
  args.activation = parse_activation(op, activation.value);
  args.dtype = kernel_dtype({op, "gate"}, gate);
  const DeviceScope scope(gate);
  const RowView grads = row_view(grad_out), gates = row_view(gate), ups = row_view(up);
  args.grad_out = grads.data();
  args.gate = gates.data();
  args.up = ups.data();
  args.grad_gate = grad_gate.mutable_data_ptr();
  args.grad_up = grad_up.mutable_data_ptr();
  args.out = out.numel() > 0 ? out.mutable_data_ptr() : nullptr;
  args.rows = gates.rows;
  args.width = gates.width;
  args.grad_out_stride = grads.stride;
  args.gate_stride = gates.stride;
  args.up_stride = ups.stride;
  args.grad_gate_stride = row_view(grad_gate).stride;
  args.grad_up_stride = row_view(grad_up).stride;
  args.out_stride = row_view(out).stride;
  require_ok(op, kernels::glu_backward(args, scope.context()));
}

inline void check_backward(const char* op, const Tensor& grad_out, const Tensor& gate, const Tensor& up) {
  check_pair(op, gate, up);
  require_like(op, "grad_out", grad_out, "gate", gate, shape_of(gate));
}

}  // namespace liger::ops
