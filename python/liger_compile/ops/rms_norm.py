"""`liger::rms_norm` and `liger::add_rms_norm`: root mean square normalisation of the last dim, alone or after a sum.

With x = hidden_states, or sum = hidden_states + residual rounded to their dtype:

    u = x * rsqrt(mean(x^2, -1) + eps)                  (rounded to the dtype of x where round_before_weight)
    out = u * (weight_offset + weight)                  (out = u without a weight)

in float32 inside, rounded once more to `out_dtype` (by default the dtype of x) at the end. hidden_states is
[..., hidden], residual has its shape and dtype, weight is [hidden]. Results are contiguous.

dtypes of (x, weight, out): float32, bfloat16 or float16 in all three; x in bfloat16 or float16 with a float32 weight
and out as x or float32; without a weight, out as x or float32. Other dtypes, shapes and devices raise RuntimeError.

The gradients are those of the formula without its roundings, except that the weight's uses the rounded u. The weight's
is summed in at least float32 in a fixed order. add_rms_norm has one gradient for both of its summands and saves only
their sum. No second derivatives.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from liger_compile.ops.registration import first_results, register_autograd, register_fake


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_states: Tensor,
        weight: Tensor | None,
        eps: float,
        rounding: dict[str, Any],
        out_dtype: torch.dtype | None,
    ) -> Tensor:
        out, rstd = torch.ops.liger.rms_norm_forward(hidden_states, weight, eps, **rounding, out_dtype=out_dtype)
        ctx.save_for_backward(hidden_states, weight, rstd)
        ctx.rounding = rounding
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        hidden_states, weight, rstd = ctx.saved_tensors
        needs_weight_grad = ctx.needs_input_grad[1]
        grad_hidden, grad_weight, _ = torch.ops.liger.rms_norm_backward(
            grad_out, None, hidden_states, weight, rstd, **ctx.rounding, needs_weight_grad=needs_weight_grad
        )
        return grad_hidden, grad_weight if needs_weight_grad else None, None, None, None


class _AddRMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_states: Tensor,
        residual: Tensor,
        weight: Tensor | None,
        eps: float,
        rounding: dict[str, Any],
        out_dtype: torch.dtype | None,
    ) -> tuple[Tensor, Tensor]:
        out, total, rstd = torch.ops.liger.add_rms_norm_forward(
            hidden_states, residual, weight, eps, **rounding, out_dtype=out_dtype
        )
        ctx.save_for_backward(total, weight, rstd)
        ctx.rounding = rounding
        ctx.set_materialize_grads(False)
        return out, total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor | None, grad_sum: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad_out is None:  # only the sum was used
            return grad_sum, grad_sum, None, None, None, None
        total, weight, rstd = ctx.saved_tensors
        needs_weight_grad = ctx.needs_input_grad[2]
        grad_summand, grad_weight, _ = torch.ops.liger.rms_norm_backward(
            grad_out, grad_sum, total, weight, rstd, **ctx.rounding, needs_weight_grad=needs_weight_grad
        )
        return grad_summand, grad_summand, grad_weight if needs_weight_grad else None, None, None, None


def _rms_norm(
    hidden_states: Tensor,
    weight: Tensor | None,
    eps: float,
    *,
    weight_offset: float = 0.0,
    round_before_weight: bool = False,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    rounding = {"weight_offset": weight_offset, "round_before_weight": round_before_weight}
    return _RMSNorm.apply(hidden_states, weight, eps, rounding, out_dtype)


def _add_rms_norm(
    hidden_states: Tensor,
    residual: Tensor,
    weight: Tensor | None,
    eps: float,
    *,
    weight_offset: float = 0.0,
    round_before_weight: bool = False,
    out_dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    rounding = {"weight_offset": weight_offset, "round_before_weight": round_before_weight}
    return _AddRMSNorm.apply(hidden_states, residual, weight, eps, rounding, out_dtype)


def _out_like(hidden_states: Tensor, out_dtype: torch.dtype | None) -> Tensor:
    return hidden_states.new_empty(hidden_states.shape, dtype=out_dtype or hidden_states.dtype)


def _rstd_like(hidden_states: Tensor) -> Tensor:
    return hidden_states.new_empty(hidden_states.shape[:-1], dtype=torch.float32)


def _fake(
    hidden_states: Tensor, weight: Tensor | None, eps: float, *, out_dtype: torch.dtype | None = None, **_: Any
) -> Tensor:
    return _out_like(hidden_states, out_dtype)


def _fake_forward(
    hidden_states: Tensor, weight: Tensor | None, eps: float, *, out_dtype: torch.dtype | None = None, **_: Any
) -> tuple[Tensor, Tensor]:
    return _out_like(hidden_states, out_dtype), _rstd_like(hidden_states)


def _fake_add(
    hidden_states: Tensor,
    residual: Tensor,
    weight: Tensor | None,
    eps: float,
    *,
    out_dtype: torch.dtype | None = None,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    return _out_like(hidden_states, out_dtype), _out_like(hidden_states, None)


def _fake_add_forward(
    hidden_states: Tensor,
    residual: Tensor,
    weight: Tensor | None,
    eps: float,
    *,
    out_dtype: torch.dtype | None = None,
    **_: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    return _out_like(hidden_states, out_dtype), _out_like(hidden_states, None), _rstd_like(hidden_states)


def _fake_backward(
    grad_out: Tensor,
    grad_sum: Tensor | None,
    hidden_states: Tensor,
    weight: Tensor | None,
    rstd: Tensor,
    *,
    needs_weight_grad: bool,
    needs_out: bool = False,
    **_: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = hidden_states.dtype if weight is None else weight.dtype
    grad_weight = hidden_states.new_empty([hidden_states.shape[-1] if needs_weight_grad else 0], dtype=dtype)
    out = hidden_states.new_empty(hidden_states.shape if needs_out else [0], dtype=grad_out.dtype)
    return hidden_states.new_empty(hidden_states.shape), grad_weight, out


def register() -> None:
    register_fake("rms_norm", _fake)
    register_fake("rms_norm_forward", _fake_forward)
    register_fake("rms_norm_backward", _fake_backward)
    register_fake("add_rms_norm", _fake_add)
    register_fake("add_rms_norm_forward", _fake_add_forward)
    register_autograd("rms_norm", _rms_norm, first_results(torch.ops.liger.rms_norm_forward, 1))
    register_autograd("add_rms_norm", _add_rms_norm, first_results(torch.ops.liger.add_rms_norm_forward, 2))
