"""`liger::norm_rope`: RMSNorm of every head of query and key, and their rotary embedding, in one launch.

For x = query and x = key, each with its weight:

    n = x * rsqrt(mean(x^2, -1) + eps) * (weight_offset + weight)      (no factor without a weight)
    out = n, rotated by cos and sin as `liger::rope` does

in float32 inside, rounded once, at the end. query and key, cos and sin and the layouts of the results are those of
`liger::rope`, except that head_dim must be even and at most 512, and that query and key may differ in one dim only. The
weights are [head_dim] or None, both of the dtype of query, or both float32.

The gradients are those of the formula without its rounding; a weight's is summed in at least float32 in a fixed order.
That of query or key lies in memory as the input does. cos and sin get none: RuntimeError where they require one. Saved
are the inputs alone: the backward pass computes the root mean squares once more. No second derivatives.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from liger_compile.ops.registration import register_autograd, register_fake
from liger_compile.ops.rope import refuse_table_gradients, turned_like


class _NormRope(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        query_weight: Tensor | None,
        key_weight: Tensor | None,
        cos: Tensor,
        sin: Tensor,
        eps: float,
        options: dict[str, Any],
    ) -> tuple[Tensor, Tensor]:
        inputs = (query, key, query_weight, key_weight, cos, sin)
        ctx.save_for_backward(*inputs)
        ctx.eps, ctx.weight_offset = eps, options["weight_offset"]
        return torch.ops.liger.norm_rope_forward(*inputs, eps, **options)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_query_out: Tensor, grad_key_out: Tensor) -> tuple[Tensor | None, ...]:
        wanted = ctx.needs_input_grad
        *grads, grad_query_weight, grad_key_weight = torch.ops.liger.norm_rope_backward(
            grad_query_out,
            grad_key_out,
            *ctx.saved_tensors,
            ctx.eps,
            weight_offset=ctx.weight_offset,
            needs_query_weight_grad=wanted[2],
            needs_key_weight_grad=wanted[3],
        )
        weight_grads = (grad_query_weight if wanted[2] else None, grad_key_weight if wanted[3] else None)
        return *grads, *weight_grads, None, None, None, None


def _norm_rope(
    query: Tensor,
    key: Tensor,
    query_weight: Tensor | None,
    key_weight: Tensor | None,
    cos: Tensor,
    sin: Tensor,
    eps: float,
    *,
    weight_offset: float = 0.0,
    contiguous_query: bool = False,
    contiguous_key: bool = False,
) -> tuple[Tensor, Tensor]:
    refuse_table_gradients("norm_rope", cos, sin)
    options = {
        "weight_offset": weight_offset,
        "contiguous_query": contiguous_query,
        "contiguous_key": contiguous_key,
    }
    return _NormRope.apply(query, key, query_weight, key_weight, cos, sin, eps, options)


def _fake(
    query: Tensor, key: Tensor, *_: Any, contiguous_query: bool = False, contiguous_key: bool = False, **__: Any
) -> tuple[Tensor, Tensor]:
    return turned_like(query, contiguous_query), turned_like(key, contiguous_key)


def _fake_weight_grad(query: Tensor, weight: Tensor | None, other: Tensor | None, wanted: bool) -> Tensor:
    given = next((tensor for tensor in (weight, other) if tensor is not None), query)
    return query.new_empty([query.shape[-1] if wanted else 0], dtype=given.dtype)


def _fake_backward(
    grad_query_out: Tensor,
    grad_key_out: Tensor,
    query: Tensor,
    key: Tensor,
    query_weight: Tensor | None,
    key_weight: Tensor | None,
    *_: Any,
    needs_query_weight_grad: bool,
    needs_key_weight_grad: bool,
    **__: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        turned_like(query, False),
        turned_like(key, False),
        _fake_weight_grad(query, query_weight, key_weight, needs_query_weight_grad),
        _fake_weight_grad(query, key_weight, query_weight, needs_key_weight_grad),
    )


def register() -> None:
    register_fake("norm_rope", _fake)
    register_fake("norm_rope_forward", _fake)
    register_fake("norm_rope_backward", _fake_backward)
    register_autograd("norm_rope", _norm_rope, torch.ops.liger.norm_rope_forward)
