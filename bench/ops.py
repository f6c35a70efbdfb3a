"""Each op alone, forward and backward: eager, torch.compile (inductor), liger-kernel where it is installed, and ours.

    python bench/ops.py --only rms_norm,glu

Memory-bound ops also show which share of the bandwidth of a measured copy they reach, counting every input read once
and every output written once. They are timed in turns, over cold caches, and on a GPU from CUDA graphs: small ops
would else be bound by the host.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch._functorch.config as functorch_config

from _op_cases import Case, cases
from _timing import Call, Timing, compare, copy_bandwidth, format_table, graphed, machine, write_results

IMPLEMENTATIONS = ("eager", "inductor", "liger-kernel", "ours")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", help="default: bfloat16 on a GPU, float32 on the CPU")
    parser.add_argument("--rows", type=int, help="tokens; default: 8192 on a GPU, 1024 on the CPU")
    parser.add_argument("--only", default="", help="names of cases, with commas; a prefix is enough")
    parser.add_argument("--repetitions", type=int, default=40)
    parser.add_argument("--json", type=Path, default=Path("bench/results/ops.json"))
    return parser.parse_args(argv)


def measure(case: Case, arguments: argparse.Namespace) -> dict[str, dict[str, Timing]]:
    """{"forward": {implementation: timing}, "backward": ...} of one case."""
    given = case.inputs()
    compiled = torch.compile(case.reference)
    implementations = {"eager": case.reference, "inductor": compiled, "ours": case.ours}
    if case.liger_kernel is not None and arguments.device == "cuda" and find_spec("liger_kernel"):
        implementations["liger-kernel"] = case.liger_kernel
    # Of their own, since not every implementation leaves them alone.
    inputs = {name: tuple(copied(tensor) for tensor in given) for name in implementations}
    outputs = {name: as_tuple(function(*inputs[name])) for name, function in implementations.items()}
    gradients = [torch.randn_like(output) for output in outputs["eager"]]

    def backward(name: str) -> Any:
        leaves = [tensor for tensor in inputs[name] if tensor.requires_grad]
        return torch.autograd.grad(outputs[name], leaves, gradients, retain_graph=True)

    forwards: dict[str, Call] = {name: partial(function, *inputs[name]) for name, function in implementations.items()}
    backwards: dict[str, Call] = {name: partial(backward, name) for name in implementations}
    timings = {}
    for direction, calls in (("forward", forwards), ("backward", backwards)):
        if arguments.device == "cuda":
            calls = {name: graphed(call) for name, call in calls.items()}
        timings[direction] = compare(calls, device=arguments.device, repetitions=arguments.repetitions)
    return timings


def copied(tensor: torch.Tensor) -> torch.Tensor:
    """With the same strides and need of a gradient, as a leaf."""
    return tensor.detach().clone(memory_format=torch.preserve_format).requires_grad_(tensor.requires_grad)


def as_tuple(value: Any) -> tuple[torch.Tensor, ...]:
    return value if isinstance(value, tuple) else (value,)


def rows(case: Case, timings: dict[str, dict[str, Timing]], bandwidth: float) -> Iterator[list[str]]:
    """Two lines of the table: forward and backward."""
    for direction, moved in (("forward", case.forward_bytes), ("backward", case.backward_bytes)):
        timing = timings[direction]
        share = "" if moved is None else f"{moved / (timing['ours'].median * 1e-3) / bandwidth:.2f}"
        spread = f"{timing['ours'].low:.3f} to {timing['ours'].high:.3f}"
        medians = [f"{timing[name].median:.3f}" if name in timing else "" for name in IMPLEMENTATIONS]
        yield [f"{case.name} {direction}", *medians, spread, share]


def main() -> None:
    arguments = parse()
    cuda = arguments.device == "cuda"
    dtype = getattr(torch, arguments.dtype or ("bfloat16" if cuda else "float32"))
    num_rows = arguments.rows or (8192 if cuda else 1024)
    # The compiled backward runs many times over one forward, so it may not reuse what the forward saved.
    functorch_config.donated_buffer = False
    torch.manual_seed(0)
    bandwidth = copy_bandwidth(arguments.device, 1.0 if cuda else 0.25)
    prefixes = tuple(name for name in arguments.only.split(",") if name)
    table = [["op, ms", *IMPLEMENTATIONS, "10th to 90th percentile", "share of copy"]]
    results: dict[str, Any] = {}
    for case in cases(num_rows, dtype, arguments.device):
        if prefixes and not case.name.startswith(prefixes):
            continue
        torch._dynamo.reset()
        # Not the default stream, which CUDA graphs cannot record.
        with torch.cuda.stream(torch.cuda.Stream() if cuda else None):
            timings = measure(case, arguments)
        table += rows(case, timings, bandwidth)
        results[case.name] = {d: {name: vars(t) for name, t in by_name.items()} for d, by_name in timings.items()}
        print(case.name, flush=True)
    where = {**machine(arguments.device), "copy": f"{bandwidth / 1e9:.0f} GB/s", "dtype": str(dtype)}
    print(f"\n{where}, {num_rows} rows\n\n{format_table(table)}")
    write_results(arguments, where, results)


if __name__ == "__main__":
    main()
