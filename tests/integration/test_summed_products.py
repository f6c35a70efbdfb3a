"""Sums of matrix products in compiled graphs: each product adds to those before it where nothing else is summed up."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._inductor.utils import run_and_get_code
from torch.fx.experimental.proxy_tensor import make_fx

from liger_compile import products
from liger_compile.summed_products import join_sums
from liger_compile.tiny_models import tiny_model

aten, liger = torch.ops.aten, torch.ops.liger
INNER = ["inductor", "aot_eager"]


class Layers(nn.Module):
    """Linear layers that read one normed input, whose gradient is the sum of as many products."""

    def __init__(self, device: str, widths: tuple[int, ...], dtype: torch.dtype = torch.bfloat16) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm = nn.RMSNorm(48, eps=1e-6, dtype=dtype, device=device)
        keywords: dict[str, Any] = {"bias": False, "dtype": dtype, "device": device}
        self.layers = nn.ModuleList(nn.Linear(48, width, **keywords) for width in widths)

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        normed = self.norm.weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype)
        return torch.cat([layer(normed).sin() for layer in self.layers], dim=-1)


def trained(call: Any, module: nn.Module, x: Tensor) -> list[Tensor]:
    leaf = x.clone().requires_grad_()
    module.zero_grad(set_to_none=True)
    out = call(leaf)
    out.backward(torch.arange(out.numel(), device=x.device, dtype=x.dtype).view_as(out).sin())
    return [out.detach(), leaf.grad, *(parameter.grad for parameter in module.parameters())]


def check_close(actual: list[Tensor], expected: list[Tensor]) -> None:
    """As a whole: single elements of sums over many rows cancel out."""
    for ours, theirs in zip(actual, expected, strict=True):
        assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
        assert (ours.double() - theirs.double()).norm() < 2e-2 * theirs.double().norm()


def calls_of_addmm(call: Any) -> int:
    with torch.profiler.profile() as profile:
        call()
    return sum(event.count for event in profile.key_averages() if event.key == "liger::addmm")


@pytest.mark.parametrize("shape", [(3, 7, 48), (21, 48)], ids=str)
@pytest.mark.parametrize("widths", [(64, 16, 16), (40, 40)], ids=str)
@pytest.mark.parametrize("inner", INNER)
def test_gradient_of_what_layers_share(
    inner: str, widths: tuple[int, ...], shape: tuple[int, ...], everywhere: None, device: str
) -> None:
    module, x = Layers(device, widths), torch.randn(shape, device=device).bfloat16()
    expected = trained(module, module, x)
    run = torch.compile(module, backend="liger", options={"rewrite": "all", "inner": inner})
    check_close(trained(run, module, x), expected)
    assert calls_of_addmm(lambda: trained(run, module, x)) == len(widths) - 1


def test_small_products_are_torchs(device: str) -> None:
    module, x = Layers(device, (64, 16, 16)), torch.randn(3, 7, 48, device=device).bfloat16()
    run = torch.compile(module, backend="liger", options={"rewrite": "all"})
    trained(run, module, x)
    assert calls_of_addmm(lambda: trained(run, module, x)) == 0


def test_nothing_is_copied(everywhere: None, device: str) -> None:
    """Inductor's code for the backward pass calls the op with the products themselves."""
    module, x = Layers(device, (64, 16, 16)), torch.randn(3, 7, 48, device=device).bfloat16()
    run = torch.compile(module, backend="liger", options={"rewrite": "all"})
    _, codes = run_and_get_code(lambda: trained(run, module, x))
    made = dict(re.findall(r"(\w+) = torch\.ops\.liger\.(\w+)\.default\(", codes[-1]))
    names = dict(re.findall(r"(\w+) = (\w+)\n", codes[-1]))
    addends = re.findall(r"liger\.addmm\.default\((\w+),", codes[-1])
    assert [made[names[addend]] for addend in addends] == ["mm", "addmm"]
    assert "copy" not in codes[-1].split("def call")[1] and "clone" not in codes[-1].split("def call")[1]


@pytest.mark.parametrize("inner", INNER)
def test_whole_model(inner: str, everywhere: None, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of a Llama is what it was without the pass, up to roundings."""
    model = tiny_model("llama").to(device, torch.bfloat16).train()
    ids = torch.randint(0, 128, (2, 32), generator=torch.Generator().manual_seed(0)).to(device)

    def step() -> tuple[int, list[Tensor]]:
        torch._dynamo.reset()
        run = torch.compile(model, backend="liger", options={"rewrite": "all", "inner": inner})
        results = []

        def once() -> None:
            model.zero_grad(set_to_none=True)
            loss = run(input_ids=ids, labels=ids).loss
            loss.backward()
            results[:] = [loss.detach(), *(parameter.grad for parameter in model.parameters())]

        once()
        return calls_of_addmm(once), results

    count, joined = step()
    assert count == 3 * model.config.num_hidden_layers, "k, q, and gate or up of each layer"
    monkeypatch.setattr("liger_compile.summed_products.join_sums", lambda graph, pay: None)
    count, apart = step()
    assert count == 0
    check_close(joined, apart)


def joined(function: Any, *shapes: tuple[int, ...], dtype: torch.dtype = torch.bfloat16) -> list[Any]:
    """Targets of a graph after the pass, of a function of random tensors; the graph's values stay what they were."""
    torch.manual_seed(0)
    inputs = [torch.randn(shape).to(dtype) for shape in shapes]
    gm = make_fx(function, tracing_mode="fake")(*inputs)
    expected = gm(*inputs)
    join_sums(gm.graph, lambda operands: True)
    gm.graph.lint()
    for node in gm.graph.nodes:
        if isinstance(value := node.meta.get("val"), Tensor) and node.op == "call_function":
            assert value.is_contiguous() or node.target is aten.t.default
    gm.recompile()
    torch.testing.assert_close(gm(*inputs), expected, rtol=2e-2, atol=5e-2)
    return [node.target for node in gm.graph.nodes if node.op == "call_function"]


TWO = ((16, 48), (48, 32), (16, 40), (40, 32))
THREE = (*TWO, (16, 8), (8, 32))
MM, ADDMM, ADD = aten.mm.default, liger.addmm.default, aten.add.Tensor


def test_two_and_three() -> None:
    assert joined(lambda a, b, c, d: a @ b + c @ d, *TWO) == [MM, ADDMM]
    assert joined(lambda a, b, c, d, e, f: a @ b + c @ d + e @ f, *THREE) == [MM, ADDMM, ADDMM]
    assert joined(lambda a, b, c, d, e, f: e @ f + (c @ d + a @ b), *THREE) == [MM, ADDMM, ADDMM]


def test_sums_of_sums() -> None:
    def tree(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
        return (a @ b + c @ d) + ((a + 1) @ b + c @ (d + 1))

    targets = joined(tree, *TWO)
    assert targets.count(ADDMM) == 3 and targets.count(MM) == 1


def test_long_sums() -> None:
    def long(a: Tensor, b: Tensor) -> Tensor:
        total, less = a @ b, -a
        for _ in range(750):
            total = less @ b + total
            total = total + (a @ b).view(4, 4, 32).view(16, 32)
        return total

    targets = joined(long, *TWO[:2])
    assert targets.count(ADDMM) == 1500 and ADD not in targets


def test_shaped() -> None:
    """A sum of views of products is a view of a sum of products."""
    view = aten.view.default
    assert joined(lambda a, b, c, d: (a @ b).view(4, 4, 32) + (c @ d).view(4, 4, 32), *TWO) == [MM, ADDMM, view]
    targets = joined(lambda a, b, c, d: ((a @ b).view(8, 64) + (c @ d).view(8, 64)).view(16, 32) + a @ b, *TWO)
    assert targets == [MM, ADDMM, ADDMM]
    targets = joined(
        lambda a, b: (a @ b).view(4, 4) + (b.view(2, 2, 2).view(8, 1) @ a.view(1, 2)).view(4, 4), (2, 1), (1, 8)
    )
    assert ADDMM not in targets


def test_products_stay_where_they_are() -> None:
    """No operand lives longer: a product whose operands are there early is not moved to the sum."""

    def function(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
        early = c @ d
        other = a.sin()
        return a @ b + early, other

    assert joined(function, *TWO) == [MM, aten.sin.default, ADDMM]


def test_by_inductors_addmm() -> None:
    assert joined(lambda a, b, c, d: torch.addmm(a @ b, c, d), *TWO) == [MM, ADDMM]
    targets = joined(lambda a, b, c, d, e, f: torch.addmm(a @ b, c, d) + e @ f, *THREE)
    assert targets == [MM, ADDMM, ADDMM]
    assert ADDMM not in joined(lambda a, b, c, d: torch.addmm(a @ b, c, d, beta=2), *TWO)
    assert ADDMM not in joined(lambda a, b, c: torch.addmm(c, a, b), *TWO[:2], (16, 32))
    assert ADDMM not in joined(lambda a, b, c, d: torch.addmm(a[:1] @ b, c, d), *TWO)


def test_with_other_addends() -> None:
    """They stay with the ops that add them."""
    other = (16, 32)
    assert joined(lambda a, b, c, d, x: a @ b + c @ d + x, *TWO, other) == [MM, ADDMM, ADD]
    assert joined(lambda a, b, c, d, x: x + (a @ b + c @ d), *TWO, other) == [MM, ADDMM, ADD]
    assert ADDMM not in joined(lambda a, b, c, d, x: (x + a @ b) + c @ d, *TWO, other)
    assert ADDMM not in joined(lambda a, b, x: x + a @ b, *TWO[:2], other)
    assert ADDMM not in joined(lambda a, b: a @ b + 1, *TWO[:2])


def test_what_is_read_elsewhere() -> None:
    def product(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> tuple[Tensor, ...]:
        first = a @ b
        return first + c @ d, first * 2

    def view(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> tuple[Tensor, ...]:
        first = (a @ b).view(4, 4, 32)
        return first + (c @ d).view(4, 4, 32), first * 2

    def part(a: Tensor, b: Tensor, c: Tensor, d: Tensor, e: Tensor, f: Tensor) -> tuple[Tensor, ...]:
        first = a @ b + c @ d
        return first + e @ f, first * 2

    assert ADDMM not in joined(product, *TWO)
    assert ADDMM not in joined(view, *TWO)
    assert joined(part, *THREE).count(ADDMM) == 1


def test_one_product_twice() -> None:
    def twice(a: Tensor, b: Tensor) -> Tensor:
        product = a @ b
        return product + product

    def views(a: Tensor, b: Tensor) -> Tensor:
        product = a @ b
        return product.view(4, 4, 32) + product.view(4, 4, 32)

    def sums(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
        total = a @ b + c @ d
        return total + total

    assert ADDMM not in joined(twice, *TWO[:2])
    assert ADDMM not in joined(views, *TWO[:2])
    assert joined(sums, *TWO) == [MM, ADDMM, ADD]


def test_other_sums() -> None:
    assert ADDMM not in joined(lambda a, b, c, d: torch.add(a @ b, c @ d, alpha=2), *TWO)
    assert ADDMM not in joined(lambda a, b, c, d: a @ b - c @ d, *TWO)
    assert ADDMM not in joined(lambda a, b, c, d: a @ b + c[:1] @ d, *TWO), "broadcast"
    assert ADDMM not in joined(lambda a, b, c, d: a @ b + (c @ d).float(), *TWO)
    assert ADDMM not in joined(lambda a, b, c, d: a @ b + (d.t() @ c.t()).t(), *TWO), "not with rows of neighbours"
    assert ADDMM not in joined(lambda a, b, c, d: (a @ b)[None] + c @ d, *TWO), "of another rank"


def replaced(dtype: torch.dtype, fewest: int, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """By the pass over all products, of a sum of a large and a small one."""
    monkeypatch.setattr(products, "_FEWEST_MULTIPLICATIONS", fewest)
    inputs = [torch.randn(shape).to(dtype) for shape in TWO]
    graph = make_fx(lambda a, b, c, d: a @ b + c @ d, tracing_mode="fake")(*inputs).graph
    products.prefer_our_products(graph)
    return [node.target for node in graph.nodes if node.op == "call_function"]


def test_sums_pay_as_a_whole(everywhere: None, monkeypatch: pytest.MonkeyPatch) -> None:
    large, small = 16 * 48 * 32, 16 * 40 * 32
    assert replaced(torch.bfloat16, small, monkeypatch) == [liger.mm.default, ADDMM]
    assert replaced(torch.bfloat16, large + small, monkeypatch) == [MM, ADDMM]
    assert replaced(torch.bfloat16, large + small + 1, monkeypatch) == [MM, MM, ADD]
    assert replaced(torch.float32, small, monkeypatch) == [MM, MM, ADD]
    with torch._inductor.config.patch(max_autotune=True):
        assert replaced(torch.bfloat16, small, monkeypatch) == [MM, MM, ADD], "to tune is what the user asked for"
