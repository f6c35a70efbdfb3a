"""Forward and backward of a transformers model: eager, torch.compile, ours, and patched by liger-kernel in eager mode.

    python bench/train_step.py --shape 1b --batch 4 --sequence 4096
    python bench/train_step.py --shape 8b4 --variants torch.compile,liger-kernel,ours --checkpointing
    python bench/train_step.py --shape 1b --variants torch.compile,ours,ours:aot_eager

Each variant runs in a process of its own, so that its memory is its own. Time is the median step; memory is the peak
above the weights (gradients count). No optimizer. The table goes to stdout, everything to a JSON file.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from _models import build_batch, build_model, build_step, is_ours, parser_of_models
from _timing import Timing, format_table, machine, timing_of, write_results


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = parser_of_models(__doc__ or "")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--sequence", type=int, default=4096)
    parser.add_argument("--variants", default="eager,torch.compile,ours", help="which to run, with commas")
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--json", type=Path, default=Path("bench/results/train_step.json"))
    return parser.parse_args(argv)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run one variant in this process."""
    cuda = arguments.device == "cuda"
    model = build_model(arguments)
    step_loss = build_step(model, arguments)
    batch = build_batch(model.config.vocab_size, arguments)
    weights = torch.cuda.memory_allocated() if cuda else 0
    forward_peak: int | None = None

    def step() -> float:
        nonlocal forward_peak
        loss = step_loss(**batch)
        if cuda and forward_peak is None:
            forward_peak = torch.cuda.max_memory_allocated() - weights
        loss.backward()
        model.zero_grad(set_to_none=True)
        return loss.item()

    begin = time.perf_counter()
    loss = step()
    first = time.perf_counter() - begin
    for _ in range(arguments.warmup - 1):
        step()
    if cuda:  # compilation may take more than a step
        torch.cuda.reset_peak_memory_stats()
        forward_peak = None
    milliseconds: list[float] = []
    for _ in range(arguments.steps):
        begin = time.perf_counter()
        step()
        milliseconds.append((time.perf_counter() - begin) * 1e3)
    timing = timing_of(milliseconds)
    peak = torch.cuda.max_memory_allocated() - weights if cuda else None
    result = {
        "timing": vars(timing),
        "peak_bytes": peak,
        "forward_peak_bytes": forward_peak,
        "first_step_seconds": first,
        "loss": loss,
    }
    return {**result, **counts(arguments)}


def counts(arguments: argparse.Namespace) -> dict[str, Any]:
    """What our rules rewrote, where ours ran."""
    if not is_ours(arguments.one):
        return {}
    import liger_compile

    report = liger_compile.report()
    return {"counts": dict(report.counts), "report": str(report)}


def run_in_process(script: str, variant: str, arguments: list[str]) -> dict[str, Any]:
    """Measure one variant by a benchmark's `--one`, in a new process with an empty compiler cache.

    Returns:
        What it writes to its `--json`, or {"error": ...} where it fails.
    """
    with tempfile.NamedTemporaryFile("r", suffix=".json") as file, tempfile.TemporaryDirectory() as cache:
        command = [sys.executable, script, *arguments, "--one", variant, "--json", file.name]
        # Without the opt-in, which would make torch.compile ours.
        environment = {key: value for key, value in os.environ.items() if not key.startswith("LIGER_COMPILE")}
        environment["TORCHINDUCTOR_CACHE_DIR"] = cache
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, env=environment)
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
            print(done.stderr[-4000:], file=sys.stderr)
            return {"error": lines[-1]}
        return json.load(file)


def run_variants(script: str, arguments: argparse.Namespace, measure: Callable[..., Any]) -> dict[str, Any]:
    """Measure every variant in a process of its own. In such a process: measure, write the result, and end."""
    if arguments.one:
        arguments.json.write_text(json.dumps(measure(arguments)))
        sys.exit()
    results = {}
    for name in (name for name in arguments.variants.split(",") if name):
        results[name] = run_in_process(script, name, sys.argv[1:])
        print(name, results[name].get("timing", ""), flush=True)  # all that is left where time runs out
    return results


def row(variant: str, result: dict[str, Any]) -> list[str]:
    if "error" in result:
        return [variant, result["error"][:60], "", "", ""]
    timing = Timing(**result["timing"])
    peak = "not measured" if result["peak_bytes"] is None else f"{result['peak_bytes'] / 2**30:.2f} GiB"
    spread = f"{timing.low:.1f} to {timing.high:.1f}"
    return [variant, f"{timing.median:.1f} ms", spread, peak, f"{result['first_step_seconds']:.1f} s"]


def main() -> None:
    arguments = parse()
    results = run_variants(__file__, arguments, measure)
    shape = (
        f"{arguments.shape}, {arguments.batch} x {arguments.sequence}, {arguments.dtype}, "
        f"compiled {arguments.compiled}, mask {arguments.mask}"
    )
    header = ["", "step", "10th to 90th percentile", "peak above weights", "first step"]
    where = machine(arguments.device)
    print(f"\n{shape}; {where['device']}, torch {where['torch']}\n")
    print(format_table([header, *(row(name, result) for name, result in results.items())]))
    for name, result in results.items():
        if "counts" in result:
            print(f"\n{name}: {result['counts']}, loss {result['loss']:.4f}")
    write_results(arguments, where, results)
    if any("error" in result for result in results.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
