"""The dry run, on plain modules and on transformers models, and its text."""

import re

import pytest
import torch
from small_models import Plain, batch, block

import liger_compile
from liger_compile.tiny_models import tiny_batch, tiny_model


def test_reads_without_compiling_or_changing() -> None:
    model = block()
    expected = model(batch())
    report = liger_compile.explain(model, batch())
    assert report.counts == {"rms_norm": 1, "glu": 1}
    assert liger_compile.reports() == []
    assert torch.equal(model(batch()), expected)


def test_functions_keyword_arguments_and_compiled_models() -> None:
    model = block()
    assert liger_compile.explain(lambda x: model(x), x=batch()).counts["glu"] == 1
    compiled = torch.compile(model, backend="liger", options={"inner": "eager"})
    compiled(batch())
    assert liger_compile.explain(compiled, batch()).counts["glu"] == 1


def test_can_be_repeated_and_followed_by_a_compilation() -> None:
    model = block()
    for _ in range(2 + torch._dynamo.config.recompile_limit):
        assert liger_compile.explain(model, batch()).graphs == 1
    with liger_compile.expect_rewrites(rms_norm=1, glu=1):
        torch.compile(model, backend="liger", options={"inner": "eager"})(batch())


def test_graph_breaks_give_several_graphs() -> None:
    first, second = block(), block()

    def broken(x: torch.Tensor) -> torch.Tensor:
        x = first(x)
        torch._dynamo.graph_break()
        return second(x)

    report = liger_compile.explain(broken, batch())
    assert (report.graphs, report.counts) == (2, {"rms_norm": 2, "glu": 2})


def test_a_model_with_nothing_to_rewrite() -> None:
    report = liger_compile.explain(Plain(), batch())
    assert report.counts == {}
    assert str(report).startswith("liger-compile: 1 graph of ")
    assert "\nNever seen: " in str(report)


def test_rewriting_what_is_rewritten_finds_nothing_more() -> None:
    model = block()
    gm = torch.fx.symbolic_trace(model)
    assert liger_compile.explain(gm, batch()).counts == {"rms_norm": 1, "glu": 1}


@pytest.mark.parametrize("checkpointing", [False, True])
def test_text_of_a_two_layer_llama(checkpointing: bool) -> None:
    model = tiny_model("llama", torch.bfloat16, use_cache=False)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    report = liger_compile.explain(model, **tiny_batch(model.config))
    assert report.counts == {"rms_norm": 5, "rope": 2, "glu": 2, "linear_cross_entropy": 1, "attention_mask": 2}
    assert (report.near_misses, report.declined, report.failures) == ([], [], ())
    lines = str(report).split("\n")
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 120
    places = [re.split(r"\s{2,}", line.strip())[0] for line in lines if ".py:" in line]
    assert "model.layers.{0..1}.mlp" in places
    assert "model.layers.{0..1}.self_attn" in places
