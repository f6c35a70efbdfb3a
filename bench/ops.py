"""Each op alone, forward and backward: eager, torch.compile (inductor), ours, and where they are installed liger-kernel
and QuACK (quack-kernels).

    python bench/ops.py --only rms_norm,glu

Errors are relative, root mean square, of outputs and gradients against float64, over fewer rows. Memory-bound ops also
show which share of the bandwidth of a measured copy they reach, counting every input read once and every output written
once. All are timed in turns, over cold caches, and on a GPU from CUDA graphs: small ops would
else be bound by the host.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch._functorch.config as functorch_config

from _op_cases import OTHERS, Case, as_tuple, cases
from _timing import Call, Timing, compare, copy_bandwidth, format_table, graphed, machine, write_results

IMPLEMENTATIONS = ("eager", "inductor", *OTHERS, "ours")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", help="default: bfloat16 on a GPU, float32 on the CPU")
    parser.add_argument("--rows", type=int, help="tokens; default: 8192 on a GPU, 1024 on the CPU")
    parser.add_argument("--only", default="", help="names of cases, with commas; a prefix is enough")
    parser.add_argument("--repetitions", type=int, default=40)
    parser.add_argument("--json", type=Path, default=Path("bench/results/ops.json"))
    return parser.parse_args(argv)


def implementations_of(case: Case, device: str) -> dict[str, Callable[..., Any]]:
    found = {"eager": case.reference, "inductor": torch.compile(case.reference), "ours": case.ours}
    others = {name: function for name, function in case.others.items() if device == "cuda" and find_spec(OTHERS[name])}
    return {**found, **others}


def errors_of(case: Case, device: str) -> dict[str, dict[str, float]]:
    """{implementation: {"forward": error, "backward": error}}, the largest of the outputs and of the gradients."""
    given = case.inputs()
    exact = tuple(copied(tensor, torch.float64) for tensor in given)
    truth = as_tuple(case.reference(*exact))
    seeds = [torch.randn_like(output) for output in truth]
    true_gradients = torch.autograd.grad(truth, [tensor for tensor in exact if tensor.requires_grad], seeds)
    errors = {}
    for name, function in implementations_of(case, device).items():
        inputs = tuple(copied(tensor) for tensor in given)
        outputs = as_tuple(function(*inputs))
        leaves = [tensor for tensor in inputs if tensor.requires_grad]
        own_seeds = [seed.to(output.dtype) for seed, output in zip(seeds, outputs, strict=True)]
        gradients = torch.autograd.grad(outputs, leaves, own_seeds)
        errors[name] = {
            "forward": largest_error(outputs, truth),
            "backward": largest_error(gradients, true_gradients),
        }
    return errors


def largest_error(values: Sequence[torch.Tensor], truth: Sequence[torch.Tensor]) -> float:
    return max(float((v.double() - t).norm() / t.norm()) for v, t in zip(values, truth, strict=True))


def measure(case: Case, arguments: argparse.Namespace) -> dict[str, dict[str, Timing]]:
    """{"forward": {implementation: timing}, "backward": ...} of one case."""
    given = case.inputs()
    implementations = implementations_of(case, arguments.device)
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


def copied(tensor: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """With the same strides and need of a gradient, as a leaf; floating point numbers in another dtype."""
    copy = tensor.detach().clone(memory_format=torch.preserve_format)
    if dtype is not None and copy.is_floating_point():
        copy = copy.to(dtype)
    return copy.requires_grad_(tensor.requires_grad)


@dataclass(frozen=True)
class Measured:
    """What `measure` and `errors_of` say of a case."""

    case: Case
    timings: dict[str, dict[str, Timing]]
    errors: dict[str, dict[str, float]]

    def as_json(self) -> dict[str, Any]:
        timings = {d: {name: vars(t) for name, t in by_name.items()} for d, by_name in self.timings.items()}
        return {**timings, "errors": self.errors}


def table_of(measured: Sequence[Measured], bandwidth: float) -> list[list[str]]:
    """With a column for each implementation that any case has."""
    names = [name for name in IMPLEMENTATIONS if any(name in m.timings["forward"] for m in measured)]
    table = [["op, ms", *names, "10th to 90th percentile", "share of copy", "error of eager", "ours"]]
    for of_case in measured:
        table += rows(of_case, names, bandwidth)
    return table


def rows(measured: Measured, names: Sequence[str], bandwidth: float) -> Iterator[list[str]]:
    """Two lines of the table: forward and backward."""
    case, timings, errors = measured.case, measured.timings, measured.errors
    for direction, moved in (("forward", case.forward_bytes), ("backward", case.backward_bytes)):
        timing = timings[direction]
        share = "" if moved is None else f"{moved / (timing['ours'].median * 1e-3) / bandwidth:.2f}"
        spread = f"{timing['ours'].low:.3f} to {timing['ours'].high:.3f}"
        medians = [f"{timing[name].median:.3f}" if name in timing else "" for name in names]
        compared = [f"{errors[name][direction]:.1e}" for name in ("eager", "ours")]
        yield [f"{case.name} {direction}", *medians, spread, share, *compared]


def main() -> None:
    arguments = parse()
    cuda = arguments.device == "cuda"
    dtype = getattr(torch, arguments.dtype or ("bfloat16" if cuda else "float32"))
    num_rows = arguments.rows or (8192 if cuda else 1024)
    # The compiled backward runs many times over one forward, so it may not reuse what the forward saved.
    functorch_config.donated_buffer = False
    torch.manual_seed(0)
    bandwidth = copy_bandwidth(arguments.device, 1.0 if cuda else 0.25)
    measured: list[Measured] = []
    few_rows = cases(min(num_rows, 512), dtype, arguments.device, arguments.only)
    for case, small_case in zip(cases(num_rows, dtype, arguments.device, arguments.only), few_rows, strict=True):
        torch._dynamo.reset()
        # Not the default stream, which CUDA graphs cannot record.
        with torch.cuda.stream(torch.cuda.Stream() if cuda else None):
            errors = errors_of(small_case, arguments.device)
            torch._dynamo.reset()
            timings = measure(case, arguments)
        measured.append(Measured(case, timings, errors))
        print(case.name, flush=True)
    where = {**machine(arguments.device), "copy": f"{bandwidth / 1e9:.0f} GB/s", "dtype": str(dtype)}
    print(f"\n{where}, {num_rows} rows\n\n{format_table(table_of(measured, bandwidth))}")
    write_results(arguments, where, {m.case.name: m.as_json() for m in measured})


if __name__ == "__main__":
    main()
