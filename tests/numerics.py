"""The numerical standard: a fused op is at least as close to the exact result as the eager spelling it replaces.

`assert_as_accurate_as_eager` runs three computations on the same inputs: the eager spelling in float64 (the truth), the
eager spelling in the inputs' own dtypes, and the fused op. For every output and every gradient, the fused error may
exceed the eager error by one unit in the last place: at the truth's largest magnitude for the maximum error, at its
root mean square for the root mean square error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

# Two computations with the same roundings do not round the same elements up: their rms errors differ by chance.
RMS_CHANCE = 1e-2

Make = Callable[[torch.Generator], dict[str, Any]]


def assert_as_accurate_as_eager(
    fused: Callable[..., Any],
    eager: Callable[..., Any],
    make_inputs: Make,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    grad: bool = True,
    frozen: Sequence[str] = (),
    zero_ok: Sequence[str] = (),
) -> None:
    """Check outputs and gradients of `fused` against `eager`, both called with the inputs as keyword arguments.

    make_inputs: called with a seeded CPU generator; gives the keyword arguments. Floating tensors among them are the
        differentiable inputs (except those named in `frozen`); their layout is kept.
    eager: must compute in the dtypes it is given and cast with `.to(other.dtype)`-like spellings only, so that float64
        inputs give the truth. Where it names float32, use `wide(x)` of this file.
    zero_ok: names ("out[0]", "grad gate") that may be all zero.
    """
    for seed in seeds:
        inputs = make_inputs(torch.Generator().manual_seed(seed))
        upstream = torch.Generator().manual_seed(seed + 1000)
        results = _run_all(fused, eager, inputs, upstream, grad, frozen)
        for name in results["truth"]:
            label = f"{name} (seed {seed})"
            truth, same_dtype, ours = (results[kind][name] for kind in ("truth", "eager", "fused"))
            check_error(label, truth, same_dtype, ours, zero_ok=name in zero_ok)


def check_error(label: str, truth: Tensor, eager: Tensor, fused: Tensor, *, zero_ok: bool = False) -> None:
    """One tensor's part of the standard; `truth` is float64, `eager` and `fused` have one shape and dtype."""
    assert fused.shape == eager.shape, f"{label}: shape {tuple(fused.shape)}, eager has {tuple(eager.shape)}"
    assert fused.dtype == eager.dtype, f"{label}: dtype {fused.dtype}, eager has {eager.dtype}"
    if truth.numel() == 0:
        return
    assert bool(torch.isfinite(truth).all()), f"{label}: the truth is not finite, the test's inputs are wrong"
    assert bool(torch.isfinite(fused).all()), f"{label}: {int((~torch.isfinite(fused)).sum())} values are not finite"
    largest = truth.abs().max().item()
    assert zero_ok or largest > 0.0, f"{label}: the truth is all zero, so the comparison says nothing"
    rms = truth.square().mean().sqrt().item()
    eager_error, fused_error = (eager.double() - truth).abs(), (fused.double() - truth).abs()
    eager_max, fused_max = eager_error.max().item(), fused_error.max().item()
    allowed_max = eager_max + ulp(largest, fused.dtype)
    assert fused_max <= allowed_max, (
        f"{label}: largest error {fused_max:.3e}, eager has {eager_max:.3e}, allowed {allowed_max:.3e}"
    )
    eager_rms, fused_rms = eager_error.square().mean().sqrt().item(), fused_error.square().mean().sqrt().item()
    allowed_rms = eager_rms * (1 + RMS_CHANCE) + ulp(rms, fused.dtype)
    assert fused_rms <= allowed_rms, (
        f"{label}: rms error {fused_rms:.3e}, eager has {eager_rms:.3e}, allowed {allowed_rms:.3e}"
    )


def check_pooled(
    label: str, samples: Sequence[tuple[Tensor, Tensor, Tensor]], unit_dtype: torch.dtype, *, only_rms: bool = False
) -> None:
    """The standard over several draws of one quantity, each (truth, eager, fused), for computations with a matrix
    product in them.

    Such results carry many roundings that neither computation chooses (the order of the product's sums, a loss in
    float32 of bfloat16 logits), and in a single draw it is luck which of the two ends nearer to the truth. Errors are
    relative to the truth's largest magnitude in all draws: relative to that of each draw, one in which nearly all of it
    cancels (the gradient of a router) would outweigh the others. The unit in the last place is that of `unit_dtype`,
    the narrowest dtype that the computation rounds to. `only_rms` leaves the maximum out: in a gradient at the end of a
    whole model one early rounding moves many elements together, so that its maximum is one draw.
    """
    largest = max(truth.abs().max().item() for truth, _, _ in samples)
    ours, theirs = [], []
    for truth, eager, fused in samples:
        assert fused.shape == eager.shape and fused.dtype == eager.dtype, f"{label}: {fused.dtype}{tuple(fused.shape)}"
        assert bool(torch.isfinite(fused).all()), f"{label}: not finite"
        assert bool(truth.any()), f"{label}: the truth is all zero, so the comparison says nothing"
        theirs.append((eager.double() - truth).abs().flatten() / largest)
        ours.append((fused.double() - truth).abs().flatten() / largest)
    unit = ulp(largest, unit_dtype) / largest
    norms = {"rms": lambda errors: errors.square().mean().sqrt(), "largest": torch.amax}
    for kind in ("rms",) if only_rms else ("rms", "largest"):
        our_error, eager_error = (norms[kind](torch.cat(errors)).item() for errors in (ours, theirs))
        allowed = eager_error + unit
        assert our_error <= allowed, (
            f"{label}: {kind} error {our_error:.3e}, eager has {eager_error:.3e}, allowed {allowed:.3e}"
        )


def ulp(magnitude: float, dtype: torch.dtype) -> float:
    """The distance between neighbouring numbers of `dtype` just above `magnitude`."""
    info = torch.finfo(dtype)
    if magnitude <= info.tiny:
        return info.tiny * info.eps
    exponent = torch.frexp(torch.tensor(magnitude, dtype=torch.float64)).exponent.item() - 1
    return info.eps * 2.0**exponent


def wide(x: Tensor) -> Tensor:
    """What model code spells `x.float()`: float32, but float64 stays what it is, so that the truth is exact."""
    return x if x.dtype == torch.float64 else x.float()


def random_tensor(
    shape: Sequence[int], generator: torch.Generator, *, dtype: torch.dtype, device: str, scale: float = 1.0
) -> Tensor:
    """Normal values whose magnitudes differ from row to row, rounded to `dtype`."""
    values = torch.randn(shape, generator=generator, dtype=torch.float64) * scale
    if values.dim() > 1:
        values = values * (0.25 + 2.0 * torch.rand((*shape[:-1], 1), generator=generator, dtype=torch.float64))
    return values.to(dtype).to(device)


def _run_all(
    fused: Callable[..., Any],
    eager: Callable[..., Any],
    inputs: dict[str, Any],
    upstream: torch.Generator,
    grad: bool,
    frozen: Sequence[str],
) -> dict[str, dict[str, Tensor]]:
    exact = {name: _to_double(value) for name, value in inputs.items()}
    outputs = {
        "truth": _call(eager, exact, grad, frozen),
        "eager": _call(eager, inputs, grad, frozen),
        "fused": _call(fused, inputs, grad, frozen),
    }
    if not grad:
        return {kind: _named(outs) for kind, (outs, _) in outputs.items()}
    # One set of upstream gradients, exact in the narrowest dtype that any of the three produces.
    seeds = []
    for out in outputs["fused"][0]:
        value = torch.randn(out.shape, generator=upstream, dtype=torch.float64)
        seeds.append(value.to(out.dtype).to(out.device))
    return {kind: _named(outs, _gradients(outs, leaves, seeds)) for kind, (outs, leaves) in outputs.items()}


def _call(
    function: Callable[..., Any], inputs: dict[str, Any], grad: bool, frozen: Sequence[str]
) -> tuple[list[Tensor], dict[str, Tensor]]:
    call, leaves = dict(inputs), {}
    for name, value in inputs.items():
        if grad and name not in frozen and isinstance(value, Tensor) and value.is_floating_point():
            leaves[name] = call[name] = _leaf(value)
    with torch.set_grad_enabled(grad):
        out = function(**call)
    outs = list(out) if isinstance(out, (tuple, list)) else [out]
    return outs, leaves


def _leaf(value: Tensor) -> Tensor:
    """A leaf with the values and strides of `value`."""
    with torch.no_grad():
        leaf = _same_layout(value, value.dtype)
    return leaf.requires_grad_()


def _same_layout(value: Tensor, dtype: torch.dtype) -> Tensor:
    size = 1 + sum((extent - 1) * stride for extent, stride in zip(value.shape, value.stride(), strict=True))
    size = size if value.numel() else 0
    storage = torch.empty(size, dtype=dtype, device=value.device)
    copy = storage.as_strided(value.shape, value.stride())
    if value.numel():
        copy.copy_(value)
    return copy.detach()


def _to_double(value: Any) -> Any:
    if isinstance(value, Tensor) and value.is_floating_point():
        return _same_layout(value, torch.float64)
    return value


def _gradients(outs: list[Tensor], leaves: dict[str, Tensor], seeds: list[Tensor]) -> dict[str, Tensor]:
    if not leaves:
        return {}
    used = [(out, seed.to(out.dtype)) for out, seed in zip(outs, seeds, strict=True) if out.requires_grad]
    tensors, grads = [out for out, _ in used], [seed for _, seed in used]
    values = torch.autograd.grad(tensors, list(leaves.values()), grads)
    return dict(zip(leaves, values, strict=True))


def _named(outs: list[Tensor], grads: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    named = {f"out[{index}]": out.detach() for index, out in enumerate(outs)}
    return named | {f"grad {name}": value for name, value in (grads or {}).items()}


def layouts_of(matrix: Tensor) -> list[Tensor]:
    """The same values by columns, within a larger matrix, misaligned, and with gaps between elements."""
    rows, columns = matrix.shape
    by_columns = matrix.t().contiguous().t()
    within = matrix.new_zeros(rows + 1, columns + 8)[1:, 8:]
    misaligned = matrix.new_zeros(rows, columns + 1)[:, 1:]
    gaps = matrix.new_zeros(rows, 2 * columns)[:, ::2]
    return [by_columns, *(target.copy_(matrix) for target in (within, misaligned, gaps))]
