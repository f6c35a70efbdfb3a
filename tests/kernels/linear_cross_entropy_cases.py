"""Eager references and random inputs of linear cross entropy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from cross_entropy_cases import eager_cross_entropy, random_target, transformed
from torch import Tensor

from numerics import random_tensor


def eager(hidden_states: Tensor, weight: Tensor, target: Tensor, bias: Tensor | None = None, **options: Any) -> Tensor:
    return eager_cross_entropy(F.linear(hidden_states, weight, bias), target, **options)


def eager_with_logits(
    hidden_states: Tensor, weight: Tensor, target: Tensor, bias: Tensor | None = None, **options: Any
) -> tuple[Tensor, Tensor]:
    scale, softcap = options.pop("logit_scale", 1.0), options.pop("softcap", 0.0)
    logits = transformed(F.linear(hidden_states, weight, bias), scale, softcap)
    return eager_cross_entropy(logits, target, **options), logits


def make_inputs(
    tokens: tuple[int, ...],
    hidden_size: int,
    vocab: int,
    dtype: torch.dtype,
    device: str,
    *,
    scale: float = 1.0,
    has_bias: bool = False,
    **options: Any,
) -> Callable[[torch.Generator], dict[str, Any]]:
    def make(generator: torch.Generator) -> dict[str, Any]:
        ignored = options.get("ignore_index", -100)
        # In float32 the error of a logit, which both computations share, must stay below an ulp of the gradients: a few
        # draws would not tell which of the two is the more exact.
        size = 0.1 * scale if dtype == torch.float32 else scale
        spread = size / hidden_size**0.5
        inputs = {
            "hidden_states": random_tensor((*tokens, hidden_size), generator, dtype=dtype, device=device),
            "weight": random_tensor((vocab, hidden_size), generator, dtype=dtype, device=device, scale=spread),
            "target": random_target(tokens, vocab, generator, device=device, ignore_index=ignored),
            **options,
        }
        if has_bias:
            inputs["bias"] = random_tensor((vocab,), generator, dtype=dtype, device=device, scale=size)
        return inputs

    return make
