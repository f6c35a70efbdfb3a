"""`liger::cross_entropy`: cross entropy of given logits, in one pass over them and one pass back.

With z the logits of a row, y its target and V classes, in float32:

    u = softcap * tanh(z * logit_scale / softcap)      (z * logit_scale where softcap is 0)
    lse = log(sum_j exp(u_j))
    row loss = (1 - s) * (lse - u_y) + s * (lse - mean_j u_j)      with s = label_smoothing

Rows whose target is `ignore_index` have loss 0. `reduction` "mean" divides the sum of the row losses by the number of
other rows (nan where there are none, with zero gradients), "sum" does not divide, "none" gives one loss per row.
`z_loss` adds `z_loss * lse**2` for every row, ignored ones too: the mean over all rows, the sum, or each.

logits: [..., V], float32, bfloat16 or float16. target: int64 or int32 with one element per row, of any shape; the loss
has that shape for "none" and no dimension otherwise. `out_dtype` of the loss: float32 by default. A target outside of
[0, V) raises IndexError on the CPU and stops the device with an assertion on a GPU. No second derivatives.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from liger_compile.ops.registration import first_results, num_rows, register_autograd, register_fake


def loss_like(rows: Tensor, target: Tensor, reduction: str, out_dtype: torch.dtype | None) -> Tensor:
    """What the loss over `rows` looks like: of the target's shape for "none", else a single value."""
    return rows.new_empty(target.shape if reduction == "none" else (), dtype=out_dtype or torch.float32)


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, options: dict[str, Any]) -> Tensor:
        loss, lse = torch.ops.liger.cross_entropy_forward(logits, target, **options)
        ctx.save_for_backward(logits, target, lse)
        ctx.options = {name: value for name, value in options.items() if name != "out_dtype"}
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_loss: Tensor) -> tuple[Tensor, None, None]:
        logits, target, lse = ctx.saved_tensors  # type: ignore[attr-defined]
        options = ctx.options  # type: ignore[attr-defined]
        return torch.ops.liger.cross_entropy_backward(grad_loss, logits, target, lse, **options), None, None


def _cross_entropy(logits: Tensor, target: Tensor, **options: Any) -> Tensor:
    return _CrossEntropy.apply(logits, target, options)


def _fake(
    logits: Tensor, target: Tensor, *, reduction: str = "mean", out_dtype: torch.dtype | None = None, **_: Any
) -> Tensor:
    return loss_like(logits, target, reduction, out_dtype)


def _fake_forward(
    logits: Tensor, target: Tensor, *, reduction: str = "mean", out_dtype: torch.dtype | None = None, **_: Any
) -> tuple[Tensor, Tensor]:
    lse = logits.new_empty(num_rows(logits), dtype=torch.float64)
    return loss_like(logits, target, reduction, out_dtype), lse


def _fake_backward(grad_loss: Tensor, logits: Tensor, target: Tensor, lse: Tensor, **_: Any) -> Tensor:
    return logits.new_empty(logits.shape)


def register() -> None:
    register_fake("cross_entropy", _fake)
    register_fake("cross_entropy_forward", _fake_forward)
    register_fake("cross_entropy_backward", _fake_backward)
    register_autograd("cross_entropy", _cross_entropy, first_results(torch.ops.liger.cross_entropy_forward, 1))
