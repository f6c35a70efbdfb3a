"""Every family: the promised rewrites happen, and the model computes and trains as it does without us."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

import liger_compile
from liger_compile.tiny_models import tiny_batch, tiny_model
from models.families import COUNTS, ExactMode, check_against_exact, compiled, exact_copy, losses_of_training

DTYPES = [torch.float32, torch.bfloat16]


@pytest.fixture(autouse=True)
def fresh_dynamo() -> None:
    torch._dynamo.reset()


def check_family(family: str, dtype: torch.dtype, device: str, inner: str, checkpointing: bool) -> None:
    model = tiny_model(family, dtype, device)
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    fused = compiled(model, inner)
    with liger_compile.expect_rewrites(**COUNTS[family]):
        fused(**tiny_batch(model.config, device=device, sequence=24))

    def batch_of(seed: int) -> dict[str, Tensor]:
        batch = tiny_batch(model.config, device=device, sequence=24, seed=seed)
        batch["labels"][0, :5] = -100
        return batch

    check_against_exact(family, model, fused, batch_of)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "bfloat16"])
@pytest.mark.parametrize("family", COUNTS)
def test_family_is_rewritten_and_right(family: str, dtype: torch.dtype, checkpointing: bool, device: str) -> None:
    check_family(family, dtype, device, "aot_eager", checkpointing)


@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["llama", "gemma2", "phi3", "olmo2", "qwen3"])
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
