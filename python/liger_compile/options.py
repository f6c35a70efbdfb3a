"""The options of `torch.compile(model, backend="liger", options={...})` and their environment variables."""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from liger_compile.reporting import Report, check_report_path

INNER = ("inductor", "aot_eager", "eager")
REWRITE = ("auto", "all", "none")
LOGITS = ("auto", "lazy", "keep")

_OUR_OPTIONS = ("inner", "rewrite", "disable", "logits", "report", "strict")
_ENVIRONMENT = {
    "rewrite": "LIGER_COMPILE_REWRITE",
    "disable": "LIGER_COMPILE_DISABLE",
    "logits": "LIGER_COMPILE_LOGITS",
}


class OptionError(ValueError):
    """An option is not known, or has a value that it cannot have."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What the user asked for.

    Attributes:
        inner: the backend that compiles the rewritten graph, one of `INNER`.
        rewrite: "auto" (where it pays), "all" or "none".
        disable: names of rules that are not applied.
        logits: what becomes of logits that a graph only returns: "auto" (computed when they are read, where that is
            safe), "lazy" (also where weights may be sharded) or "keep".
        report: a path to write the report to, or a callable given the report of each graph.
        strict: whether a failure inside a rule raises.
        mode: Inductor's mode, as in `torch.compile(mode=...)`.
        inductor: Inductor's options.
    """

    inner: str = "inductor"
    rewrite: str = "auto"
    disable: tuple[str, ...] = ()
    logits: str = "auto"
    report: str | os.PathLike[str] | Callable[[Report], object] | None = None
    strict: bool = False
    mode: str | None = None
    inductor: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def parse_options(
    mode: str | None = None,
    options: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Options:
    """Options from what `torch.compile` was given, and from the environment for those it was not given.

    Raises:
        OptionError: an unknown option, or a wrong value; the message names it and lists the known ones.
    """
    given = {name.replace("-", "_"): value for name, value in (options or {}).items()}
    ours = {name: given.pop(name) for name in _OUR_OPTIONS if name in given}
    _check_inductor_names(given)
    # Where a value comes from, for the message of an error: the option's name or the variable's.
    origin = {name: name for name in _OUR_OPTIONS}
    for name, variable in _ENVIRONMENT.items():
        if name not in ours and environ.get(variable):
            ours[name] = environ[variable].split(",") if name == "disable" else environ[variable]
            origin[name] = variable
    parsed = Options(
        inner=_choice(origin["inner"], ours.get("inner", "inductor"), INNER),
        rewrite=_choice(origin["rewrite"], ours.get("rewrite", "auto"), REWRITE),
        disable=_rules(origin["disable"], ours.get("disable", ())),
        logits=_choice(origin["logits"], ours.get("logits", "auto"), LOGITS),
        report=_destination(ours.get("report")),
        strict=_boolean("strict", ours.get("strict", False)),
        mode=mode,
        inductor=given,
    )
    _check_inner_takes(parsed)
    return parsed


def _choice(name: str, value: Any, allowed: Sequence[str]) -> str:
    if value not in allowed:
        raise OptionError(f"{name}: expected one of {', '.join(allowed)}; actual {value!r}")
    return str(value)


def _boolean(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise OptionError(f"{name}: expected True or False; actual {value!r}")
    return value


def _rules(name: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise OptionError(f"{name}: expected a list of rule names; actual {value!r}")
    from liger_compile.rewriting import rule_names

    rules = tuple(str(rule).strip() for rule in value)
    for rule in rules:
        if rule not in rule_names():
            raise OptionError(f"{name}: expected names among {', '.join(rule_names())}; actual {rule!r}")
    return rules


def _destination(value: Any) -> str | os.PathLike[str] | Callable[[Report], object] | None:
    if value is None or callable(value):
        return value
    if not isinstance(value, str | os.PathLike):
        raise OptionError(f"report: expected a path or a callable; actual {value!r}")
    try:
        check_report_path(value)
    except ValueError as error:
        raise OptionError(str(error)) from None
    return value


def _check_inductor_names(names: Mapping[str, Any]) -> None:
    if not names:
        return
    from torch._inductor import config

    known = config.get_config_copy()
    for name in names:
        if name not in known:
            raise OptionError(_unknown_option(name, list(known)))


def _unknown_option(name: str, inductor_names: list[str]) -> str:
    ours = ", ".join(_OUR_OPTIONS)
    close = difflib.get_close_matches(name, [*_OUR_OPTIONS, *inductor_names], n=3)
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    return (
        f"unknown option {name!r}: expected one of {ours}, or an option of Inductor "
        f"(torch._inductor.list_options() lists them){hint}"
    )


def _check_inner_takes(options: Options) -> None:
    if options.inner == "inductor":
        return
    if options.mode not in (None, "default"):
        raise OptionError(f"mode: expected none with inner={options.inner!r}; actual {options.mode!r}")
    if options.inductor:
        names = ", ".join(options.inductor)
        raise OptionError(f"{names}: Inductor's options need inner='inductor'; actual inner={options.inner!r}")
