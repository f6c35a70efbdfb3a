"""Gated units in compiled graphs: joined with the products beside them where nothing else stands between."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import checkpoint

from liger_compile.gated_products import join_gated_units

liger = torch.ops.liger


class Mlp(nn.Module):
    def __init__(self, device: str, *, bias: bool = False, dtype: torch.dtype = torch.bfloat16) -> None:
        super().__init__()
        torch.manual_seed(0)
        kwargs: dict[str, Any] = {"bias": bias, "dtype": dtype, "device": device}
        self.gate, self.up = (nn.Linear(48, 64, **kwargs) for _ in range(2))
        self.down = nn.Linear(64, 48, **kwargs)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class PackedMlp(nn.Module):
    """One product for gate and up, as Phi-3 has it."""

    def __init__(self, device: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        kwargs: dict[str, Any] = {"bias": False, "dtype": torch.bfloat16, "device": device}
        self.gate_up, self.down = nn.Linear(48, 128, **kwargs), nn.Linear(64, 48, **kwargs)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(up * F.silu(gate))


class Checkpointed(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + checkpoint(self.inner, x, use_reentrant=False)


def trained(call: Any, module: nn.Module, x: Tensor) -> list[Tensor]:
    leaf = x.clone().requires_grad_()
    module.zero_grad(set_to_none=True)
    out = call(leaf)
    out.backward(torch.arange(out.numel(), device=x.device, dtype=x.dtype).view_as(out).sin())
    grads = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    return [out.detach(), leaf.grad, *grads]


def called_ops(call: Any) -> list[str]:
    with torch.profiler.profile() as profile:
        call()
    return [event.key for event in profile.key_averages() if event.key.startswith("liger::")]


def check(module: nn.Module, inner: str, device: str) -> list[str]:
    """Outputs and gradients are those of an uncompiled model; gives the names of our ops that ran."""
    x = torch.randn(3, 8, 48, device=device).bfloat16()
    expected = trained(module, module, x)
    run = torch.compile(module, backend="liger", options={"rewrite": "all", "inner": inner})
    for ours, theirs in zip(trained(run, module, x), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-2, atol=2e-2)
    return called_ops(lambda: trained(run, module, x))


@pytest.mark.parametrize("inner", ["inductor", "aot_eager"])
def test_joined_both_ways(inner: str, everywhere: None, device: str) -> None:
    ops = check(Mlp(device), inner, device)
    assert {"liger::mm_glu", "liger::mm_glu_backward"} <= set(ops)
    assert not any(name.startswith("liger::glu") for name in ops)


@pytest.mark.parametrize("inner", ["inductor", "aot_eager"])
def test_checkpointed(inner: str, everywhere: None, device: str) -> None:
    """Inductor lets the gradients go over gate and up, which are computed again and belong to nobody else."""
    ops = check(Checkpointed(Mlp(device)), inner, device)
    backward = "liger::mm_glu_backward_" if inner == "inductor" else "liger::mm_glu_backward"
    assert {"liger::mm_glu", backward} <= set(ops)


@pytest.mark.parametrize("inner", ["inductor", "aot_eager"])
def test_packed(inner: str, everywhere: None, device: str) -> None:
    ops = check(PackedMlp(device), inner, device)
    assert {"liger::mm_glu_packed", "liger::mm_glu_packed_backward"} <= set(ops)
    assert not any(name.startswith("liger::glu") for name in ops)
    ops = check(Checkpointed(PackedMlp(device)), inner, device)
    backward = "liger::mm_glu_packed_backward" + ("_" if inner == "inductor" else "")
    assert {"liger::mm_glu_packed", backward} <= set(ops)


def test_frozen_weights(everywhere: None, device: str) -> None:
    module = Mlp(device)
    module.down.requires_grad_(False)
    assert "liger::mm_glu" in check(module, "inductor", device)
    module.requires_grad_(False)
    check(module, "inductor", device)


@pytest.mark.parametrize("inner", ["inductor", "aot_eager"])
def test_with_bias(inner: str, everywhere: None, device: str) -> None:
    """A product with a bias is another op: the unit stands by itself before it."""
    assert "liger::mm_glu" not in check(Mlp(device, bias=True), inner, device)


def test_inference(everywhere: None, device: str) -> None:
    module = Mlp(device)
    run = torch.compile(module, backend="liger", options={"rewrite": "all"})
    x = torch.randn(3, 8, 48, device=device).bfloat16()
    with torch.no_grad():
        torch.testing.assert_close(run(x), module(x), rtol=2e-2, atol=2e-2)
        assert called_ops(lambda: run(x)).count("liger::mm_glu") == 1


def test_small_units_stand_alone(device: str) -> None:
    assert "liger::mm_glu" not in check(Mlp(device), "inductor", device)


def joined(function: Any, *shapes: tuple[int, ...], dtype: torch.dtype = torch.bfloat16) -> list[Any]:
    """Targets of a graph after the pass, of a function of random tensors; the graph's values stay what they were."""
    torch.manual_seed(0)
    inputs = [torch.randn(shape).to(dtype) for shape in shapes]
    gm = make_fx(function, tracing_mode="fake")(*inputs)
    expected = gm(*inputs)
    join_gated_units(gm.graph, lambda a, b: True)
    gm.graph.lint()
    gm.recompile()
    torch.testing.assert_close(gm(*inputs), expected, rtol=2e-2, atol=2e-2)
    return [node.target for node in gm.graph.nodes if node.op == "call_function"]


FORWARD = ((16, 48), (64, 48), (64, 48))


def test_values_beside_the_unit(device: str) -> None:
    """What else reads gate, up and the result reads those of the joined op."""

    def unit(x: Tensor, gate_weight: Tensor, up_weight: Tensor) -> tuple[Tensor, ...]:
        gate, up = torch.mm(x, gate_weight.t()), torch.mm(x, up_weight.t())
        out = liger.glu_forward(gate.view(4, 4, 64), up.view(4, 4, 64), activation="silu")
        return gate + 1, up.sum(), out, out.view(16, 64).t()

    targets = joined(unit, *FORWARD)
    assert liger.mm_glu.default in targets and torch.ops.aten.mm.default not in targets


def test_equal_views_of_one_input() -> None:
    def unit(x: Tensor, gate_weight: Tensor, up_weight: Tensor) -> Tensor:
        gate, up = torch.mm(x.view(16, 48), gate_weight.t()), torch.mm(x.view(16, 48), up_weight.t())
        return liger.glu_forward(gate, up, activation="silu")

    assert liger.mm_glu.default in joined(unit, (4, 4, 48), *FORWARD[1:])


def test_products_of_different_inputs() -> None:
    def unit(x: Tensor, gate_weight: Tensor, up_weight: Tensor) -> Tensor:
        return liger.glu_forward(torch.mm(x, gate_weight.t()), torch.mm(x + 1, up_weight.t()), activation="silu")

    assert liger.mm_glu.default not in joined(unit, *FORWARD)


def test_up_depends_on_gate() -> None:
    def unit(x: Tensor, gate_weight: Tensor, up_weight: Tensor) -> Tensor:
        gate = torch.mm(x, gate_weight.t())
        return liger.glu_forward(gate, torch.mm(x, (up_weight * gate.mean()).t()), activation="silu")

    assert liger.mm_glu.default not in joined(unit, *FORWARD)


def test_one_product_is_both() -> None:
    def unit(x: Tensor, weight: Tensor) -> Tensor:
        product = torch.mm(x, weight.t())
        return liger.glu_forward(product, product, activation="silu")

    assert liger.mm_glu.default not in joined(unit, (16, 48), (64, 48))


def test_between_product_and_unit() -> None:
    def unit(x: Tensor, gate_weight: Tensor, up_weight: Tensor) -> Tensor:
        return liger.glu_forward(torch.mm(x, gate_weight.t()) * 2, torch.mm(x, up_weight.t()), activation="silu")

    def turned(x: Tensor, gate_weight: Tensor, up_weight: Tensor) -> Tensor:
        gate, up = torch.mm(x, gate_weight.t()), torch.mm(x, up_weight.t())
        return liger.glu_forward(gate.t(), up.t(), activation="silu")

    assert liger.mm_glu.default not in joined(unit, *FORWARD)
    assert liger.mm_glu.default not in joined(turned, *FORWARD)


@pytest.mark.parametrize("shapes", [((16, 48), (60, 48), (60, 48)), ((16, 44), (64, 44), (64, 44))], ids=str)
def test_rows_that_the_kernel_does_not_read(shapes: Any) -> None:
    def unit(x: Tensor, gate_weight: Tensor, up_weight: Tensor) -> Tensor:
        return liger.glu_forward(torch.mm(x, gate_weight.t()), torch.mm(x, up_weight.t()), activation="silu")

    assert liger.mm_glu.default not in joined(unit, *shapes)
    assert liger.mm_glu.default not in joined(unit, *FORWARD, dtype=torch.float32)


@pytest.mark.parametrize("shape", [(4, 4, 128), (16, 128), (32, 64), (8, 256)], ids=str)
def test_halves_of_another_width(shape: tuple[int, ...]) -> None:
    """Gate and up must be the halves of the product's own rows."""

    def unit(x: Tensor, weight: Tensor) -> Tensor:
        return liger.glu_packed_forward(torch.mm(x, weight.t()).view(shape), activation="silu", gate_first=False)

    assert (liger.mm_glu_packed.default in joined(unit, (16, 48), (128, 48))) == (shape[-1] == 128)


@pytest.mark.parametrize("shape", [(4, 4, 128), (16, 128), (32, 64)], ids=str)
def test_gradients_of_halves_of_another_width(shape: tuple[int, ...]) -> None:
    def unit(grad: Tensor, weight: Tensor, gate_up: Tensor) -> tuple[Tensor, ...]:
        grad_out = torch.mm(grad, weight).view(*shape[:-1], shape[-1] // 2)
        options = {"activation": "silu", "gate_first": True, "needs_out": True}
        return liger.glu_packed_backward(grad_out, gate_up.view(shape), **options)

    is_joined = liger.mm_glu_packed_backward.default in joined(unit, (16, 48), (48, 64), (16, 128))
    assert is_joined == (shape[-1] == 128)


BACKWARD = ((16, 48), (48, 64), (4, 4, 64), (4, 4, 64))


def backward(grad: Tensor, weight: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, ...]:
    grad_out = torch.mm(grad, weight).view(4, 4, 64)
    return liger.glu_backward(grad_out, gate, up, activation="silu", needs_out=True)


def test_backward() -> None:
    targets = joined(backward, *BACKWARD)
    assert liger.mm_glu_backward.default in targets
    assert not {torch.ops.aten.mm.default, liger.glu_backward.default} & set(targets)


def test_some_results_of_backward() -> None:
    def unit(grad: Tensor, weight: Tensor, gate: Tensor, up: Tensor) -> Tensor:
        return backward(grad, weight, gate, up)[1] + 1

    targets = joined(unit, *BACKWARD)
    assert liger.mm_glu_backward.default in targets


def test_backward_without_output() -> None:
    def unit(grad: Tensor, weight: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, ...]:
        return liger.glu_backward(torch.mm(grad, weight).view(4, 4, 64), gate, up, activation="silu")[:2]

    assert liger.mm_glu_backward.default not in joined(unit, *BACKWARD)


def test_gradient_that_is_read_elsewhere() -> None:
    def unit(grad: Tensor, weight: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, ...]:
        grad_out = torch.mm(grad, weight)
        results = liger.glu_backward(grad_out.view(4, 4, 64), gate, up, activation="silu", needs_out=True)
        return (*results, grad_out.sum())

    assert liger.mm_glu_backward.default not in joined(unit, *BACKWARD)
