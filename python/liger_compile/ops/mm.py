"""`liger::mm`: `a @ b` of matrices [m, k] and [k, n], as `aten::mm` computes it: float32 sums, rounded once.
`liger::addmm`: `addend + a @ b`, with the addend of [m, n], likewise, as a new tensor.

For half types on a GPU they may run other kernels of cuBLAS's than ATen's ops do, see csrc/ops/blas_product.h, and the
addend need not be copied first. They stand in compiled graphs, and have no gradients. RuntimeError for tensors that do
not go together.
"""

from __future__ import annotations

from torch import Tensor

from liger_compile.ops.registration import register_fake


def _fake(a: Tensor, b: Tensor) -> Tensor:
    return a.new_empty(a.shape[0], b.shape[1])


def _fake_addmm(addend: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return a.new_empty(addend.shape)


def register() -> None:
    register_fake("mm", _fake)
    register_fake("addmm", _fake_addmm)
