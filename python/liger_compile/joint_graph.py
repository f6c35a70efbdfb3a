"""Keeps less between forward and backward: a pass over AOTAutograd's joint graph, before it is partitioned.

A linear layer keeps its input for the gradient of its weight. Where that input is the output of one of our norms or
gated units, whose own backward reads all that the output is made from, the backward kernel gives the output once more,
as it passes over its operands anyway, and the linear layer's gradient uses that. Nothing is kept for it, and no kernel
runs twice.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import operator
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
import torch.fx
from torch._functorch.partitioners import must_recompute
from torch.fx import Node

from liger_compile.evaluation import fake_mode_of

_aten, _liger = torch.ops.aten, torch.ops.liger


@contextlib.contextmanager
def keeping_less(*, strict: bool = False, reuses_memory: bool = False) -> Iterator[None]:
    """Graphs that AOTAutograd partitions inside give outputs again; a pass that the user has set runs first.

    Args:
        strict: raise what fails, instead of a warning and the output as it was kept.
        reuses_memory: what compiles the graphs lets operators write over values that nothing else reads.
    """
    from torch._functorch import config

    users_pass: Callable[..., torch.fx.GraphModule] | None = config.joint_custom_pass

    def joint_pass(gm: torch.fx.GraphModule, inputs: Any) -> torch.fx.GraphModule:
        gm = gm if users_pass is None else users_pass(gm, inputs)
        give_outputs_again(gm, strict=strict, reuses_memory=reuses_memory)
        return gm

    with config.patch(joint_custom_pass=joint_pass):
        yield


def give_outputs_again(gm: torch.fx.GraphModule, *, strict: bool = False, reuses_memory: bool = False) -> None:
    """Let backward ops of ours give outputs of their forward ops that would be kept for them. Changes the graph.

    Args:
        gm: a joint graph, whose gradients depend on placeholders named "tangents...", and whose nodes carry
            `meta["val"]`.
        strict: raise what fails; else an output for which something fails is kept, and a warning says so.
        reuses_memory: write results over operands that nothing else reads.
    """
    graph = gm.graph
    if not any(_is_ours(node) for node in graph.nodes):
        return  # the ops may not even be loaded
    finders = _outputs()
    candidates = sorted(node for target in finders for node in graph.find_nodes(op="call_function", target=target))
    backward = _from_tangents(graph)
    for node in candidates:
        try:
            out = finders[node.target](node)
            if out is not None:
                _give_again(graph, node, out, backward)
                if reuses_memory:
                    _write_over_operands(node)
        except Exception as error:
            if strict:
                raise
            text = f"liger-compile: an output is kept for the backward pass, since {type(error).__name__}: {error}"
            warnings.warn(text, RuntimeWarning, stacklevel=2)
    gm.recompile()


def _is_ours(node: Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target.namespace == "liger"


def _outputs() -> dict[Any, Callable[[Node], Node | None]]:
    """For each backward op, what finds the output of its forward op. The op's last result is that output."""
    return {
        _liger.glu_backward.default: functools.partial(_output_of_glu, _liger.glu_forward.default),
        _liger.glu_packed_backward.default: functools.partial(_output_of_glu, _liger.glu_packed_forward.default),
        _liger.rms_norm_backward.default: _output_of_norm,
    }


def _forward_ops() -> tuple[Any, ...]:
    return _liger.glu_forward.default, _liger.glu_packed_forward.default


def _output_of_glu(forward_op: Any, backward_node: Node) -> Node | None:
    inputs = backward_node.args[1:]
    wanted = {"gate_first": True, **backward_node.kwargs}
    first = inputs[0]
    assert isinstance(first, Node)
    for user in first.users:
        if user.target == forward_op and user.args == inputs and {"gate_first": True, **user.kwargs} == wanted:
            return user
    return None


def _output_of_norm(backward_node: Node) -> Node | None:
    """The first result of the op that gave `rstd`."""
    rstd = backward_node.args[4]
    while isinstance(rstd, Node) and _is_view(rstd):
        rstd = rstd.args[0]
    if not isinstance(rstd, Node) or rstd.target is not operator.getitem:
        return None
    forward_node = rstd.args[0]
    assert isinstance(forward_node, Node)
    # Also in a checkpointed region, which makes this output again as its layers' input: it need not wait for the
    # gradients of their weights.
    if forward_node.target not in (_liger.rms_norm_forward.default, _liger.add_rms_norm_forward.default):
        return None
    return next((user for user in forward_node.users if user.target is operator.getitem and user.args[1] == 0), None)


def _is_view(node: Node) -> bool:
    target = node.target
    if target is _aten._unsafe_view.default:
        return True
    return isinstance(target, torch._ops.OpOverload) and target.is_view and isinstance(node.args[0], Node)


def _from_tangents(graph: torch.fx.Graph) -> set[Node]:
    """All nodes that depend on a tangent."""
    found: set[Node] = set()
    for node in graph.nodes:
        is_tangent = node.op == "placeholder" and "tangents" in str(node.target)
        if is_tangent or any(operand in found for operand in node.all_input_nodes):
            found.add(node)
    return found


@dataclasses.dataclass
class _Uses:
    """Where the backward pass uses a value: nodes that read it, or one of its views in the forward pass."""

    views: list[Node]
    readers: list[Node]
    is_kept: bool  # as an output of the graph


def _uses_of(out: Node, backward: set[Node]) -> _Uses:
    uses = _Uses([], [], False)
    pending = [out]
    while pending:
        value = pending.pop()
        for user in value.users:
            if user.op == "output":
                uses.is_kept = True
            elif user in backward:
                uses.readers.append(user)
            elif _is_view(user):
                uses.views.append(user)
                pending.append(user)
    return uses


def _give_again(graph: torch.fx.Graph, node: Node, out: Node, backward: set[Node]) -> None:
    uses = _uses_of(out, backward)
    if uses.is_kept or not uses.readers or node not in backward:
        return
    earlier = _with_descendants(uses.readers, before=node)
    if any(operand in earlier for operand in node.all_input_nodes):
        return  # it needs what is computed from the output
    kwargs = {**node.kwargs, "needs_out": True}
    results = _evaluated(node, kwargs, {})
    values = {out: results[-1]}
    for view in uses.views:
        values[view] = _evaluated(view, view.kwargs, values)
    # Nothing was changed so far, and nothing below raises.
    node.kwargs, node.meta["val"] = kwargs, results
    copies = _copies(graph, node, out, values)
    for reader in dict.fromkeys(uses.readers):
        reader.args = torch.fx.map_arg(reader.args, lambda value: copies.get(value, value))
        reader.kwargs = torch.fx.map_arg(reader.kwargs, lambda value: copies.get(value, value))
    last = list(copies.values())[-1]
    for moved in sorted(earlier, reverse=True):
        last.append(moved)
    for unused in [copy for copy in reversed(copies.values()) if not copy.users]:
        graph.erase_node(unused)


def _write_over_operands(node: Node) -> None:
    """Have an op that gives its output again write results over operands that it reads for the last time: the output
    over its gradient, and gradients over inputs that were computed again for the backward pass alone."""
    forms = _in_place().get(node.target)
    gradient, *inputs = node.args
    assert isinstance(gradient, Node)
    if forms is None or not node.kwargs.get("needs_out") or not _reads_alone(node, gradient):
        return
    bases = {_computed_again_for(node, value) for value in inputs}
    if None in bases or len(bases) < len(inputs):
        _call_in_place(node, forms.over_gradient)
        return
    _call_in_place(node, forms.over_all)
    # An op that returns nothing gives None, and then what it has written over.
    *gradients, out = node.meta["val"]
    node.meta["val"] = (None, out, *gradients)
    for user in list(node.users):
        index = user.args[1]
        assert isinstance(index, int)
        user.args = (node, 1 if index == len(gradients) else 2 + index)


def _call_in_place(node: Node, in_place: Any) -> None:
    """Have a node call another op that takes the arguments of its own; it gives what the op gives and writes over."""
    names = [argument.name for argument in in_place._schema.arguments]

    def by_name(args: Any, kwargs: Any) -> tuple[Any, dict[str, Any]]:
        named = {**dict(zip(names, args, strict=False)), **kwargs}
        return (in_place,), {name: named[name] for name in names if name in named}

    node.target = torch.ops.higher_order.auto_functionalized
    node.args, node.kwargs = by_name(node.args, node.kwargs)
    if "eager_input_vals" in node.meta:
        node.meta["eager_input_vals"] = by_name(*node.meta["eager_input_vals"])


class _Forms(NamedTuple):
    """Forms of a backward op that write over operands."""

    over_gradient: Any  # the output over its gradient
    over_all: Any  # and the other gradients over their inputs


def _in_place() -> dict[Any, _Forms]:
    return {
        _liger.glu_backward.default: _Forms(_liger.glu_backward_.default, _liger.glu_backward_all_.default),
        _liger.glu_packed_backward.default: _Forms(
            _liger.glu_packed_backward_.default, _liger.glu_packed_backward_all_.default
        ),
    }


def _computed_again_for(node: Node, value: Any) -> Node | None:
    """What a value is a view of, if the user's checkpointing computes that once more for the backward pass, where
    nothing but the node reads it."""
    if not value.meta["val"].is_contiguous():
        return None
    reader = node
    while all(user is reader or user.target in _forward_ops() for user in value.users):
        if value.op != "call_function" or value.target is operator.getitem or not must_recompute(value):
            return None
        if not _is_view(value):
            return value
        reader, value = value, value.args[0]
    return None


def _reads_alone(node: Node, value: Node) -> bool:
    """The value, or what it is a view of, is computed for the node, and nothing else reads it."""
    if not value.meta["val"].is_contiguous():
        return False
    reader = node
    while list(value.users) == [reader]:
        if value.op != "call_function" or value.target is operator.getitem:
            return False
        if not _is_view(value):
            return True
        reader, value = value, value.args[0]  # type: ignore[assignment]
    return False


def _with_descendants(nodes: Iterable[Node], before: Node) -> set[Node]:
    """Those of the nodes, and of what is computed from them, that stand before another."""
    found: set[Node] = set()
    pending = list(nodes)
    while pending:
        node = pending.pop()
        if node < before and node not in found:
            found.add(node)
            pending += node.users
    return found


def _copies(graph: torch.fx.Graph, node: Node, out: Node, values: dict[Node, Any]) -> dict[Node, Node]:
    """`out` and its views, each with what takes its place in the backward pass and has the given value."""
    copies: dict[Node, Node] = {}
    last = node
    for old, value in values.items():
        with graph.inserting_after(last):
            if old is out:
                last = graph.call_function(operator.getitem, (node, len(node.meta["val"]) - 1))
            else:
                last = graph.node_copy(old, lambda operand: copies.get(operand, operand))
        # Marked as a part of the backward pass, like the op.
        last.meta = {name: item for name, item in node.meta.items() if name not in ("val", "tensor_meta")}
        last.meta["val"] = value
        copies[old] = last
    return copies


def _evaluated(node: Node, kwargs: dict[str, Any], values: dict[Node, Any]) -> Any:
    """What a node gives while tracing, with other keywords, and where some of its operands have other values."""

    def value_of(operand: Node) -> Any:
        return values[operand] if operand in values else operand.meta["val"]

    args, kwargs = torch.fx.map_arg((node.args, kwargs), value_of)
    assert callable(node.target)
    with fake_mode_of(args, kwargs):
        return node.target(*args, **kwargs)
