"""What a call of one of our ops costs the host in a compiled graph: C++ alone."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
import torch

from liger_compile.tiny_models import tiny_batch, tiny_model

OPS_FOLDER = "/liger_compile/ops/"


def python_of_ops(run: Callable[[], Any]) -> list[str]:
    """The functions of our ops' Python that a call enters."""
    entered: list[str] = []

    def watch(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and OPS_FOLDER in frame.f_code.co_filename:
            entered.append(frame.f_code.co_qualname)

    sys.setprofile(watch)
    try:
        run()
    finally:
        sys.setprofile(None)
    return entered


@pytest.mark.parametrize("inner", ["aot_eager", "inductor"])
@pytest.mark.parametrize("family", ["llama", "phi3"])
def test_compiled_graphs_call_ops_without_python(inner: str, family: str) -> None:
    torch._dynamo.reset()
    model = tiny_model(family, torch.float32, use_cache=False, num_hidden_layers=1)
    batch = tiny_batch(model.config)
    compiled = torch.compile(model, backend="liger", options={"inner": inner, "rewrite": "all", "strict": True})

    def train() -> None:
        compiled(**batch).loss.backward()

    @torch.no_grad()
    def evaluate() -> None:
        assert float(compiled(**batch).loss) > 0

    for run in (train, evaluate):
        run()
        assert python_of_ops(run) == []
    assert python_of_ops(lambda: torch.ops.liger.glu(torch.ones(2), torch.ones(2), activation="silu"))
