"""The one timer of the benchmarks: interleaved repetitions, cold caches, medians with their spread.

On a GPU with events around each call; before each call a buffer larger than the L2 cache is overwritten, which also
gives the host time to queue the call, so that launch overhead shows only where a call has more of it than that.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

Call = Callable[[], Any]


@dataclass(frozen=True)
class Timing:
    """Milliseconds over the repetitions: the median and the 10th and 90th percentiles."""

    median: float
    low: float
    high: float
    repetitions: int

    def __str__(self) -> str:
        return f"{self.median:.3f} ms ({self.low:.3f} to {self.high:.3f})"


def timing_of(milliseconds: list[float]) -> Timing:
    """Median and percentiles of the measured times."""
    ordered = sorted(milliseconds)
    last = len(ordered) - 1
    low, high = ordered[round(0.1 * last)], ordered[round(0.9 * last)]
    return Timing(statistics.median(ordered), low, high, len(ordered))


class CacheFlush:
    """Overwrites more memory than the device's last-level cache holds."""

    def __init__(self, device: torch.device | str) -> None:
        megabytes = 256 if torch.device(device).type == "cuda" else 64
        self._buffer = torch.empty(megabytes * 2**20 // 4, dtype=torch.int32, device=device)

    def __call__(self) -> None:
        self._buffer.zero_()


def compare(
    calls: dict[str, Call],
    *,
    device: torch.device | str,
    repetitions: int = 50,
    warmup: int = 5,
    flush: bool = True,
) -> dict[str, Timing]:
    """Time every call, one repetition of each after the other, so that drift meets all of them alike.

    Args:
        calls: what to time, by name; each runs on the device's current stream.
        device: "cuda" times by events, anything else by the host's clock.
        repetitions: timed calls of each.
        warmup: untimed calls of each before, compilation included.
        flush: start each call with cold caches.
    """
    for call in calls.values():
        for _ in range(warmup):
            call()
    before = CacheFlush(device) if flush else lambda: None
    once = _cuda_round if torch.device(device).type == "cuda" else _host_round
    rounds = [once(calls, before) for _ in range(repetitions)]
    return {name: timing_of([times[name] for times in rounds]) for name in calls}


def graphed(call: Call) -> Call:
    """A replay of the call's kernels from a CUDA graph, so that what it costs the host does not count. The current
    stream must not be the default one, and all that the call reads must have been made on it."""
    stream = torch.cuda.current_stream()
    for _ in range(3):
        call()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        call()
    return graph.replay


def _cuda_round(calls: dict[str, Call], before: Call) -> dict[str, float]:
    events: dict[str, tuple[torch.cuda.Event, torch.cuda.Event]] = {}
    for name, call in calls.items():
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        before()
        begin.record()
        call()
        end.record()
        events[name] = (begin, end)
    torch.cuda.synchronize()
    return {name: begin.elapsed_time(end) for name, (begin, end) in events.items()}


def _host_round(calls: dict[str, Call], before: Call) -> dict[str, float]:
    times: dict[str, float] = {}
    for name, call in calls.items():
        before()
        begin = time.perf_counter()
        call()
        times[name] = (time.perf_counter() - begin) * 1e3
    return times


def copy_bandwidth(device: torch.device | str, gigabytes: float = 1.0) -> float:
    """Bytes per second, read plus written, of a large copy on the device: the ceiling of memory-bound work."""
    source = torch.empty(int(gigabytes * 1e9) // 4, dtype=torch.int32, device=device).fill_(1)
    target = torch.empty_like(source)
    timing = compare({"copy": lambda: target.copy_(source)}, device=device, repetitions=20)["copy"]
    return 2 * source.numel() * 4 / (timing.median * 1e-3)


def machine(device: torch.device | str) -> dict[str, str]:
    """What a reader needs to place the numbers."""
    cuda = torch.device(device).type == "cuda"
    return {
        "device": torch.cuda.get_device_name() if cuda else f"CPU, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
    }


def write_results(arguments: argparse.Namespace, environment: dict[str, str], results: Any) -> None:
    """To the benchmark's `--json`: where it ran, its options and what it measured."""
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    options = {name: str(value) for name, value in vars(arguments).items()}
    arguments.json.write_text(
        json.dumps({"environment": environment, "options": options, "results": results}, indent=1)
    )


def format_table(rows: list[list[str]]) -> str:
    """A Markdown table of the rows, the first of which is the header; numbers to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]

    def line(row: list[str]) -> str:
        cells = [row[0].ljust(widths[0])] + [cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True)]
        return "| " + " | ".join(cells) + " |"

    rule = "|" + "|".join(["-" * (widths[0] + 2)] + ["-" * (width + 1) + ":" for width in widths[1:]]) + "|"
    return "\n".join([line(rows[0]), rule, *map(line, rows[1:])])
