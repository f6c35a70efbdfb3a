"""Rewrites a GraphModule and its subgraphs: import into the C++ graph, match, apply the edits."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.fx

from liger_compile.apply import Condition, Plan, Planner, apply_plans
from liger_compile.evaluation import EditDeclined, EditFailed
from liger_compile.on_demand import OnDemand, cut_out, why_logits_kept
from liger_compile.profit import most_elements, weigh
from liger_compile.regions import Region, Regions
from liger_compile.reporting import Failure, Record, Report, merge

# Operators whose subgraphs run their nodes as if these stood in the graph itself.
_TRANSPARENT = frozenset(
    {"tag_activation_checkpoint", "wrap_activation_checkpoint", "invoke_subgraph", "wrap", "wrap_with_set_grad_enabled"}
)

# For "auto". On an H100 attention by blocks takes 1 / 1.40 or less of a mask's time from this length on
# (bench/attention.py, every kind of mask); shorter ones were not measured, and one query alone has nothing to skip.
_FEWEST_BLOCK_QUERIES = 128


@dataclasses.dataclass(frozen=True)
class Settings:
    """The options that rewriting depends on (see `options.Options`).

    Attributes:
        rewrite: "auto", "all" or "none".
        disable: names of rules that are not applied.
        strict: raise what fails inside, instead of a warning and the graph as written.
        inner: the backend that compiles the rewritten graph.
        dry_run: report what would be rewritten, and leave the graph as it is.
        logits: what becomes of logits that only the graph's caller reads: "auto", "lazy" or "keep".
    """

    rewrite: str = "auto"
    disable: tuple[str, ...] = ()
    strict: bool = False
    inner: str = "inductor"
    dry_run: bool = False
    logits: str = "auto"


@functools.cache
def rule_names() -> tuple[str, ...]:
    """Names of all rules, as in the `disable` option and in reports."""
    from liger_compile import _rewriter

    return tuple(_rewriter.rule_names())


class Rewriting:
    """The rewrites of a graph and of the bodies of its checkpoints: planned when this is made, and made by `apply`.

    What raises inside is reported and warned of once, and the graph keeps what it had; with `settings.strict` it is
    raised.

    Args:
        gm: a graph from Dynamo, whose nodes carry `meta["example_value"]`.
        settings: what to rewrite.
    """

    def __init__(self, gm: torch.fx.GraphModule, settings: Settings) -> None:
        start = time.perf_counter()
        with _collector_paused():
            self._plan(gm, settings)
        self._seconds = time.perf_counter() - start

    def _plan(self, gm: torch.fx.GraphModule, settings: Settings) -> None:
        self._rules = () if settings.rewrite == "none" else tuple(r for r in rule_names() if r not in settings.disable)
        self._settings = settings
        kept = why_logits_kept(settings.logits, stored=is_stored()) if self._rules else ""
        part = _Part(gm, Region(torch.is_grad_enabled()), settings, bool(self._rules), kept)
        self._parts = list(_parts(part, set()))

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """What some of the rewrites need to hold in a call of the graph; each once."""
        conditions = [c for part in self._parts for plan in part.plans.values() for c in plan.conditions]
        return tuple(dict.fromkeys(conditions))

    @property
    def leaves_logits(self) -> bool:
        """Whether there are outputs that the caller is to compute."""
        return any(plan.on_demand for plan in self._parts[0].plans.values())

    @property
    def on_demand(self) -> tuple[OnDemand, ...]:
        """Outputs for which the rewritten graph returns something else; the caller is to compute them from that."""
        return self._parts[0].on_demand

    def drop_conditional(self, reason: str) -> None:
        """Leave what depends on conditions as written, for a reason that the report gives."""
        for part in self._parts:
            part.drop_conditional(reason)

    def apply(self, *, conditions_hold: bool = True, otherwise: bool = True) -> Report:
        """Rewrite the graph in place, for calls in which the conditions of rewrites hold or for all others.

        A graph in which nothing is rewritten is not touched at all, not even recompiled.

        Args:
            conditions_hold: make the rewrites that depend on conditions.
            otherwise: instead of these make what rewrites have for other calls; False: these keep what is written.

        Returns:
            The report of this graph.
        """
        start = time.perf_counter()
        with _collector_paused():
            reports = [part.apply(conditions_hold, otherwise) for part in self._parts]
        milliseconds = (self._seconds + time.perf_counter() - start) * 1e3
        return dataclasses.replace(merge(reports), rules=self._rules, graphs=1, milliseconds=milliseconds)


@contextlib.contextmanager
def _collector_paused() -> Iterator[None]:
    """Without the garbage collector, for the milliseconds of a rewrite: it would walk over all that the process has,
    and find nothing of ours, since most of what we allocate stays."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def is_stored() -> bool:
    """Whether what is compiled goes to other processes as the inner compiler's result, without what we wrap around it
    and without functions of ours in the graph."""
    return bool(torch._dynamo.config.caching_precompile or torch._dynamo.config.enable_aot_compile)


def rewrite_module(gm: torch.fx.GraphModule, settings: Settings) -> Report:
    """Rewrite a graph in place, taking every condition on the values of a call to hold: see `Rewriting`."""
    return Rewriting(gm, settings).apply()


class _Part:
    """One graph on its way: the whole one, or the body of a checkpoint."""

    def __init__(
        self,
        gm: torch.fx.GraphModule,
        region: Region,
        settings: Settings,
        has_rules: bool,
        why_logits_kept: str,
        facts: dict[str, Any] | None = None,
        is_subgraph: bool = False,
    ) -> None:
        self.gm = gm
        self.region = region
        self.settings = settings
        self.has_rules = has_rules
        self.why_logits_kept = why_logits_kept
        self.plans: dict[int, Plan] = {}
        self.on_demand: tuple[OnDemand, ...] = ()
        self._facts = facts or {}
        self._is_subgraph = is_subgraph
        self._graph: Any = None
        self._nodes = len(gm.graph.nodes)
        self._records: list[Record] = []
        self._failures: list[Failure] = []
        if has_rules:
            self._guarded(self._plan_all)

    def apply(self, conditions_hold: bool, otherwise: bool) -> Report:
        if self.plans and not self.settings.dry_run:
            self._guarded(lambda: self._apply(self._chosen(conditions_hold, otherwise)))
        return Report(tuple(self._records), tuple(self._failures), nodes=self._nodes)

    def _apply(self, plans: list[Plan]) -> None:
        if not plans:
            return
        regions = Regions(self.gm.graph, self.region)
        # Of a value and an identity of it, the caller may read one.
        output = self.gm.graph.output_node()
        pairs = [(old, new) for plan in plans for old, new in plan.on_demand if output in old.users]
        on_demand = tuple(cut_out(self.gm, logits, returned, regions.at(logits)) for logits, returned in pairs)
        apply_plans(self.gm, plans)
        self.on_demand = on_demand

    def _chosen(self, conditions_hold: bool, otherwise: bool) -> list[Plan]:
        """The plans to apply, in program order."""
        chosen = []
        for plan in self.plans.values():
            if conditions_hold or not plan.conditions:
                chosen.append(plan)
            elif otherwise and plan.otherwise is not None and (other := self._planned(plan.otherwise)) is not None:
                chosen.append(other)
        return chosen

    def _planned(self, make: Callable[[], Plan]) -> Plan | None:
        try:
            return make()
        except (EditDeclined, EditFailed) as error:
            if self.settings.strict:
                raise
            self._failures.append(_failure("attention_mask", error))
            return None

    def drop_conditional(self, reason: str) -> None:
        for index in [index for index, plan in self.plans.items() if plan.conditions]:
            del self.plans[index]
            self._records[index] = dataclasses.replace(self._records[index], kind="declined", reason=reason)

    def facts_of(self, nodes: Iterable[torch.fx.Node]) -> dict[str, Any]:
        """What is known of tensors that are passed to a subgraph, by the names of their nodes."""
        from liger_compile import _rewriter

        # Conditions are asked in the whole graph, where a subgraph's nodes are not, or others have their names.
        if self._graph is None or self._is_subgraph:
            return {}
        return _rewriter.facts_of(self._graph, sorted({node.name for node in nodes}), facts=self._facts)

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:
            if self.settings.strict:
                raise
            self.plans, self._records = {}, []
            self._failures = [_failure("liger-compile", error)]

    def _plan_all(self) -> None:
        from liger_compile import _rewriter

        self._graph = _rewriter.import_graph(self.gm, with_locations=False)
        disable, strict = list(self.settings.disable), self.settings.strict
        result = _rewriter.rewrite(self._graph, disable=disable, strict=strict, context=self._context())
        self._failures += [_failure(rule, message) for rule, message in result.errors]
        nodes = {node.name: node for node in self.gm.graph.nodes} if result.records else {}
        self._records = [_record(record, nodes[record.node].meta) for record in result.records]
        planner = Planner(self.gm.graph, self.region, nodes)
        for edit in result.edits:
            self._plan(planner, edit)

    def _context(self) -> Any:
        from liger_compile import _rewriter

        context = _rewriter.Context()
        context.facts = self._facts
        context.is_subgraph = self._is_subgraph
        context.grouped_cuda = _has_grouped_attention()
        context.block_attention_device = _block_attention_device(self.settings)
        context.block_attention_queries = 0 if self.settings.rewrite == "all" else _FEWEST_BLOCK_QUERIES
        context.why_logits_kept = self.why_logits_kept
        context.logits_on_demand = not self.why_logits_kept
        return context

    def _plan(self, planner: Planner, edit: Any) -> None:
        """Keep a checked plan for an edit, or say in its record why there is none."""
        record = self._records[edit.record]
        try:
            plan = planner.plan(edit)
        except EditDeclined as refusal:
            self._records[edit.record] = dataclasses.replace(record, kind="declined", reason=str(refusal))
        except EditFailed as error:
            if self.settings.strict:
                raise
            self._failures.append(_failure(edit.rule, error))
            self._records[edit.record] = dataclasses.replace(record, kind="declined", reason=f"failed inside: {error}")
        else:
            self._keep_where_it_pays(edit, plan)

    def _keep_where_it_pays(self, edit: Any, plan: Plan) -> None:
        elements = most_elements(plan.shapes)
        record = dataclasses.replace(self._records[edit.record], elements=elements)
        if self.settings.rewrite == "auto":
            verdict = weigh(edit.rule, elements, plan.device, self.settings.inner)
            if verdict.pays:
                record = dataclasses.replace(record, ground=verdict.ground)
            else:
                record = dataclasses.replace(record, kind="declined", reason=verdict.ground)
        self._records[edit.record] = record
        if record.kind == "rewritten":
            self.plans[edit.record] = plan


def _parts(part: _Part, seen: set[int]) -> Iterator[_Part]:
    """The part and those of the subgraphs that are called from it, each with the state in which it begins."""
    seen.add(id(part.gm))
    yield part
    if not any(isinstance(child, torch.fx.GraphModule) for child in part.gm.children()):
        return
    regions = Regions(part.gm.graph, part.region)
    calls = [(node, body) for node in part.gm.graph.nodes if (body := _body(part.gm, node)) is not None]
    times_called = Counter(id(body) for _, body in calls)
    known = part.facts_of(operand for node, _ in calls for operand in node.all_input_nodes)
    for node, body in calls:
        if id(body) not in seen:
            facts = _facts_of_body(node, body, known) if times_called[id(body)] == 1 else {}
            region, kept = regions.at(node), part.why_logits_kept
            inner = _Part(body, region, part.settings, part.has_rules, kept, facts, is_subgraph=True)
            yield from _parts(inner, seen)


def _facts_of_body(node: torch.fx.Node, body: torch.fx.GraphModule, known: dict[str, Any]) -> dict[str, Any]:
    """Facts by the names of the body's placeholders, which stand for the operands of its call in order."""
    operands = node.args if node.op == "call_module" else node.args[1:]
    placeholders = body.graph.find_nodes(op="placeholder")
    if node.kwargs and len(operands) != len(placeholders):
        return {}
    return {
        placeholder.name: known[operand.name]
        for placeholder, operand in zip(placeholders, operands, strict=False)
        if isinstance(operand, torch.fx.Node) and operand.name in known
    }


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


def _has_grouped_attention() -> bool:
    """Whether CUDA's flash attention, which takes fewer key than query heads, is there and not switched off."""
    if not torch.cuda.is_available():
        return True  # nothing on CUDA will run
    return torch.backends.cuda.flash_sdp_enabled() and torch.cuda.get_device_capability() >= (8, 0)


def _block_attention_device(settings: Settings) -> str:
    """The type of device for which torch compiles attention by blocks, to be faster than with a mask; else ""."""
    is_compiled = settings.inner == "inductor" and not is_stored()
    if not is_compiled or not torch.cuda.is_available() or torch.version.hip:
        return ""
    return "cuda" if torch.cuda.get_device_capability() == (9, 0) else ""


def _record(record: Any, meta: dict[str, Any]) -> Record:
    from liger_compile import _rewriter

    module_path, source = _rewriter.location_of(meta)
    return Record(
        record.rule, record.kind, record.node, module_path, source, record.detail, record.reason, record.nodes
    )


_warned: set[str] = set()


def _failure(rule: str, error: object) -> Failure:
    """A failure for the report; the first one of a rule is warned of as well."""
    message = f"{type(error).__name__}: {error}" if isinstance(error, Exception) else str(error)
    if rule not in _warned:
        _warned.add(rule)
        text = f"liger-compile: {rule} failed inside; what it would rewrite stays as written: {message}"
        warnings.warn(text, RuntimeWarning, stacklevel=2)
    return Failure(rule, message)
