"""Cross entropy of given logits: numerics against eager, edge cases, registration, compilation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cross_entropy_cases import DTYPES, OPTIONS, eager_cross_entropy, random_target
from torch import Tensor

import liger_compile.ops  # noqa: F401
from numerics import assert_as_accurate_as_eager, random_tensor

fused = torch.ops.liger.cross_entropy


def _inputs(shape: tuple[int, ...], dtype: torch.dtype, device: str, scale: float = 2.0, **options: Any) -> Any:
    def make(generator: torch.Generator) -> dict[str, Any]:
        ignored = options.get("ignore_index", -100)
        return {
            "logits": random_tensor(shape, generator, dtype=dtype, device=device, scale=scale),
            "target": random_target(shape[:-1], shape[-1], generator, device=device, ignore_index=ignored),
            **options,
        }

    return make


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_as_accurate_as_eager(dtype: torch.dtype, options: dict[str, Any], reduction: str, device: str) -> None:
    make = _inputs((13, 257), dtype, device, reduction=reduction, **options)
    assert_as_accurate_as_eager(fused, eager_cross_entropy, make)


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (3, 7), (7, 1000), (2, 3, 1024), (5, 4097), (2, 50257)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_shapes(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> None:
    make = _inputs(shape, dtype, device, label_smoothing=0.1)
    zero = ("out[0]", "grad logits") if shape[-1] == 1 else ()
    assert_as_accurate_as_eager(fused, eager_cross_entropy, make, zero_ok=zero)


# From 16384 on, multiples of 8 are shared by several blocks of a GPU: 1, 2, 8, and 8 with more vectors per thread.
@pytest.mark.parametrize("vocab", [16384, 32064, 128256, 151936, 256000])
@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_long_rows(dtype: torch.dtype, name: str, vocab: int, device: str) -> None:
    if device == "cpu" and vocab > 40000:
        vocab = vocab // 64 * 8
    for reduction in ("mean", "none"):
        make = _inputs((3, vocab), dtype, device, reduction=reduction, **OPTIONS[name])
        assert_as_accurate_as_eager(fused, eager_cross_entropy, make, seeds=(0, 1))


@pytest.mark.parametrize("softcap", [0.0, 5.0, 30.0])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_saturated_long_rows(dtype: torch.dtype, softcap: float, device: str) -> None:
    scale = 1e3 if dtype == torch.float16 else 1e4  # finite logits
    make = _inputs((5, 32064), dtype, device, scale=scale, softcap=softcap)
    assert_as_accurate_as_eager(fused, eager_cross_entropy, make)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_infinite_logits_under_a_softcap(dtype: torch.dtype, device: str) -> None:
    """Infinite ones are capped, and NaN stays NaN."""
    logits = torch.randn(4, 16384, device=device).to(dtype)
    logits[0, :4000], logits[1, 5], logits[2] = -torch.inf, torch.inf, -torch.inf
    logits[3, 16383] = torch.nan
    target = torch.tensor([9000, 5, 1, 16383], device=device)
    ours, theirs = (logits.clone().requires_grad_() for _ in range(2))
    loss = fused(ours, target, reduction="none", softcap=20.0, out_dtype=torch.float32)
    expected = eager_cross_entropy(theirs.double(), target, reduction="none", softcap=20.0)
    torch.testing.assert_close(loss.double(), expected, equal_nan=True, rtol=1e-5, atol=1e-5)
    loss.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, equal_nan=True, rtol=1e-2, atol=1e-6)


# More rows than a GPU has blocks at once, so that a block takes several; for narrow blocks and for wide ones.
@pytest.mark.parametrize("vocab", [1031, 16400])
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"softcap": 5.0}], ids=str)
def test_many_rows(options: dict[str, Any], vocab: int, device: str) -> None:
    rows = 3001 if device == "cuda" else 65
    generator = torch.Generator().manual_seed(0)
    logits = random_tensor((rows, vocab), generator, dtype=torch.bfloat16, device=device, scale=2.0)
    target = random_target((rows,), vocab, generator, device=device)
    together = fused(logits, target, reduction="none", **options)
    apart = [fused(logits[i : i + 7], target[i : i + 7], reduction="none", **options) for i in range(0, rows, 7)]
    expected = eager_cross_entropy(logits.double(), target, reduction="none", **options)
    torch.testing.assert_close(together.double(), expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(together, torch.cat(apart))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_loss_of_certain_rows_is_zero(dtype: torch.dtype, device: str) -> None:
    """Where one logit rules, its power is exactly 1, of whatever size it is."""
    logits = torch.zeros(3, 20000, dtype=dtype, device=device)
    target = torch.tensor([0, 7777, 19999], device=device)
    logits[range(3), target] = torch.tensor([137.0, 9999.0, 3e4], device=device).to(dtype)
    assert torch.equal(fused(logits, target, reduction="none"), logits.new_zeros(3))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_saturated_logits(dtype: torch.dtype, device: str) -> None:
    assert_as_accurate_as_eager(fused, eager_cross_entropy, _inputs((9, 333), dtype, device, scale=1e4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_rows_of_any_stride(dtype: torch.dtype, device: str) -> None:
    """Rows at every offset from a 16-byte boundary, far apart, and with a class dimension that is not innermost."""
    generator = torch.Generator().manual_seed(0)
    storage = random_tensor((6, 2200), generator, dtype=dtype, device=device)
    target = random_target((6,), 1031, generator, device=device)
    layouts = [storage[:, offset : offset + 1031] for offset in range(9)]
    layouts += [storage[::2, ::2][:, :1031], storage[:, :1031].t().contiguous().t()]
    for logits in layouts:
        rows = target[: logits.shape[0]]
        expected = logits.contiguous().requires_grad_()
        strided = logits.detach().requires_grad_()
        losses = [fused(tensor, rows, softcap=4.0) for tensor in (expected, strided)]
        gradients = [torch.autograd.grad(loss, t)[0] for loss, t in zip(losses, (expected, strided), strict=True)]
        torch.testing.assert_close(losses[1], losses[0], rtol=1e-6, atol=0.0)
        torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-2, atol=1e-6)


def test_int32_targets(device: str) -> None:
    logits, target = torch.randn(5, 11, device=device), torch.tensor([0, 3, -100, 10, 7], device=device)
    assert torch.equal(fused(logits, target.int()), fused(logits, target))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_infinite_logits(dtype: torch.dtype, device: str) -> None:
    """A block of -infinity is no NaN where torch is finite; other infinities are what torch makes of them."""
    logits = torch.randn(4, 70000, device=device).to(dtype)
    logits[0, :40000] = -torch.inf
    logits[1, 5] = torch.inf
    logits[2] = -torch.inf
    logits[3, 69999] = -torch.inf
    target = torch.tensor([65000, 5, 1, 69999], device=device)
    for smoothing in (0.0, 0.1):
        ours, theirs = (logits.clone().requires_grad_() for _ in range(2))
        loss = fused(ours, target, reduction="none", label_smoothing=smoothing, out_dtype=torch.float32)
        expected = F.cross_entropy(theirs.float(), target, reduction="none", label_smoothing=smoothing)
        torch.testing.assert_close(loss, expected, equal_nan=True)
        loss.sum().backward()
        expected.sum().backward()
        torch.testing.assert_close(ours.grad, theirs.grad, equal_nan=True)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_all_ignored(reduction: str, device: str) -> None:
    logits = torch.full((3, 9), torch.nan, device=device).requires_grad_()
    target = torch.full((3,), -100, device=device)
    loss = fused(logits, target, reduction=reduction)
    expected = F.cross_entropy(logits, target, reduction=reduction)
    torch.testing.assert_close(loss, expected, equal_nan=True)
    loss.sum().backward()
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_no_rows(reduction: str, device: str) -> None:
    logits = torch.empty(0, 9, device=device, requires_grad=True)
    target = torch.empty(0, dtype=torch.long, device=device)
    loss = fused(logits, target, reduction=reduction)
    torch.testing.assert_close(loss, F.cross_entropy(logits, target, reduction=reduction), equal_nan=True)
    loss.sum().backward()
    assert logits.grad.shape == (0, 9)


def test_out_dtype(device: str) -> None:
    logits, target = torch.randn(4, 9, device=device), torch.tensor([1, 2, 3, 4], device=device)
    for dtype in (torch.bfloat16, torch.float16):
        loss = fused(logits, target, out_dtype=dtype)
        assert torch.equal(loss, fused(logits, target).to(dtype))


def test_is_deterministic(device: str) -> None:
    logits = torch.randn(64, 5000, device=device, dtype=torch.bfloat16)
    target = torch.randint(0, 5000, (64,), device=device)
    first = fused(logits, target)
    assert all(torch.equal(fused(logits, target), first) for _ in range(3))


def test_inference_mode(device: str) -> None:
    with torch.inference_mode():
        logits, target = torch.randn(4, 9, device=device), torch.tensor([1, 2, 3, 4], device=device)
        torch.testing.assert_close(fused(logits, target), F.cross_entropy(logits, target))


def test_no_second_derivative(device: str) -> None:
    logits = torch.randn(2, 5, device=device, requires_grad=True)
    (gradient,) = torch.autograd.grad(fused(logits, torch.tensor([1, 2], device=device)), logits, create_graph=True)
    with pytest.raises(RuntimeError, match="does not require grad"):
        gradient.sum().backward()


def test_target_out_of_range() -> None:
    logits = torch.randn(3, 5)
    for bad in (5, -1):
        with pytest.raises(IndexError, match=f"^Target {bad} is out of bounds.$"):
            fused(logits, torch.tensor([0, bad, -100]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": torch.zeros(4)}, "target must be int64 or int32, got float32"),
        (
            {"target": torch.zeros(3, dtype=torch.long)},
            "target must have one element per row of logits (4), got shape [3]",
        ),
        ({"logits": torch.zeros(4, 5).double()}, "logits must be float32, bfloat16 or float16, got float64"),
        ({"logits": torch.zeros(4, 0)}, "logits must have at least one class, got shape [4, 0]"),
        ({"reduction": "max"}, 'reduction must be "none", "mean" or "sum", got "max"'),
        ({"label_smoothing": 1.5}, "label_smoothing must be between 0 and 1, got 1.5"),
        ({"softcap": -1.0}, "softcap must not be negative, got -1"),
        ({"out_dtype": torch.int32}, "out_dtype must be float32, bfloat16 or float16, got int32"),
    ],
)
def test_errors(change: dict[str, Any], message: str) -> None:
    arguments = {"logits": torch.zeros(4, 5), "target": torch.zeros(4, dtype=torch.long)} | change
    with pytest.raises(RuntimeError) as error:
        fused(**arguments)
    assert str(error.value) == f"liger::cross_entropy: {message}"


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_opcheck(reduction: str, device: str) -> None:
    target = torch.tensor([[1, -100, 3], [0, 2, 4]], device=device)
    options = {"reduction": reduction, "label_smoothing": 0.1, "z_loss": 0.1}
    for layout in (torch.randn(2, 3, 5, device=device), torch.randn(5, 2, 3, device=device).permute(1, 2, 0)):
        logits = layout.requires_grad_()
        torch.library.opcheck(fused, (logits, target), options)
        plain = logits.detach()
        loss, lse = torch.ops.liger.cross_entropy_forward(plain, target, **options)
        torch.library.opcheck(torch.ops.liger.cross_entropy_forward, (plain, target), options)
        torch.library.opcheck(torch.ops.liger.cross_entropy_backward, (loss, plain, target, lse), options)


@torch._dynamo.config.patch(error_on_recompile=True)  # one graph serves every number of rows
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiles(backend: str, device: str) -> None:
    def run(logits: Tensor, target: Tensor) -> Tensor:
        return fused(logits * 2, target, label_smoothing=0.1) * 3

    torch._dynamo.reset()
    compiled = torch.compile(run, backend=backend, fullgraph=True, dynamic=True)
    for rows in (4, 7):
        target = torch.randint(0, 33, (rows,), device=device)
        eager, graph = (torch.randn(rows, 33, device=device, requires_grad=True) for _ in range(2))
        graph.data.copy_(eager.data)
        losses = run(eager, target), compiled(graph, target)
        torch.testing.assert_close(losses[1], losses[0])
        for loss in losses:
            loss.backward()
        torch.testing.assert_close(graph.grad, eager.grad)
