"""What was rewritten, what was not, and why: one `Report` per compiled graph, kept until `reset()`."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

Kind = Literal["rewritten", "declined", "near_miss"]


@dataclasses.dataclass(frozen=True)
class Record:
    """One place where a rule matched, was refused, or came close.

    Attributes:
        rule: name of the rule, for example "rms_norm".
        kind: "rewritten", "declined" (the pattern is there, but a condition keeps it as written) or "near_miss".
        node: name of the pattern's last node in the graph.
        module_path: module that made it, for example "model.layers.0.input_layernorm".
        source: source file and line that made it.
        detail: what it became, with dtype and shape.
        reason: why it was not rewritten, a sentence; empty where it was.
        nodes: number of graph nodes that the pattern covers.
        elements: of the largest tensor that a rewrite replaces; None where its sizes are not known.
        ground: why rewrite="auto" takes a rewrite that was made to pay; empty where nothing was weighed.
    """

    rule: str
    kind: Kind
    node: str
    module_path: str
    source: str
    detail: str
    reason: str
    nodes: int
    elements: int | None = None
    ground: str = ""


@dataclasses.dataclass(frozen=True)
class Failure:
    """Something inside liger-compile raised; the pattern, or the graph, was left as written."""

    rule: str
    message: str


@dataclasses.dataclass(frozen=True)
class Report:
    """What rewriting did to one graph, or, merged, to several.

    Attributes:
        records: every match, refusal and near miss, in the order of the graphs.
        failures: what raised inside.
        rules: names of the rules that were looked for.
        graphs: number of graphs.
        nodes: number of their nodes before rewriting, checkpointed bodies included.
        milliseconds: time for importing, matching and applying.
    """

    records: tuple[Record, ...] = ()
    failures: tuple[Failure, ...] = ()
    rules: tuple[str, ...] = ()
    graphs: int = 0
    nodes: int = 0
    milliseconds: float = 0.0

    @property
    def counts(self) -> Counter[str]:
        """Number of rewrites of every rule that made any; 0 for all others."""
        return Counter(record.rule for record in self.rewrites)

    @property
    def rewrites(self) -> list[Record]:
        """Records of what was rewritten."""
        return self._of_kind("rewritten")

    @property
    def near_misses(self) -> list[Record]:
        """Records of what almost was a known pattern."""
        return self._of_kind("near_miss")

    @property
    def declined(self) -> list[Record]:
        """Records of known patterns that a condition keeps as written."""
        return self._of_kind("declined")

    @property
    def never_seen(self) -> list[str]:
        """Rules that were looked for and left no record of any kind."""
        seen = {record.rule for record in self.records}
        return [rule for rule in self.rules if rule not in seen]

    def _of_kind(self, kind: Kind) -> list[Record]:
        return [record for record in self.records if record.kind == kind]

    def __str__(self) -> str:
        from liger_compile.report_text import format_report

        return format_report(self)

    def to_json(self) -> str:
        """The report as JSON text: `graphs`, `nodes`, `milliseconds`, `counts`, and a list of records for each kind."""
        return json.dumps(self._as_dict(), indent=2) + "\n"

    def _as_dict(self) -> dict[str, Any]:
        from liger_compile._version import __version__

        return {
            "liger_compile": __version__,
            "graphs": self.graphs,
            "nodes": self.nodes,
            "milliseconds": round(self.milliseconds, 3),
            "counts": dict(self.counts),
            "rewrites": [dataclasses.asdict(record) for record in self.rewrites],
            "near_misses": [dataclasses.asdict(record) for record in self.near_misses],
            "declined": [dataclasses.asdict(record) for record in self.declined],
            "never_seen": self.never_seen,
            "failures": [dataclasses.asdict(failure) for failure in self.failures],
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the report to a file, as text (.txt) or JSON (.json) by the path's suffix.

        Raises:
            ValueError: any other suffix.
            OSError: the file cannot be written.
        """
        content = self.to_json() if check_report_path(path) == ".json" else f"{self}\n"
        target = Path(path)
        # Through a rename: a reader, or a second process, never sees half a report.
        temporary = target.with_name(f".{target.name}.{os.getpid()}.{threading.get_ident()}")
        temporary.write_text(content, encoding="utf-8")
        temporary.replace(target)


def check_report_path(path: str | os.PathLike[str]) -> str:
    """The suffix of a report's path; ValueError where there is no such kind of report."""
    suffix = Path(path).suffix
    if suffix == ".html":
        raise ValueError(f"report path: HTML reports are not in this version, use .txt or .json, actual {str(path)!r}")
    if suffix not in (".txt", ".json"):
        raise ValueError(f"report path: expected a suffix .txt or .json, actual {str(path)!r}")
    return suffix


def merge(parts: Sequence[Report]) -> Report:
    """One report for several."""
    return Report(
        records=tuple(record for part in parts for record in part.records),
        failures=tuple(failure for part in parts for failure in part.failures),
        rules=tuple(dict.fromkeys(rule for part in parts for rule in part.rules)),
        graphs=sum(part.graphs for part in parts),
        nodes=sum(part.nodes for part in parts),
        milliseconds=sum(part.milliseconds for part in parts),
    )


_lock = threading.RLock()
_reports: list[Report] = []
_by_path: dict[str, list[Report]] = {}
_collectors: list[list[Report]] = []


def add(report: Report, destination: str | os.PathLike[str] | Callable[[Report], object] | None = None) -> None:
    """Keep the report of a graph; hand it to the `report` option's callable, or renew the file at its path."""
    with _lock:
        _reports.append(report)
        for collector in _collectors:
            collector.append(report)
    if callable(destination):
        destination(report)
    elif destination is not None:
        _renew_file(os.fspath(destination), report)


def _renew_file(path: str, report: Report) -> None:
    with _lock:
        parts = _by_path.setdefault(path, [])
        parts.append(report)
        try:
            merge(parts).save(path)
        except OSError as error:
            warnings.warn(f"liger-compile: the report was not written to {path}: {error}", RuntimeWarning, stacklevel=2)


def reports() -> list[Report]:
    """The report of every graph compiled in this process since `reset()`, in order."""
    with _lock:
        return list(_reports)


def report() -> Report:
    """The reports of all graphs compiled in this process since `reset()`, merged into one."""
    return merge(reports())


def reset() -> None:
    """Forget all reports. Compiled models stay compiled."""
    with _lock:
        _reports.clear()
        _by_path.clear()


@contextlib.contextmanager
def expect_rewrites(**counts: int) -> Iterator[None]:
    """Check how often rules rewrote in the graphs that are compiled inside the block.

        with liger_compile.expect_rewrites(rms_norm=5, rope=2):
            model(**batch)

    Args:
        **counts: rule name to expected number of rewrites. Rules that are not named are not checked.

    Raises:
        ValueError: there is no rule of that name.
        AssertionError: a number differs; the message holds the report of the graphs compiled inside.
    """
    _check_rule_names(counts)
    compiled: list[Report] = []
    with _lock:
        _collectors.append(compiled)
    try:
        yield
    finally:
        with _lock:
            # By identity: two empty lists are equal.
            _collectors[:] = [collector for collector in _collectors if collector is not compiled]
    merged = merge(compiled)
    wrong = [
        f"{rule}: expected {expected}, actual {merged.counts[rule]}"
        for rule, expected in counts.items()
        if merged.counts[rule] != expected
    ]
    if wrong:
        raise AssertionError("rewrites differ: " + "; ".join(wrong) + f"\n\n{merged}")


def _check_rule_names(counts: dict[str, int]) -> None:
    from liger_compile.rewriting import rule_names

    for rule in counts:
        if rule not in rule_names():
            raise ValueError(f"expect_rewrites: there is no rule {rule!r}; the rules are {', '.join(rule_names())}")
