"""What `liger-compile env` prints: versions, built parts and environment variables. Nothing here may raise."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
from pathlib import Path
from typing import Any

from liger_compile._version import __version__

_PACKAGES = ("torch", "transformers", "triton", "tokenizers", "accelerate")
_VARIABLES = (
    "LIGER_COMPILE",
    "LIGER_COMPILE_REPORT",
    "LIGER_COMPILE_DISABLE",
    "LIGER_COMPILE_REWRITE",
    "LIGER_COMPILE_LOGITS",
    "LIGER_COMPILE_LIB_DIR",
    "TORCH_DEVICE_BACKEND_AUTOLOAD",
    "TORCHINDUCTOR_CACHE_DIR",
    "TORCH_CACHING_PRECOMPILE",
)


def collect() -> dict[str, dict[str, str]]:
    """Sections of names and values, all text."""
    return {
        "versions": _versions(),
        "devices": _devices(),
        "built parts": _parts(),
        "environment": {name: os.environ.get(name, "not set") for name in _VARIABLES},
    }


def format_info(sections: dict[str, dict[str, str]]) -> str:
    """The sections as text, one line a value."""
    width = max(len(name) for values in sections.values() for name in values)
    lines: list[str] = []
    for title, values in sections.items():
        lines += [title, *(f"  {name:<{width}}  {value}" for name, value in values.items())]
    return "\n".join(lines)


def _versions() -> dict[str, str]:
    versions = {"liger-compile": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def _devices() -> dict[str, str]:
    import torch

    devices = {"cpu": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, {os.cpu_count()} cores"}
    devices["CUDA of torch"] = torch.version.cuda or torch.version.hip or "none"
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        devices[f"cuda:{index}"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    if not torch.cuda.device_count():
        devices["cuda"] = "no GPU is visible"
    return devices


def _parts() -> dict[str, str]:
    directory = Path(os.environ.get("LIGER_COMPILE_LIB_DIR") or Path(__file__).parent / "lib")
    loaded = _loaded_operators()
    rewriter = importlib.util.find_spec("liger_compile._rewriter")
    return {
        "rewriter": str(rewriter.origin) if rewriter else "not built",
        "rules": _rules() if rewriter else "none",
        "CPU operators": _library(directory / "libliger_ops_cpu.so", not isinstance(loaded, Exception), loaded),
        "CUDA operators": _library(directory / "libliger_ops_cuda.so", loaded is True, "torch sees no GPU"),
    }


def _loaded_operators() -> bool | Exception:
    """Whether the CUDA operators are loaded, or why no operators are."""
    try:
        from liger_compile import ops
    except Exception as error:
        return error
    return bool(ops.has_cuda_kernels)


def _library(path: Path, loaded: bool, why_not: Any) -> str:
    if not path.exists():
        return "not built (no nvcc was found, or LIGER_CUDA is OFF)" if "cuda" in path.name else "not built"
    return f"{path}, {'loaded' if loaded else f'not loaded: {why_not}'}"


def _rules() -> str:
    try:
        from liger_compile.rewriting import rule_names

        return ", ".join(rule_names())
    except Exception as error:
        return f"not loaded: {error}"
