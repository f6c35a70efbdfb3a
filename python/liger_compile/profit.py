"""Where rewrites that are right also pay: what rewrite="auto" asks of each."""

from __future__ import annotations

from collections.abc import Sequence

# The fewest elements of a result for which a rule's call is worth its cost to the host: a call of an op takes the host
# longer than the launch of a Triton kernel, and where the host is what a step waits for, nothing makes up for that.
# From here on the device has more to do than the host (bench/step_lengths.py on an H100, a Llama of the 1B shape).
_FEWEST_ELEMENTS = {"rms_norm": 2**22, "rope": 2**22, "norm_rope": 2**22, "glu": 2**23}


def why_left(rule: str, shapes: Sequence[Sequence[object]], device_type: str, inner: str) -> str:
    """Why a rewrite is left to the inner compiler, a sentence; empty where it pays.

    Args:
        rule: the name of its rule.
        shapes: of the results that it replaces; sizes that are no ints are not known, and taken to be large.
        device_type: where they are computed, as "cuda".
        inner: the backend that compiles the rewritten graph.
    """
    fewest = _FEWEST_ELEMENTS.get(rule, 0)
    if device_type != "cuda" or inner != "inductor" or not fewest:
        return ""
    elements = max(_elements(shape) or fewest for shape in shapes)
    if elements >= fewest:
        return ""
    text = f"left to {inner}, which is faster for {elements:,} elements, fewer than {fewest:,}"
    return f"{text}; rewrite='all' rewrites it all the same"


def _elements(shape: Sequence[object]) -> int | None:
    """None where a size is not known."""
    product = 1
    for size in shape:
        if not isinstance(size, int):
            return None
        product *= size
    return product
