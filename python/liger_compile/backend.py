"""The backend: rewrite the graph that Dynamo hands over, then let the inner compiler compile it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from liger_compile import environment, reporting
from liger_compile.options import Options, parse_options
from liger_compile.reporting import Report
from liger_compile.rewriting import Settings, rewrite_module


def liger(
    gm: torch.fx.GraphModule,
    example_inputs: Sequence[Any],
    *,
    mode: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Callable[..., Any]:
    """The function behind `torch.compile(model, backend="liger", mode=..., options={...})`.

    Args:
        gm: graph of torch operations before autograd, from Dynamo.
        example_inputs: its inputs.
        mode: Inductor's mode.
        options: ours (`inner`, `rewrite`, `disable`, `logits`, `report`, `strict`); all others go to Inductor.

    Returns:
        The compiled function.

    Raises:
        OptionError: an option is unknown or has a wrong value.
    """
    parsed = parse_options(mode, options)
    report = _rewrite(gm, parsed)
    if parsed.inner != "inductor":
        from torch._dynamo.backends.registry import lookup_backend

        return lookup_backend(parsed.inner)(gm, list(example_inputs))
    wrapper = torch._TorchCompileInductorWrapper(parsed.mode, dict(parsed.inductor), None)
    return _inductor(wrapper, gm, example_inputs, report)


def compile_as_inductor(wrapper: Any, gm: torch.fx.GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
    """What plain `torch.compile` calls under LIGER_COMPILE=1; `wrapper` holds Inductor's mode and options."""
    return _inductor(wrapper, gm, example_inputs, _rewrite(gm, parse_options()))


def _rewrite(gm: torch.fx.GraphModule, options: Options) -> Report:
    report = rewrite_module(gm, Settings(options.rewrite, options.disable, options.strict, options.inner))
    environment.write_report_at_exit()
    reporting.add(report, options.report)
    return report


def _inductor(wrapper: Any, gm: torch.fx.GraphModule, example_inputs: Sequence[Any], report: Report) -> Any:
    # Without a rewrite the graph shares plain Inductor's cache entries, and compiles to the same code.
    if report.rewrites:
        from liger_compile.cache_tag import tagged

        wrapper = copy.copy(wrapper)
        wrapper.config = tagged(wrapper.config)
    return environment.inductor_call()(wrapper, gm, example_inputs)
