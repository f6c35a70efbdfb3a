"""Logits on demand: they are eager's in every use, computed when read, and kept where that would not be safe."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import liger_compile
from integration.lazy_head import VOCAB, gradients, setup
from liger_compile.lazy_logits import LazyLogits, Source


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
