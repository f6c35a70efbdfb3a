"""The report's text, JSON and files, and `expect_rewrites`."""

import json
import threading
from pathlib import Path

import pytest
import torch
from small_models import batch, block

import liger_compile
from liger_compile.reporting import Failure, Kind, Record, Report, add, merge


def record(
    rule: str, path: str, detail: str = "", reason: str = "", kind: Kind = "rewritten", node: str = "mul"
) -> Record:
    return Record(rule, kind, node, path, "/site/modeling_llama.py:67", detail, reason, 7)


def two_layers() -> Report:
    norms = [record("rms_norm", "model.layers.0.input_layernorm", "rms_norm, bfloat16 [2, 16, 64], eps 1e-05")]
    norms += [
        record(
            "rms_norm",
            f"model.layers.{layer}.post_attention_layernorm",
            "rms_norm + residual add, bfloat16 [2, 16, 64]",
        )
        for layer in range(2)
    ]
    misses = [
        record(
            "rope",
            f"model.layers.{layer}.self_attn",
            reason=f"%cat_{layer + 3} (cat) is also used by %neg_{layer}",
            kind="near_miss",
            node=f"add_{layer}",
        )
        for layer in range(2)
    ]
    refused = [
        record("glu", "model.layers.1.mlp", reason="%gate has dtype float64, which no kernel takes", kind="declined")
    ]
    return Report(
        records=(*norms, *misses, *refused),
        failures=(Failure("cross_entropy", "RuntimeError: out of range"),),
        rules=("rms_norm", "rope", "glu", "cross_entropy", "linear_cross_entropy"),
        graphs=1,
        nodes=391,
    )


def test_text() -> None:
    assert (
        str(two_layers())
        == """\
liger-compile: 1 graph of 391 nodes, 3 patterns rewritten (21 nodes)
  rms_norm 3

Rewritten
  model.layers.0.input_layernorm                modeling_llama.py:67  rms_norm, bfloat16 [2, 16, 64], eps 1e-05
  model.layers.{0..1}.post_attention_layernorm  modeling_llama.py:67  rms_norm + residual add, bfloat16 [2, 16, 64]

Near misses
  rope at %add_0, model.layers.{0..1}.self_attn (modeling_llama.py:67)
    %cat_3 (cat) is also used by %neg_0

Declined
  glu at %mul, model.layers.1.mlp (modeling_llama.py:67)
    %gate has dtype float64, which no kernel takes

Failed inside, left as written
  cross_entropy: RuntimeError: out of range

Never seen: cross_entropy, linear_cross_entropy"""
    )


def test_text_of_nothing() -> None:
    assert str(liger_compile.report()) == "liger-compile: no graph was compiled"


def test_layers_that_are_not_in_a_row_and_repeated_places() -> None:
    records = [record("glu", f"layers.{layer}.mlp", "glu") for layer in (0, 1, 4, 6, 7, 8)]
    records += [record("rope", "attention", "rope")] * 3
    text = str(Report(tuple(records), graphs=2, nodes=10))
    assert "  layers.{0..1,4,6..8}.mlp  modeling_llama.py:67  glu\n" in text
    assert text.endswith("  attention                 modeling_llama.py:67  rope  (x3)")


def test_no_line_is_too_long() -> None:
    long = record("glu", "model." + "very_long_name." * 9 + "mlp", "glu silu, " + "x" * 90)
    miss = record("rope", long.module_path, reason="a reason of many words " * 20, kind="near_miss")
    lines = str(Report((long, miss), graphs=1, nodes=10)).split("\n")
    assert max(map(len, lines)) <= 120


def test_json() -> None:
    content = json.loads(two_layers().to_json())
    assert content["counts"] == {"rms_norm": 3}
    assert [len(content[kind]) for kind in ("rewrites", "near_misses", "declined", "failures")] == [3, 2, 1, 1]
    assert content["near_misses"][1]["node"] == "add_1"
    assert content["never_seen"] == ["cross_entropy", "linear_cross_entropy"]


def test_save_by_suffix(tmp_path: Path) -> None:
    report = two_layers()
    report.save(tmp_path / "report.txt")
    report.save(str(tmp_path / "report.json"))
    assert (tmp_path / "report.txt").read_text() == str(report) + "\n"
    assert json.loads((tmp_path / "report.json").read_text())["nodes"] == 391
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.json", "report.txt"]
    with pytest.raises(ValueError, match=r"HTML reports are not in this version, use \.txt or \.json"):
        report.save(tmp_path / "report.html")


def test_counts_of_rules_without_rewrites_are_zero() -> None:
    assert two_layers().counts == {"rms_norm": 3}
    assert two_layers().counts["rope"] == 0


def test_merge() -> None:
    merged = merge([two_layers(), two_layers()])
    assert (merged.graphs, merged.nodes, merged.counts) == (2, 782, {"rms_norm": 6})
    assert merged.rules == two_layers().rules


def test_reports_of_threads_are_all_kept() -> None:
    threads = [threading.Thread(target=lambda: [add(Report(graphs=1)) for _ in range(200)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert liger_compile.report().graphs == 800
    liger_compile.reset()
    assert liger_compile.reports() == []


def test_expect_rewrites_counts_what_is_compiled_inside() -> None:
    add(two_layers())
    compiled = torch.compile(block(), backend="liger", options={"inner": "eager"})
    with liger_compile.expect_rewrites(rms_norm=1, glu=1, rope=0):
        compiled(batch())


def test_expect_rewrites_raises_with_the_report() -> None:
    with pytest.raises(AssertionError) as raised, liger_compile.expect_rewrites(rms_norm=5, rope=0, glu=2):
        add(two_layers())
    assert (
        str(raised.value)
        == f"rewrites differ: rms_norm: expected 5, actual 3; glu: expected 2, actual 0\n\n{two_layers()}"
    )


def test_expect_rewrites_where_nothing_is_compiled() -> None:
    with pytest.raises(AssertionError) as raised, liger_compile.expect_rewrites(rope=1):
        pass
    assert str(raised.value) == "rewrites differ: rope: expected 1, actual 0\n\nliger-compile: no graph was compiled"


def test_expect_rewrites_leaves_other_exceptions_alone() -> None:
    with pytest.raises(KeyError), liger_compile.expect_rewrites(rope=1):
        raise KeyError


def test_expect_rewrites_of_an_unknown_rule() -> None:
    with (
        pytest.raises(ValueError, match="expect_rewrites: there is no rule 'norm'"),
        liger_compile.expect_rewrites(norm=1),
    ):
        pass
