"""How an op gets its gradient and its fake kernel.

An op that users and rewritten graphs call (a front op) has native kernels for the plain computation. On the Autograd
key it gets a Python kernel, which runs a `torch.autograd.Function` over the op's forward and backward ops where a
gradient is wanted, and the forward op elsewhere. Forward and backward ops have native kernels alone: a compiled graph,
which holds nothing else, enters no Python in a call. In inference mode a front op enters none either.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

# Keeps the registrations alive.
_LIBRARY = torch.library.Library("liger", "FRAGMENT")


def num_rows(tensor: torch.Tensor) -> int:
    """Product of all sizes but the last. `torch.Size.numel()` would fix symbolic sizes to the traced ones."""
    return math.prod(tensor.shape[:-1])


def register_fake(name: str, fake: Callable[..., Any]) -> None:
    """`fake` computes the shapes, dtypes and strides of `liger::<name>`; it has the op's signature."""
    torch.library.register_fake(f"liger::{name}", fake, lib=_LIBRARY)


def register_autograd(name: str, differentiable: Callable[..., Any], plain: Callable[..., Any]) -> None:
    """How the front op `liger::<name>` runs where autograd looks on; both functions have its signature.

    Args:
        differentiable: applies the op's autograd function, where gradients are enabled and an argument requires one.
        plain: gives the same by a forward op.
    """

    def autograd_kernel(*args: Any, **kwargs: Any) -> Any:
        wanted = torch.is_grad_enabled() and torch._C._any_requires_grad(*args)
        return (differentiable if wanted else plain)(*args, **kwargs)

    _LIBRARY.impl(name, autograd_kernel, "Autograd")


def first_results(op: Any, count: int) -> Callable[..., Any]:
    """A function that gives the first results of a forward op, the other of which are for the backward pass."""

    def plain(*args: Any, **kwargs: Any) -> Any:
        results = op(*args, **kwargs)
        return results[0] if count == 1 else results[:count]

    return plain
