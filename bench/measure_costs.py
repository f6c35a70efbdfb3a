"""Writes the table of costs that rewrite="auto" reads: from how many elements on a call of each rule's op pays.

    python bench/measure_costs.py --warm 16 --json python/liger_compile/costs/sm_90.json

Each rule alone, rewriting everything, against the inner compiler without it, in whole steps of a model over a ladder of
lengths: a small step waits for the host, and how long that is busy depends on all that a model does beside a pattern. A
rule pays from the fewest elements on from which it is nowhere slower by more than its spread: that of the two medians
(about two standard errors of each), but at least --tolerance of a step. That is strict, since all rules work in the
same step, and narrow models are the strict ones: their products give the device the least to do for an element.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from _timing import Timing, format_table, machine
from each_rule import PLAIN, Outcome, cache_use, compile_ahead, free_memory, in_cells, measure, rules_parser
from liger_compile.profit import device_family

# By rule and elements: times as fast, and the spread of that.
Ladder = dict[int, tuple[float, float]]
_NAMED = ("shape", "layers", "cells", "dtype", "compiled", "repetitions", "tolerance")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    cuda = torch.cuda.is_available()
    parser = rules_parser(__doc__ or "")
    parser.add_argument("--tolerance", type=float, default=0.01, help="the least spread, as a share of a step")
    parser.add_argument("--json", type=Path, default=Path("bench/results/measure_costs.json"))
    parser.set_defaults(rewrite="all")
    if cuda:
        parser.set_defaults(layers=8, repetitions=40, cells="1x64,1x256,1x512,1x1024,1x2048,1x4096,1x8192")
    return parser.parse_args(argv)


def median_error(timing: Timing) -> float:
    """About two standard errors of the median, in milliseconds: of normally distributed times these are 2.5 deviations
    over the root of their number, and as many lie between the 10th and the 90th percentile."""
    return (timing.high - timing.low) / math.sqrt(timing.repetitions)


def compared(ours: Timing, plain: Timing, tolerance: float) -> tuple[float, float]:
    """Times as fast, and by how much that may be below 1 for it to count as not slower."""
    spread = (median_error(ours) + median_error(plain)) / plain.median
    return plain.median / ours.median, max(spread, tolerance)


def add_to(ladders: dict[str, Ladder], outcomes: dict[str, Outcome], tolerance: float) -> None:
    """What a cell says of each rule; of two cells with as many elements the worse one counts."""
    plain = outcomes[PLAIN].timing
    for rule, outcome in outcomes.items():
        if rule != PLAIN and plain is not None and outcome.timing is not None and outcome.elements is not None:
            ladder = ladders.setdefault(rule, {})
            found = compared(outcome.timing, plain, tolerance)
            ladder[outcome.elements] = min(found, ladder.get(outcome.elements, found))


def fewest_elements(ladder: Ladder) -> int | None:
    """From which on a rule is nowhere slower: 0 where it never is, None where it is at the most elements."""
    slower = [elements for elements, (ratio, spread) in ladder.items() if ratio < 1 - spread]
    if not slower:
        return 0
    return min((elements for elements in ladder if elements > max(slower)), default=None)


def costs_of(ladder: Ladder) -> dict[str, Any]:
    """A rule's part of the file."""
    sizes = {str(n): {"times_as_fast": round(r, 4), "spread": round(s, 4)} for n, (r, s) in sorted(ladder.items())}
    return {"fewest_elements": fewest_elements(ladder), "sizes": sizes}


def measure_inner(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The costs of all rules with one inner compiler, as they are known after each cell."""
    compile_ahead(arguments)
    ladders: dict[str, Ladder] = {}
    for cell, options in in_cells(arguments):
        add_to(ladders, measure(options), arguments.tolerance)
        free_memory()
        print(f"{arguments.inner}, {cell}", flush=True)
        yield {rule: costs_of(ladder) for rule, ladder in sorted(ladders.items())}


def write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")


def print_costs(inner: str, costs: dict[str, Any]) -> None:
    rows = [["rule", "elements", "times as fast", "spread", "pays"]]
    for rule, cost in costs.items():
        fewest = cost["fewest_elements"]
        for elements, found in cost["sizes"].items():
            pays = "yes" if fewest is not None and int(elements) >= fewest else "no"
            rows.append([rule, f"{int(elements):,}", f"{found['times_as_fast']:.3f}", f"{found['spread']:.3f}", pays])
    print(f"\n{inner}\n\n{format_table(rows)}")


def main() -> None:
    arguments = parse()
    inner_compilers = arguments.inner.split(",")
    chosen = " ".join(f"--{name} {getattr(arguments, name)}" for name in _NAMED if getattr(arguments, name))
    content: dict[str, Any] = {**machine(arguments.device), "found_by": f"bench/measure_costs.py {chosen}"}
    for arguments.inner in inner_compilers:
        for costs in measure_inner(arguments):
            content[arguments.inner] = costs
            write(arguments.json, content)  # now, so that a run that is cut off leaves what it measured
        print_costs(arguments.inner, content[arguments.inner])
    family = device_family(torch.device(arguments.device))
    print(f"\n{content['device']}; {cache_use()}; {arguments.json}")
    if family:
        print(f"rewrite='auto' reads it as python/liger_compile/costs/{family}.json")


if __name__ == "__main__":
    main()
