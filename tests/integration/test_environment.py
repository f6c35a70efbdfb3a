"""The environment opt-in, each time in a process of its own."""

import json
from pathlib import Path
from typing import Any

import pytest

TRAIN = Path(__file__).with_name("train.py")

TIMED_AUTOLOAD = """
import importlib.metadata, sys, time
import torch
assert "torch._dynamo" not in sys.modules, "torch imports dynamo by itself"
loaded = [name for name in sys.modules if name.startswith("liger_compile")]
for name in loaded:
    del sys.modules[name]
begin = time.perf_counter()
(point,) = [p for p in importlib.metadata.entry_points(group="torch.backends") if p.name == "liger_compile"]
found = time.perf_counter()
point.load()()
print(sorted(loaded), (time.perf_counter() - found) * 1e3)
"""


def train(run_script: Any, **variables: str) -> dict[str, Any]:
    return json.loads(run_script(TRAIN, **variables).stdout)


def test_opt_in_trains_through_our_kernels_and_leaves_the_report(run_script: Any, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    plain = train(run_script)
    ours = train(run_script, LIGER_COMPILE="1", LIGER_COMPILE_REPORT=str(report))
    assert (plain["wrapped"], ours["wrapped"]) == (False, True)
    assert ours["losses"] == pytest.approx(plain["losses"], rel=1e-5)
    content = json.loads(report.read_text())
    assert (content["graphs"], content["counts"]) == (1, {"rms_norm": 1, "glu": 1})


def test_unset_variable_changes_nothing(run_script: Any) -> None:
    result = train(run_script)
    assert result["wrapped"] is False
    assert result["modules"] in ([], ["liger_compile", "liger_compile._autoload", "liger_compile._version"])


def test_unset_variable_costs_a_few_milliseconds(run_script: Any, tmp_path: Path) -> None:
    script = tmp_path / "timed.py"
    script.write_text(TIMED_AUTOLOAD)
    loaded, milliseconds = run_script(script).stdout.rsplit(" ", 1)
    assert loaded == "['liger_compile', 'liger_compile._autoload', 'liger_compile._version']"
    assert float(milliseconds) < 20


def test_set_variable_imports_no_compiler(run_script: Any, tmp_path: Path) -> None:
    script = tmp_path / "imported.py"
    script.write_text(
        "import sys, torch\nprint([m for m in ('torch._dynamo', 'torch._inductor') if m in sys.modules])\n"
    )
    assert run_script(script, LIGER_COMPILE="1").stdout == "[]\n"


def test_other_variables(run_script: Any, tmp_path: Path) -> None:
    report = tmp_path / "report.txt"
    common = {"LIGER_COMPILE": "1", "LIGER_COMPILE_REPORT": str(report)}
    train(run_script, **common, LIGER_COMPILE_DISABLE="glu")
    assert "\n  rms_norm 1\n" in report.read_text()
    train(run_script, **common, LIGER_COMPILE_REWRITE="none")
    assert report.read_text() == "liger-compile: 1 graph of 20 nodes, 0 patterns rewritten\n"


def test_a_wrong_value_never_breaks_the_import(run_script: Any, tmp_path: Path) -> None:
    script = tmp_path / "imports.py"
    script.write_text("import torch\nprint(torch.ones(1).item())\n")
    done = run_script(script, LIGER_COMPILE="yes")
    assert done.stdout == "1.0\n"
    assert "LIGER_COMPILE: expected 1 or 0, actual 'yes': ignored" in done.stderr


def test_a_wrong_variable_stops_the_compilation_with_its_name(run_script: Any) -> None:
    done = run_script(TRAIN, check=False, LIGER_COMPILE="1", LIGER_COMPILE_REWRITE="some")
    assert done.returncode == 1
    assert "LIGER_COMPILE_REWRITE: expected one of auto, all, none; actual 'some'" in done.stderr


def test_a_report_that_cannot_be_written_does_not_fail_the_run(run_script: Any) -> None:
    done = run_script(TRAIN, LIGER_COMPILE="1", LIGER_COMPILE_REPORT="/no/such/folder/report.txt")
    assert "LIGER_COMPILE_REPORT was not written" in done.stderr
