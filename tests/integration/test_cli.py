"""The command line."""

import importlib.metadata
import json
from pathlib import Path

import pytest
import torch

from liger_compile import cli
from liger_compile._version import __version__
from liger_compile.tiny_models import tiny_config


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = cli.main(arguments)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_explain_a_family(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    saved = tmp_path / "report.json"
    status, out, _ = run(capsys, "explain", "llama", "--dtype", "bfloat16", "--checkpointing", "--save", str(saved))
    assert status == 0
    assert "  rms_norm 5   " in out
    assert json.loads(saved.read_text())["counts"]["rope"] == 2


def test_explain_a_configuration(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    tiny_config("qwen3", num_hidden_layers=5).save_pretrained(tmp_path)
    status, out, _ = run(capsys, "explain", str(tmp_path))
    assert status == 0
    assert "  rms_norm 5   norm_rope 2   " in out


def test_explain_something_else(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, "explain", "lama")
    assert (status, out) == (2, "")
    assert err.startswith("liger-compile: expected a folder with config.json or one of llama, mistral, ")
    assert err.endswith("; actual 'lama'\n")


def test_explain_refuses_a_wrong_suffix(capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = run(capsys, "explain", "llama", "--save", "report.html")
    assert status == 2
    assert "HTML reports are not in this version" in err


def test_env(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGER_COMPILE_DISABLE", "rope")
    status, out, _ = run(capsys, "env")
    assert status == 0
    for name in ("liger-compile", "torch", "transformers", "rewriter", "CPU operators", "CUDA operators"):
        assert f"\n  {name} " in out
    status, out, _ = run(capsys, "env", "--json")
    sections = json.loads(out)
    assert sections["versions"]["liger-compile"] == __version__
    assert sections["versions"]["torch"] == torch.__version__.split("+")[0] or torch.__version__
    assert sections["environment"]["LIGER_COMPILE_DISABLE"] == "rope"
    assert "rms_norm" in sections["built parts"]["rules"]
    assert sections["built parts"]["CPU operators"].endswith(", loaded")


def test_env_without_the_libraries(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LIGER_COMPILE_LIB_DIR", str(tmp_path))
    _, out, _ = run(capsys, "env", "--json")
    parts = json.loads(out)["built parts"]
    assert parts["CPU operators"] == "not built"
    assert parts["CUDA operators"] == "not built (no nvcc was found, or LIGER_CUDA is OFF)"


def test_bench_lists_and_runs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    status, out, _ = run(capsys, "bench")
    assert status == 0
    assert {"each_rule", "measure_costs", "ops"} <= set(out.split())
    assert "\n  _" not in out
    status, _, err = run(capsys, "bench", "nothing")
    assert status == 2
    assert err.startswith("liger-compile: bench: expected one of ")
    assert run(capsys, "bench", "ops", "--help")[0] == 0


def test_bench_outside_of_a_checkout(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cli, "__file__", str(tmp_path / "site" / "liger_compile" / "cli.py"))
    monkeypatch.chdir(tmp_path)
    status, _, err = run(capsys, "bench")
    assert status == 2
    assert err == "liger-compile: bench: the benchmarks are not part of an installed package; run this in a checkout\n"


def test_version_and_missing_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(["--version"])
    assert left.value.code == 0
    assert capsys.readouterr().out == f"liger-compile {__version__}\n"
    with pytest.raises(SystemExit) as left:
        cli.main([])
    assert left.value.code == 2


def test_the_package_has_one_version() -> None:
    assert importlib.metadata.version("liger-compile") == __version__
