"""Graphs whose best form depends on the call: on a padding mask that hides nothing, on positions that are one range,
on whether the caller reads the logits.

What depends on values is asked once, before the compiled graph runs: one wait for the device for a whole forward pass.
Each form is compiled when it is first needed.
"""

from __future__ import annotations

import collections
import copy
import dataclasses
import functools
import operator
import threading
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.fx
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensor

from liger_compile.apply import Condition
from liger_compile.on_demand import OnDemand, needed, with_outputs_on_demand
from liger_compile.rewriting import Rewriting, Settings

Compile = Callable[[torch.fx.GraphModule, Sequence[Any]], Callable[..., Any]]


class Question:
    """Whether conditions hold of the inputs of a graph.

    Args:
        gm: the graph, which is only read.
        conditions: what to ask; their nodes depend on integer inputs alone.
    """

    def __init__(self, gm: torch.fx.GraphModule, conditions: Sequence[Condition]) -> None:
        placeholders = gm.graph.find_nodes(op="placeholder")
        nodes = {node.name: node for node in gm.graph.nodes}
        graph = torch.fx.Graph()
        here: dict[torch.fx.Node, torch.fx.Node] = {}
        for node in needed([nodes[condition.node] for condition in conditions]):
            here[node] = graph.node_copy(node, here.__getitem__)
        answers = [_asked(graph, here[nodes[condition.node]], condition) for condition in conditions]
        graph.output(answers)
        graph.lint()
        self._module = torch.fx.GraphModule(gm, graph)
        self._inputs = [index for index, node in enumerate(placeholders) if node in here]

    def holds(self, inputs: Sequence[Any]) -> bool:
        """The answer for one call; waits for the device. Inputs without values are taken to satisfy it."""
        needed = [inputs[index] for index in self._inputs]
        if any(isinstance(value, FakeTensor) for value in needed):
            return True
        with torch.no_grad():
            answers = self._module(*needed)
            return bool(torch.stack(answers).all()) if len(answers) > 1 else bool(answers[0])


def _asked(graph: torch.fx.Graph, tensor: torch.fx.Node, condition: Condition) -> torch.fx.Node:
    if condition.kind in ("all_nonzero", "all_zero"):
        compared = graph.call_function(torch.ne if condition.kind == "all_nonzero" else torch.eq, (tensor, 0))
    else:
        first = (slice(None),) * condition.dim + (slice(0, 1),)
        compared = graph.call_function(torch.eq, (tensor, graph.call_function(operator.getitem, (tensor, first))))
    return graph.call_function(torch.all, (compared,))


@dataclasses.dataclass(frozen=True)
class Form:
    """One of the ways in which a graph is compiled.

    Attributes:
        conditions_hold: for calls in which the conditions of rewrites hold.
        keeps_logits: logits are computed in the graph, for a caller who reads them anyway.
    """

    conditions_hold: bool
    keeps_logits: bool = False


class Reads:
    """Whether the caller of a graph reads all of the logits that are left to it, call after call."""

    _CALLS = 4

    def __init__(self) -> None:
        self._latest: collections.deque[list[bool]] = collections.deque(maxlen=self._CALLS)

    def of_next_call(self) -> Callable[[], None]:
        """To be called when all logits of the call that begins now are read."""
        is_read = [False]
        self._latest.append(is_read)
        return functools.partial(is_read.__setitem__, 0, True)

    @property
    def are_usual(self) -> bool:
        """All logits of each of the latest calls were read: computing them in the graph costs less."""
        latest = list(self._latest)
        return len(latest) == self._CALLS and all(is_read for (is_read,) in latest)


class Variants:
    """A graph that is compiled in several forms, each when a call first needs it.

    Args:
        gm: the graph as Dynamo made it.
        question: asks for the conditions of its rewrites; None where they have none.
        settings: what to rewrite.
        compile_graph: compiles a rewritten graph for its inputs.
    """

    def __init__(
        self, gm: torch.fx.GraphModule, question: Question | None, settings: Settings, compile_graph: Compile
    ) -> None:
        self._gm = gm
        self._question = question
        self._settings = settings
        self._compile = compile_graph
        self._fake_inputs = [node.meta["example_value"] for node in gm.graph.find_nodes(op="placeholder")]
        context = TracingContext.try_get()
        self._fake_mode = None if context is None else context.fake_mode
        self._forms: dict[Form, Callable[..., Any]] = {}
        self._reads = Reads()
        self._keeps_logits = False
        self._can_keep_logits = settings.logits == "auto"
        self._lock = threading.Lock()

    def add(
        self,
        conditions_hold: bool,
        compiled: Callable[..., Any],
        on_demand: Sequence[OnDemand],
        example_inputs: Sequence[Any],
    ) -> None:
        """Give the form that was compiled first, and compile now what cannot be compiled later: under dynamic=True the
        numbers that a graph reads from tensors (`item`) are known to Dynamo's own compilation alone."""
        self._forms[Form(conditions_hold)] = self._whole(compiled, on_demand)
        if not any(node.target == "item" for node in self._gm.graph.nodes):
            return
        self._can_keep_logits = False
        if self._question is not None:
            gm, on_demand = self._rewritten(Form(not conditions_hold))
            self._forms[Form(not conditions_hold)] = self._whole(self._compile(gm, example_inputs), on_demand)

    def _whole(self, compiled: Callable[..., Any], on_demand: Sequence[OnDemand]) -> Callable[..., Any]:
        return with_outputs_on_demand(compiled, on_demand, self._reads.of_next_call)

    def _rewritten(self, form: Form, *, otherwise: bool = True) -> tuple[torch.fx.GraphModule, tuple[OnDemand, ...]]:
        gm = copied(self._gm)
        settings = dataclasses.replace(self._settings, logits="keep") if form.keeps_logits else self._settings
        rewriting = Rewriting(gm, settings)
        rewriting.apply(conditions_hold=form.conditions_hold, otherwise=otherwise)
        return gm, rewriting.on_demand

    def __call__(self, *inputs: Any) -> Any:
        holds = self._question is None or self._question.holds(inputs)
        if self._can_keep_logits and not self._keeps_logits and self._reads.are_usual:
            self._keeps_logits = True
        form = Form(holds, self._keeps_logits)
        compiled = self._forms.get(form)
        if compiled is None:
            with self._lock:
                compiled = self._forms.get(form) or self._compiled_now(form)
                self._forms[form] = compiled
        return compiled(*inputs)

    def _compiled_now(self, form: Form) -> Callable[..., Any]:
        """Compile a form after Dynamo's own compilation has ended, when the shapes' guards are settled.

        What a rewrite makes where its conditions do not hold may fail or need guards; what is written needs none.
        """
        gm, on_demand = self._rewritten(form)
        compiled, why = self._tried(gm)
        if compiled is None and not form.conditions_hold:
            gm, on_demand = self._rewritten(form, otherwise=False)
            compiled, why = self._tried(gm)
        if compiled is None and form.keeps_logits:
            left_to_caller = Form(form.conditions_hold)
            return self._forms.get(left_to_caller) or self._compiled_now(left_to_caller)
        if compiled is not None:
            return self._whole(compiled, on_demand)
        text = f"liger-compile: the second form of a graph {why}; it runs uncompiled"
        warnings.warn(text, RuntimeWarning, stacklevel=4)
        gm, on_demand = self._rewritten(form, otherwise=False)
        return self._whole(gm.forward, on_demand)

    def _tried(self, gm: torch.fx.GraphModule) -> tuple[Callable[..., Any] | None, str]:
        """The compiled graph, or why there is none."""
        shape_env = None if self._fake_mode is None else self._fake_mode.shape_env
        ignored = _ignored_guards(shape_env)
        try:
            with tracing(TracingContext(self._fake_mode)):
                compiled = self._compile(gm, self._fake_inputs)
        except Exception as error:
            if self._settings.strict:
                raise
            return None, f"failed to compile ({type(error).__name__}: {error})"
        if _ignored_guards(shape_env) != ignored:
            # It would be right for some of the shapes only that this graph is called with.
            return None, "needs more guards on its shapes than the first"
        return compiled, ""


def _ignored_guards(shape_env: Any) -> int:
    return 0 if shape_env is None else shape_env.counter["ignored_backward_guard"]


def copied(gm: torch.fx.GraphModule) -> torch.fx.GraphModule:
    """A copy with graphs of its own, also of the subgraphs; tensors are shared."""
    copy_of = copy.copy(gm)
    for name, value in vars(gm).items():
        vars(copy_of).setdefault(name, value)
    copy_of.graph = copy.deepcopy(gm.graph)
    for old, new in zip(gm.graph.nodes, copy_of.graph.nodes, strict=True):
        for name, value in vars(old).items():  # Dynamo's own attributes, which FX does not know
            vars(new).setdefault(name, value)
    for name, child in gm.named_children():
        if isinstance(child, torch.fx.GraphModule):
            setattr(copy_of, name, copied(child))
    return copy_of
