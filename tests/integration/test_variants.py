"""Graphs with two forms: which one runs, when each is compiled, and what happens where the second cannot be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

import liger_compile
from liger_compile import variants
from liger_compile.apply import Condition
from liger_compile.variants import Question, copied


@pytest.fixture(autouse=True)
def fresh() -> None:
    torch._dynamo.reset()
    liger_compile.reset()
    counters.clear()


def attention(query: Tensor, key: Tensor, value: Tensor, padding: Tensor) -> Tensor:
    """Causal attention to the keys that `padding` does not hide."""
    length = query.shape[-2]
    position = torch.arange(length)
    mask = (position[None, :] <= position[:, None])[None, None] & padding.bool()[:, None, None, :]
    return torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)


def inputs(length: int = 8, hidden: int = 0) -> tuple[Tensor, ...]:
    padding = torch.ones(2, length, dtype=torch.int64)
    padding[:, length - hidden :] = 0
    generator = torch.Generator().manual_seed(0)
    tensors = (torch.randn(2, 4, length, 16, generator=generator, requires_grad=True) for _ in range(3))
    return *tensors, padding


def compiled(**arguments: Any) -> Callable[..., Tensor]:
    return torch.compile(attention, backend="liger", options={"inner": "aot_eager", "rewrite": "all"}, **arguments)


def check(function: Callable[..., Tensor], *tensors: Tensor) -> None:
    torch.testing.assert_close(function(*tensors), attention(*tensors))


def compilations() -> int:
    return counters["aot_autograd"]["total"]


def test_each_form_is_compiled_when_first_needed() -> None:
    function = compiled()
    check(function, *inputs())
    assert compilations() == 1
    check(function, *inputs())
    assert compilations() == 1
    check(function, *inputs(hidden=3))
    assert compilations() == 2
    check(function, *inputs())
    check(function, *inputs(hidden=1))
    assert compilations() == 2


def test_the_general_form_comes_first_where_the_first_call_needs_it() -> None:
    function = compiled()
    check(function, *inputs(hidden=3))
    assert compilations() == 1
    assert liger_compile.report().counts["attention_mask"] == 1
    check(function, *inputs())
    assert compilations() == 2


def test_the_second_form_serves_all_shapes_of_the_first() -> None:
    function = compiled(dynamic=True)
    for length, hidden in ((8, 0), (12, 0), (12, 5), (9, 2), (10, 0)):
        check(function, *inputs(length, hidden))
    assert compilations() == 2


def test_a_second_form_that_needs_more_guards_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    function = compiled(dynamic=True)
    check(function, *inputs())
    ignored = iter(range(100))
    monkeypatch.setattr(variants, "_ignored_guards", lambda shape_env: next(ignored))
    with pytest.warns(RuntimeWarning, match="needs more guards on its shapes than the first; it runs uncompiled"):
        check(function, *inputs(hidden=3))
    check(function, *inputs(12, hidden=3))
    check(function, *inputs(12))


def test_a_second_form_that_does_not_compile_runs_uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    function = compiled()
    check(function, *inputs())

    def fail(*arguments: Any, **options: Any) -> Any:
        raise ValueError("no compiler")

    monkeypatch.setattr(torch._dynamo.backends.debugging, "aot_autograd", fail)
    with pytest.warns(RuntimeWarning, match="failed to compile .*no compiler.*; it runs uncompiled"):
        check(function, *inputs(hidden=3))


def test_gradients_reach_the_inputs_in_both_forms() -> None:
    function = compiled()
    for hidden in (0, 3):
        ours, eager = inputs(hidden=hidden), inputs(hidden=hidden)
        weight = torch.linspace(-1, 1, 16)
        (function(*ours) * weight).sum().backward()
        (attention(*eager) * weight).sum().backward()
        for mine, theirs in zip(ours[:3], eager[:3], strict=True):
            torch.testing.assert_close(mine.grad, theirs.grad)


def test_code_for_other_processes_depends_on_no_values() -> None:
    """Precompilation keeps the inner compiler's result alone, so it must be right for every call."""
    function = compiled()
    with torch._dynamo.config.patch(enable_aot_compile=True):
        for hidden in (0, 3):
            check(function, *inputs(hidden=hidden))
    assert compilations() == 1
    (record,) = liger_compile.report().declined
    assert record.rule == "attention_mask"
    assert record.reason == "it depends on the values of a call, which code for other processes cannot ask for"


def test_a_question_that_fails_costs_the_rewrite_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Question, inputs: Any) -> bool:
        raise ValueError("no answer")

    monkeypatch.setattr(Question, "holds", fail)
    check(compiled(), *inputs(hidden=3))
    (record,) = liger_compile.report().declined
    assert record.reason == "asking for its condition failed: ValueError: no answer"


def test_a_nested_body_knows_nothing_of_its_callers_own_values() -> None:
    """`padding` in the graph and in the body are two values, and only the first could be asked about."""
    from torch.utils.checkpoint import checkpoint

    def inner(query: Tensor, key: Tensor, value: Tensor, padding: Tensor) -> Tensor:
        return attention(query, key, value, padding).sin()

    def body(query: Tensor, key: Tensor, value: Tensor, given: Tensor) -> Tensor:
        padding = given.flip(-1) * given
        return checkpoint(inner, query, key, value, padding, use_reentrant=False).cos()

    def outer(query: Tensor, key: Tensor, value: Tensor, given: Tensor) -> Tensor:
        return checkpoint(body, query, key, value, given, use_reentrant=False)

    function = torch.compile(outer, backend="liger", options={"inner": "aot_eager", "rewrite": "all"})
    for hidden in (0, 3):
        tensors = inputs(hidden=hidden)
        torch.testing.assert_close(function(*tensors), outer(*tensors))
    assert liger_compile.report().counts["attention_mask"] == 0
    assert "asking" not in str(liger_compile.report())


def graph_of(function: Callable[..., Any], *tensors: Tensor) -> torch.fx.GraphModule:
    captured: list[torch.fx.GraphModule] = []

    def keep(gm: torch.fx.GraphModule, example_inputs: Any) -> Any:
        captured.append(gm)
        return gm.forward

    torch.compile(function, backend=keep)(*tensors)
    return captured[0]


def padding_alone(gm: torch.fx.GraphModule, padding: Tensor) -> list[Tensor | None]:
    """Inputs of the graph of `attention`, of which only the padding is there."""
    names = [node.name for node in gm.graph.find_nodes(op="placeholder")]
    return [padding if name == "l_padding_" else None for name in names]


def test_a_question_reads_only_what_it_needs() -> None:
    gm = graph_of(attention, *inputs())
    question = Question(gm, [Condition("all_nonzero", "l_padding_", 0)])
    assert question.holds(padding_alone(gm, torch.ones(2, 8)))
    assert not question.holds(padding_alone(gm, torch.zeros(2, 8)))
    assert question.holds(padding_alone(gm, torch.ones(0, 8)))
    opposite = Question(gm, [Condition("all_zero", "l_padding_", 0)])
    assert opposite.holds(padding_alone(gm, torch.zeros(2, 8)))
    assert not opposite.holds(padding_alone(gm, torch.eye(8)))


def test_a_question_about_rows() -> None:
    gm = graph_of(lambda ids: (ids * 2).cumsum(-1), torch.ones(2, 3, dtype=torch.int64))
    names = [node.name for node in gm.graph.nodes if node.target == "cumsum"]
    question = Question(gm, [Condition("constant_along", names[0], 1), Condition("all_nonzero", names[0], 0)])
    assert question.holds((torch.tensor([[1, 0, 0], [2, 0, 0]]),))
    assert not question.holds((torch.tensor([[1, 0, 1], [2, 0, 0]]),)), "the first row is not constant"
    assert not question.holds((torch.tensor([[0, 0, 0], [2, 0, 0]]),)), "the first row is zero"


def test_values_that_are_not_there_are_taken_to_hold() -> None:
    gm = graph_of(attention, *inputs())
    with FakeTensorMode():
        fake = torch.zeros(2, 8)
    assert isinstance(fake, FakeTensor)
    assert Question(gm, [Condition("all_nonzero", "l_padding_", 0)]).holds(padding_alone(gm, fake))


def test_a_copy_shares_no_graph() -> None:
    gm = graph_of(attention, *inputs())
    twin = copied(gm)
    before = str(gm.graph)
    for node in reversed(twin.graph.nodes):
        twin.graph.erase_node(node)
    assert str(gm.graph) == before
    assert [vars(node).keys() for node in copied(gm).graph.nodes] == [vars(node).keys() for node in gm.graph.nodes]
