// mm and addmm: a product of two matrices, and one added to a matrix, as ATen's ops of these names compute them, by the
// kernel of cuBLAS's that suits them best.
#include "ops/check.h"
#include "ops/device.h"
#include "ops/matmul.h"

namespace liger::ops {

namespace {

Tensor mm(const Tensor& a, const Tensor& b) {
  check_operands("mm", a, "b", b);
  const DeviceScope scope(a);
  const NoGrad no_grad;
  Tensor out = new_empty(a, Shape{a.size(0), b.size(1)});
  matmul_out(a, b, out);
  return out;
}

// The addend is left as it is: a graph in which nothing is written over needs no copies, whoever compiles it.
Tensor addmm(const Tensor& addend, const Tensor& a, const Tensor& b) {
  constexpr const char* kOp = "addmm";
  const Argument argument{kOp, "addend"};
  check_operands(kOp, a, "b", b);
  require_shape(argument, addend, {a.size(0), b.size(1)});
  require_dtype(argument, addend, a.scalar_type());
  require_same_device(argument, addend, {kOp, "a"}, a);
  const DeviceScope scope(a);
  const NoGrad no_grad;
  Tensor out = new_empty(a, shape_of(addend));
  addmm_out(as_contiguous(addend), a, b, out);
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(liger, LIGER_DISPATCH_KEY, m) {
  m.impl("mm", TORCH_BOX(&mm));
  m.impl("addmm", TORCH_BOX(&addmm));
}

}  // namespace liger::ops
