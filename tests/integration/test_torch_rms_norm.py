"""torch.nn.RMSNorm, which is one node of the graph."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm

import liger_compile
from numerics import assert_as_accurate_as_eager, random_tensor

HIDDEN = 72
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
DEFAULT_EPS = torch.finfo(torch.float32).eps  # also of half types, but not of float64, in which the truth is computed


def compiled(function: Any) -> Any:
    return torch.compile(function, backend="liger", options={"inner": "aot_eager", "rewrite": "all", "strict": True})


@pytest.mark.parametrize("eps", [None, 1e-3])
@pytest.mark.parametrize("weight_dtype", [None, "same", torch.float32], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_it_is_as_accurate_as_eager(
    dtype: torch.dtype, weight_dtype: torch.dtype | str | None, eps: float | None, device: str
) -> None:
    def fused(hidden_states: Tensor, weight: Tensor | None = None) -> Tensor:
        return run(hidden_states, (HIDDEN,), weight, eps)

    def eager(hidden_states: Tensor, weight: Tensor | None = None) -> Tensor:
        return rms_norm(hidden_states, (HIDDEN,), weight, DEFAULT_EPS if eps is None else eps)

    def make(generator: torch.Generator) -> dict[str, Tensor | None]:
        scale = 1e-3 if eps is None else 1.0
        hidden_states = random_tensor((3, 5, HIDDEN), generator, dtype=dtype, device=device, scale=scale)
        if weight_dtype is None:
            return {"hidden_states": hidden_states, "weight": None}
        of_weight = dtype if weight_dtype == "same" else weight_dtype
        return {
            "hidden_states": hidden_states,
            "weight": random_tensor((HIDDEN,), generator, dtype=of_weight, device=device),
        }

    run = compiled(rms_norm)
    with liger_compile.expect_rewrites(rms_norm=1):
        fused(**make(torch.Generator()))
    assert_as_accurate_as_eager(fused, eager, make)


def test_a_module_is_recognised(device: str) -> None:
    module = nn.Sequential(nn.Linear(HIDDEN, HIDDEN), nn.RMSNorm(HIDDEN), nn.Linear(HIDDEN, 1)).to(device)
    x = torch.randn(4, HIDDEN, device=device)
    with liger_compile.expect_rewrites(rms_norm=1):
        out = compiled(module)(x)
    torch.testing.assert_close(out, module(x))


def test_several_dims_together_are_left_alone() -> None:
    run = compiled(lambda x: rms_norm(x, (4, HIDDEN)))
    x = torch.randn(3, 4, HIDDEN)
    with liger_compile.expect_rewrites():
        out = run(x)
    assert torch.equal(out, rms_norm(x, (4, HIDDEN)))
    assert "it normalises the last 2 dims together" in str(liger_compile.report())
