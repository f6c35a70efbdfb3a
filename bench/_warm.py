"""Compiles many variants of models at once, in processes of their own, into the cache that Inductor keeps on disk.

Only compiles: a kernel whose configuration is found by timing it must be alone on the GPU then, and steps that run at
once would not fit it. A process that runs a variant afterwards traces it once more, and takes the rest from the cache.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch
import torch._functorch.config as functorch_config
from torch._dynamo.backends.registry import lookup_backend
from torch._dynamo.exc import BackendCompilerFailed

from _models import build_batch, build_model, build_step, compile_keywords


class _Compiled(Exception):
    """Raised in place of running what was compiled."""


def compile_backward_at_once() -> None:
    """With the forward, to the same code, instead of when it first runs: for this process and what it is to find."""
    functorch_config.force_non_lazy_backward_lowering = True


def warm(variants: Sequence[argparse.Namespace], processes: int) -> None:
    """Compile the variants, each named by the `one` of its options; what fails is said, and left to the later run."""
    begin = time.perf_counter()
    # The compilations are run side by side, so each in one process.
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    try:
        with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _forget_main) as pool:
            errors = [error for error in pool.map(_compile, variants) if error]
    finally:
        del os.environ["TORCHINDUCTOR_COMPILE_THREADS"]
    for error in errors:
        print(f"not compiled ahead: {error}", file=sys.stderr)
    print(f"compiled {len(variants) - len(errors)} variants in {time.perf_counter() - begin:.0f} s", flush=True)


def _forget_main() -> None:
    """The cache's keys pickle `torch.contiguous_format` by a module that has `torch`: not by one that only we have."""
    sys.modules.pop("__mp_main__", None)


def _compile(arguments: argparse.Namespace) -> str:
    """Compile one variant, forward and backward; what went wrong, or nothing."""
    torch._dynamo.reset()
    compile_backward_at_once()
    keywords = compile_keywords(arguments)
    backend = lookup_backend(keywords.pop("backend"))

    def compile_only(gm: torch.fx.GraphModule, example_inputs: list[Any]) -> Any:
        backend(gm, example_inputs, **keywords)
        raise _Compiled

    model = build_model(arguments)
    batch = build_batch(model.config.vocab_size, arguments)
    try:
        build_step(model, arguments, backend=compile_only)(**batch)
    except BackendCompilerFailed as error:
        return "" if isinstance(error.inner_exception, _Compiled) else str(error.inner_exception)[:200]
    except torch.OutOfMemoryError:
        return "out of memory"
    return "nothing was compiled"
