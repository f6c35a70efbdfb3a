"""Rotary position embedding: numerics against eager, layouts, registration, compilation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from rope_cases import DTYPES, FROZEN, LAYOUTS, eager_one, equal, heads_first, in_order, projections, strides, tables
from torch import Tensor

import liger_compile.ops  # noqa: F401
from numerics import assert_as_accurate_as_eager

fused = torch.ops.liger.rope
backward = torch.ops.liger.rope_backward


def eager(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    return eager_one(query, cos, sin), eager_one(key, cos, sin)


def _llama(
    dtype: torch.dtype,
    device: str,
    *,
    heads: tuple[int, int] = (4, 2),
    length: int = 7,
    head_dim: int = 64,
    rotary_dim: int | None = None,
    table_dtype: torch.dtype | None = None,
    table_batch: int = 2,
) -> Any:
    def make(generator: torch.Generator) -> dict[str, Tensor]:
        where = {"dtype": dtype, "device": device}
        table_shape = (table_batch, 1, length, rotary_dim or head_dim)
        cos, sin = tables(table_shape, generator, table_dtype or dtype, device)
        query = heads_first(2, heads[0], length, head_dim, generator, **where)
        key = heads_first(2, heads[1], length, head_dim, generator, **where)
        return {"query": query, "key": key, "cos": cos, "sin": sin}

    return make


def _check(make: Any) -> None:
    assert_as_accurate_as_eager(fused, eager, make, frozen=FROZEN)


@pytest.mark.parametrize("table_dtype", [None, torch.float32], ids=["same", "float32 tables"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_as_accurate_as_eager(dtype: torch.dtype, table_dtype: torch.dtype | None, device: str) -> None:
    _check(_llama(dtype, device, table_dtype=table_dtype))


@pytest.mark.parametrize("head_dim", [2, 6, 16, 20, 64, 80, 96, 128, 256, 576])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_head_dims(dtype: torch.dtype, head_dim: int, device: str) -> None:
    _check(_llama(dtype, device, head_dim=head_dim, heads=(3, 1), length=3))


@pytest.mark.parametrize(("head_dim", "rotary_dim"), [(64, 32), (80, 20), (96, 24), (128, 2), (67, 10), (128, 64)])
@pytest.mark.parametrize("table_dtype", [None, torch.float32], ids=["same", "float32 tables"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_partial(dtype: torch.dtype, table_dtype: Any, head_dim: int, rotary_dim: int, device: str) -> None:
    _check(_llama(dtype, device, head_dim=head_dim, rotary_dim=rotary_dim, table_dtype=table_dtype))


@pytest.mark.parametrize("heads", [(1, 1), (3, 3), (7, 1), (33, 11), (32, 8)], ids=str)
@pytest.mark.parametrize("length", [1, 3, 7, 33])
def test_heads_and_lengths(heads: tuple[int, int], length: int, device: str) -> None:
    _check(_llama(torch.bfloat16, device, heads=heads, length=length, head_dim=16))
    _check(_llama(torch.float32, device, heads=heads, length=length, head_dim=16, table_batch=1))


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_layouts(layout: Any, dtype: torch.dtype, device: str) -> None:
    query_shape, key_shape, table_shape, order = layout

    def make(generator: torch.Generator) -> dict[str, Tensor]:
        cos, sin = tables(table_shape, generator, dtype, device)
        tensors = [in_order(shape, order, generator, dtype=dtype, device=device) for shape in (query_shape, key_shape)]
        return {"query": tensors[0], "key": tensors[1], "cos": cos, "sin": sin}

    _check(make)
    inputs = make(torch.Generator().manual_seed(0))
    for ours, theirs in zip(fused(**inputs), eager(**inputs), strict=True):
        assert strides(ours) == strides(theirs)


@pytest.mark.parametrize("gap", [0, 1, 2, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_packed_projection(dtype: torch.dtype, gap: int, device: str) -> None:
    query, key = projections(dtype, device, gap)
    cos, sin = tables((1, 1, 9, 32), torch.Generator().manual_seed(0), dtype, device)
    expected = fused(query.contiguous(), key.contiguous(), cos, sin)
    for ours, same, theirs in zip(fused(query, key, cos, sin), expected, eager(query, key, cos, sin), strict=True):
        assert torch.equal(ours, same)
        assert ours.stride() == theirs.stride()


@pytest.mark.parametrize("gap", [0, 1, 4])
def test_tables_of_any_stride(gap: int, device: str) -> None:
    query, key = projections(torch.bfloat16, device)
    for dtype in (torch.float32, torch.bfloat16):
        cos, sin = tables((2, 1, 9, 33 + gap), torch.Generator().manual_seed(0), dtype, device)
        cos, sin = cos[..., gap : gap + 32], sin[..., gap : gap + 32]
        expected = fused(query, key, cos.contiguous(), sin.contiguous())
        assert equal(fused(query, key, cos, sin), expected)
        columns = cos.transpose(-1, -2).contiguous().transpose(-1, -2)
        assert equal(fused(query, key, columns, sin), expected)
        one, two = cos[:1], sin[:1].expand(2, 1, 9, 32)
        assert equal(fused(query, key, one.expand(2, 4, 9, 32)[:, :1], two), fused(query, key, one, two[:1]))


@pytest.mark.parametrize("rotary_dim", [32, 16])
@pytest.mark.parametrize("packed", [False, True])
def test_contiguous_results(packed: bool, rotary_dim: int, device: str) -> None:
    """The flags, against torch.cat as the last operation of partial and of full rotation."""
    if packed:
        query, key = projections(torch.float32, device)
    else:
        query, key, _, _ = _llama(torch.float32, device, head_dim=32, length=9)(
            torch.Generator().manual_seed(0)
        ).values()
    cos, sin = tables((1, 1, 9, rotary_dim), torch.Generator().manual_seed(0), torch.float32, device)
    plain = fused(query, key, cos, sin)
    joined = [torch.cat((x[..., :16], x[..., 16:]), dim=-1) for x in (query, key)]
    for query_flag, key_flag in ((True, True), (True, False), (False, True)):
        results = fused(query, key, cos, sin, contiguous_query=query_flag, contiguous_key=key_flag)
        assert equal(results, plain)
        for result, default, cat, flag in zip(results, plain, joined, (query_flag, key_flag), strict=True):
            assert result.stride() == (cat if flag else default).stride()


@pytest.mark.parametrize("shape", [(0, 4, 9, 32), (2, 0, 9, 32), (2, 4, 0, 32), (2, 4, 9, 0)], ids=str)
def test_empty(shape: tuple[int, ...], device: str) -> None:
    query = torch.empty(shape, device=device, requires_grad=True)
    key = torch.ones((*shape[:1], 2, *shape[2:]), device=device, requires_grad=True)
    cos = sin = torch.ones(1, 1, shape[2], shape[3], device=device)
    out, other = fused(query, key, cos, sin)
    assert out.shape == query.shape
    assert torch.equal(other, eager_one(key, cos, sin))
    (out.sum() + other.sum()).backward()
    assert query.grad.shape == query.shape
    assert key.grad.shape == key.shape


def test_no_rotation(device: str) -> None:
    query, key = torch.randn(2, 3, 8, device=device), torch.randn(2, 1, 8, device=device)
    none = torch.empty(2, 1, 0, device=device)
    assert equal(fused(query, key, none, none), (query, key))


def test_infinities_stay_where_they_are(device: str) -> None:
    query = torch.ones(3, 12, device=device)
    query[1, 11] = torch.inf
    cos, sin = tables((3, 8), torch.Generator().manual_seed(0), torch.float32, device)
    assert torch.isfinite(fused(query, query, cos, sin)[0]).sum() == 35


def test_gradients_have_the_layout_of_the_inputs(device: str) -> None:
    inputs = _llama(torch.bfloat16, device)(torch.Generator().manual_seed(0))
    cos, sin = inputs["cos"], inputs["sin"]
    packed = tuple(x.requires_grad_() for x in (inputs["query"], inputs["key"]))
    for tensors, flags in ((packed, {}), (packed, {"contiguous_query": True, "contiguous_key": True})):
        outs = fused(*tensors, cos, sin, **flags)
        grads = torch.autograd.grad(outs, tensors, [torch.randn_like(out).contiguous() for out in outs])
        for grad, tensor in zip(grads, tensors, strict=True):
            assert grad.transpose(1, 2).is_contiguous()
            assert grad.stride() == tensor.stride()


def test_unused_and_unwanted_gradients(device: str) -> None:
    inputs = _llama(torch.float32, device)(torch.Generator().manual_seed(0))
    query, key, cos, sin = inputs["query"].requires_grad_(), inputs["key"], inputs["cos"], inputs["sin"]
    (expected,) = torch.autograd.grad(eager_one(query, cos, sin).square().sum(), query)
    (only_query,) = torch.autograd.grad(fused(query, key, cos, sin)[0].square().sum(), query)
    torch.testing.assert_close(only_query, expected)
    key.requires_grad_()
    unused, wanted = torch.autograd.grad(fused(query, key, cos, sin)[1].square().sum(), (query, key))
    assert torch.equal(unused, torch.zeros_like(query))
    torch.testing.assert_close(wanted, torch.autograd.grad(eager_one(key, cos, sin).square().sum(), key)[0])


def test_second_derivatives(device: str) -> None:
    def slopes(function: Any, query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, ...]:
        out, other = function(query, key, cos, sin)
        first = torch.autograd.grad(
            (out**3).sum() + (out[:, :1] * other[:, :1] ** 2).sum(), (query, key), create_graph=True
        )
        return torch.autograd.grad(sum(grad.square().sum() for grad in first), (query, key))

    inputs = _llama(torch.float32, device, head_dim=16)(torch.Generator().manual_seed(0))
    query, key = inputs["query"].requires_grad_(), inputs["key"].requires_grad_()
    ours, theirs = (slopes(function, query, key, inputs["cos"], inputs["sin"]) for function in (fused, eager))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)


def test_without_gradients(device: str) -> None:
    inputs = _llama(torch.bfloat16, device)(torch.Generator().manual_seed(0))
    expected = fused(**inputs)
    inputs["query"].requires_grad_()
    assert all(out.requires_grad for out in fused(**inputs))
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            outs = fused(**inputs)
        assert not any(out.requires_grad for out in outs)
        assert equal(outs, expected)


def test_tables_must_not_require_gradients(device: str) -> None:
    inputs = _llama(torch.float32, device)(torch.Generator().manual_seed(0))
    for name in FROZEN:
        call = inputs | {name: inputs[name].clone().requires_grad_()}
        with pytest.raises(RuntimeError, match=f"^liger::rope: {name} must not require a gradient"):
            fused(**call)
        with torch.no_grad():
            fused(**call)


def _ones(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.ones(shape, dtype=dtype)


ERRORS: dict[str, tuple[dict[str, Tensor], str]] = {
    "dtype": (
        {"query": _ones(2, 4, 9, 8, dtype=torch.float64)},
        "query must be float32, bfloat16 or float16, got float64",
    ),
    "rank": ({"query": _ones(8)}, "query must have 2 to 4 dimensions, got shape [8]"),
    "key's dtype": ({"key": _ones(2, 2, 9, 8, dtype=torch.bfloat16)}, "key must be float32, got bfloat16"),
    "head_dim": (
        {"key": _ones(2, 2, 9, 16)},
        "key must have the rank and last dimension of query [2, 4, 9, 8], got shape [2, 2, 9, 16]",
    ),
    "table's dtype": (
        {"cos": _ones(1, 1, 9, 8, dtype=torch.bfloat16)},
        "cos must be float32, got bfloat16",
    ),
    "sin's dtype": ({"sin": _ones(1, 1, 9, 8, dtype=torch.float16)}, "sin must be float32, got float16"),
    "sin's shape": ({"sin": _ones(1, 1, 9, 6)}, "sin must have shape [1, 1, 9, 8], got [1, 1, 9, 6]"),
    "table's rank": (
        {"cos": _ones(9, 8)},
        "cos must have the rank of query [2, 4, 9, 8] and leading dimensions equal to its or 1, got shape [9, 8]",
    ),
    "a head of cos": (
        {"cos": _ones(1, 4, 9, 8)},
        "cos must have the rank of key [2, 2, 9, 8] and leading dimensions equal to its or 1, got shape [1, 4, 9, 8]",
    ),
    "odd": (
        {"cos": _ones(1, 1, 9, 7)},
        "cos must have an even last dimension of at most 8, the last one of query, got shape [1, 1, 9, 7]",
    ),
    "wide": (
        {"cos": _ones(1, 1, 9, 10)},
        "cos must have an even last dimension of at most 8, the last one of query, got shape [1, 1, 9, 10]",
    ),
}


@pytest.mark.parametrize(("wrong", "message"), ERRORS.values(), ids=ERRORS.keys())
def test_errors(wrong: dict[str, Tensor], message: str, device: str) -> None:
    right = {"query": _ones(2, 4, 9, 8), "key": _ones(2, 2, 9, 8), "cos": _ones(1, 1, 9, 8), "sin": _ones(1, 1, 9, 8)}
    call = {name: tensor.to(device) for name, tensor in (right | wrong).items()}
    with pytest.raises(RuntimeError) as error:
        fused(**call)
    assert str(error.value) == f"liger::rope: {message}"


def test_wrong_order(device: str) -> None:
    x = torch.ones(3, 8, device=device)
    with pytest.raises(RuntimeError) as error:
        backward(x, x, x, x, key_order=[1, 1])
    expected = "key_order must be empty or a permutation of the 2 dimensions, got [1, 1]"
    assert str(error.value) == f"liger::rope_backward: {expected}"


@pytest.mark.parametrize("packed", [False, True])
def test_opcheck(packed: bool, device: str) -> None:
    inputs = _llama(torch.float32, device, length=9, head_dim=32)(torch.Generator().manual_seed(0))
    query, key = projections(torch.float32, device) if packed else (inputs["query"], inputs["key"])
    query, key = query.detach().requires_grad_(), key.detach().requires_grad_()
    tables = inputs["cos"], inputs["sin"]
    torch.library.opcheck(fused, (query, key, *tables))
    torch.library.opcheck(fused, (query, key, *tables), {"contiguous_query": True, "contiguous_key": True})
    torch.library.opcheck(backward, (query, key, *tables), {"query_order": [0, 2, 1, 3], "key_order": [2, 0, 1, 3]})
    torch.library.opcheck(backward, (query, key, *tables))
    torch.library.opcheck(fused, (query.detach(), key.detach(), *tables))


@torch._dynamo.config.patch(error_on_recompile=True)  # one graph serves every length
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiles(backend: str, device: str) -> None:
    def run(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        out, other = fused(query * 2, key, cos, sin, contiguous_key=True)
        return torch.cat((out, other), dim=1).sin()

    torch._dynamo.reset()
    compiled = torch.compile(run, backend=backend, fullgraph=True, dynamic=True)
    for length in (5, 9):
        inputs = _llama(torch.float32, device, length=length)(torch.Generator().manual_seed(length))
        tensors = [inputs["query"].requires_grad_(), inputs["key"].requires_grad_()]
        results = [function(**inputs) for function in (run, compiled)]
        torch.testing.assert_close(results[1], results[0])
        grads = [torch.autograd.grad(result.square().sum(), tensors) for result in results]
        torch.testing.assert_close(grads[1], grads[0])
