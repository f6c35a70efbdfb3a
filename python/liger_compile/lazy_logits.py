"""Logits that are computed when somebody reads them.

A model that is given labels returns its logits beside the loss, and hardly anybody reads them. A rewritten graph can
return the hidden states in their place; the caller then gets a `LazyLogits` of the right shape, dtype, device and
`requires_grad`, which computes the logits from them by the nodes that the graph had, when first needed.
"""

from __future__ import annotations

import copy
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils._pytree import tree_map_only

aten = torch.ops.aten
# Views that take whole rows of the logits, which the same view of the hidden states gives as well.
_ROW_VIEWS = (aten.slice.Tensor, aten.select.int, aten.view.default, aten.detach.default)
# Copies of rows: computed for these rows alone.
_ROW_COPIES = (aten.index.Tensor, aten.index_select.default)
_TAKES_ROWS = (*_ROW_VIEWS, *_ROW_COPIES, aten.clone.default)


class StaleLogitsError(RuntimeError):
    """Logits are read for the first time after what they are made from has changed."""


class Source:
    """How to compute logits, and whether that is still possible.

    Args:
        function: (hidden_states, *parameters) -> logits, as the graph computed them.
        hidden_states: [..., H].
        parameters: the other operands: the head's weight, its bias.
        on_read: called when all logits are computed because they are read.
    """

    def __init__(
        self,
        function: Callable[..., Tensor],
        hidden_states: Tensor,
        parameters: Sequence[Tensor],
        on_read: Callable[[], None],
    ) -> None:
        self.function = function
        self.on_read = on_read
        self.operands = (hidden_states, *parameters)
        self.is_differentiable = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in self.operands)
        self._states = [_state(tensor) for tensor in self.operands]
        self._is_stale = False
        _watch(self)

    def may_change_by(self, parameters: set[int]) -> None:
        """Called after an optimizer's step on parameters with these ids. Fused optimizers leave no other trace."""
        if any(id(operand) in parameters for operand in self.operands):
            self._is_stale = True

    def compute(self, hidden_states: Tensor, *parameters: Tensor) -> Tensor:
        """Logits of hidden states, which may be some rows of the source's.

        Raises:
            StaleLogitsError: something changed since the forward pass.
        """
        if self._is_stale or self._states != [_state(tensor) for tensor in self.operands]:
            raise StaleLogitsError(
                "these logits are computed when they are first read, and the weights or the hidden states that they "
                "are made from have changed since: read them before the optimizer's step, or compile with "
                "options={'logits': 'keep'} (LIGER_COMPILE_LOGITS=keep)"
            )
        return self.function(hidden_states, *parameters)


def _state(tensor: Tensor) -> tuple[int, int, int]:
    """What differs once a tensor is written to, given other data, or freed. Writes through `.data` leave no trace."""
    version = 0 if tensor.is_inference() else tensor._version
    return version, tensor.data_ptr(), tensor.untyped_storage().nbytes()


_watched: weakref.WeakSet[Source] = weakref.WeakSet()
_hook: Any = None
_lock = threading.Lock()


def _watch(source: Source) -> None:
    global _hook
    with _lock:
        if _hook is None:
            from torch.optim.optimizer import register_optimizer_step_post_hook

            _hook = register_optimizer_step_post_hook(_after_step)
        _watched.add(source)


def _after_step(optimizer: Any, args: Any, kwargs: Any) -> None:
    del args, kwargs
    with _lock:
        sources = list(_watched)
    if sources:
        parameters = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        for source in sources:
            source.may_change_by(parameters)


class _Logits:
    """The logits of a source, a row view of such logits, or a copy of either in some dtype; computed once."""

    def __init__(self, source: Source, hidden_states: Tensor, dtype: torch.dtype) -> None:
        self.source = source
        self.dtype = dtype
        self.hidden_states = hidden_states
        self._base: _Logits | None = None  # what this is a view of
        self._view: Callable[[Tensor], Tensor] | None = None
        self._value: Tensor | None = None
        self._lock = threading.RLock()

    def rows(self, view: Callable[[Tensor], Tensor]) -> _Logits:
        """The same view of these logits and of their hidden states."""
        rows = _Logits(self.source, view(self.hidden_states), self.dtype)
        rows._base, rows._view, rows._lock = self, view, self._lock
        return rows

    def copied(self, dtype: torch.dtype) -> _Logits:
        """A copy, to be made while nothing was computed yet, and so nothing written to. It is computed on its own: not
        every write to this one leaves a trace."""
        return _Logits(self.source, self.hidden_states, dtype)

    def whole(self) -> Tensor:
        """The value, as a view of that of all logits: what is written to one is seen in the other."""
        with self._lock:
            if self._base is None or self._view is None:
                return self._computed()
            return self._view(self._base.whole())

    def value(self) -> Tensor:
        """The value, which the caller only reads: of these rows alone where the others were never needed."""
        with self._lock:
            return self.whole() if self._has_all_rows() or self.is_whole_known() else self._computed()

    def copied_rows(self, copy_rows: Callable[[Tensor], Tensor]) -> Tensor:
        """A copy of some rows, which are computed alone."""
        return self._outside_of_dispatch(copy_rows(self.hidden_states))

    def is_whole_known(self) -> bool:
        """Whether the logits that this is a view of are there."""
        return self._value is not None if self._base is None else self._base.is_whole_known()

    def _has_all_rows(self) -> bool:
        return self.hidden_states.numel() == self.source.operands[0].numel()

    def _computed(self) -> Tensor:
        if self._value is None:
            self._value = self._outside_of_dispatch(self.hidden_states)
            if self._has_all_rows():
                self.source.on_read()
        return self._value

    def _outside_of_dispatch(self, hidden_states: Tensor) -> Tensor:
        """Compute as a user's call would: autocast works, which below it is switched off."""
        with torch.overrides.enable_reentrant_dispatch(), torch.no_grad():
            return self.source.compute(hidden_states, *self.source.operands[1:]).to(self.dtype)


class LazyLogits(torch.Tensor):
    """A tensor of logits [..., V] that are computed on first use. Not made by users."""

    _logits: _Logits

    @staticmethod
    def __new__(cls, logits: _Logits, like: Tensor) -> LazyLogits:
        """`like`: a tensor with the metadata of the logits, without data."""
        made = torch.Tensor._make_wrapper_subclass(
            cls, like.shape, strides=like.stride(), dtype=like.dtype, device=logits.hidden_states.device
        )
        made._logits = logits
        return made

    # No conversion of results: what is computed from logits is an ordinary tensor.
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        kwargs = kwargs or {}
        first = args[0] if args else None
        if isinstance(first, LazyLogits):
            taken = _converted(func, first, kwargs) if kwargs else _rows(func, first, args[1:])
            if taken is not None:
                return taken
        writes = func._schema.is_mutable or any(result.alias_info is not None for result in func._schema.returns)
        plain: dict[int, LazyLogits] = {}

        def opened(logits: LazyLogits) -> Tensor:
            value = logits._logits.whole() if writes else logits._logits.value()
            plain[id(value)] = logits
            return value

        result = func(*tree_map_only(LazyLogits, opened, args), **tree_map_only(LazyLogits, opened, kwargs))
        # In-place operators and out= return their argument.
        return plain.get(id(result), result) if func._schema.is_mutable else result

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return repr(self._plain())

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self._plain().__reduce_ex__(protocol)

    def __deepcopy__(self, memo: Any) -> Any:
        return copy.deepcopy(self._plain(), memo)

    def _plain(self) -> Tensor:
        """An ordinary tensor of the same values and the same history."""
        return aten.alias.default(self)


def _read_from_plain(name: str) -> Any:
    method = getattr(torch.Tensor, name)

    def read(self: LazyLogits, *args: Any, **kwargs: Any) -> Any:
        return method(self._plain(), *args, **kwargs)

    read.__name__, read.__doc__ = name, method.__doc__
    return read


# What reads a tensor's memory without an operator.
for _name in ("numpy", "tolist", "data_ptr", "untyped_storage", "storage", "share_memory_", "__array__", "__dlpack__"):
    setattr(LazyLogits, _name, _read_from_plain(_name))


def _rows(func: Any, logits: LazyLogits, args: Any) -> Any:
    """The result of an operator that takes whole rows, as long as nothing was computed; None for all others."""
    inner = logits._logits
    if func not in _TAKES_ROWS or inner.is_whole_known() or not _keeps_last_dim(func, logits, args):
        return None

    def of_rows(tensor: Tensor) -> Tensor:
        return func(tensor, *_with_last_dim(func, args, tensor.shape[-1]))

    if func in _ROW_COPIES:
        return inner.copied_rows(of_rows)
    like = of_rows(torch.empty_strided(logits.shape, logits.stride(), dtype=logits.dtype, device="meta"))
    if func is aten.clone.default:
        return None if _is_detached(logits) else LazyLogits(inner.copied(inner.dtype), like)
    try:
        return LazyLogits(inner.rows(of_rows), like)
    except RuntimeError:  # the hidden states cannot be viewed like that
        return None


def _is_detached(logits: LazyLogits) -> bool:
    """A copy of what was detached is meant to be kept: it must not depend on what becomes of the weights."""
    return logits._logits.source.is_differentiable and not logits.requires_grad


def _converted(func: Any, logits: LazyLogits, kwargs: Any) -> Any:
    """A copy in another floating dtype, as long as nothing was computed; None for all other operators."""
    dtype = kwargs.get("dtype")
    is_conversion = func is aten._to_copy.default and set(kwargs) == {"dtype"} and dtype.is_floating_point
    if not is_conversion or logits._logits.is_whole_known() or _is_detached(logits):
        return None
    like = func(torch.empty_strided(logits.shape, logits.stride(), dtype=logits.dtype, device="meta"), dtype=dtype)
    return LazyLogits(logits._logits.copied(dtype), like)


def _keeps_last_dim(func: Any, logits: LazyLogits, args: Any) -> bool:
    last = logits.ndim - 1
    if func in (aten.detach.default, aten.clone.default):
        return True
    if func is aten.view.default:
        return len(args[0]) > 0 and args[0][-1] == logits.shape[-1] and logits.numel() > 0
    if func is aten.index.Tensor:
        return sum(map(_indexed_dims, args[0])) <= last
    dim = args[0] if args else 0
    return dim % logits.ndim != last


def _indexed_dims(index: Tensor | None) -> int:
    return index.ndim if index is not None and index.dtype in (torch.bool, torch.uint8) else 1


def _with_last_dim(func: Any, args: Any, size: int) -> Any:
    return ([*args[0][:-1], size], *args[1:]) if func is aten.view.default else args


class _OnDemand(torch.autograd.Function):
    """Makes lazy logits a result of their operands, so that gradients reach these in whatever way they are used."""

    @staticmethod
    def forward(ctx: Any, source: Source, like: Tensor, *operands: Tensor) -> LazyLogits:
        ctx.source = source
        return LazyLogits(_Logits(source, operands[0], like.dtype), like)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        needed = ctx.needs_input_grad[2:]
        source: Source = ctx.source
        with torch.enable_grad():
            leaves = [
                operand.detach().requires_grad_(is_needed)
                for operand, is_needed in zip(source.operands, needed, strict=True)
            ]
            logits = source.compute(*leaves)
        wanted = [leaf for leaf, is_needed in zip(leaves, needed, strict=True) if is_needed]
        found = iter(torch.autograd.grad(logits, wanted, gradient))
        return (None, None, *(next(found) if is_needed else None for is_needed in needed))


def lazy_logits(
    function: Callable[..., Tensor],
    hidden_states: Tensor,
    parameters: Sequence[Tensor],
    vocab_size: int,
    dtype: torch.dtype,
    on_read: Callable[[], None] = lambda: None,
) -> Tensor:
    """Logits [..., V] that are computed when they are read.

    Args:
        function: (hidden_states, *parameters) -> logits, each row from the same row of the hidden states.
        hidden_states: [..., H].
        parameters: the head's weight and bias, as `function` takes them.
        vocab_size: V.
        dtype: of the logits.
        on_read: called when all of them are computed because they are read.
    """
    source = Source(function, hidden_states, parameters, on_read)
    like = torch.empty((*hidden_states.shape[:-1], vocab_size), dtype=dtype, device="meta")
    return _OnDemand.apply(source, like, *source.operands)
