// Matrix products for ops that are made of them: ATen's, through overloads that autocast leaves alone and that write
// where they are told, and one that ATen's stable interface cannot express, which accumulates in float32. Calls of
// addmm go through the shims of AOTInductor: the dispatcher's takes no Scalar (torch 2.11).
#pragma once

#include <array>

#include "ops/check.h"
#include "ops/stable.h"

#if defined(LIGER_DEVICE_CUDA)
#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cuda.h>

#include "ops/blas_product.h"
#else
#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>
#endif

namespace liger::ops {

// Autograd would refuse to write into given tensors.
class NoGrad {
 public:
  NoGrad() : was_enabled_(aoti_torch_grad_mode_is_enabled()) { aoti_torch_grad_mode_set_enabled(false); }
  ~NoGrad() { aoti_torch_grad_mode_set_enabled(was_enabled_); }
  NoGrad(const NoGrad&) = delete;
  NoGrad& operator=(const NoGrad&) = delete;

 private:
  bool was_enabled_;
};

// b, of an op's argument of that name, can be multiplied by a.
inline void check_operands(const char* op, const Tensor& a, const char* name, const Tensor& b) {
  const Argument left{op, "a"}, right{op, name};
  kernel_dtype(left, a);
  require(a.dim() == 2, left, " must be a matrix, got shape ", ShapeOf{a});
  require(b.dim() == 2 && b.size(0) == a.size(1), right, " must have shape [", a.size(1), ", n], got ", ShapeOf{b});
  require_dtype(right, b, a.scalar_type());
  require_same_device(right, b, left, a);
}

inline Tensor transposed(const Tensor& matrix) { return torch::stable::transpose(matrix, 0, 1); }

inline Tensor as_dtype(const Tensor& tensor, TorchDtype dtype) {
  return tensor.scalar_type() == dtype ? tensor : torch::stable::to(tensor, dtype);
}

// out = add + a @ b, with add of out's shape or broadcast to it
inline void aten_addmm_out(const Tensor& add, const Tensor& a, const Tensor& b, Tensor& out) {
#if defined(LIGER_DEVICE_CUDA)
  TORCH_ERROR_CODE_CHECK(aoti_torch_cuda_addmm_out(out.get(), add.get(), a.get(), b.get(), 1.0, 1.0));
#else
  TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_addmm_out(out.get(), add.get(), a.get(), b.get(), 1.0, 1.0));
#endif
}

// out = a @ b (+ bias)
inline void aten_mm_out(const Tensor& a, const Tensor& b, Tensor& out, const std::optional<Tensor>& bias) {
  if (bias) return aten_addmm_out(*bias, a, b, out);
  std::array<StableIValue, 3> stack{torch::stable::detail::from(a), torch::stable::detail::from(b),
                                    torch::stable::detail::from(out)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::mm", "out", stack.data(), TORCH_ABI_VERSION));
  (void)torch::stable::detail::to<Tensor>(stack[0]);  // a second handle of out
}

#if defined(LIGER_DEVICE_CUDA)

// What matmul_out would convert to at every call.
inline Tensor as_product_operand(const Tensor& matrix) { return matrix; }

// out = a @ b (+ bias), with neighbouring elements in a row of out.
inline void matmul_out(const Tensor& a, const Tensor& b, Tensor& out, const std::optional<Tensor>& bias = {}) {
  if (bias || !BlasProduct(a, b, out).run()) aten_mm_out(a, b, out, bias);
}

// out = addend + a @ b, rounded once, with out and addend contiguous, [m, n], and not one.
inline void addmm_out(const Tensor& addend, const Tensor& a, const Tensor& b, Tensor& out) {
  if (!BlasProduct(a, b, out, &addend).run()) aten_addmm_out(addend, a, b, out);
}

// total (+)= a @ b with total float32 [m, n] contiguous, a [m, k] and b [k, n].
inline void add_matmul(Tensor& total, const Tensor& a, const Tensor& b, bool accumulate) {
  const BlasProduct product(a, b, total, accumulate ? &total : nullptr);
  if (!product.run()) product.run_default();
}

#else

// What matmul_out would convert to at every call.
inline Tensor as_product_operand(const Tensor& matrix) {
  return matrix.scalar_type() == TorchDtype::Half ? as_dtype(matrix, TorchDtype::Float) : matrix;
}

// out = a @ b (+ bias). float16 goes through float32: few CPUs multiply it, and ATen's fallback is far slower.
inline void matmul_out(const Tensor& a, const Tensor& b, Tensor& out, const std::optional<Tensor>& bias = {}) {
  if (out.scalar_type() != TorchDtype::Half) return aten_mm_out(a, b, out, bias);
  constexpr auto kWide = TorchDtype::Float;
  Tensor product = new_empty(out, shape_of(out), kWide);
  const auto wide_bias = bias ? std::optional<Tensor>(as_dtype(*bias, kWide)) : std::nullopt;
  aten_mm_out(as_dtype(a, kWide), as_dtype(b, kWide), product, wide_bias);
  torch::stable::copy_(out, product);
}

// out = addend + a @ b, rounded once.
inline void addmm_out(const Tensor& addend, const Tensor& a, const Tensor& b, Tensor& out) {
  matmul_out(a, b, out, addend);
}

// total (+)= a @ b with total float32 [m, n], a [m, k] and b [k, n].
inline void add_matmul(Tensor& total, const Tensor& a, const Tensor& b, bool accumulate) {
  const Tensor left = as_dtype(a, TorchDtype::Float), right = as_dtype(b, TorchDtype::Float);
  accumulate ? aten_addmm_out(total, left, right, total) : aten_mm_out(left, right, total, std::nullopt);
}

#endif

}  // namespace liger::ops
