"""Training steps under mode="reduce-overhead": Inductor records them in CUDA graphs where there is a GPU."""

from __future__ import annotations

import copy

import pytest
import torch
from torch._dynamo.utils import counters

import liger_compile
from liger_compile.tiny_models import tiny_batch, tiny_model
from models.families import COUNTS, losses_of_training


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_recorded_steps_train_as_others(family: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGER_COMPILE_REWRITE", "all")  # torch.compile takes no options beside a mode
    model = tiny_model(family, torch.bfloat16, device)
    twin = copy.deepcopy(model)
    batches = [tiny_batch(model.config, device=device, sequence=24, seed=seed) for seed in range(6)]
    torch._dynamo.reset()
    expected = losses_of_training(torch.compile(twin, backend="liger"), twin, batches)
    torch._dynamo.reset()
    counters.clear()
    recorded = torch.compile(model, backend="liger", mode="reduce-overhead")
    with liger_compile.expect_rewrites(**COUNTS[family]):
        losses = losses_of_training(recorded, model, batches)
    assert losses == expected
    if device == "cuda":
        assert counters["inductor"]["cudagraph_skips"] == 0
