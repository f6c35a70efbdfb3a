"""The longest sequence that trains on this GPU, found by bisection: eager, torch.compile, liger-kernel and ours.

    python bench/longest_sequence.py --shape 1b

One sequence a batch, gradient checkpointing, AdamW. Each variant runs in a process of its own, which tries one length
after the other: twice as long while it fits, then between the longest that did and the shortest that did not.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from _models import SHAPES, VARIANTS, build_model
from _timing import format_table, machine, write_results
from train_step import run_variants

Fits = Callable[[int], bool]


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="1b" if cuda else "tiny")
    parser.add_argument("--layers", type=int, help="instead of the shape's")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--device", default="cuda" if cuda else "cpu")
    parser.add_argument("--first", type=int, default=16384 if cuda else 128, help="the first length to try")
    parser.add_argument("--most", type=int, default=2**20 if cuda else 512, help="the longest to try")
    parser.add_argument("--step", type=int, default=1024 if cuda else 64, help="lengths are multiples of this")
    parser.add_argument("--variants", default=",".join(VARIANTS), help="which to run, with commas")
    parser.add_argument("--json", type=Path, default=Path("bench/results/longest_sequence.json"))
    parser.add_argument("--one", choices=VARIANTS, help=argparse.SUPPRESS)
    parsed = parser.parse_args(argv)
    parsed.sequence, parsed.checkpointing, parsed.attention = parsed.most, True, "sdpa"  # as build_model wants to know
    return parsed


def longest(fits: Fits, first: int, most: int, step: int) -> int:
    """The longest length up to `most`, of multiples of `step`, that fits; 0 where none does."""
    good, bad = 0, most // step + 1
    tried = max(1, first // step)
    while bad - good > 1:
        if fits(tried * step):
            good = tried
        else:
            bad = tried
        tried = min(2 * good, most // step) if bad > most // step and good > 0 else (good + bad) // 2
    return good * step


def build_step(arguments: argparse.Namespace) -> Callable[[int], None]:
    """Trains one step on a random sequence of the given length."""
    model = build_model(arguments)
    run: Any = model
    if arguments.one == "torch.compile":
        run = torch.compile(model)
    elif arguments.one == "ours":
        run = torch.compile(model, backend="liger")
    optimizer = torch.optim.AdamW(model.parameters())

    def step(length: int) -> None:
        ids = torch.randint(0, model.config.vocab_size, (1, length), device=arguments.device)
        optimizer.zero_grad(set_to_none=True)  # here, since a step that did not fit may have left gradients
        run(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()

    return step


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Bisect one variant in this process."""
    step = build_step(arguments)
    tried: dict[int, bool] = {}

    def fits(length: int) -> bool:
        begin = time.perf_counter()
        try:
            step(length)
            step(length)  # the states of the optimizer exist from the first one on
            tried[length] = True
        except torch.OutOfMemoryError:
            tried[length] = False
        gc.collect()
        if arguments.device == "cuda":
            torch.cuda.empty_cache()
        state = "fits" if tried[length] else "does not fit"
        print(f"{arguments.one}: {length} {state}, {time.perf_counter() - begin:.1f} s", file=sys.stderr, flush=True)
        return tried[length]

    return {"longest": longest(fits, arguments.first, arguments.most, arguments.step), "tried": tried}


def main() -> None:
    arguments = parse()
    results = run_variants(__file__, arguments, measure)
    where = machine(arguments.device)
    print(f"\n{arguments.shape}, batch 1, {arguments.dtype}, checkpointing, AdamW; {where['device']}\n")
    rows = [[name, str(result.get("longest", result.get("error")))] for name, result in results.items()]
    print(format_table([["", "longest sequence"], *rows]))
    write_results(arguments, where, results)


if __name__ == "__main__":
    main()
