"""What canonical ops mean, in torch: evaluates the text of a canonical node on real values."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

Values = dict[str, Any]


def _reduce(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    return lambda x, like, dims=(), keepdim=False: function(x, dim=tuple(dims), keepdim=keepdim) if dims else x


def _slice(x: torch.Tensor, like: torch.Tensor, dims: list[int], bounds: list[int]) -> torch.Tensor:
    start, stop, step = bounds
    assert 0 <= start <= stop <= x.shape[dims[0]] and step > 0
    return x[(slice(None),) * dims[0] + (slice(start, stop, step),)]


def _select(x: torch.Tensor, like: torch.Tensor, dims: list[int], bounds: list[int]) -> torch.Tensor:
    assert 0 <= bounds[0] < x.shape[dims[0]]
    return x.select(dims[0], bounds[0])


def _elementwise(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    return lambda *operands, like, **attributes: function(*operands, **attributes)


def _where(condition: torch.Tensor, x: Any, y: Any, like: torch.Tensor) -> torch.Tensor:
    x, y = (v if isinstance(v, torch.Tensor) else torch.tensor(v, dtype=like.dtype) for v in (x, y))
    return torch.where(condition, x, y)


def _norm(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    return lambda x, *rest, like, dims, eps: function(x, [x.shape[d] for d in dims], *rest, eps=eps)


def _loss(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    return lambda x, target, weight, like, **attributes: function(x, target, weight, **attributes)


_SAME_NAME_IN_TORCH = (
    *("neg", "sqrt", "rsqrt", "reciprocal", "exp", "log", "log1p", "abs", "tanh", "sigmoid", "relu", "sin", "cos"),
    *("maximum", "minimum", "clamp", "matmul", "eq", "ne", "lt", "le", "gt", "ge"),
    *("logical_and", "logical_or", "logical_not"),
)

_EVALUATORS: dict[str, Callable[..., torch.Tensor]] = {
    "identity": lambda x, like: x,
    "cast": lambda x, like: x.to(like.dtype),
    "add": lambda x, y, like: x + y,
    "sub": lambda x, y, like: x - y,
    "mul": lambda x, y, like: x * y,
    "div": lambda x, y, like: x / y,
    "pow": lambda x, y, like: x**y,
    **{name: _elementwise(getattr(torch, name)) for name in _SAME_NAME_IN_TORCH},
    "log_sigmoid": _elementwise(F.logsigmoid),
    "silu": _elementwise(F.silu),
    "gelu": _elementwise(F.gelu),
    "linear": _elementwise(F.linear),
    "attention": _elementwise(F.scaled_dot_product_attention),
    "mean": _reduce(torch.mean),
    "sum": _reduce(torch.sum),
    "logsumexp": _reduce(torch.logsumexp),
    "softmax": lambda x, like, dims: x.softmax(dims[0]),
    "log_softmax": lambda x, like, dims: x.log_softmax(dims[0]),
    "floor_div": lambda x, y, like: x // y,
    "diff": lambda x, prepend, append, like, dims: torch.diff(x, dim=dims[0], prepend=prepend, append=append),
    "tril": lambda x, like, bounds: x.tril(bounds[0]),
    "triu": lambda x, like, bounds: x.triu(bounds[0]),
    "cumsum": lambda x, like, dims: x.cumsum(dims[0]),
    "concat": lambda *xs, like, dims: torch.cat(xs, dims[0]),
    "stack": lambda *xs, like, dims: torch.stack(xs, dims[0]),
    "slice": _slice,
    "select": _select,
    "reshape": lambda x, like: x.reshape(like.shape),
    "permute": lambda x, like, dims: x.permute(dims),
    "expand": lambda x, like: x.expand(like.shape),
    "embedding": lambda ids, weight, like, **attributes: F.embedding(ids, weight),
    "gather": lambda x, index, like, dims: x.gather(dims[0], index),
    "index": lambda x, *indices, like: x[indices],
    "pad": lambda x, like, pad, value: F.pad(x, pad, value=value),
    "where": _where,
    "arange": lambda start, end, step, like: torch.arange(start, end, step, dtype=like.dtype),
    "full": lambda value, like: torch.full(like.shape, value, dtype=like.dtype),
    "cross_entropy": _loss(F.cross_entropy),
    "nll_loss": _loss(F.nll_loss),
    "layer_norm": _norm(F.layer_norm),
    "rms_norm": _norm(F.rms_norm),
}

# Read correctly but without a value to compare: inputs, random numbers, nodes that make no tensor.
_SKIPPED = {"opaque", "input", "output", "dropout", "item", "tuple_item", "subgraph_call", "batch", "unbatch"}


def check(text: str, like: torch.Tensor, values: Values, symbols: dict[str, int]) -> bool:
    """Compare the canonical node `text` with the value `like` that its FX node gave; False where it has no meaning."""
    op, _, arguments = text.partition("(")
    if op in _SKIPPED:
        return False
    arguments = re.sub(r"%(\w+)", r"values['\1']", arguments[:-1])
    arguments = re.sub(r"\bkeepdim\b", "keepdim=True", arguments)
    names = {"values": values, "inf": float("inf"), "nan": float("nan"), "Max": max, "Min": min, **symbols}
    operands, attributes = eval(f"(lambda *a, **k: (a, k))({arguments})", names)
    actual = _EVALUATORS[op](*operands, like=like, **attributes)
    if op in {"identity", "cast", "slice", "select", "reshape", "permute", "expand", "concat", "stack", "full"}:
        assert torch.equal(actual.to(like.dtype).nan_to_num(), like.nan_to_num()), text
        assert actual.shape == like.shape, text
    else:
        # Under autocast the node rounds its operands first.
        half = like.dtype in (torch.bfloat16, torch.float16)
        tolerances = {"rtol": 0.05, "atol": 0.05} if half and actual.dtype != like.dtype else {}
        torch.testing.assert_close(
            actual.to(like.dtype), like, equal_nan=True, msg=lambda m: f"{text}: {m}", **tolerances
        )
    if op == "identity":
        assert actual.dtype == like.dtype and actual.requires_grad == like.requires_grad, text
    return True
