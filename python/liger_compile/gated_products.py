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

from liger_compile.evaluation import fake_mode_of
from liger_compile.product_nodes import VIEWS, call, erase, product_behind, shaped, value_of, with_value

_aten, _liger = torch.ops.aten, torch.ops.liger
_FUNCTIONAL = torch.ops.higher_order.auto_functionalized

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
    products: tuple[Node, ...]  # of gate and up, or of both packed
    op: Any  # in the place of all


def _packed(inputs: Sequence[Any]) -> Sequence[Any]:
    """The input of a unit that has gate and up side by side in its last dimension; none where they are two."""
    return inputs if len(inputs) == 1 else ()


def _forward_units(graph: torch.fx.Graph, pays: Pays) -> Iterator[_Forward]:
    ops = {_liger.glu_forward.default: _liger.mm_glu, _liger.glu_packed_forward.default: _liger.mm_glu_packed}
    for target, op in ops.items():
        for node in graph.find_nodes(op="call_function", target=target):
            products = [product for value in node.args if (product := product_behind(value)) is not None]
            if len(products) < len(node.args) or not _are_joinable(products, pays):
                continue
            if all(value_of(value).shape[-1] == value_of(products[0]).shape[1] for value in _packed(node.args)):
                yield _Forward(node, tuple(products), op.default)


def _are_joinable(products: Sequence[Node], pays: Pays) -> bool:
    first, last = products[0], products[-1]
    if len(set(products)) < len(products) or not _are_equal(first.args[0], last.args[0]):
        return False
    a, *others = (value_of(operand) for operand in (first.args[0], *(product.args[1] for product in products)))
    of_unit = 16 // len(products)  # columns, so that rows of gate and of up start at multiples of 16 bytes
    are_read = _has_rows(a) and all(_has_rows(b.t()) for b in others) and others[0].shape[1] % of_unit == 0
    return are_read and others[0].shape == others[-1].shape and pays(a, others[0])


def _join_forward(graph: torch.fx.Graph, match: _Forward) -> None:
    first = min(match.products)
    operands = (match.products[0].args[0], *(product.args[1] for product in match.products))
    if not all(_brought_before(first, operand) for operand in operands):
        return
    with graph.inserting_before(first):
        joined = call(graph, match.op, operands, dict(match.node.kwargs), match.node)
        *results, out = (_item(graph, joined, index) for index in range(len(match.products) + 1))
    for product, result in zip(match.products, results, strict=True):
        product.replace_all_uses_with(result)
    with graph.inserting_before(match.node):
        match.node.replace_all_uses_with(shaped(graph, out, match.node.meta["val"].shape))
    for node in (match.node, *match.products):
        erase(graph, node)


@dataclasses.dataclass(frozen=True)
class _Backward:
    node: Node  # what makes the gradients
    grad_out: Node
    inputs: dict[str, Node]  # gate and up, or both packed, by the names of the op's arguments
    keywords: dict[str, Any]
    op: Any  # in the place of all
    in_place: bool  # it writes over the inputs


def _backward_units(graph: torch.fx.Graph, pays: Pays) -> Iterator[_Backward]:
    for unit in _gradients_with_output(graph):
        product = product_behind(unit.grad_out, alone=True)
        if product is None or not all(value_of(operand).is_contiguous() for operand in unit.inputs.values()):
            continue
        a, b = (value_of(operand) for operand in product.args)
        keeps_halves = all(
            value_of(operand).shape[-1] == 2 * b.shape[1] for operand in _packed(tuple(unit.inputs.values()))
        )
        if keeps_halves and _has_rows(a) and _has_rows(b) and b.shape[1] % 8 == 0 and pays(a, b):
            yield unit


def _gradients_with_output(graph: torch.fx.Graph) -> Iterator[_Backward]:
    """Every backward op of a gated unit that gives its output again, in all forms."""
    for kind, names in (("glu", ("gate", "up")), ("glu_packed", ("gate_up",))):
        plain, over_gradient, over_all = (
            getattr(_liger, f"{kind}_backward{form}").default for form in ("", "_", "_all_")
        )
        joined, joined_in_place = (getattr(_liger, f"mm_{kind}_backward{form}").default for form in ("", "_"))
        for node in graph.find_nodes(op="call_function", target=plain):
            grad_out, *inputs = node.args
            keywords = dict(node.kwargs)
            if keywords.pop("needs_out", False):
                yield _Backward(node, grad_out, dict(zip(names, inputs, strict=True)), keywords, joined, False)
        for node in graph.find_nodes(op="call_function", target=_FUNCTIONAL):
            if node.args[0] not in (over_gradient, over_all):
                continue
            keywords = dict(node.kwargs)
            grad_out, *inputs = (keywords.pop(name) for name in ("grad_out", *names))
            in_place = node.args[0] is over_all
            op = joined_in_place if in_place else joined
            yield _Backward(node, grad_out, dict(zip(names, inputs, strict=True)), keywords, op, in_place)


def _join_backward(graph: torch.fx.Graph, unit: _Backward) -> None:
    product = product_behind(unit.grad_out, alone=True)
    assert product is not None
    a, b = product.args
    count = len(unit.inputs)
    rows, columns = product.meta["val"].shape
    with graph.inserting_before(unit.node):
        shape = (rows, 2 * columns // count)
        inputs = {name: shaped(graph, value, shape) for name, value in unit.inputs.items()}
        if unit.in_place:
            keywords = {"a": a, "b": b, **inputs, **unit.keywords}
            joined = _call_functional(graph, unit.op, keywords, tuple(inputs), unit.node)
        else:
            joined = call(graph, unit.op, (a, b, *inputs.values()), unit.keywords, unit.node)
        # Gradients and the output. After what an op returns, or None, stands what it has written over: in place the
        # output over its gradient, and the gradients over their inputs.
        places = zip(
            (*range(2, count + 2), 1) if unit.in_place else range(count + 1),
            (*range(1, count + 1), 0) if unit.in_place else range(count + 1),
            (*unit.inputs.values(), unit.grad_out),
            strict=True,
        )
        results: dict[Any, Node] = {
            old: shaped(graph, _item(graph, joined, new), like.meta["val"].shape) for old, new, like in places
        }
    for user in list(unit.node.users):
        place: Any = user.args[1]
        user.replace_all_uses_with(results[place])
        graph.erase_node(user)
    for node in (unit.node, *results.values()):
        erase(graph, node)


def _are_equal(a: Any, b: Any) -> bool:
    """Are they one node, or the same view of one?"""
    if a is b:
        return True
    return a.target in VIEWS and a.target is b.target and a.args[1:] == b.args[1:] and _are_equal(a.args[0], b.args[0])


def _has_rows(matrix: torch.Tensor) -> bool:
    """Can the kernel read it: rows of neighbours that start at multiples of 16 bytes?"""
    return matrix.dtype == torch.bfloat16 and matrix.stride(1) == 1 and matrix.stride(0) % 8 == 0


def _brought_before(place: Node, node: Any) -> bool:
    """Move a node, and what it is a view of, before another. False where that takes more than views."""
    if node < place:
        return True
    if node.target not in VIEWS or not _brought_before(place, node.args[0]):
        return False
    place.prepend(node)
    return True


def _call_functional(
    graph: torch.fx.Graph, op: Any, kwargs: dict[str, Any], written: Sequence[str], like: Node
) -> Node:
    named = torch.fx.map_arg(kwargs, lambda node: node.meta["val"])
    with fake_mode_of((), named):
        out = op(**named)
    value = (out, *(named[name] for name in written))
    return with_value(graph.call_function(_FUNCTIONAL, (op,), kwargs), value, like)


def _item(graph: torch.fx.Graph, node: Node, index: int) -> Node:
    return with_value(graph.call_function(operator.getitem, (node, index)), node.meta["val"][index], node)
