"""Every family: the promised rewrites happen, and the model computes and trains as it does without us."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

import liger_compile
from liger_compile.tiny_models import tiny_batch, tiny_model
from models.families import COUNTS, ExactMode, exact_copy, loss_logits_gradients, losses_of_training
from numerics import check_pooled

DTYPES = [torch.float32, torch.bfloat16]
SEEDS = (0, 1, 2)


@pytest.fixture(autouse=True)
def fresh_dynamo() -> None:
    torch._dynamo.reset()


def compiled(model: torch.nn.Module, inner: str) -> Any:
    return torch.compile(model, backend="liger", options={"inner": inner, "rewrite": "all"})


def with_weights_of(model: torch.nn.Module, family: str, dtype: torch.dtype, device: str, seed: int) -> None:
    model.load_state_dict(tiny_model(family, dtype, device, seed=seed).state_dict())


def check_family(family: str, dtype: torch.dtype, device: str, inner: str, checkpointing: bool) -> None:
    """Counts, then loss, logits and every gradient, over three seeds.

    Attention is spelled otherwise while transformers is traced, so plain eager is one run of two that count as eager:
    the other runs the traced graph as it is. The larger error of the two is what ours may have.
    """
    model = tiny_model(family, dtype, device)
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    fused, traced = compiled(model, inner), torch.compile(model, backend="eager")
    with liger_compile.expect_rewrites(**COUNTS[family]):
        fused(**tiny_batch(model.config, device=device, sequence=24))
    samples: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {}
    for seed in SEEDS:
        with_weights_of(model, family, dtype, device, seed)
        batch = tiny_batch(model.config, device=device, sequence=24, seed=seed)
        batch["labels"][0, :5] = -100
        exact = exact_copy(model)
        exact.gradient_checkpointing_disable()
        with ExactMode():
            truth = loss_logits_gradients(exact, exact, batch)
        ours, *eager = (loss_logits_gradients(call, model, batch) for call in (fused, model, traced))
        for name, value in truth.items():
            worse = max((run[name] for run in eager), key=lambda run: (run.double() - value).abs().max().item())
            samples.setdefault(name, []).append((value, worse, ours[name]))
    for name, drawn in samples.items():
        check_pooled(f"{family} {name}", drawn, dtype, only_rms=True)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "bfloat16"])
@pytest.mark.parametrize("family", COUNTS)
def test_family_is_rewritten_and_right(family: str, dtype: torch.dtype, checkpointing: bool, device: str) -> None:
    check_family(family, dtype, device, "aot_eager", checkpointing)


@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["llama", "gemma2", "phi3", "olmo2"])
def test_family_under_inductor(family: str, dtype: torch.dtype, device: str) -> None:
    check_family(family, dtype, device, "inductor", checkpointing=False)


@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "bfloat16"])
@pytest.mark.parametrize("family", COUNTS)
def test_ten_steps_follow_eager(family: str, dtype: torch.dtype, device: str) -> None:
    model = tiny_model(family, dtype, device)
    batches = [tiny_batch(model.config, device=device, sequence=24, seed=step) for step in range(10)]
    twin, exact = copy.deepcopy(model), exact_copy(model)
    with ExactMode():
        truth = losses_of_training(exact, exact, batches)
    eager = losses_of_training(twin, twin, batches)
    ours = losses_of_training(compiled(model, "aot_eager"), model, batches)
    eager_error = max(abs(a - b) for a, b in zip(eager, truth, strict=True))
    our_error = max(abs(a - b) for a, b in zip(ours, truth, strict=True))
    unit = torch.finfo(dtype).eps * max(truth)
    assert our_error <= eager_error + unit, f"{our_error=:.3e} {eager_error=:.3e} {unit=:.3e}"
