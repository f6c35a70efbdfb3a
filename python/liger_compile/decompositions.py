"""What Inductor does not take apart in graphs that were rewritten, and an op of ours that it does.

Inductor computes the gradient of an embedding as atomic additions to a float32 tensor of the table's size, and rounds
that afterwards. For a table in half precision torch's own kernel sums in float32 within a row and writes only the
result: a third of the memory, less traffic, and the same bits in every run.

The gradients of a loss that wait for the upstream gradient are multiplied by it in an op, for graphs that nothing
fuses; Inductor does it together with what follows.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

_EMBEDDING_GRADIENT = torch.ops.aten.embedding_dense_backward.default


def decompositions_for(config_patches: Mapping[str, Any]) -> dict[Any, Callable[..., Any]]:
    """Inductor's decompositions under these options, less what pays to be left whole."""
    from torch._inductor import config
    from torch._inductor.decomposition import select_decomp_table

    with config.patch(dict(config_patches)):
        table = dict(select_decomp_table())
    if _EMBEDDING_GRADIENT in table:
        _register_fallback()
        table[_EMBEDDING_GRADIENT] = functools.partial(_embedding_gradient, table[_EMBEDDING_GRADIENT])
    if hasattr(torch.ops.liger, "linear_cross_entropy_scale"):  # else nothing has loaded our ops
        table[torch.ops.liger.linear_cross_entropy_scale.default] = _scale_gradient
    return table


def _scale_gradient(gradient: Tensor, scale: Tensor, *, dtype: torch.dtype) -> Tensor:
    return (gradient.to(torch.float32) * scale).to(dtype)


def _embedding_gradient(decomposition: Callable[..., Tensor], grad_output: Tensor, *args: Any) -> Tensor:
    return NotImplemented if _stays_whole(grad_output) else decomposition(grad_output, *args)


def _stays_whole(grad_output: Tensor) -> bool:
    return grad_output.device.type == "cuda" and grad_output.dtype in (torch.bfloat16, torch.float16)


@functools.cache
def _register_fallback() -> None:
    """Tell Inductor to call torch where it meets the operator, which otherwise it never does."""
    from torch._inductor.lowering import add_needs_realized_inputs, fallback_handler, lowerings, register_lowering

    if _EMBEDDING_GRADIENT not in lowerings:
        add_needs_realized_inputs(_EMBEDDING_GRADIENT)
        # make_fallback() would do the same, but refuses operators that Inductor can decompose.
        register_lowering(_EMBEDDING_GRADIENT, type_promotion_kind=None)(
            fallback_handler(_EMBEDDING_GRADIENT, add_to_fallback_set=True)
        )
