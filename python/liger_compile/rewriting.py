"""Rewrites a GraphModule and its subgraphs: import into the C++ graph, match, apply the edits."""

from __future__ import annotations

import dataclasses
import functools
import time
import warnings
from collections.abc import Iterator
from typing import Any

import torch
import torch.fx

from liger_compile.apply import EditDeclined, EditFailed, Planner, apply_plans
from liger_compile.regions import Region, Regions
from liger_compile.reporting import Failure, Record, Report, merge

# Operators whose subgraphs run their nodes as if these stood in the graph itself.
_TRANSPARENT = frozenset(
    {"tag_activation_checkpoint", "wrap_activation_checkpoint", "invoke_subgraph", "wrap", "wrap_with_set_grad_enabled"}
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """The options that rewriting depends on (see `options.Options`).

    Attributes:
        rewrite: "auto", "all" or "none".
        disable: names of rules that are not applied.
        strict: raise what fails inside, instead of a warning and the graph as written.
        inner: the backend that compiles the rewritten graph.
        dry_run: report what would be rewritten, and leave the graph as it is.
    """

    rewrite: str = "auto"
    disable: tuple[str, ...] = ()
    strict: bool = False
    inner: str = "inductor"
    dry_run: bool = False


@functools.cache
def rule_names() -> tuple[str, ...]:
    """Names of all rules, as in the `disable` option and in reports."""
    from liger_compile import _rewriter

    return tuple(_rewriter.rule_names())


def profitable(record: Record, device: torch.device, inner: str) -> bool:
    """Whether a rewrite pays on this device with this inner compiler; asked under rewrite="auto" only."""
    del record, device, inner  # every rewrite is accepted until there are measurements that say otherwise
    return True


def rewrite_module(gm: torch.fx.GraphModule, settings: Settings) -> Report:
    """Rewrite a graph and the bodies of its checkpoints in place.

    A graph in which nothing is rewritten is not touched at all, not even recompiled. What raises inside is reported
    and warned of once, and the graph keeps what it had; with `settings.strict` it is raised.

    Args:
        gm: a graph from Dynamo, whose nodes carry `meta["example_value"]`.
        settings: what to rewrite.

    Returns:
        The report of this graph.
    """
    start = time.perf_counter()
    rules = () if settings.rewrite == "none" else tuple(r for r in rule_names() if r not in settings.disable)
    modules = list(_with_bodies(gm, Region(torch.is_grad_enabled())))
    parts = [Report(nodes=len(module.graph.nodes)) for module, _ in modules]
    if rules:
        parts += [_rewrite_one(module, region, settings) for module, region in modules]
    milliseconds = (time.perf_counter() - start) * 1e3
    return dataclasses.replace(merge(parts), rules=rules, graphs=1, milliseconds=milliseconds)


def _with_bodies(
    gm: torch.fx.GraphModule, initial: Region, seen: set[int] | None = None
) -> Iterator[tuple[torch.fx.GraphModule, Region]]:
    """The module and the subgraphs that are called from it, each with the state in which it begins."""
    seen = set() if seen is None else seen
    seen.add(id(gm))
    yield gm, initial
    if not any(isinstance(child, torch.fx.GraphModule) for child in gm.children()):
        return
    regions = Regions(gm.graph, initial)
    for node in gm.graph.nodes:
        body = _body(gm, node)
        if body is not None and id(body) not in seen:
            yield from _with_bodies(body, regions.at(node), seen)


def _body(gm: torch.fx.GraphModule, node: torch.fx.Node) -> torch.fx.GraphModule | None:
    """The subgraph that a node runs, where a rewrite inside it means the same as outside."""
    name: Any = None
    if node.op == "call_module":
        name = node.target
    elif node.op == "call_function" and getattr(node.target, "__name__", "") in _TRANSPARENT:
        getter = node.args[0] if node.args else None
        if isinstance(getter, torch.fx.Node) and getter.op == "get_attr":
            name = getter.target
    body = getattr(gm, name, None) if isinstance(name, str) and "." not in name else None
    return body if isinstance(body, torch.fx.GraphModule) else None


def _rewrite_one(gm: torch.fx.GraphModule, region: Region, settings: Settings) -> Report:
    try:
        return _Rewriting(gm, region, settings).run()
    except Exception as error:
        if settings.strict:
            raise
        return Report(failures=(_failure("liger-compile", error),))


class _Rewriting:
    """One graph on its way."""

    def __init__(self, gm: torch.fx.GraphModule, region: Region, settings: Settings) -> None:
        self.gm = gm
        self.settings = settings
        self.planner = Planner(gm.graph, region)
        self.failures: list[Failure] = []

    def run(self) -> Report:
        from liger_compile import _rewriter

        result = _rewriter.rewrite(
            _rewriter.import_graph(self.gm), disable=list(self.settings.disable), strict=self.settings.strict
        )
        for rule, message in result.errors:
            self.failures.append(_failure(rule, message))
        records = [_record(record) for record in result.records]
        plans = {}
        for edit in result.edits:
            plan, records[edit.record] = self._plan(edit, records[edit.record])
            if plan is not None:
                plans[edit.record] = plan
        if plans and not self.settings.dry_run:
            apply_plans(self.gm, list(plans.values()))
        return Report(tuple(records), tuple(self.failures))

    def _plan(self, edit: Any, record: Record) -> tuple[Any, Record]:
        """A checked plan for an edit, or None; and the record, declined where there is no plan."""
        try:
            plan = self.planner.plan(edit)
        except EditDeclined as refusal:
            return None, dataclasses.replace(record, kind="declined", reason=str(refusal))
        except EditFailed as error:
            if self.settings.strict:
                raise
            self.failures.append(_failure(edit.rule, error))
            return None, dataclasses.replace(record, kind="declined", reason=f"failed inside: {error}")
        if self.settings.rewrite == "auto" and not profitable(record, plan.device, self.settings.inner):
            reason = f"left to {self.settings.inner}, which is faster here; rewrite='all' rewrites it all the same"
            return None, dataclasses.replace(record, kind="declined", reason=reason)
        return plan, record


def _record(record: Any) -> Record:
    return Record(**{field.name: getattr(record, field.name) for field in dataclasses.fields(Record)})


_warned: set[str] = set()


def _failure(rule: str, error: object) -> Failure:
    """A failure for the report; the first one of a rule is warned of as well."""
    message = f"{type(error).__name__}: {error}" if isinstance(error, Exception) else str(error)
    if rule not in _warned:
        _warned.add(rule)
        text = f"liger-compile: {rule} failed inside; what it would rewrite stays as written: {message}"
        warnings.warn(text, RuntimeWarning, stacklevel=2)
    return Failure(rule, message)
