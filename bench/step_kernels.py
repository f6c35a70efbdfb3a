"""Which kernels a training step of a transformers model runs, and how long they take.

    python bench/step_kernels.py --shape 1b --layers 4 --variant ours

Sums over all calls of a kernel in one step, from torch's profiler, beside the step as the host sees it. On a GPU only.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from _models import VARIANTS, build_batch, build_model, build_step, parser_of_models
from _timing import format_table, machine, write_results

_STEPS = 5


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = parser_of_models(__doc__ or "")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--sequence", type=int, default=4096)
    parser.add_argument("--variant", choices=VARIANTS, default="ours")
    parser.add_argument("--most", type=int, default=30, help="kernels to list")
    parser.add_argument("--json", type=Path, default=Path("bench/results/step_kernels.json"))
    return parser.parse_args(argv)


def kernels_of(step: Any) -> list[tuple[str, float, float]]:
    """Name, milliseconds and calls of every kernel in a step, the longest first."""
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        for _ in range(_STEPS):
            step()
        torch.cuda.synchronize()
    events = sorted(profiled.key_averages(), key=lambda event: -event.device_time_total)
    return [(event.key, event.device_time_total / 1e3 / _STEPS, event.count / _STEPS) for event in events]


def main() -> None:
    arguments = parse()
    arguments.one = arguments.variant
    model = build_model(arguments)
    step_loss = build_step(model, arguments)
    batch = build_batch(model.config.vocab_size, arguments)

    def step() -> None:
        step_loss(**batch).backward()
        model.zero_grad(set_to_none=True)

    for _ in range(3):
        step()
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(_STEPS):
        step()
    torch.cuda.synchronize()
    milliseconds = (time.perf_counter() - begin) * 1e3 / _STEPS
    kernels = kernels_of(step)
    total = sum(duration for _, duration, _ in kernels)
    where = machine(arguments.device)
    print(f"\n{arguments.shape}, {arguments.batch} x {arguments.sequence}, {arguments.variant}; {where['device']}")
    print(f"step {milliseconds:.1f} ms, kernels {total:.1f} ms\n")
    rows = [[name[:100], f"{duration:.3f} ms", f"{calls:.0f}"] for name, duration, calls in kernels[: arguments.most]]
    print(format_table([["kernel", "in a step", "calls"], *rows]))
    write_results(arguments, where, {"step_milliseconds": milliseconds, "kernels": kernels})


if __name__ == "__main__":
    main()
