"""What would be rewritten in a model, without compiling it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from liger_compile.reporting import Report, merge
from liger_compile.rewriting import Settings, rewrite_module


def explain(model: Callable[..., Any], *args: Any, **kwargs: Any) -> Report:
    """Report what backend="liger" would do to a model, as a dry run.

    The model is called once, uncompiled, with the given arguments; its graphs are only read. As with
    `torch._dynamo.explain`, whatever torch.compile has compiled in this process is compiled again when next called.

    Args:
        model: a module or function, compiled or not.
        *args: its arguments.
        **kwargs: its keyword arguments.

    Returns:
        The report of all graphs of this call, merged. It is not added to `liger_compile.reports()`.
    """
    read: list[Report] = []

    def read_only(gm: torch.fx.GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
        read.append(rewrite_module(gm, Settings(dry_run=True)))
        return gm.forward

    # A graph that is compiled already would not reach us, and what we leave behind would count as recompilations.
    torch._dynamo.reset()
    try:
        torch.compile(getattr(model, "_orig_mod", model), backend=read_only)(*args, **kwargs)
    finally:
        torch._dynamo.reset()
    return merge(read)
