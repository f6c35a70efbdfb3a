"""`liger::linear_cross_entropy`: cross entropy of `hidden_states @ weight.T + bias` without the logits of all tokens.

The loss and its options are those of `liger::cross_entropy`, with the bias added before `logit_scale`. The logits exist
for one chunk of tokens at a time, in the dtype of `hidden_states`, as a linear layer would give them.

hidden_states: [..., H]. weight: [V, H]. bias: [V] or None. All of one dtype: float32, bfloat16 or float16. target:
int64 or int32 with one element per token, of any shape.

Where gradients are wanted and the loss is a single value, the forward pass computes them chunk by chunk for an upstream
gradient of 1, and the backward pass multiplies; both round to the dtype of the arguments. The gradient of the weight is
accumulated in float32, in the memory that its rounded form needs and as much again.

On a GPU of compute capability 9.0, in bfloat16 without bias, softcap, label smoothing and z-loss, with a positive
logit_scale and rows that start at multiples of 16 bytes, logits are not rounded, and of a chunk's logits only their
exponentials are kept; without gradients nothing is. There the sums of the weight's gradient over chunks are rounded to
20 bits after each chunk, of which the result has 16, and take a quarter of its memory beside it. Tokens without a label
are left out: nothing is multiplied for chunks of them.

With reduction "none" the backward pass makes the logits again, and folds the upstream gradient of each token in.

`liger::linear_cross_entropy_with_logits` also returns the logits, after bias, scale and softcap: [..., V] in the dtype
of `hidden_states`. The loss is that of the rounded logits. Its backward pass adds the gradient that reaches the logits
directly, if any does. No second derivatives.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from liger_compile.ops.cross_entropy import loss_like
from liger_compile.ops.registration import first_results, num_rows, register_autograd, register_fake

_LOSS_OPTIONS = ("ignore_index", "reduction", "label_smoothing", "logit_scale", "softcap", "z_loss")


def _loss_options(options: dict[str, Any]) -> dict[str, Any]:
    return {name: options[name] for name in _LOSS_OPTIONS if name in options}


class _PrecomputedGradients(torch.autograd.Function):
    """A loss of one value, whose gradients are known up to a factor when it is."""

    @staticmethod
    def forward(
        ctx: Any, hidden_states: Tensor, weight: Tensor, target: Tensor, bias: Tensor | None, options: dict[str, Any]
    ) -> Tensor:
        needs_hidden, needs_weight, _, needs_bias, _ = ctx.needs_input_grad
        loss, _, grad_hidden, grad_weight, grad_bias, grad_scale = torch.ops.liger.linear_cross_entropy_forward(
            hidden_states,
            weight,
            target,
            bias,
            **options,
            needs_grad_hidden_states=needs_hidden,
            needs_grad_weight=needs_weight,
            needs_grad_bias=needs_bias,
        )
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias, grad_scale)
        ctx.dtype = hidden_states.dtype
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight, grad_bias, grad_scale = ctx.saved_tensors  # type: ignore[attr-defined]
        needs_hidden, needs_weight, _, needs_bias, _ = ctx.needs_input_grad  # type: ignore[attr-defined]
        dtype: torch.dtype = ctx.dtype  # type: ignore[attr-defined]
        scale = grad_loss.to(torch.float32) * grad_scale
        scaled = torch.ops.liger.linear_cross_entropy_scale
        return (
            scaled(grad_hidden, scale, dtype=dtype) if needs_hidden else None,
            scaled(grad_weight, scale, dtype=dtype) if needs_weight else None,
            None,
            scaled(grad_bias, scale, dtype=dtype) if needs_bias else None,
            None,
        )


class _RecomputedLogits(torch.autograd.Function):
    """One loss per token: nothing is known before the upstream gradients are."""

    @staticmethod
    def forward(
        ctx: Any, hidden_states: Tensor, weight: Tensor, target: Tensor, bias: Tensor | None, options: dict[str, Any]
    ) -> Tensor:
        loss, lse, *_ = torch.ops.liger.linear_cross_entropy_forward(hidden_states, weight, target, bias, **options)
        ctx.save_for_backward(hidden_states, weight, target, bias, lse)
        ctx.options = options
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        hidden_states, weight, target, bias, lse = ctx.saved_tensors
        return _backward(ctx, grad_loss, None, hidden_states, weight, target, bias, None, lse)


class _WithLogits(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_states: Tensor, weight: Tensor, target: Tensor, bias: Tensor | None, options: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        loss, logits, lse = torch.ops.liger.linear_cross_entropy_with_logits_forward(
            hidden_states, weight, target, bias, **options
        )
        ctx.set_materialize_grads(False)  # logits that nobody differentiates must not cost a gradient of their size
        ctx.save_for_backward(hidden_states, weight, target, bias, logits, lse)
        ctx.options = options
        return loss, logits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor | None, grad_logits: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad_loss is None and grad_logits is None:
            return None, None, None, None, None
        hidden_states, weight, target, bias, logits, lse = ctx.saved_tensors
        return _backward(ctx, grad_loss, grad_logits, hidden_states, weight, target, bias, logits, lse)


def _backward(ctx: Any, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    needs_hidden, needs_weight, _, needs_bias, _ = ctx.needs_input_grad
    grad_hidden, grad_weight, grad_bias = torch.ops.liger.linear_cross_entropy_backward(
        *tensors,
        **_loss_options(ctx.options),
        needs_grad_hidden_states=needs_hidden,
        needs_grad_weight=needs_weight,
        needs_grad_bias=needs_bias,
    )
    return (
        grad_hidden if needs_hidden else None,
        grad_weight if needs_weight else None,
        None,
        grad_bias if needs_bias else None,
        None,
    )


def _linear_cross_entropy(
    hidden_states: Tensor, weight: Tensor, target: Tensor, bias: Tensor | None = None, **options: Any
) -> Tensor:
    function = _RecomputedLogits if options.get("reduction") == "none" else _PrecomputedGradients
    return function.apply(hidden_states, weight, target, bias, options)


def _linear_cross_entropy_with_logits(
    hidden_states: Tensor, weight: Tensor, target: Tensor, bias: Tensor | None = None, **options: Any
) -> tuple[Tensor, Tensor]:
    return _WithLogits.apply(hidden_states, weight, target, bias, options)


def _lse_like(hidden_states: Tensor) -> Tensor:
    return hidden_states.new_empty(num_rows(hidden_states), dtype=torch.float64)


def _logits_like(hidden_states: Tensor, weight: Tensor) -> Tensor:
    return hidden_states.new_empty((*hidden_states.shape[:-1], weight.shape[0]))


def _gradient_like(tensor: Tensor | None, needed: bool, like: Tensor, dtype: torch.dtype) -> Tensor:
    shape = tensor.shape if tensor is not None and needed else (0,)
    return like.new_empty(shape, dtype=dtype)


def _fake(
    hidden_states: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None = None,
    *,
    reduction: str = "mean",
    out_dtype: torch.dtype | None = None,
    **_: Any,
) -> Tensor:
    return loss_like(hidden_states, target, reduction, out_dtype)


def _fake_forward(
    hidden_states: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None = None,
    *,
    reduction: str = "mean",
    out_dtype: torch.dtype | None = None,
    needs_grad_hidden_states: bool = False,
    needs_grad_weight: bool = False,
    needs_grad_bias: bool = False,
    **_: Any,
) -> tuple[Tensor, ...]:
    return (
        loss_like(hidden_states, target, reduction, out_dtype),
        _lse_like(hidden_states),
        _gradient_like(hidden_states, needs_grad_hidden_states, hidden_states, hidden_states.dtype),
        _gradient_like(weight, needs_grad_weight, hidden_states, weight.dtype),
        _gradient_like(bias, needs_grad_bias, hidden_states, torch.float32),
        hidden_states.new_empty((), dtype=torch.float32),
    )


def _fake_with_logits(
    hidden_states: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None = None,
    *,
    reduction: str = "mean",
    out_dtype: torch.dtype | None = None,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    return loss_like(hidden_states, target, reduction, out_dtype), _logits_like(hidden_states, weight)


def _fake_with_logits_forward(
    hidden_states: Tensor, weight: Tensor, target: Tensor, bias: Tensor | None = None, **options: Any
) -> tuple[Tensor, Tensor, Tensor]:
    loss, logits = _fake_with_logits(hidden_states, weight, target, bias, **options)
    return loss, logits, _lse_like(hidden_states)


def _fake_backward(
    grad_loss: Tensor | None,
    grad_logits: Tensor | None,
    hidden_states: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None,
    logits: Tensor | None,
    lse: Tensor,
    *,
    needs_grad_hidden_states: bool = True,
    needs_grad_weight: bool = True,
    needs_grad_bias: bool = False,
    **_: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        _gradient_like(hidden_states, needs_grad_hidden_states, hidden_states, hidden_states.dtype),
        _gradient_like(weight, needs_grad_weight, hidden_states, hidden_states.dtype),
        _gradient_like(bias, needs_grad_bias, hidden_states, hidden_states.dtype),
    )


def _fake_scale(gradient: Tensor, scale: Tensor, *, dtype: torch.dtype) -> Tensor:
    return gradient.new_empty(gradient.shape, dtype=dtype)


def register() -> None:
    register_fake("linear_cross_entropy_scale", _fake_scale)
    register_fake("linear_cross_entropy", _fake)
    register_fake("linear_cross_entropy_forward", _fake_forward)
    register_fake("linear_cross_entropy_with_logits", _fake_with_logits)
    register_fake("linear_cross_entropy_with_logits_forward", _fake_with_logits_forward)
    register_fake("linear_cross_entropy_backward", _fake_backward)
    register_autograd(
        "linear_cross_entropy", _linear_cross_entropy, first_results(torch.ops.liger.linear_cross_entropy_forward, 1)
    )
    register_autograd(
        "linear_cross_entropy_with_logits",
        _linear_cross_entropy_with_logits,
        first_results(torch.ops.liger.linear_cross_entropy_with_logits_forward, 2),
    )
