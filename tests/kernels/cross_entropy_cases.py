"""Eager spellings and cases that the tests of cross entropy and of linear cross entropy share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from numerics import _run_all, check_pooled, wide

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "smoothing": {"label_smoothing": 0.1},
    "softcap": {"softcap": 5.0},
    "scale": {"logit_scale": 0.25},
    "z_loss": {"z_loss": 1e-3},
    "everything": {"label_smoothing": 0.2, "logit_scale": 1.5, "softcap": 8.0, "z_loss": 1e-2, "ignore_index": 3},
}


def transformed(logits: Tensor, logit_scale: float = 1.0, softcap: float = 0.0) -> Tensor:
    """Scale and softcap as models spell them, in the dtype of the logits."""
    if logit_scale != 1.0:
        logits = logits * logit_scale
    return torch.tanh(logits / softcap) * softcap if softcap else logits


def eager_cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    logit_scale: float = 1.0,
    softcap: float = 0.0,
    z_loss: float = 0.0,
) -> Tensor:
    u = wide(transformed(logits, logit_scale, softcap)).reshape(-1, logits.shape[-1])
    classes = target.reshape(-1).long()
    loss = F.cross_entropy(u, classes, ignore_index=ignore_index, reduction=reduction, label_smoothing=label_smoothing)
    if reduction == "none":
        loss = loss.reshape(target.shape)
    if not z_loss:
        return loss
    squares = torch.logsumexp(u, dim=-1).square()
    if reduction == "none":
        return loss + z_loss * squares.reshape(target.shape)
    return loss + z_loss * (squares.mean() if reduction == "mean" else squares.sum())


def random_target(
    shape: tuple[int, ...], vocab: int, generator: torch.Generator, *, device: str, ignore_index: int = -100
) -> Tensor:
    """Classes of which about a third are ignored, and at least one is not."""
    target = torch.randint(0, vocab, shape, generator=generator)
    ignored = torch.rand(shape, generator=generator) < 0.3
    ignored.view(-1)[0] = False
    if target.view(-1)[0] == ignore_index:
        target.view(-1)[0] = (ignore_index + 1) % vocab
    return target.masked_fill(ignored, ignore_index).to(device)


def assert_as_accurate_on_average(
    fused: Callable[..., Any],
    eager: Callable[..., Any],
    make_inputs: Callable[[torch.Generator], dict[str, Any]],
    *,
    seeds: Iterable[int] = range(8),
    frozen: Sequence[str] = (),
) -> None:
    """The numerical standard over several seeds together, see `numerics.check_pooled`."""
    samples: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {}
    for seed in seeds:
        inputs = make_inputs(torch.Generator().manual_seed(seed))
        results = _run_all(fused, eager, inputs, torch.Generator().manual_seed(seed + 1000), True, frozen)
        for name, truth in results["truth"].items():
            samples.setdefault(name, []).append((truth, results["eager"][name], results["fused"][name]))
    for name, drawn in samples.items():
        check_matmul_pooled(name, drawn, inputs["hidden_states"].dtype)


def check_matmul_pooled(label: str, drawn: list[tuple[Tensor, Tensor, Tensor]], dtype: torch.dtype) -> None:
    """`check_pooled`. In float32 the order of a product's sums costs several ulps, and the largest error of a few draws
    says nothing about one more rounding; over 200 draws ours and eager's agree to 5 %."""
    check_pooled(label, drawn, dtype, only_rms=dtype == torch.float32)
