"""Rotations as models spell them, and the inputs that they get, for the tests of the ops that rotate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from numerics import random_tensor

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
FROZEN = ("cos", "sin")


def eager_turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return (x * cos + torch.cat((-second, first), dim=-1) * sin).to(x.dtype)


def eager_one(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    rotary_dim = cos.shape[-1]
    if rotary_dim == x.shape[-1]:
        return eager_turned(x, cos, sin)
    return torch.cat((eager_turned(x[..., :rotary_dim], cos, sin), x[..., rotary_dim:]), dim=-1)


def tables(shape: Sequence[int], generator: torch.Generator, dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor]:
    """cos and sin of random angles, so that their halves differ."""
    angles = torch.rand(tuple(shape), generator=generator, dtype=torch.float64) * 6.3
    return angles.cos().to(dtype).to(device), angles.sin().to(dtype).to(device)


def heads_first(batch: int, heads: int, length: int, head_dim: int, generator: torch.Generator, **where: Any) -> Tensor:
    """[batch, heads, length, head_dim] as models make it: a transposed view of a projection."""
    return random_tensor((batch, length, heads, head_dim), generator, **where).transpose(1, 2)


# name: shapes of query, key, cos; the dims of query and key in memory, outermost first
LAYOUTS: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = {
    "contiguous [B, H, S, D]": ((2, 4, 9, 32), (2, 2, 9, 32), (2, 1, 9, 32), (0, 1, 2, 3)),
    "contiguous, one table": ((2, 4, 9, 32), (2, 2, 9, 32), (1, 1, 9, 32), (0, 1, 2, 3)),
    "[B, S, H, D]": ((2, 9, 4, 32), (2, 9, 2, 32), (2, 9, 1, 32), (0, 1, 2, 3)),
    "[B, S, H, D], one table": ((2, 9, 4, 32), (2, 9, 2, 32), (1, 9, 1, 32), (0, 1, 2, 3)),
    "[B, H, S, D] of [S, B, H, D]": ((2, 4, 9, 32), (2, 2, 9, 32), (1, 1, 9, 32), (2, 0, 1, 3)),
    "channels not innermost": ((2, 4, 9, 32), (2, 2, 9, 32), (1, 1, 9, 32), (0, 1, 3, 2)),
    "a table per head": ((2, 4, 9, 32), (2, 4, 9, 32), (2, 4, 9, 32), (0, 2, 1, 3)),
    "one table in all": ((2, 4, 9, 32), (2, 2, 9, 32), (1, 1, 1, 32), (0, 2, 1, 3)),
    "other lengths": ((2, 4, 9, 32), (2, 2, 5, 32), (1, 1, 1, 32), (0, 2, 1, 3)),
    "other batches": ((2, 4, 9, 32), (1, 2, 9, 32), (1, 1, 9, 32), (0, 2, 1, 3)),
    "[S, H, D]": ((9, 4, 32), (9, 2, 32), (9, 1, 32), (0, 1, 2)),
    "[H, S, D] of [S, H, D]": ((4, 9, 32), (2, 9, 32), (1, 9, 32), (1, 0, 2)),
    "[S, D]": ((9, 32), (9, 32), (9, 32), (0, 1)),
    "[H, D]": ((4, 32), (9, 32), (1, 32), (0, 1)),
}


def in_order(shape: Sequence[int], order: Sequence[int], generator: torch.Generator, **where: Any) -> Tensor:
    values = random_tensor([shape[dim] for dim in order], generator, **where)
    return values.permute([list(order).index(dim) for dim in range(len(order))])


def strides(tensor: Tensor) -> list[int]:
    """Those that matter."""
    return [stride for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1]


def projections(dtype: torch.dtype, device: str, gap: int = 0) -> tuple[Tensor, Tensor]:
    """Query and key as slices of one packed projection, `gap` elements apart from a 16-byte boundary."""
    packed = random_tensor((2, 9, 8 * 32 + gap), torch.Generator().manual_seed(1), dtype=dtype, device=device)
    query, key = packed[..., gap : gap + 4 * 32], packed[..., gap + 4 * 32 : gap + 6 * 32]
    return query.unflatten(-1, (4, 32)).transpose(1, 2), key.unflatten(-1, (2, 32)).transpose(1, 2)


def equal(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
