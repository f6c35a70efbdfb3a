"""Evaluates nodes that are not built yet on the fake tensors of a graph."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import torch
import torch.fx
from torch._dispatch.python import enable_python_dispatcher
from torch._dynamo.utils import _disable_saved_tensors_hooks_during_tracing
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.node import map_aggregate
from torch.utils._pytree import tree_leaves

from liger_compile.regions import Region

_SYMBOLIC = (torch.SymInt, torch.SymFloat, torch.SymBool)
_PLAIN = frozenset((bool, int, float, str, type(None), torch.dtype))
_SEQUENCES = (tuple, list)  # isinstance takes a tuple faster than it makes a union


class EditDeclined(Exception):
    """The edit would change what the graph computes; the message is the reason."""


class EditFailed(Exception):
    """Evaluating the edit raised."""


@dataclasses.dataclass
class Step:
    """A node to be built: its arguments hold nodes of the graph and other steps; `value` is its example value."""

    op: str
    target: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    value: Any
    node: torch.fx.Node | None = None


class Evaluator:
    """Evaluates nodes, each combination of operator and inputs once: layers repeat themselves."""

    def __init__(self) -> None:
        self._values: dict[Any, Any] = {}
        self._tensor_keys: dict[int, tuple[torch.Tensor, Any]] = {}

    def evaluate(self, op: str, target: Any, args: Any, kwargs: dict[str, Any], region: Region) -> Any:
        """What a node gives on fake tensors.

        Raises:
            EditDeclined: an operand has no example value.
            EditFailed: the operator raised.
        """
        key = (op, target, self.key(args), self.key(kwargs), region)
        if key not in self._values:
            args, kwargs = map_aggregate(args, value_of), map_aggregate(kwargs, value_of)
            function = target if op == "call_function" else getattr(torch.Tensor, target)
            run = _without_autograd if getattr(target, "namespace", "") == "liger" else _as_written
            try:
                # AOTAutograd too traces with this dispatcher; without it some operators refuse symbolic sizes.
                with enable_python_dispatcher(), fake_mode_of(args, kwargs):
                    self._values[key] = run(function, args, kwargs, region)
            except Exception as error:
                raise EditFailed(f"{_printed(target)} on fake tensors: {type(error).__name__}: {error}") from error
        return self._values[key]

    def key(self, value: Any) -> Any:
        """A hashable stand-in for an argument: equal keys evaluate to equal metadata."""
        kind = type(value)
        if kind in _PLAIN:
            return (kind, value)  # with its type, since 1, 1.0 and True are equal
        if kind is torch.fx.Node or kind is Step:
            return self.key(value_of(value))
        if isinstance(value, torch.Tensor):
            return self._tensor_key(value)
        if isinstance(value, _SEQUENCES):
            return (kind, *map(self.key, value))
        if isinstance(value, dict):
            return tuple((name, self.key(item)) for name, item in value.items())
        if isinstance(value, slice):
            return (slice, self.key(value.start), self.key(value.stop), self.key(value.step))
        return (kind, _number_key(value))

    def _tensor_key(self, tensor: torch.Tensor) -> Any:
        """Made once for each tensor: many nodes read the same, and all results of an evaluation are one object."""
        known = self._tensor_keys.get(id(tensor))
        if known is None:
            # With the tensor, which so keeps its id to itself.
            known = self._tensor_keys[id(tensor)] = (tensor, _metadata(tensor))
        return known[1]


def _as_written(function: Any, args: Any, kwargs: dict[str, Any], region: Region) -> Any:
    # The hooks that a user has set for saved tensors are for real ones.
    with _disable_saved_tensors_hooks_during_tracing(), region.entered():
        return function(*args, **kwargs)


def _without_autograd(function: Any, args: Any, kwargs: dict[str, Any], region: Region) -> Any:
    """What an operator of ours gives: all floating-point results of each are differentiable, and none is an operand.

    To build its autograd node takes four times as long as its fake kernel.
    """
    with dataclasses.replace(region, grad=False).entered():
        result = function(*args, **kwargs)
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    if region.grad and any(tensor.requires_grad for tensor in tensors):
        for tensor in result if isinstance(result, _SEQUENCES) else [result]:
            tensor.requires_grad_(tensor.is_floating_point())
    return result


def value_of(leaf: Any) -> Any:
    """What a node or step gives; anything else stands for itself."""
    if isinstance(leaf, Step):
        return leaf.value
    if not isinstance(leaf, torch.fx.Node):
        return leaf
    if "example_value" not in leaf.meta:
        raise EditDeclined(f"%{leaf.name} has no example value")
    return leaf.meta["example_value"]


def fake_mode_of(args: Any, kwargs: Any) -> contextlib.AbstractContextManager[Any]:
    """The mode of the fake tensors among a node's arguments."""
    found = (leaf.fake_mode for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, FakeTensor))
    return next(found, contextlib.nullcontext())


def _metadata(tensor: torch.Tensor) -> Any:
    sizes: Any = (tensor.shape, tensor.stride(), tensor.storage_offset())
    if tensor._has_symbolic_sizes_strides:
        sizes = (tensor.ndim, *map(_number_key, (*tensor.shape, *tensor.stride(), tensor.storage_offset())))
    return (type(tensor), tensor.dtype, tensor.device, tensor.requires_grad, *sizes)


def _number_key(value: Any) -> Any:
    """The value, or the expression of a symbolic one, which is not hashable."""
    return str(value.node.expr) if isinstance(value, _SYMBOLIC) else value


def _printed(target: Any) -> str:
    return target if isinstance(target, str) else getattr(target, "__name__", str(target))
