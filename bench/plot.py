"""Draws what another benchmark measured: the time of each implementation beside that of torch.compile.

    python bench/plot.py bench/results/ops.json --output ops.png

A bar is a median over the median of torch.compile (Inductor) in the same run, with its milliseconds beside it; shorter
is faster.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import Patch

Group = tuple[str, dict[str, float]]  # what was timed, and the median of each implementation in milliseconds

_REFERENCES = ("torch.compile", "inductor", "torch.mm", "eager")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="the JSON file of a benchmark")
    parser.add_argument("--output", type=Path, help="a .png, .svg or .pdf; default: beside the results, .png")
    return parser.parse_args(argv)


def median_of(entry: Any) -> float | None:
    """Of a timing, or of a result that holds one."""
    if not isinstance(entry, dict):
        return None
    timing = entry.get("timing", entry)
    return timing.get("median") if isinstance(timing, dict) else None


def groups(results: Any, label: str = "") -> Iterator[Group]:
    """What was timed against each other, at any depth of the results."""
    if not isinstance(results, dict):
        return
    medians = {name: median for name, entry in results.items() if (median := median_of(entry)) is not None}
    if any(name in _REFERENCES for name in medians):
        yield label, medians
        return
    for name, entry in results.items():
        yield from groups(entry, f"{label} {name}".strip())


def draw(title: str, timed: list[Group]) -> plt.Figure:
    names = list(dict.fromkeys(name for _, medians in timed for name in medians))
    figure, axes = plt.subplots(figsize=(9, 1.2 + 0.22 * len(timed) * (len(names) + 1)), layout="constrained")
    height = 0.8 / len(names)
    for place, (_, medians) in enumerate(timed):
        reference = next(medians[name] for name in _REFERENCES if name in medians)
        for index, name in enumerate(names):
            if name not in medians:
                continue
            share, y = medians[name] / reference, place + (index - (len(names) - 1) / 2) * height
            axes.barh(y, min(share, 3.0), height, color=f"C{index}")
            axes.text(min(share, 3.0) + 0.02, y, f"{medians[name]:.3g} ms", va="center", fontsize=7)
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(timed)), [label for label, _ in timed], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 3.4)
    axes.set_xlabel("time / time of torch.compile, cut off at 3")
    axes.set_title(title, fontsize=9)
    axes.legend(handles=[Patch(color=f"C{index}", label=name) for index, name in enumerate(names)], fontsize=8)
    return figure


def main() -> None:
    arguments = parse()
    stored = json.loads(arguments.results.read_text())
    timed = list(groups(stored["results"], ""))
    if not timed:
        raise SystemExit(f"{arguments.results}: no times of torch.compile or eager to compare with")
    output = arguments.output or arguments.results.with_suffix(".png")
    where = stored["environment"]
    draw(f"{arguments.results.stem}: {where['device']}, torch {where['torch']}", timed).savefig(output, dpi=150)
    print(output)


if __name__ == "__main__":
    main()
