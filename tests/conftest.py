"""Fixtures shared by all tests."""

import os

# Tests run beside each other: a thread that waits for others must not keep a core from them.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import pytest
import torch


def _devices() -> list[str]:
    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


@pytest.fixture(params=_devices())
def device(request: pytest.FixtureRequest) -> str:
    """Every device that this machine has kernels for."""
    return request.param
