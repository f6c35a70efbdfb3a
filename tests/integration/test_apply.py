"""Applying edits to an FX graph, with edits made by hand."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from liger_compile import _rewriter, apply
from liger_compile.apply import Planner, apply_plans
from liger_compile.evaluation import EditDeclined, EditFailed, Evaluator
from liger_compile.regions import Region, Regions


class NodeName(NamedTuple):
    name: str


class DTypeName(NamedTuple):
    name: str


class Expr(SimpleNamespace):
    op: str
    args: list[Any]
    kwargs: dict[str, Any]


@pytest.fixture(autouse=True)
def handmade(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (NodeName, DTypeName, Expr):
        monkeypatch.setattr(_rewriter, kind.__name__, kind)
    monkeypatch.setattr(apply, "_operator", lambda name: getattr(torch, name.removeprefix("torch::")))


def call(op: str, *args: Any, **kwargs: Any) -> Expr:
    return Expr(op=op, args=list(args), kwargs=kwargs)


def edit(
    anchor: str, expr: Expr, results: list[tuple[int, str]], interior: list[str], unused: Sequence[str] = ()
) -> Any:
    return SimpleNamespace(
        rule="glu",
        record=0,
        anchor=anchor,
        call=expr,
        results=results,
        interior=interior,
        unused=list(unused),
        conditions=[],
        otherwise=None,
        on_demand=[],
    )


class Builder:
    """A graph in which every node has its example value."""

    def __init__(self) -> None:
        self.graph = torch.fx.Graph()
        self.mode = FakeTensorMode()

    def placeholder(self, name: str, *shape: int, **kwargs: Any) -> torch.fx.Node:
        node = self.graph.placeholder(name)
        with self.mode:
            node.meta["example_value"] = torch.empty(shape, **kwargs)
        return node

    def call(self, target: Any, *args: Any, **kwargs: Any) -> torch.fx.Node:
        node = self.graph.call_function(target, args, kwargs)
        values = [arg.meta["example_value"] if isinstance(arg, torch.fx.Node) else arg for arg in args]
        with self.mode:
            node.meta["example_value"] = target(*values, **kwargs)
        return node

    def module(self, *outputs: torch.fx.Node) -> torch.fx.GraphModule:
        self.graph.output(outputs)
        return torch.fx.GraphModule({}, self.graph)


def names(gm: torch.fx.GraphModule) -> list[str]:
    return [node.name for node in gm.graph.nodes]


def planned(gm: torch.fx.GraphModule, *edits: Any, grad: bool = False) -> list[apply.Plan]:
    planner = Planner(gm.graph, Region(grad), {node.name: node for node in gm.graph.nodes})
    return [planner.plan(item) for item in edits]


def relu_graph() -> tuple[Builder, torch.fx.GraphModule]:
    b = Builder()
    x = b.placeholder("x", 2, 3)
    low = b.call(torch.neg, x)
    high = b.call(torch.abs, low)
    return b, b.module(b.call(torch.add, high, x))


def test_replaces_and_erases_what_nobody_uses() -> None:
    _, gm = relu_graph()
    before = next(node for node in gm.graph.nodes if node.name == "abs_1").meta["example_value"]
    plans = planned(gm, edit("abs_1", call("torch::relu", NodeName("x")), [(-1, "abs_1")], ["neg", "abs_1"]))
    apply_plans(gm, plans)
    assert names(gm) == ["x", "relu", "add", "output"]
    relu = next(node for node in gm.graph.nodes if node.name == "relu")
    assert relu.meta["example_value"] is before
    x = torch.tensor([[-1.0, 2.0, 3.0]])
    assert torch.equal(gm(x)[0], torch.relu(x) + x)


def test_nested_calls_casts_and_likes() -> None:
    b = Builder()
    x = b.placeholder("x", 2, 3)
    turned = b.call(torch.transpose, x, 0, 1)
    gm = b.module(b.call(torch.relu, turned))
    expr = call("like:transpose", call("torch::relu", call("cast", NodeName("x"), DTypeName("float32"))))
    apply_plans(gm, planned(gm, edit("relu", expr, [(-1, "relu")], ["transpose", "relu"])))
    assert names(gm) == ["x", "to", "relu_1", "transpose_1", "output"]
    assert torch.equal(gm(torch.ones(2, 3))[0], torch.ones(3, 2))


def test_several_results() -> None:
    b = Builder()
    x = b.placeholder("x", 4)
    least, greatest = b.call(torch.amin, x, 0), b.call(torch.amax, x, 0)
    gm = b.module(b.call(torch.sub, greatest, least))
    plans = planned(
        gm, edit("sub", call("torch::aminmax", NodeName("x")), [(0, "amin"), (1, "amax")], ["amin", "amax"])
    )
    apply_plans(gm, plans)
    assert names(gm) == ["x", "aminmax", "getitem", "getitem_1", "sub", "output"]
    assert gm(torch.tensor([1.0, 5.0, 2.0, 0.0]))[0] == 5.0


def test_an_edit_reads_what_another_replaces() -> None:
    _, gm = relu_graph()
    first = edit("neg", call("torch::relu", NodeName("x")), [(-1, "neg")], ["neg"])
    second = edit("abs_1", call("torch::sin", NodeName("neg")), [(-1, "abs_1")], ["abs_1"])
    for order in ([first, second], [second, first]):
        _, gm = relu_graph()
        apply_plans(gm, planned(gm, *order))
        assert names(gm) == ["x", "relu", "sin", "add", "output"]


def test_matched_nodes_with_other_users_stay() -> None:
    b = Builder()
    x = b.placeholder("x", 2, 3)
    low = b.call(torch.neg, x)
    gm = b.module(b.call(torch.abs, low), low)
    apply_plans(gm, planned(gm, edit("abs_1", call("torch::relu", NodeName("x")), [(-1, "abs_1")], ["neg", "abs_1"])))
    assert names(gm) == ["x", "neg", "relu", "output"]


@pytest.mark.parametrize(
    ("expr", "reason"),
    [
        (
            call("cast", NodeName("neg"), DTypeName("bfloat16")),
            "the dtype of %abs_1 would change: expected torch.float32, actual torch.bfloat16",
        ),
        (call("torch::mean", NodeName("neg"), -1), "the shape of %abs_1 would change: expected [2, 3], actual [2]"),
        (
            call("torch::empty_like", NodeName("x"), device="meta"),
            "the device of %abs_1 would change: expected cpu, actual meta",
        ),
        (call("torch::relu", NodeName("add")), "operand %add must be computed before %abs_1, actual: after it"),
    ],
)
def test_declines_what_would_change(expr: Expr, reason: str) -> None:
    _, gm = relu_graph()
    before = str(gm.graph)
    with pytest.raises(EditDeclined) as raised:
        planned(gm, edit("abs_1", expr, [(-1, "abs_1")], ["abs_1"]))
    assert str(raised.value) == reason
    assert str(gm.graph) == before


def test_declines_other_strides() -> None:
    b = Builder()
    x = b.placeholder("x", 3, 3)
    gm = b.module(b.call(torch.relu, x))
    with pytest.raises(EditDeclined, match=r"the strides of %relu would change: expected \[3, 1\], actual \[1, 3\]"):
        planned(gm, edit("relu", call("torch::t", NodeName("x")), [(-1, "relu")], ["relu"]))


def test_strides_of_single_elements_may_differ() -> None:
    b = Builder()
    x = b.placeholder("x", 3, 1)
    gm = b.module(b.call(torch.transpose, x, 0, 1))
    assert planned(gm, edit("transpose", call("torch::reshape", NodeName("x"), [1, 3]), [(-1, "transpose")], []))


def test_requires_grad_is_compared_in_the_grad_mode_of_the_place() -> None:
    b = Builder()
    x = b.placeholder("x", 2, 3, requires_grad=True)
    b.graph.call_function(torch._C._set_grad_enabled, (False,))
    with torch.no_grad():
        quiet = b.call(torch.relu, x)
    b.graph.call_function(torch._C._set_grad_enabled, (True,))
    loud = b.call(torch.relu, x)
    gm = b.module(quiet, loud)
    quietly = edit("relu", call("torch::relu", NodeName("x")), [(-1, "relu")], ["relu"])
    loudly = edit("relu_1", call("torch::relu", NodeName("x")), [(-1, "relu_1")], ["relu_1"])
    assert len(planned(gm, quietly, loudly, grad=True)) == 2
    with pytest.raises(EditDeclined, match="the requires_grad of %relu_1 would change: expected True, actual False"):
        planned(gm, edit("relu_1", call("torch::detach", NodeName("x")), [(-1, "relu_1")], []), grad=True)


def test_regions_follow_autocast() -> None:
    graph = torch.fx.Graph()
    x = graph.placeholder("x")
    enter = graph.call_function(torch.amp._enter_autocast, ("cpu", torch.bfloat16, True, None))
    inside = graph.call_function(torch.relu, (x,))
    graph.call_function(torch.amp._exit_autocast, (enter,))
    outside = graph.call_function(torch.relu, (x,))
    regions = Regions(graph, Region(True))
    assert regions.at(inside).autocast == (("cpu", torch.bfloat16, True, None),)
    assert regions.at(outside) == regions.at(enter) == Region(True)
    with regions.at(inside).entered():
        assert torch.is_autocast_enabled("cpu")


def test_a_user_that_comes_too_early() -> None:
    _, gm = relu_graph()
    with pytest.raises(EditDeclined) as raised:
        planned(gm, edit("add", call("torch::relu", NodeName("x")), [(-1, "neg")], ["neg"]))
    assert str(raised.value) == "%abs_1 uses %neg before %add, where its replacement goes"


def test_an_operator_that_raises() -> None:
    _, gm = relu_graph()
    with pytest.raises(EditFailed, match="on fake tensors: "):
        planned(gm, edit("abs_1", call("torch::cat", NodeName("x"), "what"), [(-1, "abs_1")], []))


def test_equal_inputs_are_evaluated_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def counted(x: torch.Tensor, scale: Any) -> torch.Tensor:
        calls.append(scale)
        return torch.relu(x)

    monkeypatch.setattr(apply, "_operator", lambda name: counted)
    b = Builder()
    x = b.placeholder("x", 2, 3)
    outputs = [b.call(torch.relu, x) for _ in range(6)]
    gm = b.module(*outputs)
    scales = (1, 1, 1.0, True, 1.0, 1)
    planned(
        gm,
        *(
            edit(node.name, call("counted", NodeName("x"), scale), [(-1, node.name)], [])
            for node, scale in zip(outputs, scales, strict=True)
        ),
    )
    assert [type(scale) for scale in calls] == [int, float, bool]


def test_evaluations_are_told_apart_by_all_that_results_depend_on() -> None:
    made: list[torch.Tensor] = []

    def counted(x: torch.Tensor, **_: Any) -> torch.Tensor:
        made.append(x)
        return x * 2

    with FakeTensorMode():
        base = torch.empty(4, 4)
        inputs = [base, base.t(), base[:2], base.view(-1)[1:5], torch.empty(4, 4, dtype=torch.float16)]
        inputs += [torch.empty(4, 4, requires_grad=True), torch.empty(4, 4, device="meta")]
    evaluator = Evaluator()
    for _ in range(2):
        for x in inputs:
            evaluator.evaluate("call_function", counted, (x,), {}, Region(True))
        evaluator.evaluate("call_function", counted, (base,), {"scale": 1}, Region(True))
        evaluator.evaluate("call_function", counted, (inputs[5],), {}, Region(False))
        evaluator.evaluate("call_function", counted, (base,), {}, Region(True, (("cpu", torch.bfloat16, True, True),)))
    assert [id(x) for x in made] == [id(x) for x in (*inputs, base, inputs[5], base)]


def test_what_only_dropped_operands_needed_goes_with_the_last_of_them() -> None:
    b = Builder()
    x, other = b.placeholder("x", 2, 3), b.placeholder("other", 2, 3)
    shared = b.call(torch.sin, other)
    mask = b.call(torch.cos, shared)
    kept = b.call(torch.add, x, shared)
    first, second = b.call(torch.mul, x, mask), b.call(torch.mul, kept, mask)
    gm = b.module(first, second)
    edits = [
        edit(node.name, call("torch::neg", NodeName(operand.name)), [(-1, node.name)], [], [shared.name, mask.name])
        for node, operand in ((first, x), (second, kept))
    ]
    apply_plans(gm, planned(gm, *edits))
    assert names(gm) == ["x", "other", "sin", "add", "neg", "neg_1", "output"]


@pytest.mark.parametrize("order", ["batch, heads, queries", "batch, queries, heads"])
def test_attention_keeps_the_layout_of_what_it_replaces(order: str) -> None:
    b = Builder()
    query, key, value = (b.placeholder(name, 2, 4, 8, 16) for name in ("query", "key", "value"))
    old = b.call(torch.nn.functional.scaled_dot_product_attention, query, key, value)
    strides = (512, 128, 16, 1) if order == "batch, heads, queries" else (512, 16, 64, 1)
    with b.mode:
        old.meta["example_value"] = torch.empty_strided((2, 4, 8, 16), strides)
    gm = b.module(old)
    operands = (NodeName("query"), NodeName("key"), NodeName("value"))
    apply_plans(gm, planned(gm, edit(old.name, call("attention", *operands, is_causal=True), [(-1, old.name)], [])))
    inputs = [torch.randn(2, 4, 8, 16) for _ in range(3)]
    (result,) = gm(*inputs)
    expected = torch.nn.functional.scaled_dot_product_attention(*inputs, is_causal=True)
    assert result.stride() == strides
    assert torch.equal(result, expected)


def test_an_inconsistent_graph_is_taken_back() -> None:
    _, gm = relu_graph()
    before = str(gm.graph)
    plans = planned(gm, edit("abs_1", call("torch::relu", NodeName("x")), [(-1, "abs_1")], ["neg", "abs_1"]))
    plans[0].anchor = next(iter(gm.graph.nodes))
    with pytest.raises(RuntimeError, match="%relu would use %x before it is computed"):
        apply_plans(gm, plans)
    gm.graph.lint()
    assert str(gm.graph) == before
    assert names(gm) == ["x", "neg", "abs_1", "add", "output"]
