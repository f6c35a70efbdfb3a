"""The backend: rewrite the graph that Dynamo hands over, then let the inner compiler compile it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from liger_compile import environment, reporting
from liger_compile.joint_graph import keeping_less
from liger_compile.options import Options, parse_options
from liger_compile.reporting import Report
from liger_compile.rewriting import Rewriting, Settings, is_stored
from liger_compile.variants import Question, Variants, copied


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
    if parsed.inner != "inductor":
        return _compiled(gm, example_inputs, parsed, functools.partial(_eager, parsed.inner))
    wrapper = torch._TorchCompileInductorWrapper(parsed.mode, dict(parsed.inductor), None)
    return _compiled(gm, example_inputs, parsed, functools.partial(_inductor, wrapper))


def compile_as_inductor(wrapper: Any, gm: torch.fx.GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
    """What plain `torch.compile` calls under LIGER_COMPILE=1; `wrapper` holds Inductor's mode and options."""
    return _compiled(gm, example_inputs, parse_options(), functools.partial(_inductor, wrapper))


def _compiled(
    gm: torch.fx.GraphModule,
    example_inputs: Sequence[Any],
    options: Options,
    inner: Callable[[torch.fx.GraphModule, Sequence[Any], bool], Callable[..., Any]],
) -> Callable[..., Any]:
    """Rewrite and compile; `inner` is told whether anything was rewritten."""
    settings = Settings(options.rewrite, options.disable, options.strict, options.inner, logits=options.logits)

    def compile_rewritten(graph: torch.fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        # Elsewhere what would be written over is copied first.
        with keeping_less(strict=options.strict, reuses_memory=options.inner == "inductor"):
            return inner(graph, inputs, True)

    rewriting = Rewriting(gm, settings)
    asked = _asked(gm, example_inputs, rewriting, strict=options.strict)
    if asked is None and not rewriting.leaves_logits:
        report = rewriting.apply()
        _keep(report, options)
        return compile_rewritten(gm, example_inputs) if report.rewrites else inner(gm, example_inputs, False)
    question, holds = asked or (None, True)
    variants = Variants(copied(gm), question, settings, compile_rewritten)
    _keep(rewriting.apply(conditions_hold=holds), options)
    variants.add(holds, compile_rewritten(gm, example_inputs), rewriting.on_demand, example_inputs)
    return variants


def _asked(
    gm: torch.fx.GraphModule, example_inputs: Sequence[Any], rewriting: Rewriting, *, strict: bool
) -> tuple[Question, bool] | None:
    """What the rewrites depend on, and whether it holds in the first call; None where nothing depends on values."""
    if is_stored():
        rewriting.drop_conditional("it depends on the values of a call, which code for other processes cannot ask for")
    if not rewriting.conditions:
        return None
    try:
        question = Question(gm, rewriting.conditions)
        return question, question.holds(example_inputs)
    except Exception as error:
        if strict:
            raise
        rewriting.drop_conditional(f"asking for its condition failed: {type(error).__name__}: {error}")
        return None


def _keep(report: Report, options: Options) -> None:
    environment.write_report_at_exit()
    reporting.add(report, options.report)


def _eager(inner: str, gm: torch.fx.GraphModule, example_inputs: Sequence[Any], is_rewritten: bool) -> Any:
    from torch._dynamo.backends.registry import lookup_backend

    keywords = {}
    if inner == "aot_eager" and is_rewritten:
        keywords = {"fw_compiler": _with_our_products, "bw_compiler": _with_our_products}
    return lookup_backend(inner)(gm, list(example_inputs), **keywords)


def _with_our_products(gm: torch.fx.GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
    """A graph of AOTAutograd's as it is run, op by op."""
    from torch._dynamo.backends.debugging import boxed_nop

    from liger_compile.products import prefer_our_products

    prefer_our_products(gm.graph)
    gm.recompile()
    return boxed_nop(gm, list(example_inputs))


def _inductor(wrapper: Any, gm: torch.fx.GraphModule, example_inputs: Sequence[Any], is_rewritten: bool) -> Any:
    # Without a rewrite the graph shares plain Inductor's cache entries, and compiles to the same code.
    if not is_rewritten:
        return environment.inductor_call()(wrapper, gm, example_inputs)
    from torch._inductor.compile_fx import compile_fx

    from liger_compile.cache_tag import tagged
    from liger_compile.decompositions import decompositions_for
    from liger_compile.fallbacks import register_fallbacks

    register_fallbacks()
    decompositions = decompositions_for(wrapper.config)
    return compile_fx(gm, example_inputs, config_patches=tagged(wrapper.config), decompositions=decompositions)
