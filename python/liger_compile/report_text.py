"""The text form of a report: at most 120 columns, the layers of a model folded into one line."""

from __future__ import annotations

import math
import os
import re
import textwrap
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from liger_compile.reporting import Record, Report

WIDTH = 120
_PATH_WIDTH = 56
_SOURCE_WIDTH = 32


def format_report(report: Report) -> str:
    """The text that `str(report)` gives, without a newline at its end."""
    lines = [_headline(report)]
    if report.counts:
        lines.append("  " + "   ".join(f"{rule} {count}" for rule, count in report.counts.items()))
    lines += _section("Rewritten", _rewritten_lines(report.rewrites))
    lines += _section("Weighed", _ground_lines(report.rewrites))
    lines += _section("Near misses", _reason_lines(report.near_misses))
    lines += _section("Declined", _reason_lines(report.declined))
    lines += _section("Failed inside, left as written", _failure_lines(report))
    if report.never_seen:
        lines += ["", *_wrapped("Never seen: " + ", ".join(report.never_seen), "", "  ")]
    return "\n".join(lines)


def _headline(report: Report) -> str:
    if report.graphs == 0:
        return "liger-compile: no graph was compiled"
    total = sum(report.counts.values())
    covered = sum(record.nodes for record in report.rewrites)
    what = f"{_plural(total, 'pattern')} rewritten" + (f" ({_plural(covered, 'node')})" if total else "")
    return f"liger-compile: {_plural(report.graphs, 'graph')} of {_plural(report.nodes, 'node')}, {what}"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")


def _section(title: str, lines: list[str]) -> list[str]:
    return ["", title, *lines] if lines else []


def _rewritten_lines(records: Sequence[Record]) -> list[str]:
    rows = []
    for group in _groups(records, lambda record: (record.rule, record.detail)):
        first = group[0]
        detail = first.detail if first.rule in first.detail else f"{first.rule}: {first.detail}"
        rows.append((_place(group), _source(first), detail + _times(group)))
    paths = _column([path for path, _, _ in rows], _PATH_WIDTH)
    sources = _column([source for _, source, _ in rows], _SOURCE_WIDTH)
    details = [detail for _, _, detail in rows]
    lines: list[str] = []
    for path, source, detail in zip(paths, sources, details, strict=True):
        begin = f"  {path}  {source}  "
        lines += _wrapped(detail, begin, " " * len(begin))
    return lines


def _ground_lines(records: Sequence[Record]) -> list[str]:
    """Why what was rewritten pays; rules of one ground in one line."""
    rules: dict[str, dict[str, None]] = {}
    for record in records:
        if record.ground:
            rules.setdefault(record.ground, {})[record.rule] = None
    return [line for ground, names in rules.items() for line in _wrapped(f"{', '.join(names)}: {ground}", "  ", "    ")]


def _reason_lines(records: Sequence[Record]) -> list[str]:
    lines: list[str] = []
    for group in _groups(records, lambda record: (record.rule, _without_numbers(record.reason))):
        first = group[0]
        source = f" ({_source(first)})" if first.source else ""
        lines.append(_clip(f"  {first.rule} at %{first.node}, {_place(group)}{source}{_times(group)}", WIDTH))
        lines += _wrapped(first.reason, "    ", "    ")
    return lines


def _failure_lines(report: Report) -> list[str]:
    lines: list[str] = []
    for failure in dict.fromkeys(report.failures):
        lines += _wrapped(f"{failure.rule}: {failure.message}", "  ", "    ")
    return lines


def _wrapped(text: str, first: str, following: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=following, break_on_hyphens=False)


def _column(texts: list[str], limit: int) -> list[str]:
    """The texts in equal width; of paths that are too long, the end."""
    width = min(limit, max(map(len, texts), default=0))
    return [f"{text if len(text) <= width else '...' + text[3 - width :]:<{width}}" for text in texts]


def _clip(line: str, width: int) -> str:
    return line if len(line) <= width else line[: width - 3] + "..."


def _source(record: Record) -> str:
    return os.path.basename(record.source)


def _without_numbers(text: str) -> str:
    """Node names differ from layer to layer in their numbers only."""
    return re.sub(r"%\w+", lambda name: re.sub(r"\d+", "", name.group()).rstrip("_"), text)


def _groups(records: Sequence[Record], key: Callable[[Record], Hashable]) -> list[list[Record]]:
    """Records that differ in the numbers of their module path only, in order of first appearance."""
    groups: dict[Hashable, list[Record]] = {}
    for record in records:
        pattern = re.sub(r"(?<![^.])\d+(?![^.])", "*", record.module_path)
        groups.setdefault((pattern, _source(record), key(record)), []).append(record)
    return list(groups.values())


def _place(group: Sequence[Record]) -> str:
    """The group's module paths as one: "model.layers.{0..31}.mlp"."""
    parts = zip(*(record.module_path.split(".") for record in group), strict=True)
    return ".".join(_numbers(values) if values[0].isdigit() else values[0] for values in parts) or "(top level)"


def _numbers(values: Iterable[str]) -> str:
    numbers = sorted({int(value) for value in values})
    if len(numbers) == 1:
        return str(numbers[0])
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return "{" + ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}..{run[-1]}" for run in runs) + "}"


def _times(group: Sequence[Record]) -> str:
    """How many records a line stands for, where the numbers in its path do not say it."""
    columns = zip(*(record.module_path.split(".") for record in group), strict=True)
    named = math.prod(len(set(values)) for values in columns)
    return "" if named == len(group) else f"  (x{len(group)})"
