"""Attention by blocks of its mask: the blocks themselves, the result against plain attention, and where it is used."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

import liger_compile
from liger_compile import rewriting, variants
from liger_compile.apply import Plan, apply_plans
from liger_compile.block_attention import block_attention, blocks
from numerics import check_pooled

BLOCK = 128


@pytest.fixture(autouse=True)
def fresh() -> None:
    torch._dynamo.reset()
    liger_compile.reset()


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the CPU had the kernels: under aot_eager the operator computes all scores, and hides by the mask."""
    monkeypatch.setattr(rewriting, "_block_attention_device", lambda settings: "cpu")


def positions(queries: int, keys: int) -> tuple[Tensor, Tensor]:
    return torch.arange(queries)[:, None], torch.arange(keys)


def random_mask(kind: str, queries: int, keys: int) -> Tensor:
    query, key = positions(queries, keys)
    generator = torch.Generator().manual_seed(queries)
    sparse = torch.rand(2, 3, queries, keys, generator=generator) > 0.9995
    return {
        "causal": (key <= query)[None, None],
        "window": ((key <= query) & (key > query - 150)).expand(2, 1, -1, -1),
        "sparse": sparse,
        "nothing": torch.zeros(2, 1, queries, keys, dtype=torch.bool),
        "everything": torch.ones(1, 3, queries, keys, dtype=torch.bool),
    }[kind]


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (128, 128), (129, 300), (384, 256), (500, 77)])
@pytest.mark.parametrize("kind", ["causal", "window", "sparse", "nothing", "everything"])
def test_blocks_are_those_of_the_mask(kind: str, queries: int, keys: int) -> None:
    mask = random_mask(kind, queries, keys)
    rows, columns = -(-queries // BLOCK), -(-keys // BLOCK)
    padded = torch.zeros(*mask.shape[:2], rows * BLOCK, columns * BLOCK, dtype=torch.bool)
    padded[..., :queries, :keys] = mask
    found = blocks(mask)
    assert all(tensor.is_contiguous() for tensor in found), "kernels read them as if they were"
    listed = [{"partial": _sets(*found[i : i + 2]), "whole": _sets(*found[i + 2 : i + 4])} for i in (0, 4)]
    for (batch, head, row, column), tile in _tiles(padded):
        state = "whole" if tile.all() else "partial" if tile.any() else "hidden"
        batch, head = min(batch, listed[0]["whole"].shape[0] - 1), min(head, listed[0]["whole"].shape[1] - 1)
        for name in ("partial", "whole"):
            assert (column in listed[0][name][batch, head, row]) == (state == name)
            assert (row in listed[1][name][batch, head, column]) == (state == name)


def _tiles(padded: Tensor) -> Any:
    tiles = padded.unflatten(3, (-1, BLOCK)).unflatten(2, (-1, BLOCK)).transpose(3, 4)
    for index in torch.cartesian_prod(*map(torch.arange, tiles.shape[:4])).reshape(-1, 4).tolist():
        yield tuple(index), tiles[tuple(index)]


def _sets(counts: Tensor, indices: Tensor) -> Any:
    """An array of the sets of indices that count."""
    import numpy

    assert counts.dtype == indices.dtype == torch.int32
    array = numpy.empty(counts.shape, dtype=object)
    for place in numpy.ndindex(*counts.shape):
        array[place] = set(indices[place][: counts[place]].tolist())
    return array


def leaves(dtype: torch.dtype, heads: int = 4, key_heads: int = 2, length: int = 150, dim: int = 16) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(2, length, count, dim, generator=generator, dtype=dtype).transpose(1, 2).detach().requires_grad_()
        for count in (heads, key_heads, key_heads)
    ]


@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("shape", [(1, 1), (2, 1), (1, 4), (2, 4)])
def test_the_result_is_that_of_attention_with_the_mask(shape: tuple[int, int], scale: float | None) -> None:
    tensors = leaves(torch.float64)
    query, key = positions(150, 150)
    mask = (torch.rand(*shape, 150, 150) > 0.5) & (key <= query)
    mask[0, 0, 7] = False  # a query that sees nothing
    if scale is not None:
        mask = mask.expand(2, 4, -1, -1)
    ours = block_attention(*tensors, mask, blocks(mask), scale=scale)
    expected = scaled_dot_product_attention(*tensors, attn_mask=mask, scale=scale, enable_gqa=True)
    torch.testing.assert_close(ours, expected)
    assert ours.stride() == tensors[0].stride()
    gradient = torch.randn_like(expected)
    for actual, wanted in zip(*(torch.autograd.grad(out, tensors, gradient) for out in (ours, expected)), strict=True):
        torch.testing.assert_close(actual, wanted)


def layers(query: Tensor, key: Tensor, value: Tensor, padding: Tensor, window: int) -> Tensor:
    """Two layers of attention with one mask."""
    length, repeats = query.shape[2], query.shape[1] // key.shape[1]
    position = torch.arange(length, device=query.device)
    mask = (position <= position[:, None]) & (position > position[:, None] - window)
    mask = mask[None, None] & padding.bool()[:, None, None, :]

    def repeated(heads: Tensor) -> Tensor:
        batch, count, _, dim = heads.shape
        return heads[:, :, None].expand(batch, count, repeats, length, dim).reshape(batch, -1, length, dim)

    for _ in range(2):
        query = scaled_dot_product_attention(query, repeated(key), repeated(value), attn_mask=mask)
    return query


def check(function: Any, tensors: list[Tensor], padding: Tensor, window: int) -> None:
    """Output and gradients have the error against float64 that attention as it is written has, or less."""
    exact = [tensor.detach().double().requires_grad_() for tensor in tensors]
    gradient = torch.randn(tensors[0].shape, generator=torch.Generator().manual_seed(1)).to(tensors[0])
    runs = []
    for attention, inputs in ((layers, exact), (layers, tensors), (function, tensors)):
        output = attention(*inputs, padding, window)
        runs.append((output, *torch.autograd.grad(output, inputs, gradient.to(output.dtype))))
    for name, *values in zip(("output", "query", "key", "value"), *runs, strict=True):
        check_pooled(name, [tuple(values)], tensors[0].dtype, only_rms=True)


def padded(hidden: int, length: int = 150) -> Tensor:
    mask = torch.ones(2, length, dtype=torch.int64)
    mask[1, :hidden] = 0
    return mask


def compiled(inner: str = "aot_eager", **arguments: Any) -> Any:
    return torch.compile(
        layers, backend="liger", options={"inner": inner, "rewrite": "all", "strict": True}, **arguments
    )


def test_a_window_is_computed_by_blocks_that_the_layers_share(on_cpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    rewritten: list[torch.fx.GraphModule] = []

    def applied(gm: torch.fx.GraphModule, plans: list[Plan]) -> None:
        apply_plans(gm, plans)
        rewritten.append(gm)

    monkeypatch.setattr(rewriting, "apply_plans", applied)
    check(compiled(), leaves(torch.bfloat16), padded(5), 40)
    called = [node.target for node in rewritten[0].graph.nodes if node.op == "call_function"]
    assert called.count(blocks) == 1
    assert called.count(block_attention) == 2
    assert scaled_dot_product_attention not in called
    details = [record.detail for record in liger_compile.report().rewrites]
    assert (
        details
        == [
            "skipping hidden blocks (causal, window of 40, padding %l_padding_), grouped heads, bfloat16[2, 4, 150, 16]"
        ]
        * 2
    )


def test_calls_in_which_a_mask_hides_something_go_by_blocks(on_cpu: None) -> None:
    function = compiled()
    for hidden in (0, 5, 0, 149):
        check(function, leaves(torch.bfloat16), padded(hidden), 150)
    details = [record.detail for record in liger_compile.report().rewrites]
    assert all(text.endswith("where %l_padding_ hides nothing, else skipping hidden blocks") for text in details)


@pytest.mark.parametrize("first", [0, 5])
def test_one_graph_serves_many_lengths(on_cpu: None, first: int) -> None:
    function = compiled()
    for length, hidden in ((150, first), (200, first), (170, 5), (131, 0), (300, 7)):
        check(function, leaves(torch.bfloat16, length=length), padded(hidden, length), length)
    assert len(liger_compile.reports()) == 2


@pytest.mark.parametrize(("length", "count"), [(127, 0), (128, 2)])
def test_auto_skips_blocks_where_there_are_enough_queries(on_cpu: None, length: int, count: int) -> None:
    function = torch.compile(layers, backend="liger", options={"inner": "aot_eager", "strict": True})
    check(function, leaves(torch.bfloat16, length=length), padded(5, length), 40)
    assert liger_compile.report().counts["attention_mask"] == count


def test_other_dtypes_and_devices_stay_as_written() -> None:
    check(compiled(), leaves(torch.bfloat16), padded(5), 40)
    assert liger_compile.report().counts["attention_mask"] == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch compiles FlexAttention for")
@pytest.mark.parametrize("window", [100, 500])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("dim", [16, 64, 80, 96, 128, 256])
def test_on_cuda_under_inductor(dim: int, dtype: torch.dtype, window: int) -> None:
    tensors = [tensor.detach().cuda().requires_grad_() for tensor in leaves(dtype, 4, 2, 500, dim)]
    check(compiled("inductor"), tensors, padded(150, 500).cuda(), window)
    assert liger_compile.report().counts["attention_mask"] == 2


def test_blocks_that_need_more_guards_give_way_to_what_is_written(
    on_cpu: None, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    function = compiled()
    check(function, leaves(torch.bfloat16), padded(0), 150)
    ignored = iter((0, 1, 1, 1))  # before and after: first by blocks, then as written
    monkeypatch.setattr(variants, "_ignored_guards", lambda shape_env: next(ignored))
    check(function, leaves(torch.bfloat16), padded(5), 150)
    assert next(ignored, None) is None
    assert not [str(warning.message) for warning in recwarn if "uncompiled" in str(warning.message)]
