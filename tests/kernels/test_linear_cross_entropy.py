"""Linear cross entropy: numerics against eager, chunk boundaries, edge cases, registration, compilation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from cross_entropy_cases import (
    DTYPES,
    OPTIONS,
    assert_as_accurate_on_average,
    check_matmul_pooled,
)
from linear_cross_entropy_cases import eager, eager_with_logits, make_inputs
from torch import Tensor

import liger_compile.ops  # noqa: F401

liger = torch.ops.liger
fused = liger.linear_cross_entropy
fused_with_logits = liger.linear_cross_entropy_with_logits


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_as_accurate_as_eager(dtype: torch.dtype, options: dict[str, Any], reduction: str, device: str) -> None:
    make = make_inputs((2, 7), 32, 257, dtype, device, has_bias=True, reduction=reduction, **options)
    assert_as_accurate_on_average(fused, eager, make)


@pytest.mark.parametrize("tokens", [1, 7, 130])
@pytest.mark.parametrize("vocab", [257, 1000])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sizes(dtype: torch.dtype, vocab: int, tokens: int, device: str) -> None:
    assert_as_accurate_on_average(fused, eager, make_inputs((tokens,), 40, vocab, dtype, device))


@pytest.mark.parametrize("name", ["plain", "softcap", "everything"])
@pytest.mark.parametrize("vocab", [50257, 128256])
def test_large_vocabulary(vocab: int, name: str, device: str) -> None:
    make = make_inputs((9,), 24, vocab, torch.bfloat16, device, has_bias=True, **OPTIONS[name])
    assert_as_accurate_on_average(fused, eager, make, seeds=range(3))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_saturated_logits(dtype: torch.dtype, device: str) -> None:
    scale = 1e3 if dtype == torch.float16 else 1e4  # finite logits
    assert_as_accurate_on_average(fused, eager, make_inputs((11,), 16, 129, dtype, device, scale=scale))


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_with_logits(dtype: torch.dtype, options: dict[str, Any], device: str) -> None:
    """Loss and logits are both differentiated."""
    make = make_inputs((2, 7), 32, 257, dtype, device, has_bias=True, **options)
    assert_as_accurate_on_average(fused_with_logits, eager_with_logits, make)


def _call_forward(inputs: dict[str, Any], chunk_rows: int, reduction: str) -> tuple[Tensor, ...]:
    needs = {name: True for name in ("needs_grad_hidden_states", "needs_grad_weight", "needs_grad_bias")}
    return liger.linear_cross_entropy_forward(**inputs, **needs, chunk_rows=chunk_rows, reduction=reduction)


def _eager_gradients(inputs: dict[str, Any], dtype: torch.dtype, chunk_rows: int, is_mean: bool) -> dict[str, Tensor]:
    """Eager's gradients with the same rows in each matrix product: how a product sums depends on its shape."""
    leaves = {name: inputs[name].to(dtype).requires_grad_() for name in ("hidden_states", "weight", "bias")}
    hidden, target = leaves["hidden_states"], inputs["target"]
    chunks = zip(hidden.split(chunk_rows), target.split(chunk_rows), strict=True)
    loss = sum(eager(rows, leaves["weight"], classes, leaves["bias"], reduction="sum") for rows, classes in chunks)
    if is_mean:
        loss = loss / (target != -100).sum()
    return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))


def _check_chunks(
    gradients: Callable[[dict[str, Any]], Any], dtype: torch.dtype, chunk_rows: int, is_mean: bool, device: str
) -> None:
    make = make_inputs((24,), 32, 131, dtype, device, has_bias=True)
    samples: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {}
    for seed in range(3, 7):
        inputs = make(torch.Generator().manual_seed(seed))
        truth = _eager_gradients(inputs, torch.float64, 24, is_mean)
        same_dtype = _eager_gradients(inputs, dtype, chunk_rows, is_mean)
        for (name, exact), ours in zip(truth.items(), gradients(inputs), strict=True):
            samples.setdefault(name, []).append((exact, same_dtype[name], ours))
    for name, drawn in samples.items():
        check_matmul_pooled(f"grad {name}, chunks of {chunk_rows}", drawn, dtype)


@pytest.mark.parametrize("chunk_rows", [1, 4, 16, 23, 24, 1000])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_chunk_boundaries(dtype: torch.dtype, chunk_rows: int, device: str) -> None:
    def gradients(inputs: dict[str, Any]) -> list[Tensor]:
        loss, _, *stored, scale = _call_forward(inputs, chunk_rows, "mean")
        torch.testing.assert_close(loss, _call_forward(inputs, 0, "mean")[0], rtol=1e-6, atol=0.0)
        return [(gradient.double() * scale).to(dtype) for gradient in stored]

    _check_chunks(gradients, dtype, chunk_rows, is_mean=True, device=device)


@pytest.mark.parametrize("chunk_rows", [1, 5, 24])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_chunk_boundaries_in_backward(dtype: torch.dtype, chunk_rows: int, device: str) -> None:
    def gradients(inputs: dict[str, Any]) -> Any:
        hidden, weight, target, bias = (inputs[name] for name in ("hidden_states", "weight", "target", "bias"))
        loss, lse, *_ = liger.linear_cross_entropy_forward(hidden, weight, target, bias, reduction="none")
        return liger.linear_cross_entropy_backward(
            torch.ones_like(loss), None, hidden, weight, target, bias, None, lse, reduction="none",
            needs_grad_bias=True, chunk_rows=chunk_rows,
        )  # fmt: skip

    _check_chunks(gradients, dtype, chunk_rows, is_mean=False, device=device)


def test_weight_gradient_is_accumulated_in_float32(device: str) -> None:
    """Many chunks whose gradients are small beside their sum: bfloat16 would lose them."""
    tokens, vocab = 512, 64
    hidden = torch.ones(tokens, 8, dtype=torch.bfloat16, device=device)
    weight = torch.zeros(vocab, 8, dtype=torch.bfloat16, device=device)
    target = torch.zeros(tokens, dtype=torch.long, device=device)
    result = liger.linear_cross_entropy_forward(
        hidden, weight, target, reduction="sum", needs_grad_weight=True, chunk_rows=1
    )
    expected = torch.full((8,), tokens / vocab, device=device)
    torch.testing.assert_close(result[3][1].float(), expected, rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("vocab", [33, 200, 5001])
def test_weight_gradient_of_chunks_is_that_of_one(device: str, dtype: torch.dtype, vocab: int) -> None:
    """The sum of chunks is narrowed in steps, each twice as long as the last; the largest vocabulary needs several."""
    inputs = make_inputs((20,), 1030, vocab, dtype, device)(torch.Generator().manual_seed(0))
    inputs["weight"].zero_()  # so that logits, and the gradients that are summed, do not depend on the chunks
    one, chunked = (
        liger.linear_cross_entropy_forward(**inputs, needs_grad_weight=True, chunk_rows=rows)[3] for rows in (20, 7)
    )
    assert one.dtype == chunked.dtype == dtype
    torch.testing.assert_close(chunked, one, rtol=torch.finfo(dtype).eps, atol=1e-6)


def test_small_float16_gradients_survive(device: str) -> None:
    """Divided by the number of tokens in float16, the gradients of unlikely classes would be zero."""
    generator = torch.Generator().manual_seed(0)
    inputs = make_inputs((4096,), 8, 512, torch.float16, device)(generator)
    inputs["hidden_states"].requires_grad_()
    (fused(**inputs) * 4096.0).backward()
    exact = {name: inputs[name].detach().double() for name in ("hidden_states", "weight")}
    exact["hidden_states"].requires_grad_()
    (eager(**exact, target=inputs["target"]) * 4096.0).backward()
    ours, truth = inputs["hidden_states"].grad.double(), exact["hidden_states"].grad
    assert (ours - truth).norm() < 1e-3 * truth.norm()


@pytest.mark.parametrize("with_logits", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("wanted", ["hidden_states", "weight", "bias"])
def test_only_wanted_gradients(wanted: str, reduction: str, with_logits: bool, device: str) -> None:
    make = make_inputs((6,), 8, 33, torch.float32, device, has_bias=True, reduction=reduction)
    frozen = [name for name in ("hidden_states", "weight", "bias") if name != wanted]
    ours, theirs = (fused_with_logits, eager_with_logits) if with_logits else (fused, eager)
    assert_as_accurate_on_average(ours, theirs, make, frozen=frozen)


@pytest.mark.parametrize("used", [0, 1])
def test_with_logits_when_one_output_is_used(used: int, device: str) -> None:
    make = make_inputs((6,), 8, 33, torch.bfloat16, device, softcap=3.0)
    assert_as_accurate_on_average(
        lambda **kw: fused_with_logits(**kw)[used], lambda **kw: eager_with_logits(**kw)[used], make
    )


def test_backward_twice(device: str) -> None:
    inputs = make_inputs((6,), 8, 33, torch.float32, device)(torch.Generator().manual_seed(0))
    inputs["weight"].requires_grad_()
    loss = fused(**inputs)
    grads = [torch.autograd.grad(loss * factor, inputs["weight"], retain_graph=True)[0] for factor in (3.0, 3.0, 1.0)]
    assert torch.equal(grads[0], grads[1])
    torch.testing.assert_close(grads[0], grads[2] * 3.0)


def test_tied_weight(device: str) -> None:
    weight = torch.randn(33, 8, device=device, requires_grad=True)
    target = torch.tensor([1, 5, 7], device=device)
    for function in (fused, eager):
        weight.grad = None
        function(weight[[3, 4, 5]], weight, target).backward()
        if function is fused:
            ours = weight.grad.clone()
    torch.testing.assert_close(ours, weight.grad)


def test_stridedmake_inputs(device: str) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = make_inputs((4, 5), 16, 37, torch.float32, device)(generator)
    expected = fused(**inputs)
    inputs["hidden_states"] = inputs["hidden_states"].transpose(0, 1).contiguous().transpose(0, 1)
    inputs["weight"] = inputs["weight"].t().contiguous().t()
    inputs["target"] = inputs["target"].reshape(-1)
    torch.testing.assert_close(fused(**inputs), expected)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("with_logits", [False, True])
@pytest.mark.parametrize("tokens", [0, 3])
def test_nothing_to_learn_from(tokens: int, with_logits: bool, reduction: str, device: str) -> None:
    """No tokens, and tokens that are all ignored: torch's loss, and gradients of zero."""
    hidden = torch.randn(tokens, 8, device=device, requires_grad=True)
    weight = torch.randn(33, 8, device=device, requires_grad=True)
    target = torch.full((tokens,), -100, device=device)
    loss = fused_with_logits(hidden, weight, target, reduction=reduction)[0] if with_logits else fused(
        hidden, weight, target, reduction=reduction
    )  # fmt: skip
    torch.testing.assert_close(loss, eager(hidden, weight, target, reduction=reduction), equal_nan=True)
    loss.sum().backward()
    assert torch.equal(hidden.grad, torch.zeros_like(hidden))
    assert torch.equal(weight.grad, torch.zeros_like(weight))


@pytest.mark.parametrize("enabled", [False, True])
def test_autocast_changes_nothing(enabled: bool, device: str) -> None:
    inputs = make_inputs((6,), 8, 33, torch.float32, device)(torch.Generator().manual_seed(0))
    inputs["weight"].requires_grad_()
    with torch.autocast(device, torch.bfloat16, enabled=enabled):
        loss = fused(**inputs)
        loss.backward()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, eager(**inputs))


def test_inference_and_no_grad(device: str) -> None:
    inputs = make_inputs((6,), 8, 33, torch.float32, device)(torch.Generator().manual_seed(0))
    inputs["weight"].requires_grad_()
    with torch.no_grad():
        expected = fused(**inputs)
    assert not expected.requires_grad
    with torch.inference_mode():
        assert torch.equal(fused(**inputs), expected)
        assert torch.equal(fused_with_logits(**inputs)[0], expected)


def test_forward_op_under_grad_mode(device: str) -> None:
    """The helper op has no gradient of its own; called directly it must still run."""
    weight = torch.randn(33, 8, device=device, requires_grad=True)
    hidden, target = torch.randn(3, 8, device=device), torch.tensor([1, 5, 7], device=device)
    result = liger.linear_cross_entropy_forward(hidden, weight, target, needs_grad_weight=True)
    torch.testing.assert_close(result[0], eager(hidden, weight, target))


def test_target_out_of_range() -> None:
    with pytest.raises(IndexError, match=r"^Target 33 is out of bounds\.$"):
        fused(torch.randn(2, 8), torch.randn(33, 8), torch.tensor([0, 33]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": torch.zeros(9, 5)}, "weight must have shape [vocab, 8], got [9, 5]"),
        (
            {"weight": torch.zeros(9, 8, dtype=torch.bfloat16)},
            "weight must have the dtype of hidden_states (float32), got bfloat16",
        ),
        ({"bias": torch.zeros(9).half()}, "bias must have the dtype of hidden_states (float32), got float16"),
        ({"bias": torch.zeros(8)}, "bias must have shape [9], got [8]"),
        (
            {"hidden_states": torch.zeros(2, 2, 8).double()},
            "hidden_states must be float32, bfloat16 or float16, got float64",
        ),
        (
            {"target": torch.zeros(3, dtype=torch.long)},
            "target must have one element per row of hidden_states (4), got shape [3]",
        ),
        ({"reduction": "max"}, 'reduction must be "none", "mean" or "sum", got "max"'),
    ],
)  # fmt: skip
def test_errors(change: dict[str, Any], message: str) -> None:
    arguments = {
        "hidden_states": torch.zeros(2, 2, 8),
        "weight": torch.zeros(9, 8),
        "target": torch.zeros(4, dtype=torch.long),
    } | change
    with pytest.raises(RuntimeError) as error:
        fused(**arguments)
    assert str(error.value) == f"liger::linear_cross_entropy: {message}"


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (3,), (7, 1031), (4, 4096)], ids=str)
def test_scale(shape: tuple[int, ...], dtype: torch.dtype, wide: bool, device: str) -> None:
    gradient = torch.randn(shape, device=device, dtype=torch.float32 if wide else dtype)
    scale = torch.tensor(0.3, device=device)
    actual = liger.linear_cross_entropy_scale(gradient, scale, dtype=dtype)
    assert torch.equal(actual, (gradient.float() * scale).to(dtype))
    torch.library.opcheck(liger.linear_cross_entropy_scale, (gradient, scale), {"dtype": dtype})


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_opcheck(reduction: str, device: str) -> None:
    inputs = make_inputs((2, 3), 8, 17, torch.bfloat16, device, has_bias=True)(torch.Generator().manual_seed(0))
    options = {"reduction": reduction, "label_smoothing": 0.1, "softcap": 4.0}
    plain = tuple(inputs[name] for name in ("hidden_states", "weight", "target", "bias"))
    needs = {} if reduction == "none" else {"needs_grad_hidden_states": True, "needs_grad_weight": True}
    torch.library.opcheck(liger.linear_cross_entropy_forward, plain, options | needs)
    torch.library.opcheck(liger.linear_cross_entropy_with_logits_forward, plain, options)
    loss, logits, lse = liger.linear_cross_entropy_with_logits_forward(*plain, **options)
    torch.library.opcheck(
        liger.linear_cross_entropy_backward,
        (loss, torch.ones_like(logits), *plain, logits, lse),
        options | {"needs_grad_bias": True},
    )
    for name in ("hidden_states", "weight", "bias"):
        inputs[name].requires_grad_()
    torch.library.opcheck(fused, plain, options)
    torch.library.opcheck(fused_with_logits, plain, options)


@torch._dynamo.config.patch(error_on_recompile=True)  # one graph serves every number of tokens
@pytest.mark.parametrize("with_logits", [False, True])
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiles(backend: str, with_logits: bool, device: str) -> None:
    def run(hidden: Tensor, weight: Tensor, target: Tensor) -> Tensor:
        if not with_logits:
            return fused(hidden * 2, weight, target, label_smoothing=0.1) * 3
        loss, logits = fused_with_logits(hidden * 2, weight, target, label_smoothing=0.1)
        return loss * 3 + logits.square().mean()

    torch._dynamo.reset()
    compiled = torch.compile(run, backend=backend, fullgraph=True, dynamic=True)
    for tokens in (4, 7):
        leaves = [torch.randn(tokens, 16, device=device), torch.randn(33, 16, device=device)]
        target = torch.randint(0, 33, (tokens,), device=device)
        results = []
        for function in (run, compiled):
            arguments = [leaf.clone().requires_grad_() for leaf in leaves]
            loss = function(*arguments, target)
            results.append((loss, *torch.autograd.grad(loss, arguments)))
        for eager_value, graph_value in zip(*results, strict=True):
            torch.testing.assert_close(graph_value, eager_value)
