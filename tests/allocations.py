"""What a call allocates on the CPU, as the profiler sees it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

from torch.profiler import ProfilerActivity, profile


def allocated_bytes(call: Callable[[], object], folder: Path) -> list[int]:
    """Bytes of each allocation while `call` runs, and, negative, of what is freed.

    The profiler's trace goes to `folder`.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        call()
    trace = folder / "trace.json"
    profiler.export_chrome_trace(str(trace))
    events = json.loads(trace.read_text())["traceEvents"]
    return [event["args"]["Bytes"] for event in events if event["name"] == "[memory]"]


def peak_bytes(call: Callable[[], object], folder: Path) -> int:
    """The most that `call` holds at once of what it allocates; what it frees besides counts against it."""
    return max(itertools.accumulate(allocated_bytes(call, folder)))
