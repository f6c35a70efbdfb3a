"""What passes over compiled graphs do with matrix products: find them behind values, and put other nodes in the place
of them."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
import torch.fx
from torch.fx import Node

import liger_compile.ops  # noqa: F401  defines the ops
from liger_compile.evaluation import fake_mode_of

_aten, _liger = torch.ops.aten, torch.ops.liger
PRODUCTS = (_aten.mm.default, _liger.mm.default)
RESHAPES = (_aten.view.default, _aten._unsafe_view.default, _aten.reshape.default)
VIEWS = (*RESHAPES, _aten.t.default, _aten.permute.default, _aten.transpose.int)
# What has no use but that of its result.
_PURE = (*VIEWS, *PRODUCTS, _aten.add.Tensor, _aten.addmm.default, operator.getitem)


def behind_reshapes(value: Any, *, alone: bool = False) -> Node | None:
    """The call of which a value is a view with its elements in order; `alone`: nothing else may read it."""
    while isinstance(value, Node) and value.op == "call_function":
        if alone and len(value.users) > 1:
            return None
        if value.target not in RESHAPES:
            return value
        value = value.args[0]
    return None


def product_behind(value: Any, *, alone: bool = False) -> Node | None:
    """`behind_reshapes`, where that is a product."""
    node = behind_reshapes(value, alone=alone)
    return node if node is not None and node.target in PRODUCTS else None


def value_of(node: Any) -> torch.Tensor:
    value = node.meta["val"]
    assert isinstance(value, torch.Tensor)
    return value


def call(graph: torch.fx.Graph, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any], like: Node) -> Node:
    values, named = torch.fx.map_arg((args, kwargs), lambda node: node.meta["val"])
    with fake_mode_of(values, named):
        value = op(*values, **named)
    return with_value(graph.call_function(op, args, kwargs), value, like)


def shaped(graph: torch.fx.Graph, node: Node, shape: Sequence[Any]) -> Node:
    """The node, viewed in a shape if it has another."""
    value = value_of(node)
    if value.shape == tuple(shape):
        return node
    with fake_mode_of((value,), {}):
        viewed = value.view(shape)
    return with_value(graph.call_function(_aten.view.default, (node, list(shape))), viewed, node)


def with_value(node: Node, value: Any, like: Node) -> Node:
    left_out = ("val", "tensor_meta", "eager_input_vals")
    node.meta = {name: item for name, item in like.meta.items() if name not in left_out}
    node.meta["val"] = value
    return node


def erase(graph: torch.fx.Graph, node: Node) -> None:
    """Erase a node if nothing reads it, and of what it has read products, sums, views and parts of results likewise."""
    pending = [] if node.users else [node]
    while pending:
        erased = pending.pop()
        operands = erased.all_input_nodes
        graph.erase_node(erased)
        pending += [operand for operand in operands if operand.target in _PURE and not operand.users]
