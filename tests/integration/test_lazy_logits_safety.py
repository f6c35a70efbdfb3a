"""Logits on demand where something changes: weights, modes, threads, and the graphs that keep them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import liger_compile
from integration.lazy_head import VOCAB, Head, gradients, setup
from liger_compile import on_demand
from liger_compile.lazy_logits import LazyLogits, StaleLogitsError
from liger_compile.tiny_models import tiny_batch, tiny_model


@pytest.fixture(autouse=True)
def fresh() -> None:
    torch._dynamo.reset()
    liger_compile.reset()


def with_z_loss(loss: Tensor, logits: Tensor) -> Tensor:
    return loss + 0.1 * torch.logsumexp(logits, -1).square().mean()


@pytest.mark.parametrize("fused_step", [False, True])
def test_reading_after_a_step_raises(fused_step: bool) -> None:
    call, model, inputs = setup()
    optimizer = torch.optim.AdamW(model.parameters(), fused=fused_step)
    loss, logits = call(*inputs)
    _, read = call(*inputs)
    values = read.sum()
    loss.backward()
    optimizer.step()
    with pytest.raises(StaleLogitsError, match=r"have changed since: read them before the optimizer's step"):
        logits.sum()
    torch.testing.assert_close(read.sum(), values)
    torch.testing.assert_close(call(*inputs)[1].sum(), model(*inputs)[1].sum())


@pytest.mark.parametrize("keep", [Tensor.clone, Tensor.double, Tensor.exp, lambda x: x[0].clone()])
def test_detached_copies_outlive_a_step(keep: Callable[[Tensor], Tensor]) -> None:
    call, model, inputs = setup()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    expected = keep(model(*inputs)[1].detach())
    loss, logits = call(*inputs)
    kept = keep(logits.detach())
    loss.backward()
    optimizer.step()
    torch.testing.assert_close(kept, expected)


def test_other_optimizers_do_not_matter() -> None:
    call, model, inputs = setup()
    _, logits = call(*inputs)
    other = nn.Parameter(torch.ones(3))
    other.grad = torch.ones(3)
    torch.optim.SGD([other], lr=0.1).step()
    torch.testing.assert_close(logits.sum(), model(*inputs)[1].sum())


def _write(weight: nn.Parameter) -> None:
    with torch.no_grad():
        weight.mul_(2)


CHANGES: list[Callable[[nn.Parameter], object]] = [
    _write,
    lambda weight: weight.data.untyped_storage().resize_(0),
    lambda weight: setattr(weight, "data", weight.data * 2),
]


@pytest.mark.parametrize("change", CHANGES)
def test_reading_after_the_weight_changed_or_went_raises(change: Callable[[nn.Parameter], object]) -> None:
    call, model, inputs = setup()
    logits = call(*inputs)[1]
    change(model.head.weight)
    with pytest.raises(StaleLogitsError):
        logits.sum()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients(mode: Any) -> None:
    call, model, inputs = setup()
    with mode():
        loss, logits = call(*inputs)
        assert not logits.requires_grad
        torch.testing.assert_close((loss, logits + 0), model(*inputs))


@pytest.mark.parametrize("frozen", ["head", "body"])
def test_frozen_parts(frozen: str) -> None:
    call, model, inputs = setup()
    model.get_submodule(frozen).requires_grad_(False)
    ours, eager = (sum(t.sum() for t in function(*inputs)) for function in (call, model))
    wanted = [p for p in model.parameters() if p.requires_grad]
    for actual, expected in zip(torch.autograd.grad(ours, wanted), torch.autograd.grad(eager, wanted), strict=True):
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("where", ["inside", "outside"])
def test_autocast(where: str, device: str) -> None:
    """The logits are those of the forward pass, in whatever mode they are read."""
    call, model, inputs = setup(device)
    with torch.autocast(device, torch.bfloat16):
        _, ours = call(*inputs)
        _, eager = model(*inputs)
        if where == "inside":
            torch.testing.assert_close(ours @ ours.mT, eager @ eager.mT)
    assert isinstance(ours, LazyLogits) and ours.dtype == eager.dtype == torch.bfloat16
    torch.testing.assert_close(ours + 0, eager)
    with torch.autocast(device, torch.float16):
        torch.testing.assert_close(call(*inputs)[1] + 0, model(*inputs)[1])


def test_the_cache_of_autocast_is_not_used(device: str) -> None:
    """Eager's linear layers keep the cast of a weight until autocast is left, though the weight may change."""
    call, model, inputs = setup(device)
    with torch.autocast(device, torch.bfloat16):
        first = call(*inputs)[1] + 0
        model(*inputs)
        with torch.no_grad():
            model.head.weight.mul_(2)
            model.head.bias.mul_(2)
        torch.testing.assert_close(call(*inputs)[1] + 0, first * 2)


def test_a_compiled_reader() -> None:
    """Dynamo breaks the graph where it meets them."""
    call, model, inputs = setup()

    def reader(logits: Tensor) -> Tensor:
        return logits.softmax(-1).amax(-1).log()

    torch.testing.assert_close(torch.compile(reader, backend="eager")(call(*inputs)[1]), reader(model(*inputs)[1]))


def test_one_compiled_model_in_many_threads() -> None:
    call, model, inputs = setup()
    call(*inputs)
    found: dict[int, Tensor] = {}

    def work(index: int) -> None:
        _, logits = call(inputs[0] * index, inputs[1])
        pair = [threading.Thread(target=lambda: logits.sum()) for _ in range(2)]
        [thread.start() for thread in pair], [thread.join() for thread in pair]
        found[index] = logits.detach() + 0

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    [thread.start() for thread in threads], [thread.join() for thread in threads]
    for index, logits in found.items():
        torch.testing.assert_close(logits, model(inputs[0] * index, inputs[1])[1].detach())
    assert len(found) == 8


def test_logits_without_gradients_in_a_graph_with_gradients() -> None:
    model = Head()

    def step(x: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hidden = torch.tanh(model.body(x))
        with torch.no_grad():
            logits = model.head(hidden)
            loss = F.cross_entropy(logits.view(-1, VOCAB), target.view(-1))
        return hidden.square().mean(), loss, logits

    inputs = torch.randn(3, 5, 16), torch.randint(0, VOCAB, (3, 5))
    ours = torch.compile(step, backend="liger", options={"inner": "aot_eager"})(*inputs)
    eager = step(*inputs)
    assert isinstance(ours[2], LazyLogits)
    assert [tensor.requires_grad for tensor in ours] == [tensor.requires_grad for tensor in eager]
    torch.testing.assert_close([tensor + 0 for tensor in ours], list(eager))


def detail() -> str:
    return next(r.detail for r in liger_compile.report().rewrites if r.rule == "linear_cross_entropy")


def test_logits_are_kept_where_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    call, _, inputs = setup(logits="keep")
    assert type(call(*inputs)[1]) is Tensor
    assert detail().endswith("keeps logits (by the option logits)")


@pytest.mark.parametrize("dynamic", [None, True])
def test_logits_that_are_read_in_every_call_are_kept(dynamic: bool | None) -> None:
    """Then one product in the graph serves the loss and the reader."""
    _, model, inputs = setup()
    call = torch.compile(model, backend="liger", options={"inner": "aot_eager"}, dynamic=dynamic)
    kinds = []
    for _ in range(7):
        loss, logits = call(*inputs)
        kinds.append(type(logits))
        ours, expected = with_z_loss(loss, logits), with_z_loss(*model(*inputs))
        for actual, wanted in zip(gradients(model, ours), gradients(model, expected), strict=True):
            torch.testing.assert_close(actual, wanted)
    assert kinds == [LazyLogits] * 4 + [Tensor] * 3


def test_logits_that_are_read_now_and_then_stay_lazy() -> None:
    call, _, inputs = setup()
    for index in range(12):
        logits = call(*inputs)[1]
        assert isinstance(logits, LazyLogits)
        assert (logits if index % 4 else logits[:, -1]).sum().isfinite()
    call, _, inputs = setup(logits="lazy")
    for _ in range(6):
        logits = call(*inputs)[1]
        assert isinstance(logits, LazyLogits) and logits.sum().isfinite()


def test_logits_of_sharded_models_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_demand, "_has_sharded_modules", lambda: True)
    call, _, inputs = setup()
    assert type(call(*inputs)[1]) is Tensor
    assert "keeps logits (the model is sharded" in detail()
    torch._dynamo.reset()
    liger_compile.reset()
    call, _, inputs = setup(logits="lazy")
    assert isinstance(call(*inputs)[1], LazyLogits)


def test_logits_that_the_graph_reads_are_kept() -> None:
    model = Head()

    def step(x: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        loss, logits = model(x, target)
        return loss, logits, (logits.argmax(-1) == target).float().mean()

    inputs = torch.randn(3, 5, 16), torch.randint(0, VOCAB, (3, 5))
    ours = torch.compile(step, backend="liger", options={"inner": "aot_eager"})(*inputs)
    assert type(ours[1]) is Tensor
    assert detail().endswith("keeps logits (the graph itself reads them)")
    torch.testing.assert_close(ours, step(*inputs))


def test_logits_are_kept_where_the_graph_changes_the_weight() -> None:
    model = Head()

    def step(x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        loss, logits = model(x, target)
        with torch.no_grad():
            model.head.weight.mul_(0.5)
        return loss, logits

    inputs = torch.randn(3, 5, 16), torch.randint(0, VOCAB, (3, 5))
    with torch.no_grad():
        expected = model(*inputs)
        ours = torch.compile(step, backend="liger", options={"inner": "aot_eager"})(*inputs)
    torch.testing.assert_close(ours, expected)
    assert type(ours[1]) is Tensor
    assert detail().endswith("may be modified in place after they are made)")


@pytest.mark.parametrize("inner", ["aot_eager", "inductor"])
@pytest.mark.parametrize("family", ["llama", "gemma2", "granite"])
def test_models(family: str, inner: str, device: str) -> None:
    model = tiny_model(family, device=device)
    fused = torch.compile(model, backend="liger", options={"inner": inner})
    for sequence in (16, 24, 20):
        batch = tiny_batch(model.config, device=device, sequence=sequence)
        for objective in (lambda out: out.loss, lambda out: out.loss + out.logits.float().logsumexp(-1).mean()):
            ours, eager = fused(**batch), model(**batch)
            assert isinstance(ours.logits, LazyLogits)
            torch.testing.assert_close(ours.logits.detach() + 0, eager.logits.detach(), rtol=1e-4, atol=1e-5)
            found = [torch.autograd.grad(objective(out), list(model.parameters())) for out in (ours, eager)]
            for actual, expected in zip(*found, strict=True):
                torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4)
