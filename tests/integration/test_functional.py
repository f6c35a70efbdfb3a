"""The public functions and modules, against the formulas in their docstrings."""

import pytest
import torch
import torch.nn.functional as F

from liger_compile import functional, nn


def values(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def reference_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


def test_norms(device: str) -> None:
    x, residual, weight = (values(*shape).to(device) for shape in ((3, 5, 32), (3, 5, 32), (32,)))
    torch.testing.assert_close(functional.rms_norm(x, weight, 1e-6), reference_norm(x, weight, 1e-6))
    torch.testing.assert_close(
        functional.rms_norm(x, weight, 1e-6, weight_offset=1.0), reference_norm(x, 1 + weight, 1e-6)
    )
    out, total = functional.add_rms_norm(x, residual, weight, 1e-6)
    torch.testing.assert_close(total, x + residual)
    torch.testing.assert_close(out, reference_norm(x + residual, weight, 1e-6))


def test_rotary(device: str) -> None:
    query, key = values(2, 4, 7, 16).to(device), values(2, 2, 7, 16, seed=1).to(device)
    angles = values(1, 1, 7, 8).to(device).repeat(1, 1, 1, 2)
    cos, sin = angles.cos(), angles.sin()

    def rotate(x: torch.Tensor) -> torch.Tensor:
        return x * cos + torch.cat((-x[..., 8:], x[..., :8]), -1) * sin

    for actual, x in zip(functional.apply_rotary(query, key, cos, sin), (query, key), strict=True):
        torch.testing.assert_close(actual, rotate(x))


def test_gated_units(device: str) -> None:
    gate, up = values(6, 48).to(device), values(6, 48, seed=1).to(device)
    torch.testing.assert_close(functional.swiglu(gate, up), F.silu(gate) * up)
    for approximate in ("tanh", "none"):
        expected = F.gelu(gate, approximate=approximate) * up
        torch.testing.assert_close(functional.geglu(gate, up, approximate=approximate), expected)
    with pytest.raises(ValueError, match="approximate: expected 'tanh' or 'none', actual 'erf'"):
        functional.geglu(gate, up, approximate="erf")


def test_losses(device: str) -> None:
    hidden, weight = values(9, 16).to(device), values(50, 16, seed=1).to(device)
    target = torch.arange(9, device=device)
    target[2] = -100
    logits = F.linear(hidden, weight)
    torch.testing.assert_close(functional.cross_entropy(logits, target), F.cross_entropy(logits, target))
    torch.testing.assert_close(
        functional.linear_cross_entropy(hidden, weight, target, label_smoothing=0.1, reduction="sum"),
        F.cross_entropy(logits, target, label_smoothing=0.1, reduction="sum"),
    )
    capped = 5.0 * torch.tanh(logits * 0.5 / 5.0)
    lse = torch.logsumexp(capped, -1)
    torch.testing.assert_close(
        functional.cross_entropy(logits, target, logit_scale=0.5, softcap=5.0, z_loss=0.01),
        F.cross_entropy(capped, target) + 0.01 * lse.square().mean(),
    )


def test_modules(device: str) -> None:
    x = values(2, 5, 32).to(device).requires_grad_()
    norm = nn.RMSNorm(32, weight_offset=1.0, device=device)
    assert torch.equal(norm.weight, torch.zeros(32, device=device))
    mlp = nn.GatedMLP(32, 48, activation="gelu_tanh", bias=True, device=device)
    out, total = norm(x, x)
    torch.testing.assert_close(total, 2 * x)
    expected = mlp.down_proj(F.gelu(mlp.gate_proj(out), approximate="tanh") * mlp.up_proj(out))
    torch.testing.assert_close(mlp(out), expected)
    loss = nn.LinearCrossEntropyLoss(reduction="sum")(
        mlp(norm(x)), values(50, 32).to(device), torch.arange(10).to(device)
    )
    loss.backward()
    assert x.grad is not None and bool(x.grad.any())
    with pytest.raises(ValueError, match="activation: expected silu, gelu or gelu_tanh, actual 'relu'"):
        nn.GatedMLP(32, 48, activation="relu")


def test_functions_compile_without_graph_breaks() -> None:
    x, weight = values(4, 32).requires_grad_(), values(32)
    compiled = torch.compile(lambda x: functional.rms_norm(x, weight, 1e-6), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), functional.rms_norm(x, weight, 1e-6))
