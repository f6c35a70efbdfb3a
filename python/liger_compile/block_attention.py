"""Attention that skips the blocks of scores which a mask hides: torch's FlexAttention, reading a given boolean mask.

The mask alone decides what is attended to, so that the result is that of scaled_dot_product_attention for every mask;
queries that see no key get zeros, as in torch's reference implementation. Both functions stand in rewritten graphs,
where AOTAutograd traces them into operators that Inductor compiles.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import statically_known_true

# Queries and keys of a block. FlexAttention's own default, a multiple of the tiles of all its kernels.
_BLOCK = 128

# How many blocks there are in each row and which: those partly hidden and those not hidden at all, in rows of queries
# and in rows of keys.
Blocks = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def blocks(mask: Tensor) -> Blocks:
    """The blocks that a mask leaves, for `block_attention`; one result serves all layers with the same mask.

    Args:
        mask: bool [batch or 1, heads or 1, queries, keys], true where a query attends to a key.

    Returns:
        For (queries, partly hidden), (queries, not hidden), (keys, partly hidden) and (keys, not hidden): their number
        in each row of blocks, int32 [batch or 1, heads or 1, rows], and their indices, those that count first, int32
        [batch or 1, heads or 1, rows, columns].
    """
    mask = _without_copies(mask)
    queries, keys = mask.shape[-2:]
    rows, columns = (queries + _BLOCK - 1) // _BLOCK, (keys + _BLOCK - 1) // _BLOCK
    padded = F.pad(mask, (0, columns * _BLOCK - keys, 0, rows * _BLOCK - queries))
    tiles = padded.view(*mask.shape[:2], rows, _BLOCK, columns, _BLOCK)
    visible = tiles.sum((3, 5))  # [batch, heads, rows, columns]
    whole = visible == _BLOCK * _BLOCK
    partial = (visible > 0) & ~whole
    return (*_listed(partial), *_listed(whole), *_listed(partial.mT), *_listed(whole.mT))


def block_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, blocks: Blocks, *, scale: float | None = None
) -> Tensor:
    """scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale, enable_gqa=True).

    Args:
        query: [batch, heads, queries, head_dim].
        key: [batch, key heads, keys, head_dim]; each serves heads / key heads query heads.
        value: [batch, key heads, keys, head_dim].
        mask: bool [batch or 1, heads or 1, queries, keys].
        blocks: `blocks(mask)`.
        scale: of the scores; None: 1 / sqrt(head_dim).

    Returns:
        [batch, heads, queries, head_dim], laid out as the query.
    """
    from torch.nn.attention.flex_attention import _apply_kernel_options

    mask = _without_copies(mask)
    axes = [axis for axis in range(4) if axis > 1 or not statically_known_true(mask.shape[axis] == 1)]
    captured = mask[tuple(slice(None) if axis in axes else 0 for axis in range(4))]
    block_mask = (query.shape[2], key.shape[2], *blocks, _BLOCK, _BLOCK, _reader(axes))
    output, _, _ = torch.ops.higher_order.flex_attention(
        query,
        key,
        value,
        lambda score, batch, head, query, key: score,
        block_mask,
        query.shape[-1] ** -0.5 if scale is None else scale,
        _apply_kernel_options(query, key, value, return_lse=False, kernel_options=None),
        (),
        (captured,),
    )
    return output


def _without_copies(mask: Tensor) -> Tensor:
    """The mask with batch and heads of 1 where it is expanded along them."""
    for dim in (0, 1):
        if statically_known_true(mask.stride(dim) == 0):
            mask = mask.narrow(dim, 0, 1)
    return mask


def _listed(is_listed: Tensor) -> tuple[Tensor, Tensor]:
    """Number and indices of what is listed in each row, those first; contiguous, as the kernels take them to be."""
    listed = is_listed.to(torch.int32, memory_format=torch.contiguous_format)
    indices = listed.argsort(dim=-1, descending=True, stable=True)
    return listed.sum(-1, dtype=torch.int32), indices.to(torch.int32, memory_format=torch.contiguous_format)


def _reader(axes: list[int]) -> Callable[..., Tensor]:
    # A lambda: Inductor cannot store graphs that are traced from functions with annotations given as strings.
    return lambda *indices: indices[4][tuple(indices[axis] for axis in axes)]
