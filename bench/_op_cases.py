"""What bench/ops.py times: each op as transformers spells it, ours, and those of other packages that are installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F

import liger_compile.ops  # noqa: F401

liger = torch.ops.liger
OTHERS = {"liger-kernel": "liger_kernel", "quack": "quack"}  # the modules of other packages, which need a GPU


@dataclass(frozen=True)
class Case:
    """One op at one size.

    Attributes:
        inputs: makes the arguments of both functions; those that require gradients get them in the backward.
        reference: the op as a model spells it.
        others: those of the packages of OTHERS that are compared.
        forward_bytes: least bytes that the forward moves, None where it is not bound by them.
        backward_bytes: the same for the backward.
    """

    name: str
    inputs: Callable[[], tuple[torch.Tensor, ...]]
    reference: Callable[..., Any]
    ours: Callable[..., Any]
    forward_bytes: int | None
    backward_bytes: int | None
    others: Mapping[str, Callable[..., Any]] = field(default_factory=dict)


def liger_functional(name: str, *arguments: Any, **keywords: Any) -> Any:
    return getattr(import_module("liger_kernel.transformers.functional"), f"liger_{name}")(*arguments, **keywords)


def quack(name: str, *arguments: Any, **keywords: Any) -> Any:
    return getattr(import_module("quack"), name)(*arguments, **keywords)


def cases(rows: int, dtype: torch.dtype, device: str, only: str = "") -> Iterator[Case]:
    """The cases over `rows` tokens whose names begin with one of `only`, with commas, or all. Smaller on the CPU."""
    prefixes = tuple(name for name in only.split(",") if name) or ("",)
    return (case for case in _all_cases(rows, dtype, device) if case.name.startswith(prefixes))


def as_tuple(value: Any) -> tuple[torch.Tensor, ...]:
    """The outputs of a case's function, one or several."""
    return value if isinstance(value, tuple) else (value,)


def _all_cases(rows: int, dtype: torch.dtype, device: str) -> Iterator[Case]:
    small = device == "cpu"
    for hidden in (1024,) if small else (2048, 4096, 8192):
        yield rms_norm(rows, hidden, dtype, device)
        yield add_rms_norm(rows, hidden, dtype, device)
    yield rope(rows, dtype, device)
    yield norm_rope(rows, dtype, device)
    for width in (2816,) if small else (8192, 14336):
        yield glu(rows, width, dtype, device)
    for hidden, width in ((256, 704),) if small else ((2048, 8192), (4096, 14336)):
        yield gated_mlp(rows, hidden, width, dtype, device)
    vocab = 8192 if small else 128256
    yield cross_entropy(rows, vocab, dtype, device)
    for hidden in (512,) if small else (2048, 4096):
        yield linear_cross_entropy(rows, hidden, vocab, dtype, device)


def _random(*shape: int, dtype: torch.dtype, device: str, scale: float = 1.0) -> torch.Tensor:
    return (torch.randn(*shape, device=device) * scale).to(dtype).requires_grad_()


def _wide(x: torch.Tensor) -> torch.Tensor:
    """What models spell `x.float()`; float64, which the errors are measured from, stays what it is."""
    return x if x.dtype == torch.float64 else x.float()


def _llama_norm(x: torch.Tensor, weight: torch.Tensor, eps: float = 1e-6) -> torch.Tensor:
    wide = _wide(x)
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return weight * wide.to(x.dtype)


def rms_norm(rows: int, hidden: int, dtype: torch.dtype, device: str) -> Case:
    tensor = rows * hidden * dtype.itemsize

    def ours(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return liger.rms_norm(x, weight, 1e-6, round_before_weight=True)

    def inputs() -> tuple[torch.Tensor, ...]:
        return _random(rows, hidden, dtype=dtype, device=device), _random(hidden, dtype=dtype, device=device)

    def of_liger_kernel(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return liger_functional("rms_norm", x, weight, 1e-6, in_place=False)

    def of_quack(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return quack("rmsnorm", x, weight, eps=1e-6)

    others = {"liger-kernel": of_liger_kernel, "quack": of_quack}
    # forward: x -> y; backward: dy, x -> dx
    return Case(f"rms_norm {hidden}", inputs, _llama_norm, ours, 2 * tensor, 3 * tensor, others)


def add_rms_norm(rows: int, hidden: int, dtype: torch.dtype, device: str) -> Case:
    tensor = rows * hidden * dtype.itemsize

    def reference(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
        total = x + residual
        return _llama_norm(total, weight), total

    def ours(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return liger.add_rms_norm(x, residual, weight, 1e-6, round_before_weight=True)

    def inputs() -> tuple[torch.Tensor, ...]:
        x, residual = (_random(rows, hidden, dtype=dtype, device=device) for _ in range(2))
        return x, residual, _random(hidden, dtype=dtype, device=device)

    def theirs(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return liger_functional("fused_add_rms_norm", x, residual, weight, 1e-6, in_place=False)

    # forward: x, residual -> sum, y; backward: dy, dsum, sum -> d
    return Case(f"add_rms_norm {hidden}", inputs, reference, ours, 4 * tensor, 4 * tensor, {"liger-kernel": theirs})


def _rotate_half(x: torch.Tensor) -> torch.Tensor:
    half = x.shape[-1] // 2
    return torch.cat((-x[..., half:], x[..., :half]), dim=-1)


def _rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    return x * cos + _rotate_half(x) * sin


def _heads(
    rows: int, heads: int, kv_heads: int, head_dim: int, dtype: torch.dtype, device: str
) -> tuple[torch.Tensor, ...]:
    """Query, key, cos and sin."""
    batch = 4
    sequence = rows // batch
    q = _random(batch, sequence, heads, head_dim, dtype=dtype, device=device)
    k = _random(batch, sequence, kv_heads, head_dim, dtype=dtype, device=device)
    angles = torch.rand(1, 1, sequence, head_dim // 2, device=device).repeat(1, 1, 1, 2) * 6.0
    # As the projections give them: [batch, sequence, heads, head_dim] seen as [batch, heads, sequence, head_dim].
    leaves = (tensor.detach().transpose(1, 2).requires_grad_() for tensor in (q, k))
    return (*leaves, angles.cos().to(dtype), angles.sin().to(dtype))


def rope(rows: int, dtype: torch.dtype, device: str) -> Case:
    heads, kv_heads, head_dim = 32, 8, 64 if device == "cpu" else 128
    moved = 2 * rows * (heads + kv_heads) * head_dim * dtype.itemsize

    def reference(q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return _rotated(q, cos, sin), _rotated(k, cos, sin)

    def inputs() -> tuple[torch.Tensor, ...]:
        return _heads(rows, heads, kv_heads, head_dim, dtype, device)

    return Case(f"rope {heads}/{kv_heads}x{head_dim}", inputs, reference, liger.rope, moved, moved)


def norm_rope(rows: int, dtype: torch.dtype, device: str) -> Case:
    heads, kv_heads, head_dim = 32, 8, 64 if device == "cpu" else 128
    tensor = rows * (heads + kv_heads) * head_dim * dtype.itemsize

    def reference(
        q: torch.Tensor,
        k: torch.Tensor,
        q_weight: torch.Tensor,
        k_weight: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        return _rotated(_llama_norm(q, q_weight), cos, sin), _rotated(_llama_norm(k, k_weight), cos, sin)

    def ours(*arguments: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return liger.norm_rope(*arguments, 1e-6)

    def inputs() -> tuple[torch.Tensor, ...]:
        q, k, *tables = _heads(rows, heads, kv_heads, head_dim, dtype, device)
        return q, k, *(_random(head_dim, dtype=dtype, device=device) for _ in range(2)), *tables

    # forward: x -> y; backward: dy, x -> dx
    return Case(f"norm_rope {heads}/{kv_heads}x{head_dim}", inputs, reference, ours, 2 * tensor, 3 * tensor)


def glu(rows: int, width: int, dtype: torch.dtype, device: str) -> Case:
    tensor = rows * width * dtype.itemsize

    def reference(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        return F.silu(gate) * up

    def ours(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        return liger.glu(gate, up, activation="silu")

    def inputs() -> tuple[torch.Tensor, ...]:
        return tuple(_random(rows, width, dtype=dtype, device=device) for _ in range(2))

    # forward: gate, up -> out; backward: dout, gate, up -> dgate, dup
    def theirs(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        return liger_functional("swiglu", gate, up)

    # Theirs writes gradients over gate and up: what it computes is right only once, but takes as long every time.
    return Case(f"glu {width}", inputs, reference, ours, 3 * tensor, 5 * tensor, {"liger-kernel": theirs})


class _GatedMlp(torch.autograd.Function):
    """A gated MLP by the ops that compiled graphs have in its place."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, *weights: torch.Tensor) -> torch.Tensor:
        gate_weight, up_weight, down_weight = weights
        gate, up, out = liger.mm_glu(x, gate_weight.t(), up_weight.t(), activation="silu")
        ctx.save_for_backward(x, gate, up, *weights)
        return liger.mm(out, down_weight.t())

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x, gate, up, gate_weight, up_weight, down_weight = ctx.saved_tensors
        grad_gate, grad_up, out = liger.mm_glu_backward(grad, down_weight, gate, up, activation="silu")
        grad_x = liger.addmm(liger.mm(grad_up, up_weight), grad_gate, gate_weight)
        of_weights = ((grad_gate, x), (grad_up, x), (grad, out))
        return grad_x, *(liger.mm(outer.t(), inner) for outer, inner in of_weights)


def gated_mlp(rows: int, hidden: int, width: int, dtype: torch.dtype, device: str) -> Case:
    def reference(
        x: torch.Tensor, gate_weight: torch.Tensor, up_weight: torch.Tensor, down_weight: torch.Tensor
    ) -> torch.Tensor:
        return F.linear(F.silu(F.linear(x, gate_weight)) * F.linear(x, up_weight), down_weight)

    def inputs() -> tuple[torch.Tensor, ...]:
        x = _random(rows, hidden, dtype=dtype, device=device)
        shapes = ((width, hidden), (width, hidden), (hidden, width))
        return x, *(_random(*shape, dtype=dtype, device=device, scale=shape[1] ** -0.5) for shape in shapes)

    # Bound by its matrix products.
    return Case(f"gated_mlp {hidden}x{width}", inputs, reference, _GatedMlp.apply, None, None)


def cross_entropy(rows: int, vocab: int, dtype: torch.dtype, device: str) -> Case:
    tensor = rows * vocab * dtype.itemsize

    def reference(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(_wide(logits), target)

    def ours(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return liger.cross_entropy(logits, target, out_dtype=torch.float32)

    def inputs() -> tuple[torch.Tensor, ...]:
        target = torch.randint(0, vocab, (rows,), device=device)
        return _random(rows, vocab, dtype=dtype, device=device), target

    def of_quack(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return quack("cross_entropy", logits, target)

    # forward: logits; backward: logits -> dlogits. That of liger-kernel is not compared: its forward does the backward.
    return Case(f"cross_entropy {vocab}", inputs, reference, ours, tensor, 2 * tensor, {"quack": of_quack})


def linear_cross_entropy(rows: int, hidden: int, vocab: int, dtype: torch.dtype, device: str) -> Case:
    def reference(x: torch.Tensor, weight: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(_wide(F.linear(x, weight)), target)

    def ours(x: torch.Tensor, weight: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return liger.linear_cross_entropy(x, weight, target)

    def inputs() -> tuple[torch.Tensor, ...]:
        x = _random(rows, hidden, dtype=dtype, device=device)
        weight = _random(vocab, hidden, dtype=dtype, device=device, scale=hidden**-0.5)
        return x, weight, torch.randint(0, vocab, (rows,), device=device)

    # Bound by its matrix products. Ours may form gradients in its forward: compare forward and backward together.
    return Case(f"linear_cross_entropy {hidden}x{vocab}", inputs, reference, ours, None, None)
