"""Gives large matrix products to ops of ours: a pass over the graphs of the forward and the backward pass, after all
others.

Those beside gated units become one op with them, see gated_products.py, and of those that are summed up each adds to
the one before, see summed_products.py. The other ones go to an op that computes what `aten.mm` does by the kernel of
cuBLAS's that suits each best: for products whose result cuBLAS would cut into tiles that fill all registers it takes
smaller ones, see csrc/ops/blas_product.h and bench/products.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.fx

# Multiplications below which cuBLAS's own choice is as good (k and v of a Llama of the 1B shape), and the host's cost
# of a call begins to count.
_FEWEST_MULTIPLICATIONS = 2**35

_MM = torch.ops.aten.mm.default


def prefer_our_products(graph: torch.fx.Graph) -> None:
    """Replace products where that pays. Leaves graphs alone that Inductor was told to tune."""
    from torch._inductor import config

    if config.max_autotune or config.max_autotune_gemm:
        return
    if not _pay([_operands(node) for node in graph.find_nodes(op="call_function", target=_MM)]):
        return
    from liger_compile.gated_products import join_gated_units
    from liger_compile.summed_products import join_sums

    join_gated_units(graph, _pays)
    join_sums(graph, _pay)
    for node in graph.find_nodes(op="call_function", target=_MM):
        if _pays(*_operands(node)):
            node.target = torch.ops.liger.mm.default


def _operands(node: Any) -> tuple[object, object]:
    a, b = node.args
    return a.meta.get("val"), b.meta.get("val")


def _pays(a: object, b: object) -> bool:
    return _pay([(a, b)])


def _pay(products: Sequence[tuple[object, object]]) -> bool:
    """Are products of pairs of operands, as far as they are for ops of ours, together large enough for them?"""
    sizes = [_multiplications(a, b) for a, b in products]
    return any(sizes) and sum(sizes) >= _FEWEST_MULTIPLICATIONS


def _multiplications(a: object, b: object) -> int:
    """How many a product takes; none where it is not for ops of ours."""
    if not isinstance(a, torch.Tensor) or not isinstance(b, torch.Tensor) or not _chooses_better(a.device):
        return 0
    sizes = (*a.shape, b.shape[1])
    is_half = a.dtype in (torch.bfloat16, torch.float16)
    return math.prod(sizes) if is_half and all(isinstance(size, int) for size in sizes) else 0


def _chooses_better(device: torch.device) -> bool:
    """Is it a device on which our choice was measured?"""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) == (9, 0)
