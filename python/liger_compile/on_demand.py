"""Outputs of a graph that its caller computes when they are read: cut out of the graph, and put in place of what it
returns for them."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.fx
from torch import Tensor

from liger_compile.regions import Region


@dataclasses.dataclass(frozen=True)
class OnDemand:
    """Logits for which a graph returns the hidden states.

    Attributes:
        positions: of the logits among the graph's outputs.
        parameters: positions of what they are made from, beside the hidden states, among the graph's inputs.
        module: (hidden_states, *parameters) -> logits.
        region: in which its nodes stood in the graph.
        vocab_size: size of the last dimension.
        dtype: of the logits.
    """

    positions: tuple[int, ...]
    parameters: tuple[int, ...]
    module: torch.fx.GraphModule
    region: Region
    vocab_size: int
    dtype: torch.dtype

    def of(self, hidden_states: Tensor, inputs: Sequence[Any], on_read: Callable[[], None]) -> Tensor:
        """The logits of one call of the graph; `on_read` is called when all of them are computed."""
        from liger_compile.lazy_logits import lazy_logits

        autocast = _ambient_autocast(hidden_states.device.type)

        def compute(*operands: Tensor) -> Tensor:
            with contextlib.ExitStack() as stack:
                for device_type, dtype, enabled, *_ in (autocast, *self.region.autocast):
                    # Without its cache, which may hold what a weight was before it changed.
                    stack.enter_context(torch.amp.autocast(device_type, dtype, enabled, cache_enabled=False))
                return self.module(*operands)

        parameters = [inputs[index] for index in self.parameters]
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.region.grad):
            return lazy_logits(compute, hidden_states, parameters, self.vocab_size, self.dtype, on_read)


def _ambient_autocast(device_type: str) -> tuple[Any, ...]:
    return (device_type, torch.get_autocast_dtype(device_type), torch.is_autocast_enabled(device_type))


def cut_out(gm: torch.fx.GraphModule, logits: torch.fx.Node, hidden_states: torch.fx.Node, region: Region) -> OnDemand:
    """How a graph, which is only read, computes logits from hidden states and its inputs."""
    placeholders = gm.graph.find_nodes(op="placeholder")
    graph = torch.fx.Graph()
    here = {hidden_states: graph.placeholder("hidden_states")}
    nodes = needed([logits], given=hidden_states)
    parameters = [node for node in nodes if node.op == "placeholder"]
    for node in (*parameters, *(node for node in nodes if node.op != "placeholder")):
        here[node] = graph.node_copy(node, here.__getitem__)
    graph.output(here[logits])
    graph.lint()
    value = logits.meta["example_value"]
    positions = tuple(i for i, output in enumerate(_outputs(gm.graph)) if output is logits)
    indices = tuple(placeholders.index(node) for node in parameters)
    return OnDemand(positions, indices, torch.fx.GraphModule(gm, graph), region, int(value.shape[-1]), value.dtype)


def needed(nodes: Sequence[torch.fx.Node], given: torch.fx.Node | None = None) -> list[torch.fx.Node]:
    """The nodes and all that they are computed from, in program order; without `given` and what is behind it."""
    found: set[torch.fx.Node] = set()
    pending = list(nodes)
    while pending:
        node = pending.pop()
        if node is not given and node not in found:
            found.add(node)
            pending += node.all_input_nodes
    return sorted(found)


def _outputs(graph: torch.fx.Graph) -> Sequence[Any]:
    (returned,) = graph.output_node().args
    return returned if isinstance(returned, tuple | list) else (returned,)


def with_outputs_on_demand(
    compiled: Callable[..., Any], outputs: Sequence[OnDemand], begin: Callable[[], Callable[[], None]]
) -> Callable[..., Any]:
    """A compiled graph whose caller gets `outputs` instead of the hidden states that it returns for them.

    `begin` is called in each call, and gives what is called when all logits of that call are computed.
    """
    if not outputs:
        return compiled

    def call(*inputs: Any) -> Any:
        returned = list(compiled(*inputs))
        on_read = begin()
        for output in outputs:
            logits = output.of(returned[output.positions[0]], inputs, on_read)
            for position in output.positions:
                returned[position] = logits
        return tuple(returned)

    return call


def why_logits_kept(option: str, *, stored: bool) -> str:
    """Why logits are computed in the graph, for the report; empty where they need not be.

    Args:
        option: "auto", "lazy" or "keep".
        stored: what is compiled goes to other processes, without what is wrapped around it here.
    """
    if option == "keep":
        return "by the option logits"
    if stored:
        return "code for other processes returns what it computes"
    if option == "auto" and _has_sharded_modules():
        return "the model is sharded: its weights may be freed before the logits are read"
    return ""


def _has_sharded_modules() -> bool:
    """Whether FSDP or DeepSpeed manages modules of this process."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return False
    from torch.distributed._composable_state import _module_state_mapping
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.fsdp._fully_shard._fsdp_state import FSDPState

    if "deepspeed" in sys.modules:
        return True
    states = (state for reference in _module_state_mapping.values() if (state := reference()) is not None)
    if any(isinstance(state, FSDPState) for state in states):
        return True
    return any(issubclass(type(tracked), FullyShardedDataParallel) for tracked in gc.get_objects())
