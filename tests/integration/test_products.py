"""Matrix products of compiled graphs: ours where they are large, torch's elsewhere."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

import liger_compile.ops  # noqa: F401
from liger_compile import products

mm = torch.ops.liger.mm


class Block(nn.Module):
    """A linear layer, and something to rewrite."""

    def __init__(self, dtype: torch.dtype, device: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm = nn.RMSNorm(48, eps=1e-6, dtype=dtype, device=device)
        self.linear = nn.Linear(48, 40, bias=False, dtype=dtype, device=device)

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        normed = self.norm.weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype)
        return self.linear(normed)


def trained(call: Any, module: nn.Module, x: Tensor) -> list[Tensor]:
    leaf = x.clone().requires_grad_()
    module.zero_grad(set_to_none=True)
    out = call(leaf)
    out.backward(torch.arange(out.numel(), device=x.device, dtype=x.dtype).view_as(out).sin())
    return [out.detach(), leaf.grad, *(parameter.grad for parameter in module.parameters())]


def called_ops(call: Any) -> list[str]:
    with torch.profiler.profile() as profile:
        call()
    return [event.key for event in profile.key_averages()]


def compiled(module: nn.Module, **options: Any) -> Any:
    return torch.compile(module, backend="liger", options={"rewrite": "all", **options})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_layers_train_through_our_products(dtype: torch.dtype, everywhere: None, device: str) -> None:
    module, x = Block(dtype, device), torch.randn(3, 7, 48, device=device).to(dtype)
    expected = trained(torch.compile(module, backend="aot_eager"), module, x)
    run = compiled(module)
    actual = trained(run, module, x)
    for ours, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-2, atol=2e-2)
    assert "liger::mm" in called_ops(lambda: trained(run, module, x))


def test_small_products_are_torchs(device: str) -> None:
    module, x = Block(torch.bfloat16, device), torch.randn(3, 7, 48, device=device).bfloat16()
    run = compiled(module)
    trained(run, module, x)
    assert "liger::mm" not in called_ops(lambda: trained(run, module, x))


def replaced(dtype: torch.dtype, device: str) -> bool:
    """Does the pass replace a product of that dtype?"""
    a, b = torch.randn(3, 5, dtype=dtype, device=device), torch.randn(5, 4, dtype=dtype, device=device)
    graph = make_fx(torch.mm, tracing_mode="fake")(a, b).graph
    products.prefer_our_products(graph)
    return any(node.target is mm.default for node in graph.nodes)


def test_what_is_replaced(everywhere: None, device: str) -> None:
    assert replaced(torch.bfloat16, device)
    assert replaced(torch.float16, device)
    assert not replaced(torch.float32, device), "cuBLAS has another choice there"
    for name in ("max_autotune", "max_autotune_gemm"):
        with torch._inductor.config.patch({name: True}):
            assert not replaced(torch.bfloat16, device), "to tune is what the user asked for"


def layouts(rows: int, columns: int, **keywords: Any) -> list[Tensor]:
    """Matrices of one shape: by rows, by columns, within larger ones, misaligned, and with gaps between elements."""
    large = torch.randn(2 * rows, 2 * columns + 8, **keywords)
    return [
        torch.randn(rows, columns, **keywords),
        torch.randn(columns, rows, **keywords).t(),
        large[:rows, 8 : columns + 8],
        large[1 : rows + 1, 1 : columns + 1],
        large[:rows, : 2 * columns : 2],
        large[0, :columns].expand(rows, columns),
    ]


@pytest.mark.parametrize("sizes", [(1, 1, 1), (3, 5, 7), (64, 96, 80), (513, 200, 130)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_any_layout(dtype: torch.dtype, sizes: tuple[int, int, int], device: str) -> None:
    m, k, n = sizes
    torch.manual_seed(0)
    for a in layouts(m, k, dtype=dtype, device=device):
        for b in layouts(k, n, dtype=dtype, device=device):
            actual, exact = mm(a, b), a.double() @ b.double()
            assert actual.is_contiguous()
            error = (actual.double() - exact).abs().max()
            assert error <= (torch.mm(a, b).double() - exact).abs().max() + torch.finfo(dtype).eps * exact.abs().max()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("sizes", [(16384, 2048, 8192), (4096, 4096, 4096), (2048, 4096, 14336)], ids=str)
def test_large_products_are_as_exact_as_torchs(sizes: tuple[int, int, int]) -> None:
    m, k, n = sizes
    a, b = (torch.randn(shape, device="cuda", dtype=torch.bfloat16) for shape in ((m, k), (n, k)))
    exact = a[:512].double() @ b.double().t()
    errors = [(product(a, b.t())[:512].double() - exact).square().mean() for product in (mm, torch.mm)]
    assert errors[0] <= 1.02 * errors[1]


@pytest.mark.parametrize("shapes", [((0, 3), (3, 4)), ((2, 0), (0, 4)), ((2, 3), (3, 0))], ids=str)
def test_empty(shapes: tuple[tuple[int, int], tuple[int, int]], device: str) -> None:
    a, b = (torch.randn(shape, device=device, dtype=torch.bfloat16) for shape in shapes)
    assert torch.equal(mm(a, b), torch.mm(a, b))


def test_errors(device: str) -> None:
    a, b = torch.zeros(2, 3, device=device), torch.zeros(4, 5, device=device)
    for arguments, message in (
        ((a[0], b), "a must be a matrix, got shape [3]"),
        ((a, b), "b must have shape [3, n], got [4, 5]"),
        ((a, torch.zeros(3, 5, device=device).half()), "b must be float32, got float16"),
    ):
        with pytest.raises(RuntimeError, match="liger::mm") as error:
            mm(*arguments)
        assert message in str(error.value)


def test_opcheck(device: str) -> None:
    torch.library.opcheck(mm, (torch.randn(5, 6, device=device), torch.randn(7, 6, device=device).t()))
