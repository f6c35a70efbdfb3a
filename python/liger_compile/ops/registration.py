"""How an op gets its gradient and its fake kernel.

An op that users and rewritten graphs call (a front op) has native kernels for the plain computation. On the Autograd
key it gets a Python kernel that runs a `torch.autograd.Function` over the op's forward and backward ops, but only where
a gradient is wanted. In inference mode the dispatcher goes to the native kernel without entering Python.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

# Keeps the registrations alive.
_LIBRARY = torch.library.Library("liger", "FRAGMENT")

below_autograd = torch._C._AutoDispatchBelowAutograd


def num_rows(tensor: torch.Tensor) -> int:
    """Product of all sizes but the last. `torch.Size.numel()` would fix symbolic sizes to the traced ones."""
    return math.prod(tensor.shape[:-1])


def register_fake(name: str, fake: Callable[..., Any]) -> None:
    """`fake` computes the shapes, dtypes and strides of `liger::<name>`; it has the op's signature."""
    torch.library.register_fake(f"liger::{name}", fake, lib=_LIBRARY)


def register_autograd(name: str, differentiable: Callable[..., Any]) -> None:
    """`differentiable` has the op's signature (with its defaults) and applies the op's autograd function.

    It runs only where gradients are enabled and an argument requires one.
    """
    op = getattr(torch.ops.liger, name).default

    def autograd_kernel(*args: Any, **kwargs: Any) -> Any:
        if torch.is_grad_enabled() and torch._C._any_requires_grad(*args):
            return differentiable(*args, **kwargs)
        with below_autograd():
            return op(*args, **kwargs)

    _LIBRARY.impl(name, autograd_kernel, "Autograd")
