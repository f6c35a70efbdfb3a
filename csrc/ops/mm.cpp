// mm: a product of two matrices, as aten::mm computes it, by the kernel of cuBLAS's that suits it best.
#include "ops/check.h"
#include "ops/device.h"
#include "ops/matmul.h"

namespace liger::ops {

namespace {

constexpr const char* kOp = "mm";

Tensor mm(const Tensor& a, const Tensor& b) {
  const Argument left{kOp, "a"}, right{kOp, "b"};
  kernel_dtype(left, a);
  require(a.dim() == 2, left, " must be a matrix, got shape ", ShapeOf{a});
  require(b.dim() == 2 && b.size(0) == a.size(1), right, " must have shape [", a.size(1), ", n], got ", ShapeOf{b});
  require_dtype(right, b, a.scalar_type());
  require_same_device(right, b, left, a);
  const DeviceScope scope(a);
  const NoGrad no_grad;
  Tensor out = new_empty(a, Shape{a.size(0), b.size(1)});
  matmul_out(a, b, out);
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(liger, LIGER_DISPATCH_KEY, m) { m.impl("mm", TORCH_BOX(&mm)); }

}  // namespace liger::ops
