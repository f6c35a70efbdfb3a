"""Applies edits to an FX graph.

Every edit is first planned: its new nodes are run on the graph's fake tensors, and what they give is compared with what
they replace. Only then is the graph changed, and a change that leaves the graph inconsistent is taken back.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.fx
from torch.fx.experimental.symbolic_shapes import statically_known_true
from torch.fx.node import map_aggregate

from liger_compile import _rewriter, block_attention
from liger_compile.evaluation import EditDeclined, Evaluator, Step, value_of
from liger_compile.regions import Region, Regions

_LITERALS = frozenset((bool, int, float, str, type(None)))
_KEPT_META = ("stack_trace", "nn_module_stack", "source_fn_stack", "custom")


@dataclasses.dataclass(frozen=True)
class Condition:
    """What must hold of the values of a tensor, which is computed from integer inputs of the whole graph.

    Attributes:
        kind: "all_nonzero", "all_zero", or "constant_along": equal along `dim`.
        node: name of the tensor's node.
        dim: of "constant_along".
    """

    kind: str
    node: str
    dim: int


@dataclasses.dataclass
class Plan:
    """A checked edit.

    Attributes:
        anchor: the node before which the new nodes go.
        results: each replaced node with the step that replaces it.
        erased: nodes that nothing uses any more, in program order.
        unused: nodes without effects that may have no user once all plans are applied, and go if so.
        conditions: what must hold in a call for the edit to be right in it.
        on_demand: nodes that only the graph's output reads, each with the node that is returned for it.
        otherwise: makes the plan for calls in which the conditions do not hold; None: these keep what is written.
    """

    anchor: torch.fx.Node
    results: list[tuple[torch.fx.Node, Step]]
    erased: list[torch.fx.Node]
    unused: list[torch.fx.Node]
    conditions: tuple[Condition, ...] = ()
    on_demand: list[tuple[torch.fx.Node, torch.fx.Node]] = dataclasses.field(default_factory=list)
    otherwise: Callable[[], Plan] | None = None

    @property
    def device(self) -> torch.device:
        """Where the replaced computation runs."""
        return self.results[0][0].meta["example_value"].device

    @property
    def shapes(self) -> list[torch.Size]:
        """Of the tensors that are replaced, and of what these are computed from: a loss has no size, its logits do."""
        return [shape for node, _ in self.results for shape in (value_of(node).shape, *_shapes_before(node))]


def _shapes_before(node: torch.fx.Node) -> list[torch.Size]:
    """Of the tensors that a node reads; of numbers, of what these are computed from."""
    shapes: list[torch.Size] = []
    for operand in node.all_input_nodes:
        value = operand.meta.get("example_value")
        if isinstance(value, torch.Tensor):
            shapes += [value.shape] if value.ndim else _shapes_before(operand)
    return shapes


class Planner:
    """Plans the edits of one graph, before any is applied.

    Args:
        graph: the graph.
        region: the state in which it begins.
        nodes: its nodes by their names.
    """

    def __init__(self, graph: torch.fx.Graph, region: Region, nodes: dict[str, torch.fx.Node]) -> None:
        self._graph = graph
        self._initial = region
        self._evaluator = Evaluator()
        self._steps: dict[Any, Step] = {}
        self._nodes = nodes
        self._regions: Regions | None = None

    def plan(self, edit: Any) -> Plan:
        """A plan for an edit of the rewriter.

        Raises:
            EditDeclined: the new value is not what it replaces, or an operand comes too late.
            EditFailed: the new operator raised on the fake tensors.
        """
        if self._regions is None:  # built here, so that a graph without edits pays nothing
            self._regions = Regions(self._graph, self._initial)
        plan = self._plan(edit, edit.call, self._regions)
        plan.conditions = tuple(Condition(item.kind, item.node, item.dim) for item in edit.conditions)
        if edit.otherwise is not None:
            plan.otherwise = functools.partial(self._plan, edit, edit.otherwise, self._regions)
        return plan

    def _plan(self, edit: Any, expr: Any, regions: Regions) -> Plan:
        anchor = self._nodes[edit.anchor]
        region = regions.at(anchor)
        call = self._step(expr, anchor, region)
        results = []
        for index, name in edit.results:
            step = call if index < 0 else Step("call_function", operator.getitem, (call, index), {}, call.value[index])
            if expr.op in ("attention", "block_attention"):
                step = self._laid_out(self._nodes[name], step, region)
            step.value = self._checked(self._nodes[name], step.value)
            results.append((self._nodes[name], step))
        on_demand = [(self._nodes[name], self._nodes[edit.on_demand_from]) for name in edit.on_demand]
        replaced = [node for node, _ in (*results, *on_demand)]
        matched = {self._nodes[name] for name in edit.interior}.union(replaced)
        erased = _erasable(sorted(matched), replaced, anchor)
        return Plan(anchor, results, erased, [self._nodes[name] for name in edit.unused], on_demand=on_demand)

    def _laid_out(self, old: torch.fx.Node, step: Step, region: Region) -> Step:
        """The value in the layout of what it replaces, by a copy where needed.

        Kernels of attention with and without a mask may differ in the strides of what they return: those of the
        query, or [batch, queries, heads, dim]. Models bring it into the latter themselves, so that the copy is theirs.
        """
        strides = _strides(value_of(old))
        calls: tuple[tuple[str, tuple[int, ...]], ...]
        for calls in ((), (("contiguous", ()),), (("transpose", (1, 2)), ("contiguous", ()), ("transpose", (1, 2)))):
            laid_out = step
            for method, args in calls if step.value.ndim == 4 else ():
                value = self._evaluator.evaluate("call_method", method, (laid_out, *args), {}, region)
                laid_out = Step("call_method", method, (laid_out, *args), {}, value)
            if _same(strides, _strides(laid_out.value)):
                return laid_out
        return step

    def _step(self, expr: Any, anchor: torch.fx.Node, region: Region) -> Step:
        args = tuple(self._argument(item, anchor, region) for item in expr.args)
        kwargs = {name: self._argument(item, anchor, region) for name, item in expr.kwargs.items()}
        op: str = "call_function"
        target: Any
        if expr.op == "cast":
            op, target = "call_method", "to"
        elif expr.op == "attention":
            target = torch.nn.functional.scaled_dot_product_attention
        elif expr.op == "block_attention":
            target = block_attention.block_attention
        elif expr.op == "blocks":
            return self._shared(block_attention.blocks, args, region)
        elif expr.op.startswith("like:"):
            pattern = self._nodes[expr.op.removeprefix("like:")]
            op, target = pattern.op, pattern.target
            args, kwargs = _with_first_tensor(pattern, args[0])
        else:
            target = _operator(expr.op)
        return Step(op, target, args, kwargs, self._evaluator.evaluate(op, target, args, kwargs, region))

    def _checked(self, old: torch.fx.Node, actual: Any) -> Any:
        """The example value of a replaced node, if the new value has the same metadata."""
        expected = value_of(old)
        if self._evaluator.key(expected) == self._evaluator.key(actual):
            return expected
        for name, want, got in (
            ("dtype", expected.dtype, actual.dtype),
            ("shape", list(expected.shape), list(actual.shape)),
            ("strides", _strides(expected), _strides(actual)),
            ("device", expected.device, actual.device),
            ("requires_grad", expected.requires_grad, actual.requires_grad),
        ):
            if not _same(want, got):
                raise EditDeclined(f"the {name} of %{old.name} would change: expected {want}, actual {got}")
        return expected

    def _shared(self, function: Any, args: tuple[Any, ...], region: Region) -> Step:
        """One step for all equal calls: built where the first plan that is applied needs it, so in program order."""
        key = (function, args, region)
        if key not in self._steps:
            value = self._evaluator.evaluate("call_function", function, args, {}, region)
            self._steps[key] = Step("call_function", function, args, {}, value)
        return self._steps[key]

    def _argument(self, item: Any, anchor: torch.fx.Node, region: Region) -> Any:
        if type(item) in _LITERALS:  # most are: asked first, as classes of the extension are slow to ask for
            return item
        if isinstance(item, _rewriter.NodeName):
            node = self._nodes[item.name]
            if not node < anchor:
                raise EditDeclined(f"operand %{node.name} must be computed before %{anchor.name}, actual: after it")
            return node
        if isinstance(item, _rewriter.DTypeName):
            return getattr(torch, item.name)
        if isinstance(item, _rewriter.Expr):
            return self._step(item, anchor, region)
        if isinstance(item, list):
            return [self._argument(element, anchor, region) for element in item]
        return item


@functools.cache
def _operator(name: str) -> Any:
    """`torch.ops.liger.rms_norm.default` for "liger::rms_norm"."""
    import liger_compile.ops  # noqa: F401  registers the operators

    namespace, _, op = name.partition("::")
    return getattr(getattr(torch.ops, namespace), op).default


def _with_first_tensor(pattern: torch.fx.Node, replacement: Any) -> tuple[Any, Any]:
    """A node's arguments, with its first tensor argument replaced."""
    first = pattern.all_input_nodes[0]
    return map_aggregate((pattern.args, pattern.kwargs), lambda leaf: replacement if leaf is first else leaf)


def _strides(tensor: torch.Tensor) -> list[Any]:
    """Strides of the dims that have more than one element; others may have any."""
    return [stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if not _same(size, 1)]


def _same(left: Any, right: Any) -> bool:
    """Equality; of symbolic sizes only if it is proven, and without adding a guard."""
    if isinstance(left, list):
        return len(left) == len(right) and all(map(_same, left, right))
    equal = left == right
    return equal if equal is True or equal is False else statically_known_true(equal)


def _erasable(
    matched: list[torch.fx.Node], replaced: list[torch.fx.Node], anchor: torch.fx.Node
) -> list[torch.fx.Node]:
    """The matched nodes, given in program order, that have no user once the results are replaced."""
    erased: set[torch.fx.Node] = set()
    for node in reversed(matched):
        if not erased.issuperset(node.users):
            if node not in replaced:
                continue
            if early := [user for user in node.users if user not in erased and user < anchor]:
                user = early[0].name
                raise EditDeclined(f"%{user} uses %{node.name} before %{anchor.name}, where its replacement goes")
        erased.add(node)
    return [node for node in matched if node in erased]


def apply_plans(gm: torch.fx.GraphModule, plans: list[Plan]) -> None:
    """Change the graph as planned, all or nothing.

    Raises:
        RuntimeError: the graph would be inconsistent; it is as it was.
    """
    graph = gm.graph
    erased = {node for plan in plans for node in plan.erased}
    built: list[torch.fx.Node] = []
    moved: list[tuple[torch.fx.Node, torch.fx.Node, list[torch.fx.Node]]] = []
    try:
        for plan in plans:
            with graph.inserting_before(plan.anchor):
                for old, step in plan.results:
                    _build(graph, step, old, built)
        # What is returned for an output on demand may itself be replaced: after it.
        replaced = [pair for plan in plans for pair in plan.on_demand]
        replaced += [(old, step.node) for plan in plans for old, step in plan.results if step.node is not None]
        for old, new in replaced:
            users = old.replace_all_uses_with(new, delete_user_cb=lambda user: user not in erased)
            moved.append((old, new, users))
        _check_order(built, moved)
    except Exception:
        _take_back(graph, built, moved)
        raise
    for node in sorted(erased.union(*(plan.unused for plan in plans)), reverse=True):
        if not node.users:
            graph.erase_node(node)
    gm.recompile()


def _check_order(
    built: list[torch.fx.Node], moved: list[tuple[torch.fx.Node, torch.fx.Node, list[torch.fx.Node]]]
) -> None:
    """What `graph.lint()` would find wrong with the new nodes; the rest of the graph is as Dynamo made it."""
    pairs = [(used, node) for node in built for used in node.all_input_nodes]
    pairs += [(new, user) for _, new, users in moved for user in users]
    for used, user in pairs:
        if not used < user:
            raise RuntimeError(f"%{user.name} would use %{used.name} before it is computed")


def _build(graph: torch.fx.Graph, step: Step, old: torch.fx.Node, built: list[torch.fx.Node]) -> torch.fx.Node:
    """Create a step's node, its operands' first; a step with several results is created once."""
    if step.node is None:
        build = lambda leaf: _build(graph, leaf, old, built) if isinstance(leaf, Step) else leaf  # noqa: E731
        args, kwargs = map_aggregate(step.args, build), map_aggregate(step.kwargs, build)
        step.node = graph.create_node(step.op, step.target, args, kwargs)
        # Into the dict that is there: FX looks at itself at every assignment to a node.
        step.node.meta.update((name, old.meta[name]) for name in _KEPT_META if name in old.meta)
        step.node.meta["example_value"] = step.value
        built.append(step.node)
    return step.node


def _take_back(
    graph: torch.fx.Graph,
    built: list[torch.fx.Node],
    moved: list[tuple[torch.fx.Node, torch.fx.Node, list[torch.fx.Node]]],
) -> None:
    for old, new, users in reversed(moved):
        back = set(users)
        new.replace_all_uses_with(old, delete_user_cb=back.__contains__)
    for node in reversed(built):
        graph.erase_node(node)
