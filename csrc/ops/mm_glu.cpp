// mm_glu: a gated linear unit with the products before it; mm_glu_backward: its gradients with the product before
// those. On Hopper in one kernel, elsewhere one after the other.
#include <tuple>

#include "kernels/glu/glu_product.h"
#include "ops/glu.h"
#include "ops/matmul.h"

namespace liger::ops {

namespace {

struct GluResults {
  Tensor gate, up, out;  // [m, n]
};

#if defined(LIGER_DEVICE_CUDA)

kernels::ProductMatrix product_matrix(const Tensor& matrix) { return {matrix.const_data_ptr(), matrix.stride(0)}; }

// Whether neighbouring elements lie in a row, and rows do not overlap.
bool has_rows(const Tensor& matrix) { return matrix.stride(1) == 1 && matrix.stride(0) >= matrix.size(1); }

// False where the kernel is not for this product, and nothing was done.
bool multiply_at_once(const char* op, const Tensor& a, const Tensor& gate_b, const Tensor& up_b, const Text& activation,
                      const GluResults& results) {
  const Tensor gate_weight = transposed(gate_b), up_weight = transposed(up_b);
  if (a.scalar_type() != TorchDtype::BFloat16 || !has_rows(a) || !has_rows(gate_weight) || !has_rows(up_weight))
    return false;
  kernels::GluProductArgs args;
  args.rows = a.size(0);
  args.hidden_size = a.size(1);
  args.width = gate_b.size(1);
  args.hidden = product_matrix(a);
  args.gate_weight = product_matrix(gate_weight);
  args.up_weight = product_matrix(up_weight);
  args.gate = product_matrix(results.gate);
  args.up = product_matrix(results.up);
  args.out = product_matrix(results.out);
  args.activation = parse_activation(op, activation.value);
  const DeviceScope scope(a);
  if (!kernels::supports_glu_product(args)) return false;
  require_ok(op, kernels::glu_product(args, scope.context()));
  return true;
}

// The results may be gate and up.
bool multiply_at_once(const char* op, const Tensor& a, const Tensor& b, const Tensor& gate, const Tensor& up,
                      const Text& activation, const GluResults& results) {
  if (a.scalar_type() != TorchDtype::BFloat16) return false;
  for (const Tensor& matrix : {a, b, gate, up, results.gate, results.up})
    if (!has_rows(matrix)) return false;
  kernels::GluProductBackwardArgs args;
  args.rows = a.size(0);
  args.hidden_size = a.size(1);
  args.width = b.size(1);
  args.grad = product_matrix(a);
  args.down_weight = product_matrix(b);
  args.gate = product_matrix(gate);
  args.up = product_matrix(up);
  args.grad_gate = product_matrix(results.gate);
  args.grad_up = product_matrix(results.up);
  args.out = product_matrix(results.out);
  args.activation = parse_activation(op, activation.value);
  const DeviceScope scope(a);
  if (!kernels::supports_glu_product(args)) return false;
  require_ok(op, kernels::glu_product_backward(args, scope.context()));
  return true;
}

#else

bool multiply_at_once(const char*, const Tensor&, const Tensor&, const Tensor&, const Text&, const GluResults&) {
  return false;
}
bool multiply_at_once(const char*, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Text&,
                      const GluResults&) {
  return false;
}

#endif

using ThreeTensors = std::tuple<Tensor, Tensor, Tensor>;

void run_forward(const char* op, const Tensor& a, const Tensor& gate_b, const Tensor& up_b, const Text& activation,
                 GluResults& results) {
  check_operands(op, a, "gate_b", gate_b);
  check_operands(op, a, "up_b", up_b);
  require_shape({op, "up_b"}, up_b, shape_of(gate_b));
  const DeviceScope scope(a);
  const NoGrad no_grad;
  if (multiply_at_once(op, a, gate_b, up_b, activation, results)) return;
  matmul_out(a, gate_b, results.gate);
  matmul_out(a, up_b, results.up);
  fill_glu(op, results.gate, results.up, activation, results.out);
}

ThreeTensors mm_glu(const Tensor& a, const Tensor& gate_b, const Tensor& up_b, const Text& activation) {
  constexpr const char* kOp = "mm_glu";
  check_operands(kOp, a, "gate_b", gate_b);
  const Shape shape{a.size(0), gate_b.size(1)};
  GluResults results{new_empty(a, shape), new_empty(a, shape), new_empty(a, shape)};
  run_forward(kOp, a, gate_b, up_b, activation, results);
  return {results.gate, results.up, results.out};
}

void run_backward(const char* op, const Tensor& a, const Tensor& b, const Tensor& gate, const Tensor& up,
                  const Text& activation, GluResults& results) {
  check_operands(op, a, "b", b);
  check_pair(op, gate, up);
  require_shape({op, "gate"}, gate, {a.size(0), b.size(1)});
  require_dtype({op, "gate"}, gate, a.scalar_type());
  require_same_device({op, "gate"}, gate, {op, "a"}, a);
  const DeviceScope scope(a);
  const NoGrad no_grad;
  if (multiply_at_once(op, a, b, gate, up, activation, results)) return;
  matmul_out(a, b, results.out);
  fill_gradients(op, results.out, gate, up, activation, results.gate, results.up, results.out);
}

ThreeTensors mm_glu_backward(const Tensor& a, const Tensor& b, const Tensor& gate, const Tensor& up,
                             const Text& activation) {
  GluResults results{new_empty(gate, shape_of(gate)), new_empty(up, shape_of(up)), new_empty(gate, shape_of(gate))};
  run_backward("mm_glu_backward", a, b, gate, up, activation, results);
  return {results.gate, results.up, results.out};
}

Tensor mm_glu_backward_(const Tensor& a, const Tensor& b, const Tensor& gate, const Tensor& up,
                        const Text& activation) {
  constexpr const char* kOp = "mm_glu_backward_";
  require_own_rows(kOp, "gate", gate);
  require_own_rows(kOp, "up", up);
  GluResults results{gate, up, new_empty(gate, shape_of(gate))};
  run_backward(kOp, a, b, gate, up, activation, results);
  return results.out;
}

// Gate and up of a matrix that has both side by side.
struct Halves {
  Tensor gate, up;
};

Halves halves_of(const char* op, const char* name, const Tensor& packed, bool gate_first) {
  require(packed.dim() == 2 && packed.size(1) % 2 == 0, Argument{op, name},
          " must be a matrix with an even number of columns, got shape ", ShapeOf{packed});
  Tensor handle = packed;
  const std::int64_t width = packed.size(1) / 2;
  const Tensor first = torch::stable::narrow(handle, 1, 0, width),
               second = torch::stable::narrow(handle, 1, width, width);
  return gate_first ? Halves{first, second} : Halves{second, first};
}

using TwoTensors = std::tuple<Tensor, Tensor>;

TwoTensors mm_glu_packed(const Tensor& a, const Tensor& b, const Text& activation, bool gate_first) {
  constexpr const char* kOp = "mm_glu_packed";
  check_operands(kOp, a, "b", b);
  const Halves operands = halves_of(kOp, "b", b, gate_first);
  const Tensor gate_up = new_empty(a, Shape{a.size(0), b.size(1)});
  const Halves products = halves_of(kOp, "gate_up", gate_up, gate_first);
  GluResults results{products.gate, products.up, new_empty(a, Shape{a.size(0), b.size(1) / 2})};
  run_forward(kOp, a, operands.gate, operands.up, activation, results);
  return {gate_up, results.out};
}

// Fills grad_gate_up, which may be gate_up; returns the output.
Tensor run_packed_backward(const char* op, const Tensor& a, const Tensor& b, const Tensor& gate_up,
                           const Tensor& grad_gate_up, const Text& activation, bool gate_first) {
  const Halves inputs = halves_of(op, "gate_up", gate_up, gate_first);
  const Halves gradients = halves_of(op, "gate_up", grad_gate_up, gate_first);
  GluResults results{gradients.gate, gradients.up, new_empty(inputs.gate, shape_of(inputs.gate))};
  run_backward(op, a, b, inputs.gate, inputs.up, activation, results);
  return results.out;
}

TwoTensors mm_glu_packed_backward(const Tensor& a, const Tensor& b, const Tensor& gate_up, const Text& activation,
                                  bool gate_first) {
  const Tensor grad_gate_up = new_empty(gate_up, shape_of(gate_up));
  const Tensor out = run_packed_backward("mm_glu_packed_backward", a, b, gate_up, grad_gate_up, activation, gate_first);
  return {grad_gate_up, out};
}

Tensor mm_glu_packed_backward_(const Tensor& a, const Tensor& b, const Tensor& gate_up, const Text& activation,
                               bool gate_first) {
  constexpr const char* kOp = "mm_glu_packed_backward_";
  require_own_rows(kOp, "gate_up", gate_up);
  return run_packed_backward(kOp, a, b, gate_up, gate_up, activation, gate_first);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(liger, LIGER_DISPATCH_KEY, m) {
  m.impl("mm_glu", TORCH_BOX(&mm_glu));
  m.impl("mm_glu_backward", TORCH_BOX(&mm_glu_backward));
  m.impl("mm_glu_backward_", TORCH_BOX(&mm_glu_backward_));
  m.impl("mm_glu_packed", TORCH_BOX(&mm_glu_packed));
  m.impl("mm_glu_packed_backward", TORCH_BOX(&mm_glu_packed_backward));
  m.impl("mm_glu_packed_backward_", TORCH_BOX(&mm_glu_packed_backward_));
}

}  // namespace liger::ops
