"""Modules over the fused operators, for models that are composed by hand (see `functional` for the formulas)."""

from __future__ import annotations

import torch
from torch import Tensor

from liger_compile import functional


class RMSNorm(torch.nn.Module):
    """Root mean square normalisation of the last dim, with a learned weight.

    Args:
        hidden_size: length of the last dim.
        eps: added to the mean of squares.
        weight_offset: 1.0 for weights stored as `weight - 1`, which then begin as zeros.
        round_before_weight: round the normalised value to the input's dtype before the weight.
        device, dtype: of the weight.
    """

    def __init__(
        self,
        hidden_size: int,
        eps: float = 1e-6,
        *,
        weight_offset: float = 0.0,
        round_before_weight: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.eps = eps
        self.weight_offset = weight_offset
        self.round_before_weight = round_before_weight
        initial = 1.0 - weight_offset
        self.weight = torch.nn.Parameter(torch.full((hidden_size,), initial, device=device, dtype=dtype))

    def forward(self, hidden_states: Tensor, residual: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Normalise `hidden_states` `[..., hidden_size]`; with a residual, give `(normalised sum, sum)`."""
        if residual is not None:
            return functional.add_rms_norm(
                hidden_states,
                residual,
                self.weight,
                self.eps,
                weight_offset=self.weight_offset,
                round_before_weight=self.round_before_weight,
            )
        return functional.rms_norm(
            hidden_states,
            self.weight,
            self.eps,
            weight_offset=self.weight_offset,
            round_before_weight=self.round_before_weight,
        )

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, eps={self.eps}, weight_offset={self.weight_offset}"


class GatedMLP(torch.nn.Module):
    """The MLP of Llama-like models: `down_proj(activation(gate_proj(x)) * up_proj(x))`.

    Args:
        hidden_size: length of the last dim of input and output.
        intermediate_size: length of the last dim in between.
        activation: "silu", "gelu" or "gelu_tanh".
        bias: whether the three projections have one.
        device, dtype: of the parameters.

    Raises:
        ValueError: an unknown activation.
    """

    def __init__(
        self,
        hidden_size: int,
        intermediate_size: int,
        *,
        activation: str = "silu",
        bias: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if activation not in ("silu", "gelu", "gelu_tanh"):
            raise ValueError(f"activation: expected silu, gelu or gelu_tanh, actual {activation!r}")
        self.activation = activation
        self.gate_proj = torch.nn.Linear(hidden_size, intermediate_size, bias, device, dtype)
        self.up_proj = torch.nn.Linear(hidden_size, intermediate_size, bias, device, dtype)
        self.down_proj = torch.nn.Linear(intermediate_size, hidden_size, bias, device, dtype)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """`[..., hidden_size]` to `[..., hidden_size]`."""
        gate, up = self.gate_proj(hidden_states), self.up_proj(hidden_states)
        return self.down_proj(torch.ops.liger.glu(gate, up, activation=self.activation))


class LinearCrossEntropyLoss(torch.nn.Module):
    """Output projection and cross entropy together, without stored logits.

    Args:
        ignore_index, reduction, label_smoothing, logit_scale, softcap, z_loss: as in `functional.cross_entropy`.
    """

    def __init__(
        self,
        *,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
        logit_scale: float = 1.0,
        softcap: float = 0.0,
        z_loss: float = 0.0,
    ) -> None:
        super().__init__()
        self.ignore_index = ignore_index
        self.reduction = reduction
        self.label_smoothing = label_smoothing
        self.logit_scale = logit_scale
        self.softcap = softcap
        self.z_loss = z_loss

    def forward(self, hidden_states: Tensor, weight: Tensor, target: Tensor, bias: Tensor | None = None) -> Tensor:
        """Loss of hidden_states `[..., hidden_size]` through weight `[vocab_size, hidden_size]`, in float32."""
        return functional.linear_cross_entropy(
            hidden_states,
            weight,
            target,
            bias,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
            logit_scale=self.logit_scale,
            softcap=self.softcap,
            z_loss=self.z_loss,
        )
