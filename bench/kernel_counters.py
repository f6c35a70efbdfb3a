"""Hardware counters of our GPU kernels, from Nsight Compute: how near each is to the device's limits, and which.

    python bench/kernel_counters.py --rows 8192

Runs the cases of bench/ops.py once more under `ncu`, which repeats each kernel for as many passes as the counters need,
over cold caches and at the clocks as they are. A kernel's limit is the unit that is busiest; where none is busy for
60 % of the time, what its warps wait for.
"""

from __future__ import annotations

import argparse
import csv
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from _op_cases import as_tuple, cases
from _timing import copy_bandwidth, format_table, machine, write_results

_PERCENT = "avg.pct_of_peak_sustained_elapsed"
_UNITS = {
    "device memory": f"dram__throughput.{_PERCENT}",
    "L2 cache": f"lts__throughput.{_PERCENT}",
    "L1 cache": f"l1tex__throughput.{_PERCENT}",
    "instructions": f"sm__inst_issued.{_PERCENT}",
    "special functions": f"sm__inst_executed_pipe_xu.{_PERCENT}",
}
_STALLS = {
    "loads": "smsp__average_warps_issue_stalled_long_scoreboard_per_issue_active.ratio",
    "barriers": "smsp__average_warps_issue_stalled_barrier_per_issue_active.ratio",
    "shared memory": "smsp__average_warps_issue_stalled_short_scoreboard_per_issue_active.ratio",
    "full queues": "smsp__average_warps_issue_stalled_lg_throttle_per_issue_active.ratio",
}
_TIME = "gpu__time_duration.sum"
_READ, _WRITTEN = "dram__bytes_read.sum", "dram__bytes_write.sum"
_OCCUPANCY = "sm__warps_active.avg.pct_of_peak_sustained_active"
_REGISTERS = "launch__registers_per_thread"
_METRICS = (*_UNITS.values(), *_STALLS.values(), _TIME, _READ, _WRITTEN, _OCCUPANCY, _REGISTERS)
_BUSY = 60.0  # percent
_MARK = "liger-case:"


@dataclass(frozen=True)
class Kernel:
    """One launch. Bandwidth is what device memory read and wrote; percentages are of the device's peak."""

    case: str
    kernel: str
    milliseconds: float
    gigabytes_per_second: float
    occupancy_percent: float
    registers: int
    busy_percent: dict[str, float]
    limit: str


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--rows", type=int, default=8192)
    parser.add_argument("--only", default="", help="names of cases, with commas; a prefix is enough")
    parser.add_argument("--ncu", default="ncu", help="Nsight Compute's command")
    parser.add_argument("--json", type=Path, default=Path("bench/results/kernel_counters.json"))
    parser.add_argument("--launch", action="store_true", help=argparse.SUPPRESS)  # in the process that ncu watches
    return parser.parse_args(argv)


@contextmanager
def named_range(name: str) -> Iterator[None]:
    """Of the whole process: autograd launches from threads of its own."""
    handle = torch.cuda.nvtx.range_start(f"{_MARK}{name}:")
    yield
    torch.cuda.synchronize()
    torch.cuda.nvtx.range_end(handle)


def launch(arguments: argparse.Namespace) -> None:
    """Every case forward and backward, in ranges that carry its name; the first time unwatched."""
    for case in cases(arguments.rows, getattr(torch, arguments.dtype), "cuda", arguments.only):
        inputs = case.inputs()
        leaves = [tensor for tensor in inputs if tensor.requires_grad]
        for is_watched in (False, True):
            torch.cuda.synchronize()
            if is_watched:
                torch.cuda.profiler.start()
            with named_range(f"{case.name} forward"):
                outputs = as_tuple(case.ours(*inputs))
            gradients = [torch.ones_like(output) for output in outputs]
            with named_range(f"{case.name} backward"):
                torch.autograd.grad(outputs, leaves, gradients)
        torch.cuda.profiler.stop()


def rows_of(log: str) -> Iterator[dict[str, str]]:
    """The lines of ncu's raw page, of which the first names the columns and the second their units."""
    lines = [line for line in log.splitlines() if line.startswith('"')]
    table = csv.DictReader(lines)
    next(table, None)
    yield from table


def kernel_of(row: dict[str, str]) -> Kernel:
    """Of ncu's columns only the metrics' names are relied on: the range's name may stand in any of them."""
    text = " ".join(str(value) for value in row.values())
    case = re.search(f"{_MARK}([^:]*):", text)
    name = re.search(r"(\w+)_kernel\b", row["Kernel Name"])
    values = {metric: float(row[metric].replace(",", "") or "nan") for metric in _METRICS}
    busy = {unit: values[metric] for unit, metric in _UNITS.items()}
    busiest = max(busy, key=busy.__getitem__)
    waits = max(_STALLS, key=lambda stall: values[_STALLS[stall]])
    return Kernel(
        case[1] if case else "?",
        name[1] if name else row["Kernel Name"],
        values[_TIME] * 1e-6,
        (values[_READ] + values[_WRITTEN]) / values[_TIME],
        values[_OCCUPANCY],
        int(values[_REGISTERS]),
        busy,
        busiest if busy[busiest] >= _BUSY else f"waits for {waits}",
    )


def watch(arguments: argparse.Namespace) -> list[Kernel]:
    """Run `launch` under ncu."""
    with tempfile.NamedTemporaryFile("r", suffix=".log") as log:
        command = [arguments.ncu, "--csv", "--page", "raw", "--print-units", "base", "--nvtx", "--log-file", log.name]
        command += ["--profile-from-start", "off", "--clock-control", "none", "--kernel-name", "regex:liger"]
        command += ["--kernel-name-base", "demangled", "--metrics", ",".join(_METRICS)]
        script = [sys.executable, __file__, "--launch", *sys.argv[1:]]
        done = subprocess.run([*command, *script], capture_output=True, text=True)
        text = log.read()
    kernels = [kernel_of(row) for row in rows_of(text)]
    if done.returncode != 0 or not kernels:
        raise RuntimeError(
            f"ncu measured nothing (exit status {done.returncode}): {text[-2000:]} {done.stderr[-2000:]}"
        )
    return kernels


def table_of(kernels: list[Kernel], bandwidth: float) -> str:
    table = [["case", "kernel", "ms", "GB/s", "of copy", "occupancy", "registers", "limit"]]
    seen = set()
    for kernel in kernels:
        if (kernel.case, kernel.kernel) in seen:  # chunks are alike
            continue
        seen.add((kernel.case, kernel.kernel))
        speed = kernel.gigabytes_per_second
        share, occupancy = f"{speed * 1e9 / bandwidth:.2f}", f"{kernel.occupancy_percent:.0f} %"
        row = [kernel.case, kernel.kernel, f"{kernel.milliseconds:.3f}", f"{speed:.0f}", share, occupancy]
        table.append([*row, str(kernel.registers), kernel.limit])
    return format_table(table)


def main() -> None:
    arguments = parse()
    if arguments.device != "cuda":
        sys.exit("kernel_counters: needs a GPU of NVIDIA and ncu")
    if arguments.launch:
        return launch(arguments)
    bandwidth = copy_bandwidth("cuda")
    kernels = watch(arguments)
    where = {**machine("cuda"), "copy": f"{bandwidth / 1e9:.0f} GB/s"}
    print(f"\n{where}, {arguments.dtype}, {arguments.rows} rows\n\n{table_of(kernels, bandwidth)}")
    write_results(arguments, where, [asdict(kernel) for kernel in kernels])


if __name__ == "__main__":
    main()
