"""Gives large matrix products to ops of ours: a pass over the graphs of the forward and the backward pass, after all
others.

Those beside gated units become one op with them, see gated_products.py. The other ones go to an op that computes what
`aten.mm` does by the kernel of cuBLAS's that suits each best: for products whose result cuBLAS would cut into tiles
that fill all registers it takes smaller ones, see csrc/ops/blas_product.h and bench/products.py.
"""

from __future__ import annotations

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
    nodes = graph.find_nodes(op="call_function", target=_MM)
    if not any(_pays(*(operand.meta.get("val") for operand in node.args)) for node in nodes):
        return
    from liger_compile.gated_products import join_gated_units

    join_gated_units(graph, _pays)
    for node in graph.find_nodes(op="call_function", target=_MM):
        if _pays(*(operand.meta.get("val") for operand in node.args)):
            node.target = torch.ops.liger.mm.default


def _pays(a: object, b: object) -> bool:
    if not isinstance(a, torch.Tensor) or not isinstance(b, torch.Tensor):
        return False
    sizes = (*a.shape, b.shape[1])
    if a.dtype not in (torch.bfloat16, torch.float16) or not all(isinstance(size, int) for size in sizes):
        return False
    return _chooses_better(a.device) and sizes[0] * sizes[1] * sizes[2] >= _FEWEST_MULTIPLICATIONS


def _chooses_better(device: torch.device) -> bool:
    """Is it a device on which our choice was measured?"""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) == (9, 0)
