"""Keeps compile caches of different versions of this package apart.

Inductor's and AOTAutograd's caches key on the graph, but not on what our operators do inside: their autograd formulas
are Python code that the cached graph has inlined. The pass that we add to Inductor's own contributes its uuid to both
keys.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch._inductor.custom_graph_pass import CustomGraphPass

from liger_compile import _version
from liger_compile.products import prefer_our_products

_SLOT = "post_grad_custom_post_pass"


@functools.cache
def _operators_digest() -> str:
    """Digest of what shapes the graphs that are cached: the Python half of the operators, and what we change in
    AOTAutograd and Inductor. So an edited checkout does not read stale entries."""
    digest = hashlib.sha256()
    package = Path(__file__).parent
    passes = (package / f"{name}.py" for name in ("joint_graph", "decompositions"))
    for source in (*sorted((package / "ops").glob("*.py")), *passes, *sorted(package.glob("*product*.py"))):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def version_tag() -> str:
    """What a cached compilation of a rewritten graph depends on, besides the graph."""
    return f"liger-compile {_version.__version__} {_operators_digest()}"


class TaggedPass(CustomGraphPass):
    """Runs the pass that the user has put in the slot, if any, and then ours."""

    def __init__(self, users_pass: CustomGraphPass | None) -> None:
        self._users_pass = users_pass

    def __call__(self, graph: torch.fx.Graph) -> None:
        if self._users_pass is not None:
            self._users_pass(graph)
        prefer_our_products(graph)

    def uuid(self) -> Any:
        return (version_tag(), self._users_pass.uuid() if self._users_pass is not None else None)


def tagged(config_patches: Mapping[str, Any]) -> dict[str, Any]:
    """Inductor's options for one compilation, with our tag in its cache keys."""
    from torch._inductor import config

    users_pass = config_patches.get(_SLOT, getattr(config, _SLOT))
    # A pass without a uuid turns the caches off: nothing to tag, and wrapping it would turn them on.
    if users_pass is not None and not (isinstance(users_pass, CustomGraphPass) and users_pass.uuid()):
        return dict(config_patches)
    return {**config_patches, _SLOT: TaggedPass(users_pass)}
