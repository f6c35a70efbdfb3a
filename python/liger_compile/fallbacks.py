"""Tells Inductor beforehand that it has no code of its own for our ops.

Inductor finds that out by itself where it meets one, but first formats a message with the operands and all that they
are computed from (torch 2.11). Between ops that it cannot fuse nothing is abbreviated, so that the message doubles with
every residual connection: a model of a few layers would not finish compiling.
"""

from __future__ import annotations

import functools

import torch


@functools.cache
def register_fallbacks() -> None:
    """Register every `liger` op as Inductor would; the first call imports Inductor."""
    from torch._inductor.lowering import lowerings, make_fallback, tag_to_layout_constraint
    from torch._library.utils import get_layout_constraint_tag

    import liger_compile.ops  # noqa: F401  defines the ops

    for name in torch._C._dispatch_get_all_op_names():
        namespace, _, op_name = name.partition("::")
        if namespace != "liger" or "." in op_name:
            continue
        op = getattr(torch.ops.liger, op_name).default
        if op not in lowerings:
            constraint = tag_to_layout_constraint(get_layout_constraint_tag(op, with_default=True))
            make_fallback(op, layout_constraint=constraint, warn=False)
