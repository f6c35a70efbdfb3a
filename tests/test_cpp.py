"""Builds the C++ tests without Python and torch, and runs them through ctest.

LIGER_CPP_BUILD names a build folder to use instead of build/cpp; LIGER_CMAKE_ARGS holds further arguments for CMake
(for example -DFETCHCONTENT_SOURCE_DIR_GOOGLETEST=<sources> where GoogleTest is neither installed nor to be fetched).
"""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BUILD = Path(os.environ.get("LIGER_CPP_BUILD", ROOT / "build" / "cpp"))


def run(*command: str) -> str:
    """Run a command with the tools of this Python's environment first on the path; fail with all it printed."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PATH": path}, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if done.returncode != 0:
        pytest.fail(f"{shlex.join(command)} exited with {done.returncode}\n{done.stdout[-20000:]}", pytrace=False)
    return done.stdout


def test_ctest() -> None:  # all in one test, so that a single process builds
    options = ["-DCMAKE_BUILD_TYPE=Release", "-DLIGER_PYTHON=OFF", "-DLIGER_TORCH=OFF", "-DLIGER_BUILD_TESTS=ON"]
    options += shlex.split(os.environ.get("LIGER_CMAKE_ARGS", ""))
    run("cmake", "-S", ".", "-B", str(BUILD), "-G", "Ninja", *options)
    run("cmake", "--build", str(BUILD))
    output = run("ctest", "--test-dir", str(BUILD), "--verbose", "--no-tests=error", "--parallel", "2")
    print("\n".join(line for line in output.splitlines() if "PASSED" in line))
