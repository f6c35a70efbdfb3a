"""Attention masks of every origin: what is restored, and that the model computes as it does without us."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import liger_compile
from liger_compile.tiny_models import tiny_batch, tiny_config, tiny_model
from models.families import check_against_exact, compiled

Batch = dict[str, Tensor]


@pytest.fixture(autouse=True)
def fresh_dynamo() -> None:
    torch._dynamo.reset()
    liger_compile.reset()


def with_mask(hide: Callable[[Tensor], None]) -> Callable[[Batch], None]:
    def change(batch: Batch) -> None:
        mask = torch.ones_like(batch["input_ids"])
        hide(mask)
        batch["attention_mask"] = mask
        batch["labels"][mask == 0] = -100

    return change


def hide_left(mask: Tensor) -> None:
    mask[0, :5] = 0


def hide_right(mask: Tensor) -> None:
    mask[1, 10:] = 0


def hide_a_row(mask: Tensor) -> None:
    mask[0] = 0


def with_ranges(batch: Batch) -> None:
    sequence = batch["input_ids"].shape[1]
    batch["position_ids"] = torch.arange(sequence, device=batch["input_ids"].device).repeat(2, 1)


def with_documents(batch: Batch) -> None:
    with_ranges(batch)
    batch["position_ids"][0, 7:] -= 7
    batch["position_ids"][1, 12:] -= 12


CHANGES: dict[str, Callable[[Batch], None]] = {
    "nothing": lambda batch: None,
    "ones": with_mask(lambda mask: None),
    "left": with_mask(hide_left),
    "right": with_mask(hide_right),
    "row": with_mask(hide_a_row),
    "ranges": with_ranges,
    "documents": with_documents,
}


def batch_maker(model: Any, change: str, sequence: int = 16) -> Callable[[int], Batch]:
    def make(seed: int) -> Batch:
        batch = tiny_batch(model.config.get_text_config(), device=model.device, sequence=sequence, seed=seed)
        CHANGES[change](batch)
        return batch

    return make


# family, configuration, what is changed in the batch, in how many of two layers attention is restored
CASES: list[tuple[str, dict[str, Any], str, int]] = [
    ("llama", {"use_cache": False}, "nothing", 2),
    ("llama", {}, "ones", 2),
    ("llama", {}, "left", 2),
    ("llama", {}, "right", 2),
    ("llama", {}, "row", 2),
    ("llama", {"use_cache": False}, "ranges", 2),
    ("llama", {"use_cache": False}, "documents", 2),
    ("mistral", {"sliding_window": 6}, "nothing", 0),
    ("mistral", {"sliding_window": 6}, "left", 0),
    ("mistral", {"sliding_window": 16}, "ones", 2),
    ("gemma2", {"sliding_window": 6}, "nothing", 1),
    ("gemma2", {"sliding_window": 6}, "right", 1),
    ("gemma3_text", {"sliding_window": 6}, "nothing", 0),
    ("llama4_text", {"attention_chunk_size": 6}, "nothing", 0),
]


def check_case(case: tuple[str, dict[str, Any], str, int], dtype: torch.dtype, device: str) -> None:
    family, config, change, restored = case
    model = tiny_model(family, dtype, device, **config)
    fused = compiled(model, "aot_eager")
    make = batch_maker(model, change)
    with liger_compile.expect_rewrites(attention_mask=restored):
        fused(**make(0))
    check_against_exact(family, model, fused, make, pools_small=True, **config)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]} {case[1]} {case[2]}")
def test_a_mask_is_restored_and_right(case: tuple[str, dict[str, Any], str, int], device: str) -> None:
    check_case(case, torch.float32, device)


@pytest.mark.parametrize("case", CASES[:4], ids=lambda case: f"{case[0]} {case[1]} {case[2]}")
def test_in_half_precision(case: tuple[str, dict[str, Any], str, int], device: str) -> None:
    check_case(case, torch.bfloat16, device)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.parametrize("changes", [["ones", "left", "ones", "right"], ["row", "ones"]], ids="-".join)
def test_each_call_gets_the_form_that_it_needs(changes: list[str], checkpointing: bool, device: str) -> None:
    model = tiny_model("llama", device=device)
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    fused = compiled(model, "aot_eager")
    for change in changes:
        check_against_exact("llama", model, fused, batch_maker(model, change))
    details = [record.detail for record in liger_compile.report().rewrites if record.rule == "attention_mask"]
    assert len(details) == 2, "one report, of the first call's graph"
    assert all("where %l_kwargs_attention_mask_ hides nothing" in detail for detail in details)


@pytest.mark.parametrize("change", ["nothing", "ones", "left", "documents"])
def test_one_graph_serves_many_lengths(change: str, device: str) -> None:
    config = {"use_cache": False}
    model = tiny_model("llama", device=device, **config)
    fused = compiled(model, "aot_eager")
    for sequence in (16, 24, 18, 31):
        check_against_exact("llama", model, fused, batch_maker(model, change, sequence), **config)
    assert len(liger_compile.reports()) == 2, "one graph for the first length, one for all others"
    assert [report.counts["attention_mask"] for report in liger_compile.reports()] == [2, 2]


@pytest.mark.parametrize("dynamic", [None, True])
def test_under_inductor(dynamic: bool | None, device: str) -> None:
    model = tiny_model("llama", device=device)
    fused = compiled(model, "inductor", dynamic=dynamic)
    for change in ("ones", "left"):
        check_against_exact("llama", model, fused, batch_maker(model, change))


BLOCK_CASES: list[tuple[str, dict[str, Any], str]] = [
    ("llama", {}, "left"),
    ("llama", {}, "row"),
    ("llama", {"use_cache": False}, "documents"),
    ("mistral", {"sliding_window": 6}, "left"),
    ("gemma3_text", {"sliding_window": 6}, "nothing"),
    ("llama4_text", {"attention_chunk_size": 6}, "nothing"),
]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch compiles FlexAttention for")
@pytest.mark.parametrize("case", BLOCK_CASES, ids=lambda case: f"{case[0]} {case[1]} {case[2]}")
def test_hidden_blocks_are_skipped_on_cuda(case: tuple[str, dict[str, Any], str]) -> None:
    family, config, change = case
    model = tiny_model(family, torch.bfloat16, "cuda", **config)
    fused = compiled(model, "inductor")
    make = batch_maker(model, change)
    with liger_compile.expect_rewrites(attention_mask=2):
        fused(**make(0))
    check_against_exact(family, model, fused, make, **config)
    assert any("hidden blocks" in record.detail for record in liger_compile.report().rewrites)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch compiles FlexAttention for")
def test_hidden_blocks_of_many_lengths_on_cuda() -> None:
    config = {"use_cache": False}
    model = tiny_model("llama", torch.bfloat16, "cuda", **config)
    fused = compiled(model, "inductor")
    for sequence in (160, 200, 130, 310):
        check_against_exact("llama", model, fused, batch_maker(model, "left", sequence), **config)
    assert len(liger_compile.reports()) == 2


def test_autocast(device: str) -> None:
    model = tiny_model("llama", device=device)
    fused = compiled(model, "aot_eager")
    for change in ("nothing", "ones", "left"):
        with torch.autocast(device.split(":")[0], torch.bfloat16):
            check_against_exact("llama", model, fused, batch_maker(model, change), narrowest=torch.bfloat16)


@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_generate(cache: str, device: str) -> None:
    model = tiny_model("llama", device=device).eval()
    prompt = tiny_batch(model.config, device=device)["input_ids"]
    mask = torch.ones_like(prompt)
    mask[0, :4] = 0
    arguments = {"max_new_tokens": 6, "do_sample": False, "disable_compile": True}
    if cache == "static":
        arguments["cache_implementation"] = "static"
    for attention_mask in (torch.ones_like(prompt), mask):
        expected = model.generate(prompt, attention_mask=attention_mask, **arguments)
        forward = model.forward
        model.forward = torch.compile(forward, backend="liger", options={"inner": "aot_eager"})
        try:
            actual = model.generate(prompt, attention_mask=attention_mask, **arguments)
        finally:
            model.forward = forward
        assert torch.equal(actual, expected)


@pytest.mark.parametrize("inner", ["aot_eager", "inductor"])
def test_mask_functions_under_vmap(inner: str, device: str) -> None:
    """What transformers does with mask functions of a model's own: they run under vmap, for one position at a time."""
    from transformers.masking_utils import create_causal_mask

    config = tiny_config("llama")
    config._attn_implementation = "sdpa"

    def attention(query: Tensor, key: Tensor, value: Tensor, embeds: Tensor, documents: Tensor) -> Tensor:
        def same_document(batch: Tensor, head: Tensor, i: Tensor, j: Tensor) -> Tensor:
            return documents[batch, i] == documents[batch, j]

        arguments = {"attention_mask": None, "past_key_values": None, "and_mask_function": same_document}
        mask = create_causal_mask(config=config, inputs_embeds=embeds, **arguments)
        return torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)

    fused = torch.compile(attention, backend="liger", options={"inner": inner})
    tensors = [torch.randn(2, 4, 8, 16, device=device) for _ in range(3)]
    embeds = torch.randn(2, 8, 16, device=device)
    one, three = torch.zeros(2, 8, dtype=torch.int64), torch.tensor([[0, 0, 0, 1, 1, 1, 2, 2]] * 2)
    with liger_compile.expect_rewrites(attention_mask=1):
        for documents in (one, three, one):
            inputs = (*tensors, embeds, documents.to(device))
            torch.testing.assert_close(fused(*inputs), attention(*inputs))


@pytest.mark.parametrize(("queries", "keys"), [(16, 20), (20, 16), (1, 7), (130, 70), (70, 600)])
def test_torch_aligns_the_first_query_with_the_first_key(queries: int, keys: int, device: str) -> None:
    """What `is_causal` means where queries and keys differ in number is what the rule takes it to mean."""
    query, key = (torch.randn(2, 4, length, 16, device=device) for length in (queries, keys))
    value = torch.randn_like(key)
    mask = torch.arange(keys, device=device) <= torch.arange(queries, device=device)[:, None]
    attention = torch.nn.functional.scaled_dot_product_attention
    torch.testing.assert_close(
        attention(query, key, value, is_causal=True), attention(query, key, value, attn_mask=mask)
    )
