"""Options, their environment variables, and the exact text of every refusal."""

from typing import Any

import pytest
import torch
from small_models import batch, block

import liger_compile
from liger_compile.options import OptionError, Options, parse_options
from liger_compile.rewriting import rule_names

RULES = ", ".join(rule_names())


def refusal(**options: Any) -> str:
    with pytest.raises(OptionError) as raised:
        parse_options(None, options, {})
    return str(raised.value)


def test_defaults() -> None:
    assert parse_options(None, None, {}) == Options("inductor", "auto", (), "auto", None, False, None, {})


def test_the_rest_goes_to_inductor() -> None:
    options = {"rewrite": "all", "max_autotune": True, "triton.cudagraphs": False, "epilogue-fusion": True}
    parsed = parse_options(None, options, {})
    assert parsed.rewrite == "all"
    assert parsed.inductor == {"max_autotune": True, "triton.cudagraphs": False, "epilogue_fusion": True}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"inner": "tvm"}, "inner: expected one of inductor, aot_eager, eager; actual 'tvm'"),
        ({"rewrite": True}, "rewrite: expected one of auto, all, none; actual True"),
        ({"disable": "rope"}, "disable: expected a list of rule names; actual 'rope'"),
        ({"disable": ["rope", "ropes"]}, f"disable: expected names among {RULES}; actual 'ropes'"),
        ({"logits": "drop"}, "logits: expected one of auto, lazy, keep; actual 'drop'"),
        ({"report": 3}, "report: expected a path or a callable; actual 3"),
        ({"report": "r.pdf"}, "report path: expected a suffix .txt or .json, actual 'r.pdf'"),
        (
            {"report": "r.html"},
            "report path: HTML reports are not in this version, use .txt or .json, actual 'r.html'",
        ),
        ({"strict": "yes"}, "strict: expected True or False; actual 'yes'"),
        (
            {"inner": "eager", "max_autotune": True},
            "max_autotune: Inductor's options need inner='inductor'; actual inner='eager'",
        ),
    ],
)
def test_wrong_values(options: dict[str, Any], text: str) -> None:
    assert refusal(**options) == text


def test_unknown_option_lists_the_known_ones() -> None:
    assert refusal(rewrites="all") == (
        "unknown option 'rewrites': expected one of inner, rewrite, disable, logits, report, strict, or an option of "
        "Inductor (torch._inductor.list_options() lists them); did you mean rewrite?"
    )


def test_mode_needs_inductor() -> None:
    with pytest.raises(OptionError, match="mode: expected none with inner='aot_eager'; actual 'max-autotune'"):
        parse_options("max-autotune", {"inner": "aot_eager"}, {})


def test_environment_fills_in_and_options_win() -> None:
    environ = {"LIGER_COMPILE_DISABLE": "rope, glu", "LIGER_COMPILE_REWRITE": "none", "LIGER_COMPILE_LOGITS": "keep"}
    parsed = parse_options(None, {"rewrite": "all"}, environ)
    assert (parsed.disable, parsed.rewrite, parsed.logits) == (("rope", "glu"), "all", "keep")


@pytest.mark.parametrize(
    ("environ", "text"),
    [
        ({"LIGER_COMPILE_REWRITE": "1"}, "LIGER_COMPILE_REWRITE: expected one of auto, all, none; actual '1'"),
        ({"LIGER_COMPILE_DISABLE": "norm"}, f"LIGER_COMPILE_DISABLE: expected names among {RULES}; actual 'norm'"),
        (
            {"LIGER_COMPILE_LOGITS": "none"},
            "LIGER_COMPILE_LOGITS: expected one of auto, lazy, keep; actual 'none'",
        ),
    ],
)
def test_wrong_variables(environ: dict[str, str], text: str) -> None:
    with pytest.raises(OptionError) as raised:
        parse_options(None, None, environ)
    assert str(raised.value) == text


def test_a_refused_option_stops_the_compilation() -> None:
    compiled = torch.compile(block(), backend="liger", options={"rewrit": "all"})
    with pytest.raises(torch._dynamo.exc.BackendCompilerFailed, match="OptionError: unknown option 'rewrit'"):
        compiled(batch())
    assert liger_compile.reports() == []
