"""Gated units joined with matrix products: as exact as the ops one by one, every layout, errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cross_entropy_cases import check_matmul_pooled
from torch import Tensor

import liger_compile.ops  # noqa: F401
from numerics import layouts_of, random_tensor

liger = torch.ops.liger

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
}
SIZES = [(1, 8, 8), (3, 5, 7), (130, 64, 96), (257, 72, 200), (300, 264, 1000)]


def _tensors(m: int, k: int, n: int, dtype: torch.dtype, device: str, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def make(*shape: int, scale: float = 1.0) -> Tensor:
        return random_tensor(shape, generator, dtype=dtype, device=device, scale=scale)

    spread = 2.0 * k**-0.5
    return {
        "a": make(m, k),
        "gate_b": make(n, k, scale=spread).t(),
        "up_b": make(n, k, scale=spread).t(),
        "b": make(k, n, scale=spread),
        "gate": make(m, n, scale=2.0),
        "up": make(m, n, scale=2.0),
    }


def _forward(tensors: dict[str, Tensor], activation: str) -> tuple[Tensor, ...]:
    return liger.mm_glu(tensors["a"], tensors["gate_b"], tensors["up_b"], activation=activation)


def _backward(tensors: dict[str, Tensor], activation: str) -> tuple[Tensor, ...]:
    return liger.mm_glu_backward(*(tensors[name] for name in ("a", "b", "gate", "up")), activation=activation)


def _plain_forward(tensors: dict[str, Tensor], activation: str) -> tuple[Tensor, ...]:
    gate, up = tensors["a"] @ tensors["gate_b"], tensors["a"] @ tensors["up_b"]
    return gate, up, ACTIVATIONS[activation](gate) * up


def _plain_backward(tensors: dict[str, Tensor], activation: str) -> tuple[Tensor, ...]:
    gate, up = (tensors[name].clone().requires_grad_() for name in ("gate", "up"))
    out = ACTIVATIONS[activation](gate) * up
    grads = torch.autograd.grad(out, (gate, up), tensors["a"] @ tensors["b"])
    return (*grads, out.detach())


def _check(
    ours: Callable[..., tuple[Tensor, ...]], plain: Callable[..., tuple[Tensor, ...]], *args: Any, activation: str
) -> None:
    """The numerical standard, see `check_matmul_pooled`."""
    samples: dict[int, list[tuple[Tensor, Tensor, Tensor]]] = {}
    for seed in range(8):
        tensors = _tensors(*args, seed=seed)
        exact = plain({name: tensor.double() for name, tensor in tensors.items()}, activation)
        drawn = zip(exact, plain(tensors, activation), ours(tensors, activation), strict=True)
        for index, sample in enumerate(drawn):
            assert sample[2].is_contiguous()
            samples.setdefault(index, []).append(sample)
    for index, of_result in samples.items():
        check_matmul_pooled(f"result {index}", of_result, tensors["a"].dtype)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_as_exact_as_eager(dtype: torch.dtype, sizes: tuple[int, int, int], activation: str, device: str) -> None:
    _check(_forward, _plain_forward, *sizes, dtype, device, activation=activation)
    _check(_backward, _plain_backward, *sizes, dtype, device, activation=activation)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_rounds_where_the_ops_one_by_one_do(sizes: tuple[int, int, int], activation: str, device: str) -> None:
    """Given the product, what follows is the same bit by bit."""
    tensors = _tensors(*sizes, torch.bfloat16, device)
    gate, up, out = _forward(tensors, activation)
    assert torch.equal(out, liger.glu(gate, up, activation=activation))
    tensors["b"] = tensors["b"].new_zeros(tensors["b"].shape)
    tensors["b"][0] = 1.0  # so that every product is exact
    grad_out = tensors["a"][:, :1].expand(-1, sizes[2])
    expected = liger.glu_backward(grad_out, tensors["gate"], tensors["up"], activation=activation, needs_out=True)
    for actual, one_by_one in zip(_backward(tensors, activation), expected, strict=True):
        assert torch.equal(actual, one_by_one)


def _packed(gate: Tensor, up: Tensor, gate_first: bool, *, by_columns: bool = False) -> Tensor:
    """Side by side; by_columns: with neighbouring elements in a column, as a transposed weight has them."""
    halves = (gate, up) if gate_first else (up, gate)
    return torch.cat([half.t() for half in halves]).t() if by_columns else torch.cat(halves, 1)


@pytest.mark.parametrize("gate_first", [True, False])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_packed(dtype: torch.dtype, sizes: tuple[int, int, int], gate_first: bool, device: str) -> None:
    """What the ops for two tensors give, side by side."""
    tensors = _tensors(*sizes, dtype, device)
    options = {"activation": "silu", "gate_first": gate_first}
    gate, up, out = _forward(tensors, "silu")
    packed_b = _packed(tensors["gate_b"], tensors["up_b"], gate_first, by_columns=True)
    close = {"rtol": 2 * torch.finfo(dtype).eps, "atol": 1e-5}
    for ours, expected in zip(
        liger.mm_glu_packed(tensors["a"], packed_b, **options), (_packed(gate, up, gate_first), out), strict=True
    ):
        assert ours.is_contiguous()
        torch.testing.assert_close(ours, expected, **close)
    grad_gate, grad_up, again = _backward(tensors, "silu")
    gate_up = _packed(tensors["gate"], tensors["up"], gate_first)
    given = gate_up.clone()
    grads, ours_again = liger.mm_glu_packed_backward(tensors["a"], tensors["b"], gate_up, **options)
    assert torch.equal(gate_up, given)
    torch.testing.assert_close(grads, _packed(grad_gate, grad_up, gate_first), **close)
    torch.testing.assert_close(ours_again, again, **close)
    in_place = liger.mm_glu_packed_backward_(tensors["a"], tensors["b"], gate_up, **options)
    assert torch.equal(gate_up, grads) and torch.equal(in_place, ours_again)


def test_saturated(device: str) -> None:
    tensors = _tensors(130, 64, 96, torch.bfloat16, device)
    for name in ("gate_b", "gate"):
        tensors[name] = tensors[name] * 1e3
    for value in (*_forward(tensors, "silu"), *_backward(tensors, "silu")):
        assert value.isfinite().all()


@pytest.mark.parametrize("name", ["a", "gate_b", "up_b", "b", "gate", "up"])
def test_any_layout(name: str, device: str) -> None:
    tensors = _tensors(130, 64, 96, torch.bfloat16, device)
    is_forward = name in ("a", "gate_b", "up_b")
    calls = [_forward] * is_forward + [_backward] * (name not in ("gate_b", "up_b"))
    for call in calls:
        expected = call(tensors, "silu")
        for other in layouts_of(tensors[name]):
            for actual, wanted in zip(call({**tensors, name: other}, "silu"), expected, strict=True):
                torch.testing.assert_close(actual, wanted, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("padding", [0, 8, 1])
def test_in_place(padding: int, device: str) -> None:
    """The gradients go over gate and up, also where those are parts of larger matrices, and nowhere else."""
    tensors = _tensors(130, 64, 96, torch.bfloat16, device)
    expected = _backward(tensors, "silu")
    large = {name: torch.full((132, 96 + padding), 7.0, dtype=torch.bfloat16, device=device) for name in ("gate", "up")}
    parts = {name: matrix[1:131, :96].copy_(tensors[name]) for name, matrix in large.items()}
    out = liger.mm_glu_backward_(tensors["a"], tensors["b"], parts["gate"], parts["up"], activation="silu")
    for actual, wanted in zip((parts["gate"], parts["up"], out), expected, strict=True):
        torch.testing.assert_close(actual, wanted)
    for matrix in large.values():
        matrix[1:131, :96] = 7.0
        assert (matrix == 7.0).all()


def test_empty(device: str) -> None:
    tensors = _tensors(0, 8, 16, torch.bfloat16, device)
    assert [value.shape for value in _forward(tensors, "silu")] == [(0, 16)] * 3
    assert [value.shape for value in _backward(tensors, "silu")] == [(0, 16)] * 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": torch.ones(3)}, "mm_glu: a must be a matrix"),
        ({"gate_b": torch.ones(4, 4)}, "gate_b must have shape"),
        ({"up_b": torch.ones(8, 15)}, "up_b must have shape"),
        ({"up_b": torch.ones(8, 16, dtype=torch.float64)}, "up_b must"),
    ],
)
def test_errors(change: dict[str, Tensor], message: str) -> None:
    tensors = {**_tensors(3, 8, 16, torch.float32, "cpu"), **change}
    with pytest.raises(RuntimeError, match=message):
        _forward(tensors, "silu")


def test_errors_of_backward() -> None:
    tensors = _tensors(3, 8, 16, torch.float32, "cpu")
    with pytest.raises(RuntimeError, match="gate must have shape"):
        liger.mm_glu_backward(tensors["a"], tensors["b"], torch.ones(3, 8), torch.ones(3, 8), activation="silu")
    with pytest.raises(RuntimeError, match="it is overwritten"):
        gate, up = torch.ones(1, 16).expand(3, 16), tensors["up"]
        liger.mm_glu_backward_(tensors["a"], tensors["b"], gate, up, activation="silu")
    with pytest.raises(RuntimeError, match="b must be a matrix with an even number of columns"):
        liger.mm_glu_packed(tensors["a"], torch.ones(8, 15), activation="silu")
    with pytest.raises(RuntimeError, match="activation must be"):
        _forward(tensors, "tanh")


def test_opcheck(device: str) -> None:
    tensors = _tensors(5, 8, 16, torch.float32, device)
    forward = tuple(tensors[name] for name in ("a", "gate_b", "up_b"))
    backward = tuple(tensors[name] for name in ("a", "b", "gate", "up"))
    torch.library.opcheck(liger.mm_glu.default, forward, {"activation": "silu"})
    torch.library.opcheck(liger.mm_glu_backward.default, backward, {"activation": "silu"})
    torch.library.opcheck(liger.mm_glu_backward_.default, backward, {"activation": "silu"})
    gate_up = torch.cat([tensors["gate"], tensors["up"]], 1)
    packed = (*backward[:2], gate_up)
    torch.library.opcheck(liger.mm_glu_packed.default, (tensors["a"], tensors["gate_b"]), {"activation": "silu"})
    torch.library.opcheck(liger.mm_glu_packed_backward.default, packed, {"activation": "silu"})
    torch.library.opcheck(liger.mm_glu_packed_backward_.default, packed, {"activation": "silu"})
