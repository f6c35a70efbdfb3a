"""Grad mode and autocast at a place in a Dynamo graph, as its bracketing nodes set them."""

from __future__ import annotations

import bisect
import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
import torch.fx


@dataclasses.dataclass(frozen=True)
class Region:
    """State in which nodes run.

    Attributes:
        grad: whether grad mode is on.
        autocast: arguments of the `torch.amp.autocast` contexts that the graph has entered, outermost first.
    """

    grad: bool
    autocast: tuple[tuple[Any, ...], ...] = ()

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Run the block as the graph's nodes of this region run."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.set_grad_enabled(self.grad))
            for arguments in self.autocast:
                stack.enter_context(torch.amp.autocast(*arguments))
            yield


class Regions:
    """The regions of one graph; a handful of nodes change them, so that a lookup is a search among those."""

    def __init__(self, graph: torch.fx.Graph, initial: Region) -> None:
        self._changes: list[torch.fx.Node] = sorted(
            node
            for target in (torch._C._set_grad_enabled, torch.amp._enter_autocast, torch.amp._exit_autocast)
            for node in graph.find_nodes(op="call_function", target=target)
        )
        self._regions = [initial]
        entered: list[torch.fx.Node] = []
        for node in self._changes:
            if node.target is torch.amp._enter_autocast:
                entered.append(node)
            elif node.target is torch.amp._exit_autocast:
                entered = [other for other in entered if other is not node.args[0]]
            grad = bool(node.args[0]) if node.target is torch._C._set_grad_enabled else self._regions[-1].grad
            autocast = initial.autocast + tuple(tuple(enter.args) for enter in entered)
            self._regions.append(Region(grad, autocast))

    def at(self, node: torch.fx.Node) -> Region:
        """The region of a node that is inserted right before `node`."""
        return self._regions[bisect.bisect_left(self._changes, node)]
