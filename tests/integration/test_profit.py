"""Which rewrites rewrite="auto" leaves to the inner compiler, and what the report says of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import batch, block

import liger_compile
from liger_compile import profit
from liger_compile.options import INNER
from liger_compile.profit import Verdict, most_elements, weigh
from liger_compile.rewriting import rule_names

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
NOT_WEIGHED = Verdict(True)
MEASURED = "(measured on A GPU)"
ALL_THE_SAME = "rewrite='all' rewrites it all the same"


def entry(fewest: int | None) -> dict[str, Any]:
    return {"fewest_elements": fewest, "sizes": {}}


TABLES = {
    "sm_1": {"device": "A GPU", "inductor": {"rms_norm": entry(4096), "rope": entry(0), "glu": entry(None)}},
    "other": {"inductor": {"rms_norm": entry(2**24), "cross_entropy": entry(0)}},
}


@pytest.fixture
def set_family(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A device of that family, whose costs are those above."""
    monkeypatch.setattr(profit, "table", lambda family: TABLES.get(family, {}))
    return lambda family: monkeypatch.setattr(profit, "device_family", lambda device: family)


@pytest.mark.parametrize(
    ("rule", "elements", "pays", "ground"),
    [
        (
            "rms_norm",
            4095,
            False,
            f"left to inductor, which is faster for 4,095 elements, fewer than 4,096 {MEASURED}; {ALL_THE_SAME}",
        ),
        ("rms_norm", 4096, True, f"rewritten from 4,096 elements on {MEASURED}"),
        ("rms_norm", None, True, f"rewritten from 4,096 elements on {MEASURED}"),
        ("rope", 1, True, f"rewritten at any size {MEASURED}"),
        ("glu", 2**30, False, f"left to inductor, which is faster at all sizes {MEASURED}; {ALL_THE_SAME}"),
        ("glu", None, False, f"left to inductor, which is faster at all sizes {MEASURED}; {ALL_THE_SAME}"),
        ("cross_entropy", 1, True, "rewritten at any size (not measured on this device)"),
    ],
)
def test_a_device_with_measurements(
    set_family: Callable[[str], None], rule: str, elements: int | None, pays: bool, ground: str
) -> None:
    set_family("sm_1")
    assert weigh(rule, elements, CUDA, "inductor") == Verdict(pays, ground)


@pytest.mark.parametrize("family", ["sm_2", ""])
def test_a_device_without(set_family: Callable[[str], None], family: str) -> None:
    set_family(family)
    text = "left to inductor, which may be faster for 4,096 elements, fewer than 16,777,216 (not measured on this"
    verdict = weigh("rms_norm", 4096, CUDA, "inductor")
    assert not verdict.pays and verdict.ground.startswith(text)
    assert weigh("cross_entropy", 1, CUDA, "inductor").pays


@pytest.mark.parametrize(("device", "inner"), [(CPU, "inductor"), (CUDA, "aot_eager"), (CUDA, "eager")])
def test_where_nothing_is_weighed(set_family: Callable[[str], None], device: torch.device, inner: str) -> None:
    set_family("sm_1")
    assert weigh("glu", 1, device, inner) == NOT_WEIGHED


def test_most_elements() -> None:
    assert most_elements([(), (2, 3), (4,)]) == 6
    assert most_elements([()]) == 1
    assert most_elements([(2, 3), (type("SymInt", (), {})(), 64)]) is None


@pytest.mark.parametrize("path", sorted((Path(profit.__file__).parent / "costs").glob("*.json")), ids=lambda p: p.stem)
def test_the_tables_of_the_package(path: Path) -> None:
    content = profit.table(path.stem)
    assert path.stem == "other" or {"device", "torch", "found_by"} <= set(content)
    for costs in (content[inner] for inner in INNER if inner in content):
        assert set(costs) <= set(rule_names())
        for cost in costs.values():
            fewest = cost["fewest_elements"]
            slower = [int(n) for n, size in cost["sizes"].items() if size["times_as_fast"] < 1 - size["spread"]]
            assert fewest is None or fewest > max(slower, default=-1)
    assert path.stem != "other" or set(content["inductor"]) == set(rule_names())


def test_a_device_that_is_not_there_has_no_family() -> None:
    assert profit.device_family(CPU) == ""
    family = profit.device_family(CUDA)
    assert bool(family) == torch.cuda.is_available()


def test_the_report_says_what_was_weighed(monkeypatch: pytest.MonkeyPatch) -> None:
    def weighed(rule: str, elements: int | None, device: torch.device, inner: str) -> Verdict:
        return Verdict(rule != "glu", f"the ground of {elements}")

    monkeypatch.setattr("liger_compile.rewriting.weigh", weighed)
    x = batch()
    torch.compile(block(), backend="liger", options={"inner": "eager"})(x)
    report = liger_compile.report()
    assert report.counts == {"rms_norm": 1}
    assert [(r.rule, r.elements, r.ground) for r in report.rewrites] == [
        ("rms_norm", x.numel(), f"the ground of {x.numel()}")
    ]
    assert [(r.rule, r.reason) for r in report.declined] == [("glu", f"the ground of {report.declined[0].elements}")]
    assert f"\nWeighed\n  rms_norm: the ground of {x.numel()}\n" in str(report)


def test_a_loss_is_weighed_by_its_logits() -> None:
    def loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(logits.float(), target)

    def loss_of_head(x: torch.Tensor, weight: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return loss(x @ weight.t(), target)

    target = torch.zeros(6, dtype=torch.int64)
    report = liger_compile.explain(loss, torch.randn(6, 40, requires_grad=True), target)
    assert [(r.rule, r.elements) for r in report.rewrites] == [("cross_entropy", 240)]
    report = liger_compile.explain(loss_of_head, torch.randn(6, 8, requires_grad=True), torch.randn(40, 8), target)
    assert [(r.rule, r.elements) for r in report.rewrites] == [("linear_cross_entropy", 240)]
