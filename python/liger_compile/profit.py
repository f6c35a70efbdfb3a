"""Where rewrites that are right also pay: what rewrite="auto" asks of each.

A call of an op takes the host longer than the launch of a Triton kernel, and where the host is what a step waits for,
nothing makes up for that; only from some size on the device has more to do than the host. That size is measured, by
bench/measure_costs.py, which writes a file of costs/ for one kind of device: each rule's `fewest_elements`, and beside
them, for who reads the file, the `sizes` that they follow from. What is not measured there, or on another device, is
weighed by costs/other.json: rules that spare memory or work at any size, and those that only join elementwise
operations from four times the elements on that Hopper needs, where even a faster device is busy.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

_FOLDER = Path(__file__).parent / "costs"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Whether a rewrite pays, and on what ground, for the report; no ground where there is nothing to weigh."""

    pays: bool
    ground: str = ""


def weigh(rule: str, elements: int | None, device: torch.device, inner: str) -> Verdict:
    """Whether a rewrite is made, or left to the inner compiler.

    Args:
        rule: the name of its rule.
        elements: of the largest tensor of what it replaces (see `most_elements`); None: not known, taken to be large.
        device: where that is computed.
        inner: the backend that compiles the rewritten graph.
    """
    costs, source = _costs(rule, device, inner)
    if costs is None:
        return Verdict(True)
    fewest = costs["fewest_elements"]
    if fewest is not None and (elements is None or elements >= fewest):
        size = f"from {fewest:,} elements on" if fewest else "at any size"
        return Verdict(True, f"rewritten {size} ({source})")
    too_few = "at all sizes" if fewest is None else f"for {elements:,} elements, fewer than {fewest:,}"
    faster = f"left to {inner}, which {'is' if source.startswith('measured') else 'may be'} faster {too_few}"
    return Verdict(False, f"{faster} ({source}); rewrite='all' rewrites it all the same")


def most_elements(shapes: Iterable[Sequence[object]]) -> int | None:
    """Elements of the largest shape; None where a size is no int, so not known."""
    most = 0
    for shape in shapes:
        product = 1
        for size in shape:
            if not isinstance(size, int):
                return None
            product *= size
        most = max(most, product)
    return most


@functools.cache
def device_family(device: torch.device) -> str:
    """What its file in costs/ is named after, as "sm_90" or "gfx90a"; empty where there is no such device."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return ""
    if torch.version.hip:  # whose capability (9, 0) is not Hopper's
        return str(torch.cuda.get_device_properties(device).gcnArchName).partition(":")[0]
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


def _costs(rule: str, device: torch.device, inner: str) -> tuple[dict[str, Any] | None, str]:
    """A rule's costs and where they come from; None where there are none."""
    if device.type != "cuda":
        return None, ""
    measured = table(device_family(device))
    if costs := measured.get(inner, {}).get(rule):
        return costs, f"measured on {measured['device']}"
    return table("other").get(inner, {}).get(rule), "not measured on this device"


@functools.cache
def table(family: str) -> dict[str, Any]:
    """The content of a file of costs/, by inner compiler and rule; empty where there is none for the family."""
    path = _FOLDER / f"{family}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
