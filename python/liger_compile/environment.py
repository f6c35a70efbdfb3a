"""The environment opt-in: plain `torch.compile` rewrites, and the report is written at exit.

Installed while torch is still being imported, so nothing here imports the compiler.
"""

from __future__ import annotations

import atexit
import functools
import importlib.util
import os
import sys
from collections.abc import Callable
from typing import Any

import torch

_MARK = "_liger_compile_original"


def install() -> None:
    """Wrap what `torch.compile` calls for backend="inductor"; a second call does nothing.

    Raises:
        ImportError: the package is there, but its compiled part is not.
    """
    wrapper = torch._TorchCompileInductorWrapper
    if importlib.util.find_spec("liger_compile._rewriter") is None:
        raise ImportError("liger_compile._rewriter is not built")
    if hasattr(wrapper.__call__, _MARK):
        return
    wrapper.__call__ = _rewriting(wrapper.__call__)  # type: ignore[method-assign]


def inductor_call() -> Callable[[Any, Any, Any], Any]:
    """torch's own `_TorchCompileInductorWrapper.__call__`, whether or not it is wrapped now."""
    call = torch._TorchCompileInductorWrapper.__call__
    return getattr(call, _MARK, call)


def _rewriting(original: Callable[[Any, Any, Any], Any]) -> Callable[[Any, Any, Any], Any]:
    @functools.wraps(original)
    def call(self: Any, model_: Any, inputs_: Any) -> Any:
        # A package for another process must not need our operators there.
        if self.compiler_name != "inductor" or not isinstance(model_, torch.fx.GraphModule):
            return original(self, model_, inputs_)
        from liger_compile.backend import compile_as_inductor

        return compile_as_inductor(self, model_, inputs_)

    setattr(call, _MARK, original)
    return call


@functools.cache
def write_report_at_exit() -> None:
    """Honour LIGER_COMPILE_REPORT. Called by the first compilation, not at install: a process that only inherits the
    variable, such as Inductor's compile workers, must not write its empty report over ours."""
    path = os.environ.get("LIGER_COMPILE_REPORT")
    if path:
        atexit.register(_write_report, path, os.getpid())


def _write_report(path: str, owner: int) -> None:
    from liger_compile import reporting

    if os.getpid() != owner:  # a forked child
        return
    try:
        reporting.report().save(path)
    except (OSError, ValueError) as error:
        print(f"liger-compile: LIGER_COMPILE_REPORT was not written: {error}", file=sys.stderr)
