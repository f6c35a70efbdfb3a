"""Linear cross entropy in bfloat16 without options: what Hopper computes from exponentials, without logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cross_entropy_cases import assert_as_accurate_on_average, check_matmul_pooled
from linear_cross_entropy_cases import eager, make_inputs
from torch import Tensor

import liger_compile.ops  # noqa: F401

liger = torch.ops.liger
fused = liger.linear_cross_entropy


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("hidden_size", [8, 72, 264])
@pytest.mark.parametrize(("tokens", "vocab"), [(1, 5), (600, 3), (130, 192), (513, 1003), (300, 5000)])
def test_sizes(tokens: int, vocab: int, hidden_size: int, reduction: str, device: str) -> None:
    make = make_inputs((tokens,), hidden_size, vocab, torch.bfloat16, device, reduction=reduction)
    assert_as_accurate_on_average(fused, eager, make, seeds=range(4))


@pytest.mark.parametrize("hidden_size", [7, 12])
def test_rows_that_no_copy_engine_takes(hidden_size: int, device: str) -> None:
    make = make_inputs((20,), hidden_size, 257, torch.bfloat16, device)
    assert_as_accurate_on_average(fused, eager, make)


@pytest.mark.parametrize("offset", [1, 8])
def test_weight_within_another_tensor(offset: int, device: str) -> None:
    def make(generator: torch.Generator) -> dict[str, Any]:
        inputs = make_inputs((20,), 16, 257, torch.bfloat16, device)(generator)
        storage = torch.empty(offset + inputs["weight"].numel(), dtype=torch.bfloat16, device=device)
        inputs["weight"] = storage[offset:].view(257, 16).copy_(inputs["weight"])
        return inputs

    assert_as_accurate_on_average(fused, eager, make)


@pytest.mark.parametrize("logit_scale", [0.125, 3.0, -1.0])
def test_logit_scale(logit_scale: float, device: str) -> None:
    make = make_inputs((140,), 64, 500, torch.bfloat16, device, logit_scale=logit_scale)
    assert_as_accurate_on_average(fused, eager, make)


@pytest.mark.parametrize("scale", [20.0, 100.0, 1e4])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_labels_far_below_other_classes(scale: float, reduction: str, device: str) -> None:
    """Exponentials of a row are of differences from its label's logit, unless those are too large."""
    make = make_inputs((600,), 64, 700, torch.bfloat16, device, scale=scale, reduction=reduction)
    assert_as_accurate_on_average(fused, eager, make, seeds=range(4))


@pytest.mark.parametrize("row", [0, 16383, 16384, 16999])
def test_one_label_far_below_other_classes(row: int, device: str) -> None:
    """Far apart rows of one chunk are told apart, those that have to be computed again and those that have not."""
    tokens, vocab = 17000, 24
    inputs = make_inputs((tokens,), 16, vocab, torch.bfloat16, device)(torch.Generator().manual_seed(0))
    inputs["hidden_states"][row] = 0.0
    inputs["hidden_states"][row, 0] = 100.0
    inputs["weight"][:, 0] = torch.linspace(-1.0, 1.0, vocab, device=device)
    inputs["target"][row] = 0
    losses = liger.linear_cross_entropy_forward(**inputs, reduction="none", chunk_rows=tokens)[0]
    exact = eager(**{name: _as_double(value) for name, value in inputs.items()}, reduction="none")
    torch.testing.assert_close(losses.double(), exact, rtol=0.02, atol=0.05)


def _as_double(value: Tensor) -> Tensor:
    return value.double() if value.is_floating_point() else value


@pytest.mark.parametrize("wanted", ["hidden_states", "weight"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_only_wanted_gradients(wanted: str, reduction: str, device: str) -> None:
    make = make_inputs((140,), 64, 333, torch.bfloat16, device, reduction=reduction)
    frozen = [name for name in ("hidden_states", "weight") if name != wanted]
    assert_as_accurate_on_average(fused, eager, make, frozen=frozen)


def _gradients_in_chunks(
    inputs: dict[str, Any], chunk_rows: int
) -> tuple[tuple[Tensor, ...], list[tuple[Tensor, Tensor, Tensor]]]:
    """The op's results with reduction "sum"; and of dX and dW the exact ones, eager's, and those."""
    needs = {"needs_grad_hidden_states": True, "needs_grad_weight": True}
    results = liger.linear_cross_entropy_forward(**inputs, **needs, reduction="sum", chunk_rows=chunk_rows)

    def gradients(dtype: torch.dtype) -> tuple[Tensor, ...]:
        leaves = [inputs[name].to(dtype).requires_grad_() for name in ("hidden_states", "weight")]
        return torch.autograd.grad(eager(*leaves, inputs["target"], reduction="sum"), leaves)

    return results, list(zip(gradients(torch.float64), gradients(torch.bfloat16), results[2:4], strict=True))


def _check_gradients(samples: list[list[tuple[Tensor, Tensor, Tensor]]]) -> None:
    for name, drawn in zip(("hidden_states", "weight"), zip(*samples, strict=True), strict=True):
        check_matmul_pooled(name, list(drawn), torch.bfloat16)


@pytest.mark.parametrize("chunk_rows", [1, 100, 256, 299])
def test_chunks_make_the_same_rows(chunk_rows: int, device: str) -> None:
    samples = []
    for seed in range(4):
        inputs = make_inputs((300,), 64, 777, torch.bfloat16, device)(torch.Generator().manual_seed(seed))
        whole, _ = _gradients_in_chunks(inputs, 300)
        chunked, drawn = _gradients_in_chunks(inputs, chunk_rows)
        torch.testing.assert_close(chunked[0], whole[0], rtol=1e-6, atol=0.0)
        torch.testing.assert_close(chunked[1], whole[1], rtol=1e-6, atol=0.0)
        samples.append(drawn)
    _check_gradients(samples)


@pytest.mark.parametrize("hidden_size", [64, 200])
@pytest.mark.parametrize("chunk_rows", [0, 64, 300])
@pytest.mark.parametrize("labelled", [1, 65, 500, 899])
def test_few_labels(labelled: int, chunk_rows: int, hidden_size: int, device: str) -> None:
    """Of 900 tokens, wherever they are: whole chunks may have none, the first and the last included."""
    samples = []
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        inputs = make_inputs((900,), hidden_size, 500, torch.bfloat16, device)(generator)
        inputs["target"] = torch.randint(0, 500, (900,), generator=generator).to(device)
        ignored = torch.randperm(900, generator=generator)[labelled:].to(device)
        inputs["target"][ignored] = -100
        results, drawn = _gradients_in_chunks(inputs, chunk_rows)
        assert (results[1][ignored] == 0).all() and (results[2][ignored] == 0).all()
        samples.append(drawn)
    _check_gradients(samples)


@pytest.mark.parametrize("chunk_rows", [0, 64])
def test_no_label(chunk_rows: int, device: str) -> None:
    inputs = make_inputs((300,), 64, 500, torch.bfloat16, device)(torch.Generator().manual_seed(0))
    inputs["target"].fill_(-100)
    results, _ = _gradients_in_chunks(inputs, chunk_rows)
    assert all((result == 0).all() for result in results[:4])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_stands_in_ignored_rows_is_not_read(value: float, device: str) -> None:
    inputs = make_inputs((600,), 64, 333, torch.bfloat16, device)(torch.Generator().manual_seed(0))
    expected, _ = _gradients_in_chunks(inputs, 128)
    inputs["hidden_states"] = inputs["hidden_states"].masked_fill((inputs["target"] < 0)[:, None], value)
    actual, _ = _gradients_in_chunks(inputs, 128)
    assert torch.equal(actual[0], expected[0])
    if _is_hopper() and device == "cuda":  # elsewhere products of whole chunks have them, times 0
        assert all(torch.equal(one, other) for one, other in zip(actual[1:4], expected[1:4], strict=True))


@pytest.mark.parametrize("hidden_size", [64, 72])
def test_many_chunks_are_as_exact_as_eager(hidden_size: int, device: str) -> None:
    """Between chunks the sums of dW are rounded, to far more bits than the result has."""
    samples = []
    for seed in range(4):
        inputs = make_inputs((1024,), hidden_size, 300, torch.bfloat16, device)(torch.Generator().manual_seed(seed))
        samples.append(_gradients_in_chunks(inputs, 8)[1])
    _check_gradients(samples)


def test_the_same_again(device: str) -> None:
    inputs = make_inputs((520,), 64, 3000, torch.bfloat16, device, scale=30.0)(torch.Generator().manual_seed(0))
    needs = {"needs_grad_hidden_states": True, "needs_grad_weight": True}
    first, second = (liger.linear_cross_entropy_forward(**inputs, **needs) for _ in range(2))
    for one, other in zip(first[:4], second[:4], strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_reaches_the_loss(value: float, device: str) -> None:
    """As in eager, in its row alone."""
    inputs = make_inputs((140,), 64, 333, torch.bfloat16, device, reduction="none")(torch.Generator().manual_seed(0))
    inputs["target"].clamp_(min=0)
    inputs["hidden_states"][3, 5] = value
    losses, expected = fused(**inputs), eager(**inputs)
    assert torch.equal(losses.isfinite(), expected.isfinite())
    assert not losses[3].isfinite()


def _is_hopper() -> bool:
    return torch.cuda.is_available() and torch.cuda.get_device_capability() == (9, 0)


@pytest.mark.skipif(not _is_hopper(), reason="only Hopper computes a loss from sums alone")
def test_loss_without_gradients_keeps_no_exponentials() -> None:
    inputs = make_inputs((2048,), 64, 32000, torch.bfloat16, "cuda")(torch.Generator().manual_seed(0))
    fused(**inputs)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    fused(**inputs)
    assert torch.cuda.max_memory_allocated() - before < 2048 * 32000 * 2 / 16
