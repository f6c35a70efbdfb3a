"""Norm and rotation of heads in one op: numerics against eager, layouts, gradients, registration, compilation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from rope_cases import DTYPES, FROZEN, LAYOUTS, eager_one, equal, heads_first, in_order, projections, strides, tables
from torch import Tensor

import liger_compile.ops  # noqa: F401
from numerics import assert_as_accurate_as_eager, random_tensor, wide

ops = torch.ops.liger
EPS = 1e-6


def unit(x: Tensor) -> Tensor:
    x = wide(x)
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS)


# As the families round; the op rounds once, whatever they do.
NORMS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], float]] = {
    "llama": (lambda x, weight: weight * unit(x).to(x.dtype), 0.0),
    "olmo": (lambda x, weight: (weight * unit(x)).to(x.dtype), 0.0),
    "gemma": (lambda x, weight: (unit(x) * (1.0 + wide(weight))).to(x.dtype), 1.0),
}


def eager(
    query: Tensor, key: Tensor, query_weight: Tensor, key_weight: Tensor, cos: Tensor, sin: Tensor, norm: str = "llama"
) -> tuple[Tensor, Tensor]:
    normed = NORMS[norm][0]
    return eager_one(normed(query, query_weight), cos, sin), eager_one(normed(key, key_weight), cos, sin)


def fused(
    query: Tensor,
    key: Tensor,
    query_weight: Tensor | None,
    key_weight: Tensor | None,
    cos: Tensor,
    sin: Tensor,
    norm: str = "llama",
    **layouts: bool,
) -> tuple[Tensor, Tensor]:
    return ops.norm_rope(query, key, query_weight, key_weight, cos, sin, EPS, weight_offset=NORMS[norm][1], **layouts)


def _inputs(
    dtype: torch.dtype,
    device: str,
    *,
    heads: tuple[int, int] = (4, 2),
    length: int = 7,
    head_dim: int = 64,
    rotary_dim: int | None = None,
    table_dtype: torch.dtype | None = None,
    weight_dtype: torch.dtype | None = None,
    table_batch: int = 2,
) -> Any:
    def make(generator: torch.Generator) -> dict[str, Tensor]:
        where = {"dtype": dtype, "device": device}
        table_shape = (table_batch, 1, length, rotary_dim or head_dim)
        cos, sin = tables(table_shape, generator, table_dtype or dtype, device)
        query, key = (heads_first(2, count, length, head_dim, generator, **where) for count in heads)
        weight_where = {"dtype": weight_dtype or dtype, "device": device}
        query_weight, key_weight = (random_tensor((head_dim,), generator, **weight_where) for _ in range(2))
        named = {"query": query, "key": key, "query_weight": query_weight, "key_weight": key_weight}
        return {**named, "cos": cos, "sin": sin}

    return make


def _check(make: Any, norm: str = "llama") -> None:
    assert_as_accurate_as_eager(
        lambda **tensors: fused(**tensors, norm=norm),
        lambda **tensors: eager(**tensors, norm=norm),
        make,
        frozen=FROZEN,
    )


@pytest.mark.parametrize("table_dtype", [None, torch.float32], ids=["same", "float32 tables"])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_as_accurate_as_eager(dtype: torch.dtype, norm: str, table_dtype: torch.dtype | None, device: str) -> None:
    _check(_inputs(dtype, device, table_dtype=table_dtype), norm)


@pytest.mark.parametrize("head_dim", [2, 6, 16, 20, 64, 80, 96, 128, 192, 256, 320, 512])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_head_dims(dtype: torch.dtype, head_dim: int, device: str) -> None:
    _check(_inputs(dtype, device, head_dim=head_dim, heads=(3, 1), length=5))


@pytest.mark.parametrize(("head_dim", "rotary_dim"), [(64, 32), (80, 20), (96, 24), (128, 2), (66, 10), (256, 64)])
@pytest.mark.parametrize("table_dtype", [None, torch.float32], ids=["same", "float32 tables"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_partial(dtype: torch.dtype, table_dtype: Any, head_dim: int, rotary_dim: int, device: str) -> None:
    _check(_inputs(dtype, device, head_dim=head_dim, rotary_dim=rotary_dim, table_dtype=table_dtype), "gemma")


@pytest.mark.parametrize("heads", [(1, 1), (3, 3), (7, 1), (33, 11), (32, 8), (1, 5)], ids=str)
@pytest.mark.parametrize("length", [1, 3, 33])
def test_heads_and_lengths(heads: tuple[int, int], length: int, device: str) -> None:
    _check(_inputs(torch.bfloat16, device, heads=heads, length=length, head_dim=16))
    _check(_inputs(torch.float32, device, heads=heads, length=length, head_dim=16, table_batch=1))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_many_positions(dtype: torch.dtype, device: str) -> None:
    """More than one wave of blocks: weight gradients over several positions of each."""
    _check(_inputs(dtype, device, heads=(8, 2), length=1031, head_dim=128, table_batch=1))


@pytest.mark.parametrize("table_dtype", [None, torch.float32], ids=["same", "float32 tables"])
@pytest.mark.parametrize("norm", ["olmo", "gemma"])
@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_float32_weights(dtype: torch.dtype, norm: str, table_dtype: torch.dtype | None, device: str) -> None:
    _check(_inputs(dtype, device, weight_dtype=torch.float32, table_dtype=table_dtype, head_dim=128), norm)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_without_weights(dtype: torch.dtype, device: str) -> None:
    def make(generator: torch.Generator) -> dict[str, Tensor]:
        inputs = _inputs(dtype, device)(generator)
        return {name: value for name, value in inputs.items() if "weight" not in name}

    def bare(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        return eager_one(unit(query).to(query.dtype), cos, sin), eager_one(unit(key).to(key.dtype), cos, sin)

    assert_as_accurate_as_eager(
        lambda query, key, **tables: fused(query, key, None, None, **tables), bare, make, frozen=FROZEN
    )


# The op takes query and key that differ in one dim.
@pytest.mark.parametrize("layout", sorted(LAYOUTS.keys() - {"other lengths", "other batches"}))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_layouts(layout: str, dtype: torch.dtype, device: str) -> None:
    query_shape, key_shape, table_shape, order = LAYOUTS[layout]

    def make(generator: torch.Generator) -> dict[str, Tensor]:
        cos, sin = tables(table_shape, generator, dtype, device)
        where = {"dtype": dtype, "device": device}
        query, key = (in_order(shape, order, generator, **where) for shape in (query_shape, key_shape))
        query_weight, key_weight = (random_tensor((query.shape[-1],), generator, **where) for _ in range(2))
        named = {"query": query, "key": key, "query_weight": query_weight, "key_weight": key_weight}
        return {**named, "cos": cos, "sin": sin}

    _check(make)
    inputs = make(torch.Generator().manual_seed(0))
    for ours, theirs in zip(fused(**inputs), eager(**inputs), strict=True):
        assert strides(ours) == strides(theirs)


@pytest.mark.parametrize("gap", [0, 1, 2, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_packed_projection(dtype: torch.dtype, gap: int, device: str) -> None:
    query, key = projections(dtype, device, gap)
    generator = torch.Generator().manual_seed(0)
    cos, sin = tables((1, 1, 9, 32), generator, dtype, device)
    weights = [random_tensor((32,), generator, dtype=dtype, device=device) for _ in range(2)]
    expected = fused(query.contiguous(), key.contiguous(), *weights, cos, sin)
    theirs = eager(query, key, *weights, cos, sin)
    for ours, same, other in zip(fused(query, key, *weights, cos, sin), expected, theirs, strict=True):
        # Another alignment adds the squares in another order.
        torch.testing.assert_close(ours, same)
        assert ours.stride() == other.stride()


def test_contiguous_results(device: str) -> None:
    inputs = _inputs(torch.bfloat16, device)(torch.Generator().manual_seed(0))
    plain = fused(**inputs)
    for flags in ((True, True), (True, False), (False, True)):
        results = fused(**inputs, contiguous_query=flags[0], contiguous_key=flags[1])
        assert equal(results, plain)
        for result, default, flag in zip(results, plain, flags, strict=True):
            assert result.is_contiguous() if flag else result.stride() == default.stride()


@pytest.mark.parametrize("shape", [(0, 4, 9, 32), (2, 0, 9, 32), (2, 4, 0, 32), (2, 4, 9, 0)], ids=str)
def test_empty(shape: tuple[int, ...], device: str) -> None:
    query = torch.empty(shape, device=device, requires_grad=True)
    key = torch.ones((*shape[:1], 2, *shape[2:]), device=device, requires_grad=True)
    weights = [torch.ones(shape[3], device=device, requires_grad=True) for _ in range(2)]
    cos = sin = torch.ones(1, 1, shape[2], shape[3], device=device)
    out, other = fused(query, key, *weights, cos, sin)
    assert out.shape == query.shape
    torch.testing.assert_close(other, eager(query, key, *weights, cos, sin)[1])
    (out.sum() + other.square().sum()).backward()
    assert query.grad.shape == query.shape
    assert key.grad.shape == key.shape
    assert torch.equal(weights[0].grad, torch.zeros_like(weights[0]))
    assert torch.isfinite(weights[1].grad).all()


def test_no_rotation(device: str) -> None:
    inputs = _inputs(torch.float32, device)(torch.Generator().manual_seed(0))
    inputs["cos"] = inputs["sin"] = torch.empty(1, 1, 7, 0, device=device)
    expected = [unit(inputs[name]) * inputs[f"{name}_weight"] for name in ("query", "key")]
    torch.testing.assert_close(list(fused(**inputs)), expected)


def test_equal_runs_give_equal_bits(device: str) -> None:
    inputs = _inputs(torch.bfloat16, device, length=300)(torch.Generator().manual_seed(0))
    leaves = [inputs[name].requires_grad_() for name in ("query", "key", "query_weight", "key_weight")]
    runs = []
    for _ in range(3):
        outs = fused(**inputs)
        runs.append([*outs, *torch.autograd.grad([out.sin().sum() for out in outs], leaves)])
    assert equal(runs[0], runs[1])
    assert equal(runs[0], runs[2])


def test_gradients_have_the_layout_of_the_inputs(device: str) -> None:
    inputs = _inputs(torch.bfloat16, device)(torch.Generator().manual_seed(0))
    leaves = [inputs[name].requires_grad_() for name in ("query", "key")]
    for flags in ({}, {"contiguous_query": True, "contiguous_key": True}):
        outs = fused(**inputs, **flags)
        grads = torch.autograd.grad(outs, leaves, [torch.randn_like(out).contiguous() for out in outs])
        assert all(grad.stride() == leaf.stride() for grad, leaf in zip(grads, leaves, strict=True))


LEAVES = ("query", "key", "query_weight", "key_weight")


@pytest.mark.parametrize("wanted", [(name,) for name in LEAVES] + [("query", "key_weight"), LEAVES[:2], LEAVES[2:]])
def test_wanted_gradients(wanted: tuple[str, ...], device: str) -> None:
    inputs = _inputs(torch.float32, device)(torch.Generator().manual_seed(0))
    leaves = [inputs[name].requires_grad_() for name in wanted]
    grads = [
        torch.autograd.grad(out.square().sum() + other.sin().sum(), leaves)
        for out, other in (function(**inputs) for function in (fused, eager))
    ]
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-4, atol=1e-4)


def test_unused_results(device: str) -> None:
    inputs = _inputs(torch.float32, device)(torch.Generator().manual_seed(0))
    leaves = [inputs[name].requires_grad_() for name in LEAVES]
    for index in range(2):
        ours = torch.autograd.grad(fused(**inputs)[index].square().sum(), leaves)
        theirs = torch.autograd.grad(eager(**inputs)[index].square().sum(), leaves, materialize_grads=True)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_without_gradients(device: str) -> None:
    inputs = _inputs(torch.bfloat16, device)(torch.Generator().manual_seed(0))
    expected = fused(**inputs)
    inputs["query_weight"].requires_grad_()
    assert all(out.requires_grad for out in fused(**inputs))
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            outs = fused(**inputs)
        assert not any(out.requires_grad for out in outs)
        assert equal(outs, expected)


def test_tables_must_not_require_gradients(device: str) -> None:
    inputs = _inputs(torch.float32, device)(torch.Generator().manual_seed(0))
    for name in FROZEN:
        call = inputs | {name: inputs[name].clone().requires_grad_()}
        with pytest.raises(RuntimeError, match=f"^liger::norm_rope: {name} must not require a gradient"):
            fused(**call)


def _ones(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.ones(shape, dtype=dtype)


ERRORS: dict[str, tuple[dict[str, Tensor], str]] = {
    "dtype": (
        {"query": _ones(2, 4, 9, 8, dtype=torch.float64)},
        "query must be float32, bfloat16 or float16, got float64",
    ),
    "an odd head": (
        {"query": _ones(2, 4, 9, 7), "key": _ones(2, 2, 9, 7)},
        "query must have an even last dimension of at most 512, got shape [2, 4, 9, 7]",
    ),
    "a wide head": (
        {"query": _ones(1, 1, 1, 514), "key": _ones(1, 1, 1, 514)},
        "query must have an even last dimension of at most 512, got shape [1, 1, 1, 514]",
    ),
    "two other dims": (
        {"key": _ones(1, 2, 9, 8)},
        "key must have the shape of query [2, 4, 9, 8] but for one dimension, got shape [1, 2, 9, 8]",
    ),
    "a weight's shape": ({"query_weight": _ones(9)}, "query_weight must have shape [8], got [9]"),
    "a weight's dtype": (
        {"query_weight": _ones(8, dtype=torch.bfloat16)},
        "query_weight must be float32, got bfloat16",
    ),
    "another weight's dtype": (
        {
            "query": _ones(2, 4, 9, 8, dtype=torch.bfloat16),
            "key": _ones(2, 2, 9, 8, dtype=torch.bfloat16),
            "key_weight": _ones(8, dtype=torch.bfloat16),
        },
        "key_weight must be float32, got bfloat16",
    ),
    "sin's shape": ({"sin": _ones(1, 1, 9, 6)}, "sin must have shape [1, 1, 9, 8], got [1, 1, 9, 6]"),
}


@pytest.mark.parametrize(("wrong", "message"), ERRORS.values(), ids=ERRORS.keys())
def test_errors(wrong: dict[str, Tensor], message: str, device: str) -> None:
    right = {"query": _ones(2, 4, 9, 8), "key": _ones(2, 2, 9, 8), "cos": _ones(1, 1, 9, 8), "sin": _ones(1, 1, 9, 8)}
    weights = {"query_weight": _ones(8), "key_weight": _ones(8)}
    call = {name: tensor.to(device) for name, tensor in (right | weights | wrong).items()}
    with pytest.raises(RuntimeError) as error:
        fused(**call)
    assert str(error.value) == f"liger::norm_rope: {message}"


@pytest.mark.parametrize("weights", [False, True])
def test_opcheck(weights: bool, device: str) -> None:
    inputs = _inputs(torch.float32, device, length=9, head_dim=32)(torch.Generator().manual_seed(0))
    query, key = (tensor.detach().requires_grad_() for tensor in projections(torch.float32, device))
    pair = [inputs[name].requires_grad_() if weights else None for name in ("query_weight", "key_weight")]
    arguments = (query, key, *pair, inputs["cos"], inputs["sin"], EPS)
    torch.library.opcheck(ops.norm_rope, arguments)
    torch.library.opcheck(ops.norm_rope, arguments, {"contiguous_query": True, "weight_offset": 1.0})
    wanted = {"needs_query_weight_grad": weights, "needs_key_weight_grad": False, "weight_offset": 0.0}
    torch.library.opcheck(ops.norm_rope_backward, (query, key, *arguments), wanted)


@torch._dynamo.config.patch(error_on_recompile=True)  # one graph serves every length
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiles(backend: str, device: str) -> None:
    def run(query: Tensor, key: Tensor, **rest: Tensor) -> Tensor:
        out, other = fused(query * 2, key, **rest, contiguous_key=True)
        return torch.cat((out, other), dim=1).sin()

    torch._dynamo.reset()
    compiled = torch.compile(run, backend=backend, fullgraph=True, dynamic=True)
    for length in (5, 9):
        inputs = _inputs(torch.float32, device, length=length)(torch.Generator().manual_seed(length))
        leaves = [inputs[name].requires_grad_() for name in LEAVES]
        results = [function(**inputs) for function in (run, compiled)]
        torch.testing.assert_close(results[1], results[0])
        grads = [torch.autograd.grad(result.square().sum(), leaves) for result in results]
        torch.testing.assert_close(grads[1], grads[0])
