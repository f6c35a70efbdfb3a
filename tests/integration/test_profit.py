"""Which rewrites rewrite="auto" leaves to the inner compiler."""

from __future__ import annotations

import pytest

from liger_compile.profit import why_left

TOO_FEW = "left to inductor, which is faster for 4,194,303 elements, fewer than 4,194,304; rewrite='all' rewrites"
LARGE, SMALL = (2048, 2048), (1, 2**22 - 1)


@pytest.mark.parametrize(
    ("rule", "shapes", "device_type", "inner", "reason"),
    [
        ("rms_norm", [SMALL], "cuda", "inductor", TOO_FEW),
        ("rms_norm", [LARGE], "cuda", "inductor", ""),
        ("rope", [SMALL, (1, 1, 8, 64)], "cuda", "inductor", TOO_FEW),
        ("rope", [LARGE, SMALL], "cuda", "inductor", ""),
        ("norm_rope", [SMALL, (1, 1, 8, 64)], "cuda", "inductor", TOO_FEW),
        ("norm_rope", [LARGE, SMALL], "cuda", "inductor", ""),
        ("glu", [LARGE], "cuda", "inductor", "left to inductor, which is faster for 4,194,304 elements"),
        ("glu", [(2048, 4096)], "cuda", "inductor", ""),
        ("rms_norm", [SMALL], "cpu", "inductor", ""),
        ("rms_norm", [SMALL], "cuda", "aot_eager", ""),
        ("attention_mask", [SMALL], "cuda", "inductor", ""),
        ("linear_cross_entropy", [()], "cuda", "inductor", ""),
    ],
)
def test_why_left(rule: str, shapes: list[tuple[int, ...]], device_type: str, inner: str, reason: str) -> None:
    text = why_left(rule, shapes, device_type, inner)
    assert text.startswith(reason) and bool(text) == bool(reason)


def test_unknown_sizes_are_taken_to_be_large() -> None:
    unknown: object = type("SymInt", (), {})()
    assert why_left("rms_norm", [(unknown, 64)], "cuda", "inductor") == ""
