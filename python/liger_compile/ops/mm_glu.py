"""`liger::mm_glu` and `liger::mm_glu_backward`: gated linear units together with the products beside them.

    mm_glu:           gate = a @ gate_b,  up = a @ up_b,  out = act(gate) * up
    mm_glu_backward:  grad_out = a @ b, and from it the gradients of gate and up, and out again, as liger::glu_backward

a: [m, k]. gate_b, up_b, b: [k, n]. gate, up and all results: [m, n]. float32, bfloat16 or float16. Every product is
rounded to the dtype before it is used, as if the ops stood alone. For `activation` see `liger::glu`. On a GPU of
compute capability 9.0 the product's kernel does the rest where the dtype is bfloat16, rows of a, of b and of the
transposed gate_b and up_b are contiguous, and all rows start at multiples of 16 bytes.

`mm_glu_backward_` writes the gradients over gate and up, which must have rows of their own, and share no memory with
another argument; it returns out. These ops stand in compiled graphs, and have no gradients. RuntimeError for an unknown
activation, and tensors that do not go together.
"""

from __future__ import annotations

from torch import Tensor

from liger_compile.ops.registration import register_fake


def _fake(a: Tensor, gate_b: Tensor, up_b: Tensor, *, activation: str) -> tuple[Tensor, Tensor, Tensor]:
    shape = (a.shape[0], gate_b.shape[1])
    return a.new_empty(shape), a.new_empty(shape), a.new_empty(shape)


def _fake_backward(a: Tensor, b: Tensor, gate: Tensor, up: Tensor, *, activation: str) -> tuple[Tensor, Tensor, Tensor]:
    return gate.new_empty(gate.shape), up.new_empty(up.shape), gate.new_empty(gate.shape)


def _fake_backward_(a: Tensor, b: Tensor, gate: Tensor, up: Tensor, *, activation: str) -> Tensor:
    return gate.new_empty(gate.shape)


def register() -> None:
    register_fake("mm_glu", _fake)
    register_fake("mm_glu_backward", _fake_backward)
    register_fake("mm_glu_backward_", _fake_backward_)
