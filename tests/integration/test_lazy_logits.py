"""Logits on demand: they are eager's in every use, computed when read, and kept where that would not be safe."""

from __future__ import annotations

import copy
import io
import pickle
import threading
from collections.abc import Callable
from typing import Any

import numpy
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import liger_compile
from liger_compile import on_demand
from liger_compile.lazy_logits import LazyLogits, Source, StaleLogitsError
from liger_compile.tiny_models import tiny_batch, tiny_model

VOCAB = 40


@pytest.fixture(autouse=True)
def fresh() -> None:
    torch._dynamo.reset()
    liger_compile.reset()


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of the hidden states whose logits were computed."""
    shapes: list[tuple[int, ...]] = []
    compute = Source.compute

    def spied(self: Source, hidden_states: Tensor, *parameters: Tensor) -> Tensor:
        shapes.append(tuple(hidden_states.shape))
        return compute(self, hidden_states, *parameters)

    monkeypatch.setattr(Source, "compute", spied)
    return shapes


class Head(nn.Module):
    """A layer before the head, so that gradients have somewhere to go."""

    def __init__(self, *, bias: bool = True, softcap: float | None = None, shifted: bool = False) -> None:
        super().__init__()
        self.body = nn.Linear(16, 24)
        self.head = nn.Linear(24, VOCAB, bias=bias)
        self.softcap = softcap
        self.shifted = shifted

    def forward(self, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.head(torch.tanh(self.body(x)))
        if self.softcap is not None:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        if self.shifted:
            return F.cross_entropy(logits[:, :-1].reshape(-1, VOCAB), target[:, 1:].reshape(-1)), logits
        return F.cross_entropy(logits.view(-1, VOCAB).float(), target.view(-1)), logits


def setup(device: str = "cpu", inner: str = "aot_eager", logits: str = "auto", **head: Any) -> tuple[Any, Head, Any]:
    torch.manual_seed(0)
    model = Head(**head).to(device)
    inputs = (torch.randn(3, 5, 16, device=device), torch.randint(0, VOCAB, (3, 5), device=device))
    options = {"inner": inner, "logits": logits, "strict": True}
    return torch.compile(model, backend="liger", options=options), model, inputs


def gradients(model: nn.Module, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters()), allow_unused=True))


USES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "loss alone": lambda loss, logits: loss,
    "logits alone": lambda loss, logits: logits.square().mean(),
    "both": lambda loss, logits: loss + logits.float().pow(2).sum(),
    "z-loss": lambda loss, logits: loss + 0.1 * torch.logsumexp(logits, -1).square().mean(),
    "loss on logits": lambda loss, logits: (
        loss + F.cross_entropy(logits.view(-1, VOCAB), torch.arange(15).remainder(7))
    ),
    "last token": lambda loss, logits: loss * logits[:, -1].sum(),
    "shifted": lambda loss, logits: logits[..., :-1, :].logsumexp(-1).mean(),
    "masked": lambda loss, logits: logits[torch.arange(15).view(3, 5) % 2 == 0].square().sum(),
    "indexed": lambda loss, logits: logits[[0, 2], [1, 3]].square().sum(),
    "one column": lambda loss, logits: logits[..., 3].square().sum(),
    "gathered": lambda loss, logits: logits.gather(-1, torch.zeros(3, 5, 1, dtype=torch.int64)).sum(),
    "divided in place": lambda loss, logits: logits.div_(2.0).square().sum() + loss,
    "a view written to": lambda loss, logits: _zero_first(logits).square().sum(),
    "a row written to": lambda loss, logits: _zero_row_of_read_slice(logits).square().sum(),
    "a copy written to": lambda loss, logits: logits.clone().mul_(2.0).sum() * logits.sum(),
    "a copy of what is then written to": lambda loss, logits: _copy_before_writing(logits).square().sum(),
    "widened": lambda loss, logits: loss + logits.double().square().mean().float(),
    "twice": lambda loss, logits: logits[0].sum() * logits.amax(),
    "softmax": lambda loss, logits: (logits.softmax(-1) * logits).sum(),
}


def _zero_first(logits: Tensor) -> Tensor:
    logits[:, 0] = 0.0
    return logits


def _copy_before_writing(logits: Tensor) -> Tensor:
    copied = logits.clone()
    logits.zero_()
    return copied + logits


def _zero_row_of_read_slice(logits: Tensor) -> Tensor:
    rows = logits.detach()[1]
    assert rows.sum().isfinite()  # computes these rows alone
    rows[0][:3] = 0.0
    return logits


@pytest.mark.parametrize("head", [{}, {"bias": False}, {"softcap": 3.0}, {"shifted": True}], ids=str)
@pytest.mark.parametrize("use", USES)
def test_every_use_has_eager_values_and_gradients(use: str, head: dict[str, Any]) -> None:
    fused, model, inputs = setup(**head)
    loss, logits = fused(*inputs)
    assert isinstance(logits, LazyLogits)
    ours, eager = USES[use](loss, logits), USES[use](*model(*inputs))
    torch.testing.assert_close(ours, eager)
    for actual, expected in zip(gradients(model, ours), gradients(model, eager), strict=True):
        torch.testing.assert_close(actual, expected)


def test_metadata_costs_nothing(computed: list[tuple[int, ...]]) -> None:
    fused, model, inputs = setup()
    loss, logits = fused(*inputs)
    eager = model(*inputs)[1]
    for name in ("shape", "dtype", "device", "requires_grad", "ndim", "is_leaf", "layout", "itemsize"):
        assert getattr(logits, name) == getattr(eager, name), name
    assert logits.stride() == eager.stride() and logits.is_contiguous() and len(logits) == 3
    assert isinstance(logits, torch.Tensor) and logits.grad_fn is not None
    loss.backward()
    assert logits.detach().requires_grad is False
    assert computed == []


def test_rows_are_computed_alone(computed: list[tuple[int, ...]]) -> None:
    fused, model, inputs = setup()
    with torch.no_grad():
        eager = model(*inputs)[1]
        for read, shape in (
            (lambda x: x[:, -1].argmax(-1), (3, 24)),
            (lambda x: x[..., :-1, :].float().sum(-1), (3, 4, 24)),
            (lambda x: x.detach()[0, 2:4].exp(), (2, 24)),
            (lambda x: x.view(-1, VOCAB)[7] * 2, (24,)),
            (lambda x: x[torch.arange(15).view(3, 5) > 11], (3, 24)),
            (lambda x: x.index_select(1, torch.tensor([0, 3])), (3, 2, 24)),
        ):
            computed.clear()
            torch.testing.assert_close(read(fused(*inputs)[1]), read(eager))
            assert computed == [shape]


def test_a_conversion_stays_lazy(computed: list[tuple[int, ...]]) -> None:
    fused, model, inputs = setup()
    loss, logits = fused(*inputs)
    wide = logits.double()
    assert isinstance(wide, LazyLogits) and wide.dtype == torch.float64 and wide.grad_fn is not None
    assert computed == []
    eager = model(*inputs)[1]
    ours, plain = (loss + wide[:, -1].square().sum()), (model(*inputs)[0] + eager.double()[:, -1].square().sum())
    assert computed == [(3, 24)]
    for actual, expected in zip(gradients(model, ours), gradients(model, plain), strict=True):
        torch.testing.assert_close(actual, expected)


WRITES: list[Callable[[Tensor], object]] = [
    lambda x: x.zero_(),
    lambda x: x[:, 0].zero_(),
    lambda x: x.detach()[1].zero_(),
    lambda x: x.data.zero_(),
    lambda x: x.view(-1, VOCAB)[3].zero_(),
    lambda x: x.numpy().fill(0),
    lambda x: x.untyped_storage().fill_(0),
    lambda x: torch.from_dlpack(x.detach()).zero_(),
]


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("read_before", [False, True])
def test_a_write_reaches_all_views_and_no_copy(write: Callable[[Tensor], object], read_before: bool) -> None:
    fused, model, inputs = setup()
    with torch.no_grad():
        found = []
        for logits in (fused(*inputs)[1], model(*inputs)[1]):
            views, copies = [logits[:, -1], logits.detach()[0]], [logits.clone(), logits.double(), logits[1].clone()]
            if read_before:
                assert (logits[:, -1] + views[1].amax()).isfinite().all()
            write(logits)
            found.append([tensor + 0 for tensor in (logits, *views, *copies)])
    torch.testing.assert_close(*found)


def test_whole_logits_are_computed_once(computed: list[tuple[int, ...]]) -> None:
    fused, _, inputs = setup()
    logits = fused(*inputs)[1]
    first, second = logits + 1, logits[:, -1] * 2
    assert computed == [(3, 5, 24)]
    torch.testing.assert_close(first[:, -1] - 1, second / 2)


@pytest.mark.parametrize(
    "read",
    [
        repr,
        str,
        lambda x: f"{x}",
        lambda x: x.tolist(),
        lambda x: x.detach().numpy(),
        lambda x: numpy.asarray(x.detach()),
        lambda x: pickle.loads(pickle.dumps(x.detach())),
        lambda x: copy.deepcopy(x.detach()),
        lambda x: copy.copy(x.detach()),
        lambda x: _saved(x.detach()),
        lambda x: torch.from_dlpack(x.detach()),
        lambda x: [row.sum() for row in x],
        lambda x: torch.cat([x, x]),
        lambda x: torch.stack(list(x)),
        lambda x: x.to(torch.bfloat16),
        lambda x: x.numel() * x.max().item(),
        lambda x: torch.topk(x, 3).indices,
        lambda x: x.data.sum(),
        lambda x: x.cpu().clone(),
        lambda x: x.contiguous().untyped_storage().nbytes(),
    ],
)
def test_reading(read: Callable[[Tensor], Any]) -> None:
    fused, model, inputs = setup()
    ours, eager = read(fused(*inputs)[1]), read(model(*inputs)[1])
    if isinstance(eager, str):
        ours, eager = (text.split("grad_fn")[0] for text in (ours, eager))
        assert ours == eager
    else:
        torch.testing.assert_close(ours, eager)


def _saved(tensor: Tensor) -> Tensor:
    file = io.BytesIO()
    torch.save(tensor, file)
    file.seek(0)
    return torch.load(file)


def test_what_eager_refuses_is_refused() -> None:
    fused, model, inputs = setup()
    for logits in (fused(*inputs)[1], model(*inputs)[1]):
        with pytest.raises(RuntimeError, match="requires grad"):
            logits.numpy()
        with pytest.raises(RuntimeError, match="deepcopy"):
            copy.deepcopy(logits)


def test_hooks_and_retained_gradients() -> None:
    """As where the logits are another output of a compiled graph: the loss does not come from that one."""
    fused, model, inputs = setup()
    found = []
    for call in (fused, torch.compile(model, backend="aot_eager")):
        loss, logits = call(*inputs)
        logits.retain_grad()
        logits.register_hook(lambda gradient: gradient * 2)
        (loss + logits.sum()).backward()
        found.append((logits.grad, model.head.weight.grad, model.body.weight.grad))
        model.zero_grad()
    torch.testing.assert_close(*found)


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
        ours, expected = USES["z-loss"](loss, logits), USES["z-loss"](*model(*inputs))
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
