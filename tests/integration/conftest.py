import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch._functorch.config as functorch_config

import liger_compile
from liger_compile import products, rewriting

ScriptRunner = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """No compiled code, no reports and no warnings already given from the test before."""
    torch._dynamo.reset()
    liger_compile.reset()
    rewriting._warned.clear()
    yield


@pytest.fixture
def everywhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if our products paid on every device and for every size; no graph comes from a cache."""
    monkeypatch.setattr(products, "_FEWEST_MULTIPLICATIONS", 0)
    monkeypatch.setattr(products, "_chooses_better", lambda device: True)
    with functorch_config.patch(enable_autograd_cache=False), torch._inductor.config.patch(fx_graph_cache=False):
        yield


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("inductor")


@pytest.fixture
def run_script(tmp_path: Path, shared_cache: Path) -> ScriptRunner:
    """Run a Python file in a process of its own, with an Inductor cache of the tests; extra variables by keyword."""

    def run(script: Path, *arguments: str, check: bool = True, **variables: str) -> "subprocess.CompletedProcess[str]":
        ours = {name for name in os.environ if name.startswith("LIGER_COMPILE")} - {"LIGER_COMPILE_LIB_DIR"}
        inherited = {name: value for name, value in os.environ.items() if name not in ours}
        caches = {"TORCHINDUCTOR_CACHE_DIR": str(shared_cache)}
        done = subprocess.run(
            [sys.executable, str(script), *arguments],
            env={**inherited, **caches, **variables},
            capture_output=True,
            text=True,
            cwd=tmp_path,
            check=False,
        )
        assert not check or done.returncode == 0, done.stderr
        return done

    return run
