"""Forward and backward of a transformers model: plain torch.compile against each rule alone, with all others off.

    python bench/each_rule.py --shape 8b4 --layers 2 --cells 1x512,4x4096,1x16384 --warm 16

A cell is batch x length. All variants of a cell are compiled for it alone, live in one process and are timed in turn,
without an optimizer. A rule that rewrites nothing there is not timed: what it gives is torch.compile's. "slower" marks
medians beyond the spread of torch.compile's steps, its 90th percentile. --disable names rules to leave out.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import liger_compile
from _models import build_batch, build_model, build_training_call, check_losses, parser_of_models
from _timing import Call, Timing, compare, format_table, machine, write_results
from _warm import compile_backward_at_once, warm
from liger_compile.rewriting import rule_names

PLAIN = "torch.compile"


@dataclasses.dataclass
class Outcome:
    """What became of a variant in a cell.

    Attributes:
        timing: of its steps; None where it was not timed.
        note: why it was not.
        elements: the most that a site of its rule has, as rewrite="auto" counts them; None where none is known.
    """

    timing: Timing | None = None
    note: str = ""
    elements: int | None = None


def rules_parser(description: str) -> argparse.ArgumentParser:
    """Options of what measures each rule alone, with defaults that a CPU is quick with where there is no GPU."""
    cuda = torch.cuda.is_available()
    parser = parser_of_models(description)
    parser.add_argument("--cells", default="1x128,1x512,8x512,1x4096,4x4096,1x16384" if cuda else "1x64,2x128")
    parser.add_argument("--repetitions", type=int, default=20 if cuda else 5)
    parser.add_argument("--warm", type=int, default=0, help="compile ahead in so many processes at once")
    if not cuda:
        parser.set_defaults(shape="tiny", layers=2)
    return parser


def in_cells(arguments: argparse.Namespace) -> Iterator[tuple[str, argparse.Namespace]]:
    """Each cell's name with its options."""
    for name in arguments.cells.split(","):
        options = copy.copy(arguments)
        options.batch, options.sequence = (int(size) for size in name.split("x"))
        yield name, options


def in_variants(arguments: argparse.Namespace) -> Iterator[tuple[str, argparse.Namespace]]:
    """Plain torch.compile, and each rule that is not disabled, with options that leave it alone."""
    left_out = arguments.disable.split(",")
    for name in (PLAIN, *(rule for rule in rule_names() if rule not in left_out)):
        options = copy.copy(arguments)
        options.one = f"{PLAIN if name == PLAIN else 'ours'}:{arguments.inner}"
        options.disable = ",".join(rule for rule in rule_names() if rule != name)
        yield name, options


def compile_ahead(arguments: argparse.Namespace) -> None:
    """All variants of all cells, where asked to."""
    if arguments.warm and arguments.inner == "inductor":
        cells = [options for _, options in in_cells(arguments)]
        warm([options for cell in cells for _, options in in_variants(cell)], arguments.warm)


def measure(arguments: argparse.Namespace) -> dict[str, Outcome]:
    """Every variant in the options' cell."""
    torch._dynamo.reset()
    compile_backward_at_once()
    torch._dynamo.config.recompile_limit = 64  # each variant is one more compilation of the same code
    model = build_model(arguments)
    batch = build_batch(model.config.vocab_size, arguments)
    outcomes: dict[str, Outcome] = {}
    calls: dict[str, Call] = {}
    losses: dict[str, float] = {}
    for name, options in in_variants(arguments):
        call = build_training_call(model, batch, options)
        outcomes[name], loss = first_step(name, call)
        if not outcomes[name].note:
            calls[name], losses[name] = call, loss
        model.zero_grad(set_to_none=True)  # of a step that did not fit
        free_memory()
    check_losses(losses, losses.get(PLAIN, next(iter(losses.values()), 0.0)))
    timings = compare(calls, device=arguments.device, repetitions=arguments.repetitions, warmup=3)
    for name, timing in timings.items():
        outcomes[name].timing = timing
    return outcomes


def first_step(name: str, call: Call) -> tuple[Outcome, float]:
    """Compile a variant by a first step; its loss."""
    liger_compile.reset()
    try:
        loss = float(call())
    except torch.OutOfMemoryError:
        return Outcome(note="out of memory"), 0.0
    rewrites = liger_compile.report().rewrites
    sizes = [record.elements for record in rewrites if record.elements is not None]
    is_same = name != PLAIN and not rewrites
    return Outcome(note="as written" if is_same else "", elements=max(sizes, default=None)), loss


def free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def cache_use() -> str:
    """How often the variants so far were found compiled."""
    counters = torch._dynamo.utils.counters["aot_autograd"]
    hits, misses = counters["autograd_cache_hit"], counters["autograd_cache_miss"]
    return f"{hits} of {hits + misses} compilations came from the cache"


def is_slower(outcome: Outcome, plain: Outcome) -> bool:
    """By more than the spread of torch.compile's own steps."""
    return bool(outcome.timing and plain.timing and outcome.timing.median > plain.timing.high)


def entry(outcome: Outcome, plain: Outcome) -> str:
    """How many times as fast as torch.compile, for the table."""
    if outcome.timing is None or plain.timing is None:
        return outcome.note or "alone"
    ratio = f"{plain.timing.median / outcome.timing.median:.3f}"
    return f"{ratio} slower" if is_slower(outcome, plain) else ratio


def row(cell: str, outcomes: dict[str, Outcome]) -> list[str]:
    plain = outcomes[PLAIN]
    return [cell, str(plain.timing or plain.note)] + [entry(o, plain) for name, o in outcomes.items() if name != PLAIN]


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = rules_parser(__doc__ or "")
    parser.add_argument("--json", type=Path, default=Path("bench/results/each_rule.json"))
    return parser.parse_args(argv)


def main() -> None:
    arguments = parse()
    where = machine(arguments.device)
    names = [name for name, _ in in_variants(arguments)]
    table = [["times as fast", *names]]
    results: dict[str, Any] = {}
    compile_ahead(arguments)
    for cell, options in in_cells(arguments):
        outcomes = measure(options)
        free_memory()
        table.append(row(cell, outcomes))
        plain = outcomes[PLAIN]
        results[cell] = {n: {**dataclasses.asdict(o), "slower": is_slower(o, plain)} for n, o in outcomes.items()}
        write_results(arguments, where, results)  # now, so that a run that is cut off leaves what it measured
        print(" | ".join(table[-1]), flush=True)
    print(f"\n{arguments.shape}, {arguments.dtype}, mask {arguments.mask}; {where['device']}; {cache_use()}\n")
    print(format_table(table))


if __name__ == "__main__":
    main()
