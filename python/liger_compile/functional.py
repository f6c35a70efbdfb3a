"""The fused operators as functions, for models that are composed by hand.

All run on CPU and CUDA, in float32, bfloat16 and float16, forward and backward, eagerly and under `torch.compile`. They
compute in float32 inside and round once, at the end, except where a flag says otherwise. Wrong shapes, dtypes and
devices raise RuntimeError naming the argument, what was expected and what was given.
"""

from __future__ import annotations

import torch
from torch import Tensor

import liger_compile.ops  # noqa: F401  registers torch.ops.liger

_ops = torch.ops.liger


def rms_norm(
    hidden_states: Tensor,
    weight: Tensor | None,
    eps: float,
    *,
    weight_offset: float = 0.0,
    round_before_weight: bool = False,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """Root mean square normalisation of the last dim.

        out = hidden_states * rsqrt(mean(hidden_states^2, -1) + eps) * (weight_offset + weight)

    Args:
        hidden_states: `[..., hidden_size]`.
        weight: `[hidden_size]`, of the dtype of `hidden_states` or float32; None for no weight.
        eps: added to the mean of squares.
        weight_offset: 1.0 for models that store `weight - 1` (Gemma).
        round_before_weight: round the normalised value to the dtype of `hidden_states` before the weight (Llama).
        out_dtype: dtype of the result; by default that of `hidden_states`.

    Returns:
        `[..., hidden_size]` of `out_dtype`.
    """
    return _ops.rms_norm(
        hidden_states,
        weight,
        eps,
        weight_offset=weight_offset,
        round_before_weight=round_before_weight,
        out_dtype=out_dtype,
    )


def add_rms_norm(
    hidden_states: Tensor,
    residual: Tensor,
    weight: Tensor | None,
    eps: float,
    *,
    weight_offset: float = 0.0,
    round_before_weight: bool = False,
    out_dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """Residual addition and the normalisation of the sum, in one pass.

        sum = hidden_states + residual
        out = rms_norm(sum, weight, eps)

    Args:
        hidden_states: `[..., hidden_size]`.
        residual: shape and dtype of `hidden_states`.
        weight, eps, weight_offset, round_before_weight, out_dtype: as in `rms_norm`.

    Returns:
        `(out, sum)`, both `[..., hidden_size]`; `sum` is rounded to the dtype of `hidden_states`, and the norm reads it
        so.
    """
    return _ops.add_rms_norm(
        hidden_states,
        residual,
        weight,
        eps,
        weight_offset=weight_offset,
        round_before_weight=round_before_weight,
        out_dtype=out_dtype,
    )


def apply_rotary(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Rotary position embedding of query and key, halves paired: element `i` with `i + rotary_dim / 2`.

        out[..., :half] = x[..., :half] * cos[..., :half] - x[..., half:] * sin[..., :half]
        out[..., half:] = x[..., half:] * cos[..., half:] + x[..., :half] * sin[..., half:]

    Args:
        query: `[batch, heads, sequence, head_dim]`, or of rank 2 or 3, with any strides whose last is 1.
        key: like `query`; its number of heads may differ.
        cos: rank of `query`, `[..., rotary_dim]` with leading dims that are equal to `query`'s or 1; float32 or the
            dtype of `query`. Beyond `rotary_dim` the head dim passes through.
        sin: shape and dtype of `cos`. No gradient flows to cos and sin.

    Returns:
        Rotated query and key, in their own shapes and dtypes.
    """
    return _ops.rope(query, key, cos, sin)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """Gated linear unit with SiLU: `gate * sigmoid(gate) * up`.

    Args:
        gate: `[..., intermediate_size]`.
        up: shape and dtype of `gate`.

    Returns:
        Shape and dtype of `gate`.
    """
    return _ops.glu(gate, up, activation="silu")


def geglu(gate: Tensor, up: Tensor, *, approximate: str = "tanh") -> Tensor:
    """Gated linear unit with GELU: `gelu(gate) * up`.

    Args:
        gate: `[..., intermediate_size]`.
        up: shape and dtype of `gate`.
        approximate: "tanh" or "none" (by the error function), as in `torch.nn.functional.gelu`.

    Returns:
        Shape and dtype of `gate`.

    Raises:
        ValueError: `approximate` is neither.
    """
    if approximate not in ("tanh", "none"):
        raise ValueError(f"approximate: expected 'tanh' or 'none', actual {approximate!r}")
    return _ops.glu(gate, up, activation="gelu_tanh" if approximate == "tanh" else "gelu")


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    logit_scale: float = 1.0,
    softcap: float = 0.0,
    z_loss: float = 0.0,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """Cross entropy of logits with class indices.

        u = softcap * tanh(logits * logit_scale / softcap)      (softcap 0: u = logits * logit_scale)
        lse = logsumexp(u, -1)
        loss = (1 - label_smoothing) * (lse - u[target]) + label_smoothing * (lse - mean(u, -1)) + z_loss * lse^2

    Args:
        logits: `[..., vocab_size]`.
        target: integers, one for each row of `logits`, in any shape.
        ignore_index: target of rows that do not count.
        reduction: "mean" (over the rows that count; nan if there are none), "sum" or "none". The z-loss counts all
            rows, and its mean is over all rows.
        label_smoothing: weight of the uniform distribution, 0 to 1.
        logit_scale: factor on the logits.
        softcap: bound on the scaled logits; 0 for none.
        z_loss: factor on the squared logsumexp.
        out_dtype: dtype of the loss; by default float32.

    Returns:
        Scalar, or `[num_tokens]` for reduction "none".
    """
    return _ops.cross_entropy(
        logits,
        target,
        ignore_index=ignore_index,
        reduction=reduction,
        label_smoothing=label_smoothing,
        logit_scale=logit_scale,
        softcap=softcap,
        z_loss=z_loss,
        out_dtype=out_dtype,
    )


def linear_cross_entropy(
    hidden_states: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    logit_scale: float = 1.0,
    softcap: float = 0.0,
    z_loss: float = 0.0,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """Output projection and cross entropy together; the logits are never stored as a whole.

        loss = cross_entropy(hidden_states @ weight.T + bias, target)

    Args:
        hidden_states: `[..., hidden_size]`.
        weight: `[vocab_size, hidden_size]`.
        target: integers, one for each row of `hidden_states`, in any shape.
        bias: `[vocab_size]` or None.
        ignore_index, reduction, label_smoothing, logit_scale, softcap, z_loss, out_dtype: as in `cross_entropy`.

    Returns:
        Scalar, or `[num_tokens]` for reduction "none".
    """
    return _ops.linear_cross_entropy(
        hidden_states,
        weight,
        target,
        bias,
        ignore_index=ignore_index,
        reduction=reduction,
        label_smoothing=label_smoothing,
        logit_scale=logit_scale,
        softcap=softcap,
        z_loss=z_loss,
        out_dtype=out_dtype,
    )
