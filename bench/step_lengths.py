"""Forward and backward of an unpatched transformers model over sequence lengths: plain torch.compile against ours.

    python bench/step_lengths.py --shape 1b --lengths 128,512,2048
    python bench/step_lengths.py --mask left --lengths 4096

Both are compiled anew for every length, run in one process and are timed in turn, without an optimizer.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from _models import build_batch, build_model, build_training_call, check_losses, parser_of_models
from _timing import Call, Timing, compare, format_table, machine, write_results

VARIANTS = ("torch.compile", "ours")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    cuda = torch.cuda.is_available()
    parser = parser_of_models(__doc__ or "")
    parser.add_argument("--lengths", default="128,512,1024,2048,4096" if cuda else "64,128")
    parser.add_argument("--tokens", type=int, default=4096 if cuda else 256, help="batch times length")
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--json", type=Path, default=Path("bench/results/step_lengths.json"))
    return parser.parse_args(argv)


def compiled_calls(model: Any, batch: dict[str, torch.Tensor], arguments: argparse.Namespace) -> dict[str, Call]:
    """Of each variant, compiled for the batch's length alone."""
    torch._dynamo.reset()
    calls: dict[str, Call] = {}
    for arguments.one in VARIANTS:
        calls[arguments.one] = build_training_call(model, batch, arguments)
    losses = {name: float(call()) for name, call in calls.items()}
    check_losses(losses, losses["torch.compile"])
    return calls


def measure(length: int, arguments: argparse.Namespace) -> dict[str, Timing]:
    arguments.sequence, arguments.batch = length, max(1, arguments.tokens // length)
    model = build_model(arguments)
    batch = build_batch(model.config.vocab_size, arguments)
    calls = compiled_calls(model, batch, arguments)
    return compare(calls, device=arguments.device, repetitions=arguments.repetitions)


def main() -> None:
    arguments = parse()
    table = [["batch x length", *VARIANTS, "times as fast"]]
    results: dict[str, dict[str, Any]] = {}
    for length in (int(text) for text in arguments.lengths.split(",")):
        timings = measure(length, arguments)
        results[str(length)] = {name: vars(timing) for name, timing in timings.items()}
        plain, ours = timings["torch.compile"], timings["ours"]
        name = f"{arguments.batch} x {length}"
        table.append([name, str(plain), str(ours), f"{plain.median / ours.median:.2f}"])
    where = machine(arguments.device)
    print(f"\n{arguments.shape}, {arguments.dtype}, mask {arguments.mask}; {where['device']}\n")
    print(format_table(table))
    write_results(arguments, where, results)


if __name__ == "__main__":
    main()
