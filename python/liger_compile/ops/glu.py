"""`liger::glu` and `liger::glu_packed`: gated linear units, in one pass over the data and one pass back.

    glu:         out = act(gate) * up
    glu_packed:  the same of the two halves of gate_up's last dimension, the gate first or second

in float32 inside, rounded once. `activation` is one of

    "silu"       x / (1 + exp(-x))
    "gelu"       x * (1 + erf(x / sqrt(2))) / 2
    "gelu_tanh"  x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3))) / 2

gate, up: [..., I], of one shape, dtype and device. gate_up: [..., 2 * I]. float32, bfloat16 or float16, any strides.
The result is contiguous, [..., I] in that dtype. RuntimeError for an unknown activation, an odd last dimension of
gate_up, and tensors that do not go together.

The gradients are computed from the inputs, which are all that is kept. Both gradients come from one pass; that of
glu_packed is one tensor like gate_up. No second derivatives. The backward ops give the result once more where it is
asked for: as their last output (needs_out), or, those named with an underscore, in place of the gradient of the result.
Those named `..._all_` write the other gradients in place, too, each over its input. What is overwritten must have
contiguous rows at equal distances, none of them twice, and share no memory with another argument.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from liger_compile.ops.registration import register_autograd, register_fake


class _Glu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, activation: str) -> Tensor:
        ctx.save_for_backward(gate, up)
        ctx.activation = activation
        return torch.ops.liger.glu_forward(gate, up, activation=activation)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor, Tensor, None]:
        gate, up = ctx.saved_tensors
        grad_gate, grad_up, _ = torch.ops.liger.glu_backward(grad_out, gate, up, activation=ctx.activation)
        return grad_gate, grad_up, None


class _GluPacked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor, activation: str, gate_first: bool) -> Tensor:
        ctx.save_for_backward(gate_up)
        ctx.options = {"activation": activation, "gate_first": gate_first}
        return torch.ops.liger.glu_packed_forward(gate_up, **ctx.options)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor, None, None]:
        (gate_up,) = ctx.saved_tensors
        grad_gate_up, _ = torch.ops.liger.glu_packed_backward(grad_out, gate_up, **ctx.options)
        return grad_gate_up, None, None


def _glu(gate: Tensor, up: Tensor, *, activation: str) -> Tensor:
    return _Glu.apply(gate, up, activation)


def _glu_packed(gate_up: Tensor, *, activation: str, gate_first: bool = True) -> Tensor:
    return _GluPacked.apply(gate_up, activation, gate_first)


def _fake(gate: Tensor, up: Tensor, *, activation: str) -> Tensor:
    return gate.new_empty(gate.shape)


def _fake_backward(
    grad_out: Tensor, gate: Tensor, up: Tensor, *, activation: str, needs_out: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    return gate.new_empty(gate.shape), up.new_empty(up.shape), gate.new_empty(gate.shape if needs_out else [0])


def _fake_backward_(grad_out: Tensor, gate: Tensor, up: Tensor, *, activation: str) -> tuple[Tensor, Tensor]:
    return gate.new_empty(gate.shape), up.new_empty(up.shape)


def _fake_backward_all_(grad_out: Tensor, gate: Tensor, up: Tensor, *, activation: str) -> None:
    pass


def _fake_packed(gate_up: Tensor, *, activation: str, gate_first: bool = True) -> Tensor:
    return gate_up.new_empty((*gate_up.shape[:-1], gate_up.shape[-1] // 2))


def _fake_packed_backward(
    grad_out: Tensor, gate_up: Tensor, *, activation: str, gate_first: bool, needs_out: bool = False
) -> tuple[Tensor, Tensor]:
    return gate_up.new_empty(gate_up.shape), gate_up.new_empty(grad_out.shape if needs_out else [0])


def _fake_packed_backward_(grad_out: Tensor, gate_up: Tensor, *, activation: str, gate_first: bool) -> Tensor:
    return gate_up.new_empty(gate_up.shape)


def _fake_packed_backward_all_(grad_out: Tensor, gate_up: Tensor, *, activation: str, gate_first: bool) -> None:
    pass


def register() -> None:
    register_fake("glu", _fake)
    register_fake("glu_forward", _fake)
    register_fake("glu_backward", _fake_backward)
    register_fake("glu_backward_", _fake_backward_)
    register_fake("glu_backward_all_", _fake_backward_all_)
    register_fake("glu_packed", _fake_packed)
    register_fake("glu_packed_forward", _fake_packed)
    register_fake("glu_packed_backward", _fake_packed_backward)
    register_fake("glu_packed_backward_", _fake_packed_backward_)
    register_fake("glu_packed_backward_all_", _fake_packed_backward_all_)
    register_autograd("glu", _glu, torch.ops.liger.glu_forward)
    register_autograd("glu_packed", _glu_packed, torch.ops.liger.glu_packed_forward)
