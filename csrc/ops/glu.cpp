// glu and glu_packed: gated linear units and their gradients.
#include "ops/glu.h"

#include <tuple>
#include <type_traits>

namespace liger::ops {

namespace {

// The shape of what a packed tensor's halves make: [..., width] of [..., 2 * width].
Shape checked_half_shape(const char* op, const Tensor& gate_up) {
  const Argument argument{op, "gate_up"};
  require_min_rank(argument, gate_up, 1);
  kernel_dtype(argument, gate_up);
  Shape shape = shape_of(gate_up);
  require(shape.back() % 2 == 0, argument, " must have an even last dimension, got shape ", shape);
  shape.back() /= 2;
  return shape;
}

// Half 0 or 1 of rows of packed data.
template <typename Data>
Data* half_of(Data* data, std::int64_t half, std::int64_t width, kernels::ScalarType dtype) {
  using Byte = std::conditional_t<std::is_const_v<Data>, const char, char>;
  return static_cast<Byte*>(data) + half * width * kernels::size_of(dtype);
}

Tensor glu(const Tensor& gate, const Tensor& up, const Text& activation) {
  constexpr const char* kOp = "glu";
  check_pair(kOp, gate, up);
  const Tensor out = new_empty(gate, shape_of(gate));
  fill_glu(kOp, gate, up, activation, out);
  return out;
}

// What a backward op returns for the output of the forward pass: that, or an empty tensor where it is not wanted.
Tensor new_out(const Tensor& like, const Shape& shape, bool needs_out) {
  return new_empty(like, needs_out ? shape : Shape{0});
}

std::tuple<Tensor, Tensor, Tensor> glu_backward(const Tensor& grad_out, const Tensor& gate, const Tensor& up,
                                                const Text& activation, bool needs_out) {
  constexpr const char* kOp = "glu_backward";
  check_backward(kOp, grad_out, gate, up);
  const Tensor out = new_out(gate, shape_of(gate), needs_out);
  const Tensor grad_gate = new_empty(gate, shape_of(gate)), grad_up = new_empty(up, shape_of(up));
  fill_gradients(kOp, grad_out, gate, up, activation, grad_gate, grad_up, out);
  return {grad_gate, grad_up, out};
}

std::tuple<Tensor, Tensor> glu_backward_(const Tensor& grad_out, const Tensor& gate, const Tensor& up,
                                         const Text& activation) {
  constexpr const char* kOp = "glu_backward_";
  check_backward(kOp, grad_out, gate, up);
  require_own_rows(kOp, "grad_out", grad_out);
  const Tensor grad_gate = new_empty(gate, shape_of(gate)), grad_up = new_empty(up, shape_of(up));
  fill_gradients(kOp, grad_out, gate, up, activation, grad_gate, grad_up, grad_out);
  return {grad_gate, grad_up};
}

void glu_backward_all_(const Tensor& grad_out, const Tensor& gate, const Tensor& up, const Text& activation) {
  constexpr const char* kOp = "glu_backward_all_";
  check_backward(kOp, grad_out, gate, up);
  require_own_rows(kOp, "grad_out", grad_out);
  require_own_rows(kOp, "gate", gate);
  require_own_rows(kOp, "up", up);
  fill_gradients(kOp, grad_out, gate, up, activation, gate, up, grad_out);
}

Tensor glu_packed(const Tensor& gate_up, const Text& activation, bool gate_first) {
  constexpr const char* kOp = "glu_packed";
  const Shape shape = checked_half_shape(kOp, gate_up);
  kernels::GluArgs args;
  args.activation = parse_activation(kOp, activation.value);
  args.dtype = kernel_dtype({kOp, "gate_up"}, gate_up);
  const DeviceScope scope(gate_up);
  const RowView packed = row_view(gate_up);
  Tensor out = new_empty(gate_up, shape);
  args.rows = packed.rows;
  args.width = shape.back();
  args.gate = half_of(packed.data(), gate_first ? 0 : 1, args.width, args.dtype);
  args.up = half_of(packed.data(), gate_first ? 1 : 0, args.width, args.dtype);
  args.out = out.mutable_data_ptr();
  args.gate_stride = args.up_stride = packed.stride;
  args.out_stride = args.width;
  require_ok(kOp, kernels::glu_forward(args, scope.context()));
  return out;
}

// As fill_gradients; grad_gate_up may be gate_up.
void fill_packed_gradient(const char* op, const Tensor& grad_out, const Tensor& gate_up, const Text& activation,
                          bool gate_first, const Tensor& grad_gate_up, const Tensor& out) {
  kernels::GluBackwardArgs args;
  args.activation = parse_activation(op, activation.value);
  args.dtype = kernel_dtype({op, "gate_up"}, gate_up);
  const DeviceScope scope(gate_up);
  const RowView grads = row_view(grad_out), packed = row_view(gate_up), packed_grads = row_view(grad_gate_up);
  args.rows = packed.rows;
  args.width = packed.width / 2;
  args.grad_out = grads.data();
  args.gate = half_of(packed.data(), gate_first ? 0 : 1, args.width, args.dtype);
  args.up = half_of(packed.data(), gate_first ? 1 : 0, args.width, args.dtype);
  args.grad_gate = half_of(grad_gate_up.mutable_data_ptr(), gate_first ? 0 : 1, args.width, args.dtype);
  args.grad_up = half_of(grad_gate_up.mutable_data_ptr(), gate_first ? 1 : 0, args.width, args.dtype);
  args.out = out.numel() > 0 ? out.mutable_data_ptr() : nullptr;
  args.grad_out_stride = grads.stride;
  args.gate_stride = args.up_stride = packed.stride;
  args.grad_gate_stride = args.grad_up_stride = packed_grads.stride;
  args.out_stride = row_view(out).stride;
  require_ok(op, kernels::glu_backward(args, scope.context()));
}

Shape checked_packed_backward(const char* op, const Tensor& grad_out, const Tensor& gate_up) {
  const Shape shape = checked_half_shape(op, gate_up);
  require_like(op, "grad_out", grad_out, "gate_up", gate_up, shape);
  return shape;
}

std::tuple<Tensor, Tensor> glu_packed_backward(const Tensor& grad_out, const Tensor& gate_up, const Text& activation,
                                               bool gate_first, bool needs_out) {
  constexpr const char* kOp = "glu_packed_backward";
  const Tensor out = new_out(gate_up, checked_packed_backward(kOp, grad_out, gate_up), needs_out);
  const Tensor grad_gate_up = new_empty(gate_up, shape_of(gate_up));
  fill_packed_gradient(kOp, grad_out, gate_up, activation, gate_first, grad_gate_up, out);
  return {grad_gate_up, out};
}

Tensor glu_packed_backward_(const Tensor& grad_out, const Tensor& gate_up, const Text& activation, bool gate_first) {
  constexpr const char* kOp = "glu_packed_backward_";
  checked_packed_backward(kOp, grad_out, gate_up);
  require_own_rows(kOp, "grad_out", grad_out);
  const Tensor grad_gate_up = new_empty(gate_up, shape_of(gate_up));
  fill_packed_gradient(kOp, grad_out, gate_up, activation, gate_first, grad_gate_up, grad_out);
  return grad_gate_up;
}

void glu_packed_backward_all_(const Tensor& grad_out, const Tensor& gate_up, const Text& activation, bool gate_first) {
  constexpr const char* kOp = "glu_packed_backward_all_";
  checked_packed_backward(kOp, grad_out, gate_up);
  require_own_rows(kOp, "grad_out", grad_out);
  require_own_rows(kOp, "gate_up", gate_up);
  fill_packed_gradient(kOp, grad_out, gate_up, activation, gate_first, gate_up, grad_out);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(liger, LIGER_DISPATCH_KEY, m) {
  m.impl("glu", TORCH_BOX(&glu));
  m.impl("glu_forward", TORCH_BOX(&glu));
  m.impl("glu_backward", TORCH_BOX(&glu_backward));
  m.impl("glu_backward_", TORCH_BOX(&glu_backward_));
  m.impl("glu_backward_all_", TORCH_BOX(&glu_backward_all_));
  m.impl("glu_packed", TORCH_BOX(&glu_packed));
  m.impl("glu_packed_forward", TORCH_BOX(&glu_packed));
  m.impl("glu_packed_backward", TORCH_BOX(&glu_packed_backward));
  m.impl("glu_packed_backward_", TORCH_BOX(&glu_packed_backward_));
  m.impl("glu_packed_backward_all_", TORCH_BOX(&glu_packed_backward_all_));
}

}  // namespace liger::ops
