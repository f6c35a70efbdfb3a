"""Joins sums of matrix products: a pass over the graphs of the forward and backward pass.

The gradient of a hidden state that several linear layers read is the sum of a product of each. The first product stays
what it is, and each later one adds to the sum so far as it writes its result, which leaves out a pass over memory. It
also leaves out a rounding: eager mode rounds each product before it adds it.

Every product stays where it stands, so that no operand lives longer. What is added to a sum by other ops is left to
them, and nothing is written over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.fx
from torch.fx import Node

from liger_compile.product_nodes import PRODUCTS, behind_reshapes, call, erase, shaped, value_of

_aten = torch.ops.aten
_ADD, _ADDMM = _aten.add.Tensor, _aten.addmm.default  # Inductor makes the latter of some sums of two products

# Whether products, given by their operands, are together worth ops of ours.
PayTogether = Callable[[Sequence[tuple[Any, Any]]], bool]


def join_sums(graph: torch.fx.Graph, pay: PayTogether) -> None:
    """Replace sums of nothing but products. Changes the graph.

    Args:
        graph: of ATen ops, after autograd, whose nodes carry `meta["val"]`.
        pay: is told the operands of the products of each sum.
    """
    sums = [node for target in (_ADD, _ADDMM) for node in graph.find_nodes(op="call_function", target=target)]
    for node in sorted(sums, reverse=True):  # whole sums before their parts
        products = _summands(node) if node.users else []
        if _are_joinable(products) and pay([_operands(product) for product in products]):
            _join(graph, node, products)


def _summands(node: Node) -> list[Node]:
    """The products of which a node is the sum; none where it adds anything else, or a part of it is read elsewhere."""
    products: list[Node] = []
    pending = [node]
    while pending:
        part = pending.pop()
        if part.target is _ADDMM:
            products.append(part)
        for addend in _addends(part):
            if addend is None:
                return []
            (products if addend.target in PRODUCTS else pending).append(addend)
    return products


def _addends(node: Node) -> list[Node | None]:
    """Products and sums that a node adds, besides a product of its own; None for what is neither, or read elsewhere."""
    addends: list[Node | None] = []
    for value in node.args[:1] if node.target is _ADDMM else node.args:
        addend = behind_reshapes(value, alone=True)
        is_ours = addend is not None and addend.target in (*PRODUCTS, _ADD, _ADDMM) and _are_alike(value, node)
        addends.append(addend if is_ours and all(factor == 1 for factor in node.kwargs.values()) else None)
    return addends


def _are_alike(a: Any, b: Any) -> bool:
    """Have they one dtype and one shape, which is known?"""
    first, second = value_of(a), value_of(b)
    is_known = all(isinstance(size, int) for value in (first, second) for size in value.shape)
    return is_known and first.shape == second.shape and first.dtype == second.dtype


def _are_joinable(products: Sequence[Node]) -> bool:
    is_sum = len(products) > 1 and len(set(products)) == len(products)
    return is_sum and all(_are_alike(product, products[0]) for product in products)


def _operands(product: Node) -> tuple[torch.Tensor, torch.Tensor]:
    a, b = (value_of(operand) for operand in product.args[-2:])
    return a, b


def _join(graph: torch.fx.Graph, node: Node, products: Sequence[Node]) -> None:
    total, *others = sorted(products)
    for product in others:
        with graph.inserting_before(product):
            total = call(graph, torch.ops.liger.addmm.default, (total, *product.args[-2:]), {}, product)
    with graph.inserting_before(node):
        node.replace_all_uses_with(shaped(graph, total, value_of(node).shape))
    erase(graph, node)
