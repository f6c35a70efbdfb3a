"""Joins gated units with the matrix products beside them: a pass over the graphs of the forward and backward pass.

Forward, the products that make gate and up become one op with the unit itself; backward, the product that makes the
gradient of its result becomes one with what follows, see liger_compile/ops/mm_glu.py. The values are the same, bit by
bit, as far as products are: nothing is left out but passes over memory.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.fx
from torch.fx import Node

import liger_compile.ops  # noqa: F401  defines the ops
from liger_compile.evaluation import fake_mode_of

_aten, _liger = torch.ops.aten, torch.ops.liger
_PRODUCTS = (_aten.mm.default, _liger.mm.default)
_FUNCTIONAL = torch.ops.higher_order.auto_functionalized
_RESHAPES = (_aten.view.default, _aten._unsafe_view.default, _aten.reshape.default)
_VIEWS = (*_RESHAPES, _aten.t.default, _aten.permute.default, _aten.transpose.int)

# Whether a product of two operands is worth an op of ours.
Pays = Callable[[Any, Any], bool]


def join_gated_units(graph: torch.fx.Graph, pays: Pays) -> None:
    """Replace products and gated units where both stand together. Changes the graph.

    Args:
        graph: of ATen ops, after autograd, whose nodes carry `meta["val"]`.
        pays: is told the operands of each product.
    """
    for match in list(_forward_units(graph, pays)):
        _join_forward(graph, match)
    for unit in list(_backward_units(graph, pays)):
        _join_backward(graph, unit)


@dataclasses.dataclass(frozen=True)
class _Forward:
    node: Node  # the gated unit
    gate: Node  # products
    up: Node


def _forward_units(graph: torch.fx.Graph, pays: Pays) -> Iterator[_Forward]:
    for node in graph.find_nodes(op="call_function", target=_liger.glu_forward.default):
        gate, up = (_product_behind(value) for value in node.args)
        if gate is None or up is None or gate is up or not _are_equal(gate.args[0], up.args[0]):
            continue
        a, gate_b, up_b = (_value(operand) for operand in (gate.args[0], gate.args[1], up.args[1]))
        are_read = _has_rows(a) and _has_rows(gate_b.t()) and _has_rows(up_b.t()) and gate_b.shape[1] % 8 == 0
        if are_read and gate_b.shape == up_b.shape and pays(a, gate_b):
            yield _Forward(node, gate, up)


def _join_forward(graph: torch.fx.Graph, match: _Forward) -> None:
    first = min(match.gate, match.up)
    operands = (match.gate.args[0], match.gate.args[1], match.up.args[1])
    if not all(_brought_before(first, operand) for operand in operands):
        return
    with graph.inserting_before(first):
        activation = {"activation": match.node.kwargs["activation"]}
        joined = _call(graph, _liger.mm_glu.default, operands, activation, match.node)
        gate, up, out = (_item(graph, joined, index) for index in range(3))
    match.gate.replace_all_uses_with(gate)
    match.up.replace_all_uses_with(up)
    with graph.inserting_before(match.node):
        match.node.replace_all_uses_with(_shaped(graph, out, match.node.meta["val"].shape))
    for node in (match.node, match.gate, match.up):
        _erase(graph, node)


@dataclasses.dataclass(frozen=True)
class _Backward:
    node: Node  # what makes the gradients
    grad_out: Node
    gate: Node
    up: Node
    activation: str
    results: tuple[int, int, int]  # at which places it gives the gradients of gate and up, and the output
    in_place: bool  # it writes over gate and up


def _backward_units(graph: torch.fx.Graph, pays: Pays) -> Iterator[_Backward]:
    for unit in _gradients_with_output(graph):
        product = _product_behind(unit.grad_out, alone=True)
        operands = (unit.gate, unit.up)
        if product is None or not all(_value(operand).is_contiguous() for operand in operands):
            continue
        a, b = (_value(operand) for operand in product.args)
        if _has_rows(a) and _has_rows(b) and b.shape[1] % 8 == 0 and pays(a, b):
            yield unit


def _gradients_with_output(graph: torch.fx.Graph) -> Iterator[_Backward]:
    """Every backward op of a gated unit that gives its output again, in all forms."""
    for node in graph.find_nodes(op="call_function", target=_liger.glu_backward.default):
        if node.kwargs.get("needs_out"):
            grad_out, gate, up = node.args
            yield _Backward(node, grad_out, gate, up, node.kwargs["activation"], (0, 1, 2), False)
    for node in graph.find_nodes(op="call_function", target=_FUNCTIONAL):
        if node.args[0] not in (_liger.glu_backward_.default, _liger.glu_backward_all_.default):
            continue
        grad_out, gate, up, activation = (node.kwargs[name] for name in ("grad_out", "gate", "up", "activation"))
        # After what an op returns, or None, stands what it has written over.
        in_place = node.args[0] is _liger.glu_backward_all_.default
        results = (2, 3, 1) if in_place else (0, 1, 2)
        yield _Backward(node, grad_out, gate, up, activation, results, in_place)


def _join_backward(graph: torch.fx.Graph, unit: _Backward) -> None:
    product = _product_behind(unit.grad_out, alone=True)
    assert product is not None
    a, b = product.args
    shape = unit.gate.meta["val"].shape
    activation = {"activation": unit.activation}
    with graph.inserting_before(unit.node):
        gate, up = (_shaped(graph, value, product.meta["val"].shape) for value in (unit.gate, unit.up))
        if unit.in_place:
            op = _liger.mm_glu_backward_.default
            joined = _call_functional(graph, op, {"a": a, "b": b, "gate": gate, "up": up, **activation}, unit.node)
        else:
            op = _liger.mm_glu_backward.default
            joined = _call(graph, op, (a, b, gate, up), activation, unit.node)
        places = (1, 2, 0) if unit.in_place else (0, 1, 2)
        results = {
            old: _shaped(graph, _item(graph, joined, new), shape) for old, new in zip(unit.results, places, strict=True)
        }
    for user in list(unit.node.users):
        place: Any = user.args[1]
        user.replace_all_uses_with(results[place])
        graph.erase_node(user)
    for node in (unit.node, *results.values()):
        _erase(graph, node)


def _product_behind(value: Any, *, alone: bool = False) -> Node | None:
    """The product of which a value is a view with its elements in order; `alone`: nothing else may read it."""
    while isinstance(value, Node) and value.op == "call_function":
        if alone and len(value.users) > 1:
            return None
        if value.target in _PRODUCTS:
            return value
        if value.target not in _RESHAPES:
            return None
        value = value.args[0]
    return None


def _are_equal(a: Any, b: Any) -> bool:
    """Are they one node, or the same view of one?"""
    if a is b:
        return True
    return a.target in _VIEWS and a.target is b.target and a.args[1:] == b.args[1:] and _are_equal(a.args[0], b.args[0])


def _has_rows(matrix: torch.Tensor) -> bool:
    """Can the kernel read it: rows of neighbours that start at multiples of 16 bytes?"""
    return matrix.dtype == torch.bfloat16 and matrix.stride(1) == 1 and matrix.stride(0) % 8 == 0


def _value(node: Any) -> torch.Tensor:
    value = node.meta["val"]
    assert isinstance(value, torch.Tensor)
    return value


def _brought_before(place: Node, node: Any) -> bool:
    """Move a node, and what it is a view of, before another. False where that takes more than views."""
    if node < place:
        return True
    if node.target not in _VIEWS or not _brought_before(place, node.args[0]):
        return False
    place.prepend(node)
    return True


def _call(graph: torch.fx.Graph, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any], like: Node) -> Node:
    values, named = torch.fx.map_arg((args, kwargs), lambda node: node.meta["val"])
    with fake_mode_of(values, named):
        value = op(*values, **named)
    return _with_value(graph.call_function(op, args, kwargs), value, like)


def _call_functional(graph: torch.fx.Graph, op: Any, kwargs: dict[str, Any], like: Node) -> Node:
    named = torch.fx.map_arg(kwargs, lambda node: node.meta["val"])
    with fake_mode_of((), named):
        out = op(**named)
    value = (out, named["gate"], named["up"])
    return _with_value(graph.call_function(_FUNCTIONAL, (op,), kwargs), value, like)


def _item(graph: torch.fx.Graph, node: Node, index: int) -> Node:
    return _with_value(graph.call_function(operator.getitem, (node, index)), node.meta["val"][index], node)


def _shaped(graph: torch.fx.Graph, node: Node, shape: Sequence[Any]) -> Node:
    """The node, viewed in a shape if it has another."""
    value = _value(node)
    if value.shape == tuple(shape):
        return node
    with fake_mode_of((value,), {}):
        viewed = value.view(shape)
    return _with_value(graph.call_function(_aten.view.default, (node, list(shape))), viewed, node)


def _with_value(node: Node, value: Any, like: Node) -> Node:
    left_out = ("val", "tensor_meta", "eager_input_vals")
    node.meta = {name: item for name, item in like.meta.items() if name not in left_out}
    node.meta["val"] = value
    return node


def _erase(graph: torch.fx.Graph, node: Node) -> None:
    """Erase a node if nothing reads it, and of what it has read products, views and parts of results likewise."""
    if node.users:
        return
    operands = node.all_input_nodes
    graph.erase_node(node)
    for operand in operands:
        if operand.target in (*_VIEWS, *_PRODUCTS, operator.getitem):
            _erase(graph, operand)
