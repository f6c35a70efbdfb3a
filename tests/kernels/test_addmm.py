"""A product added to a matrix: as exact as eager mode, every layout, errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cross_entropy_cases import check_matmul_pooled
from torch import Tensor

import liger_compile.ops  # noqa: F401
from numerics import layouts_of, random_tensor

liger = torch.ops.liger
SIZES = [(1, 1, 1), (3, 5, 7), (64, 96, 80), (257, 72, 200), (513, 200, 130)]


def _tensors(m: int, k: int, n: int, dtype: torch.dtype, device: str, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    keywords: dict[str, Any] = {"dtype": dtype, "device": device}
    addend, a = (random_tensor(shape, generator, **keywords) for shape in ((m, n), (m, k)))
    return addend, a, random_tensor((k, n), generator, scale=k**-0.5, **keywords)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_as_exact_as_eager(dtype: torch.dtype, sizes: tuple[int, int, int], device: str) -> None:
    drawn = []
    for seed in range(8):
        addend, a, b = _tensors(*sizes, dtype, device, seed)
        exact = addend.double() + a.double() @ b.double()
        drawn.append((exact, addend + a @ b, liger.addmm(addend, a, b)))
    check_matmul_pooled("addmm", drawn, dtype)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_rounds_once(dtype: torch.dtype, sizes: tuple[int, int, int], device: str) -> None:
    """Of whole numbers, of which float32 sums are exact, the result is the exact one, rounded."""
    generator = torch.Generator().manual_seed(0)
    m, k, n = sizes
    addend, a, b = (
        torch.randint(-limit, limit, shape, generator=generator).to(device, dtype)
        for limit, shape in ((256, (m, n)), (9, (m, k)), (9, (k, n)))
    )
    exact = addend.double() + a.double() @ b.double()
    assert torch.equal(liger.addmm(addend, a, b), exact.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("place", range(3))
def test_any_layout(place: int, dtype: torch.dtype, device: str) -> None:
    """As exact as eager mode with the same layout: for some of them both run another kernel of the library's."""
    samples: dict[int, list[tuple[Tensor, Tensor, Tensor]]] = {}
    for seed in range(8):
        tensors = list(_tensors(130, 64, 96, dtype, device, seed))
        exact, given = tensors[0].double() + tensors[1].double() @ tensors[2].double(), tensors[place]
        for layout, other in enumerate(layouts_of(given)):
            tensors[place] = other
            addend, a, b = tensors
            actual = liger.addmm(addend, a, b)
            assert actual.is_contiguous()
            samples.setdefault(layout, []).append((exact, addend + a @ b, actual))
            assert torch.equal(other, given), "it is only read"
    for layout, drawn in samples.items():
        check_matmul_pooled(f"layout {layout}", drawn, dtype)


def test_broadcast_rows(device: str) -> None:
    addend, a, b = _tensors(130, 64, 96, torch.bfloat16, device)
    row = addend[0].expand(130, 96)
    torch.testing.assert_close(liger.addmm(row, a, b), liger.addmm(row.contiguous(), a, b), rtol=0, atol=0)


def test_same_again(device: str) -> None:
    tensors = _tensors(513, 200, 130, torch.bfloat16, device)
    assert torch.equal(liger.addmm(*tensors), liger.addmm(*tensors))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("sizes", [(16384, 512, 2048), (16384, 8192, 2048), (4096, 4096, 4096)], ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_large_products(dtype: torch.dtype, sizes: tuple[int, int, int]) -> None:
    """Those for which cublasLt is asked, of another memory than the result's."""
    addend, a, b = _tensors(*sizes, dtype, "cuda")
    exact = addend[:512].double() + a[:512].double() @ b.double()
    before = addend.clone()
    ours, eager = liger.addmm(addend, a, b), addend + a @ b
    assert torch.equal(addend, before)
    errors = [(value[:512].double() - exact).square().mean() for value in (ours, eager)]
    assert errors[0] <= errors[1]
    torch.testing.assert_close(ours, eager, rtol=4 * torch.finfo(dtype).eps, atol=4 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("sizes", [(0, 3, 4), (2, 0, 4), (2, 3, 0)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_empty(dtype: torch.dtype, sizes: tuple[int, int, int], device: str) -> None:
    m, k, n = sizes
    addend, a, b = (torch.ones(shape, dtype=dtype, device=device) for shape in ((m, n), (m, k), (k, n)))
    assert torch.equal(liger.addmm(addend, a, b), addend)


@pytest.mark.parametrize(
    ("place", "other", "message"),
    [
        (1, torch.zeros(3), "a must be a matrix, got shape [3]"),
        (2, torch.zeros(4, 5), "b must have shape [3, n], got [4, 5]"),
        (2, torch.zeros(3, 5).half(), "b must be float32, got float16"),
        (0, torch.zeros(5), "addend must have shape [2, 5], got [5]"),
        (0, torch.zeros(1, 5), "addend must have shape [2, 5], got [1, 5]"),
        (0, torch.zeros(2, 5).double(), "addend must be float32, got float64"),
    ],
)
def test_errors(place: int, other: Tensor, message: str, device: str) -> None:
    tensors = [torch.zeros(shape, device=device) for shape in ((2, 5), (2, 3), (3, 5))]
    tensors[place] = other.to(device)
    with pytest.raises(RuntimeError, match="liger::addmm") as error:
        liger.addmm(*tensors)
    assert message in str(error.value)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_two_devices() -> None:
    addend, a, b = _tensors(2, 3, 5, torch.float32, "cuda")
    with pytest.raises(RuntimeError, match="addend must be on the device of a"):
        liger.addmm(addend.cpu(), a, b)


def test_opcheck(device: str) -> None:
    addend, a, b = _tensors(5, 6, 7, torch.float32, device)
    torch.library.opcheck(liger.addmm.default, (addend, a, b.t().contiguous().t()))
