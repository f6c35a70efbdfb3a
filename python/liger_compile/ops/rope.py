"""`liger::rope`: rotary position embedding of query and key in one launch, halves paired.

With half = rotary_dim / 2 and i < half, for x = query and x = key:

    out[..., i]        = x[..., i] * cos[..., i] - x[..., half + i] * sin[..., i]
    out[..., half + i] = x[..., half + i] * cos[..., half + i] + x[..., i] * sin[..., half + i]

and out = x from rotary_dim on; in float32 inside, one rounding. The halves of cos and sin need not be equal.

query: [..., head_dim] of rank 2 to 4; key: its rank, head_dim and dtype (float32, bfloat16 or float16), any strides.
cos, sin: [..., rotary_dim] of that rank, rotary_dim even and at most head_dim, each leading dim 1 or that of both query
and key; float32 or the dtype of query. RuntimeError where these do not hold.

A result has the strides of its input, made dense as torch.empty_like does; contiguous_query and contiguous_key make it
contiguous instead. The gradient of an input lies in memory as the input does, so that no copy follows where the input
is a transposed view of a projection. cos and sin get none: RuntimeError where they require one. Only they are saved.
The op is linear in query and key; its gradients can be differentiated again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from liger_compile.ops.registration import register_autograd, register_fake


def _memory_order(tensor: Tensor) -> list[int]:
    """The dims, outermost in memory first."""
    return sorted(range(tensor.dim()), key=tensor.stride, reverse=True)


class _Rope(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, cos: Tensor, sin: Tensor, layouts: dict[str, bool]
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(cos, sin)
        ctx.orders = {"query_order": _memory_order(query), "key_order": _memory_order(key)}
        return torch.ops.liger.rope_forward(query, key, cos, sin, **layouts)

    @staticmethod
    def backward(ctx: Any, grad_query: Tensor, grad_key: Tensor) -> tuple[Tensor | None, ...]:
        return *_RopeBackward.apply(grad_query, grad_key, *ctx.saved_tensors, ctx.orders), None, None, None


class _RopeBackward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, grad_query: Tensor, grad_key: Tensor, cos: Tensor, sin: Tensor, orders: dict[str, Sequence[int]]
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(cos, sin)
        return torch.ops.liger.rope_backward(grad_query, grad_key, cos, sin, **orders)

    @staticmethod
    def backward(ctx: Any, query: Tensor, key: Tensor) -> tuple[Tensor | None, ...]:
        return *torch.ops.liger.rope(query, key, *ctx.saved_tensors), None, None, None


def refuse_table_gradients(op: str, cos: Tensor, sin: Tensor) -> None:
    for name, table in (("cos", cos), ("sin", sin)):
        if table.requires_grad:
            raise RuntimeError(f"liger::{op}: {name} must not require a gradient, which the op has not; detach it")


def _rope(
    query: Tensor,
    key: Tensor,
    cos: Tensor,
    sin: Tensor,
    *,
    contiguous_query: bool = False,
    contiguous_key: bool = False,
) -> tuple[Tensor, Tensor]:
    refuse_table_gradients("rope", cos, sin)
    layouts = {"contiguous_query": contiguous_query, "contiguous_key": contiguous_key}
    return _Rope.apply(query, key, cos, sin, layouts)


def turned_like(tensor: Tensor, contiguous: bool) -> Tensor:
    """What a rotation of a tensor goes to."""
    return tensor.new_empty(tensor.shape) if contiguous else torch.empty_like(tensor)


def _fake(
    query: Tensor,
    key: Tensor,
    cos: Tensor,
    sin: Tensor,
    *,
    contiguous_query: bool = False,
    contiguous_key: bool = False,
) -> tuple[Tensor, Tensor]:
    return turned_like(query, contiguous_query), turned_like(key, contiguous_key)


def _empty_in_order(tensor: Tensor, order: Sequence[int]) -> Tensor:
    if not order:
        return torch.empty_like(tensor)
    return torch.empty_permuted(tensor.shape, list(order), dtype=tensor.dtype, device=tensor.device)


def _fake_backward(
    grad_query: Tensor,
    grad_key: Tensor,
    cos: Tensor,
    sin: Tensor,
    *,
    query_order: Sequence[int] = (),
    key_order: Sequence[int] = (),
) -> tuple[Tensor, Tensor]:
    return _empty_in_order(grad_query, query_order), _empty_in_order(grad_key, key_order)


def register() -> None:
    register_fake("rope", _fake)
    register_fake("rope_forward", _fake)
    register_fake("rope_backward", _fake_backward)
    register_autograd("rope", _rope, torch.ops.liger.rope_forward)
