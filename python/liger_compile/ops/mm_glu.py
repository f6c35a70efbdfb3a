"""`liger::mm_glu`, `liger::mm_glu_packed` and their backward ops: gated linear units with the products beside them.

    mm_glu:           gate = a @ gate_b,  up = a @ up_b,  out = act(gate) * up
    mm_glu_backward:  grad_out = a @ b, and from it the gradients of gate and up, and out again, as liger::glu_backward
    mm_glu_packed:    gate_up = a @ b, whose halves are gate and up, as liger::glu_packed, and out
    mm_glu_packed_backward:  as mm_glu_backward, the gradients packed as well

a: [m, k]. gate_b, up_b, b: [k, n], packed [k, 2 * n]. gate, up and results: [m, n], packed [m, 2 * n]. float32,
bfloat16 or float16. Every product is rounded to the dtype before it is used, as if the ops stood alone. For
`activation` and `gate_first` see `liger::glu`. On a GPU of compute capability 9.0 the product's kernel does the rest
where the dtype is bfloat16, rows of a, of the backward ops' b and of the transposed gate_b, up_b and b are contiguous,
and all rows start at multiples of 16 bytes.

Those named with an underscore write the gradients over gate and up, which must have rows of their own, and share no
memory with another argument; they return out. These ops stand in compiled graphs, and have no gradients. RuntimeError
for an unknown activation, and tensors that do not go together.
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


def _fake_packed(a: Tensor, b: Tensor, *, activation: str, gate_first: bool = True) -> tuple[Tensor, Tensor]:
    return a.new_empty(a.shape[0], b.shape[1]), a.new_empty(a.shape[0], b.shape[1] // 2)


def _fake_packed_backward(
    a: Tensor, b: Tensor, gate_up: Tensor, *, activation: str, gate_first: bool = True
) -> tuple[Tensor, Tensor]:
    return gate_up.new_empty(gate_up.shape), gate_up.new_empty(a.shape[0], b.shape[1])


def _fake_packed_backward_(
    a: Tensor, b: Tensor, gate_up: Tensor, *, activation: str, gate_first: bool = True
) -> Tensor:
    return gate_up.new_empty(a.shape[0], b.shape[1])


def register() -> None:
    register_fake("mm_glu", _fake)
    register_fake("mm_glu_backward", _fake_backward)
    register_fake("mm_glu_backward_", _fake_backward_)
    register_fake("mm_glu_packed", _fake_packed)
    register_fake("mm_glu_packed_backward", _fake_packed_backward)
    register_fake("mm_glu_packed_backward_", _fake_packed_backward_)
