"""Rules and ops know each other by name only: every call that a rule writes must fit the schema of its op."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import liger_compile.ops  # noqa: F401

FIXTURES = Path(__file__).parents[1] / "rules" / "fixtures"
CALL = re.compile(r"^rewrite \S+ at \S+: liger::(\w+)\((.*)\) -> ", re.MULTILINE)


def split_arguments(text: str) -> list[str]:
    """The arguments of a printed call, split at the commas that no bracket encloses."""
    arguments, depth = [""], 0
    for character in text:
        depth += (character in "([") - (character in ")]")
        if character == "," and depth == 0:
            arguments.append("")
        else:
            arguments[-1] += character
    return [argument.strip() for argument in arguments]


def calls() -> dict[str, set[str]]:
    """The printed argument lists that the fixtures expect, by op."""
    found: dict[str, set[str]] = {}
    for fixture in FIXTURES.rglob("*.txt"):
        for op, arguments in CALL.findall(fixture.read_text()):
            found.setdefault(op, set()).add(arguments)
    return found


CALLS = calls()


@pytest.mark.parametrize("op", sorted(CALLS))
def test_every_call_fits_its_schema(op: str) -> None:
    schema = getattr(torch.ops.liger, op).default._schema
    positional = [argument for argument in schema.arguments if not argument.kwarg_only]
    names = {argument.name for argument in schema.arguments}
    required = sum(not argument.has_default_value() for argument in positional)
    for call in CALLS[op]:
        arguments = split_arguments(call)
        keywords = [argument.split("=", 1)[0] for argument in arguments if re.match(r"\w+=", argument)]
        assert set(keywords) <= names, f"{op}({call})"
        assert required <= len(arguments) - len(keywords) <= len(positional), f"{op}({call})"


def test_fixtures_hold_calls_of_every_front_op() -> None:
    assert set(CALLS) == {
        "rms_norm", "add_rms_norm", "rope", "norm_rope", "glu", "glu_packed", "cross_entropy", "linear_cross_entropy",
        "linear_cross_entropy_with_logits",
    }  # fmt: skip


def test_attention_is_called_as_torch_takes_it() -> None:
    """Not an op of ours, so there is no schema: its arguments are compared with the docstring's signature."""
    text = torch.nn.functional.scaled_dot_product_attention.__doc__ or ""
    names = set(re.findall(r"(\w+)=", text.split("->", maxsplit=1)[0]))
    found = 0
    for fixture in FIXTURES.rglob("*.txt"):
        for arguments in re.findall(
            r"^rewrite attention_mask at \S+: attention\((.*)\) -> ", fixture.read_text(), re.M
        ):
            keywords = {argument.split("=", 1)[0] for argument in split_arguments(arguments) if "=" in argument}
            assert keywords <= names, arguments
            found += 1
    assert found > 20
