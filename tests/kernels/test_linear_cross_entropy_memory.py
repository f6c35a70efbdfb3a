"""liger::linear_cross_entropy on the CPU: the profiler sees no tensor of the size of all logits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import liger_compile.ops  # noqa: F401
from allocations import allocated_bytes

liger = torch.ops.liger

# Several chunks in every dtype; a hidden size that makes the logits by far the largest tensor.
TOKENS, HIDDEN, VOCAB = 2048, 16, 20000
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def _largest(call: Callable[[], object], folder: Path) -> int:
    return max(allocated_bytes(call, folder))


def inputs(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(TOKENS, HIDDEN, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(VOCAB, HIDDEN, generator=generator).to(dtype).requires_grad_()
    return hidden, weight, torch.randint(0, VOCAB, (TOKENS,), generator=generator)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_no_allocation_holds_all_logits(dtype: torch.dtype, reduction: str, tmp_path: Path) -> None:
    hidden, weight, target = inputs(dtype)

    def loss() -> Tensor:
        return liger.linear_cross_entropy(hidden, weight, target, reduction=reduction).sum()

    all_logits = TOKENS * VOCAB * dtype.itemsize
    with torch.no_grad():
        assert _largest(loss, tmp_path) < all_logits
    assert _largest(lambda: loss().backward(), tmp_path) < all_logits
    assert hidden.grad is not None and weight.grad is not None


@pytest.mark.parametrize(("tokens", "are_summed"), [(1000, False), (1200, True)])
def test_one_chunk_where_sums_would_take_as_much(tokens: int, are_summed: bool, tmp_path: Path) -> None:
    """The sums of dW in float32 need half of their memory beside the result: as much as 256 more rows of logits."""
    width, vocab = 512, 20032
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(rows, width, generator=generator).bfloat16() for rows in (tokens, vocab))
    target = torch.randint(0, vocab, (tokens,), generator=generator)
    sizes = allocated_bytes(
        lambda: liger.linear_cross_entropy(hidden, weight.requires_grad_(), target).backward(), tmp_path
    )
    beside = (vocab - vocab // 2 // 64 * 64) * width * 4  # sums of aligned rows are where dW will be
    assert (beside in sizes) == are_summed


def test_eager_is_seen_to_hold_them(tmp_path: Path) -> None:
    hidden, weight, target = inputs(torch.float32)
    with torch.no_grad():
        largest = _largest(lambda: F.cross_entropy(F.linear(hidden, weight), target), tmp_path)
    assert largest >= TOKENS * VOCAB * 4
