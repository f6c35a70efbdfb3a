"""The ops `torch.ops.liger.*`: loads the native libraries and registers gradients and fake kernels.

The CPU library also defines the schemas. The CUDA library is loaded where it was built and torch sees a GPU. Both are
looked for in `liger_compile/lib`, or in the folder that the environment variable `LIGER_COMPILE_LIB_DIR` names.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
from pathlib import Path

import torch


def _library_dir() -> Path:
    override = os.environ.get("LIGER_COMPILE_LIB_DIR")
    return Path(override) if override else Path(__file__).parent.parent / "lib"


def _load_libraries() -> bool:
    """Load what there is; True if the CUDA kernels are among it."""
    directory = _library_dir()
    cpu, cuda = directory / "libliger_ops_cpu.so", directory / "libliger_ops_cuda.so"
    if not cpu.exists():
        raise ImportError(f"liger_compile: {cpu} is missing; build the package, or point LIGER_COMPILE_LIB_DIR at it")
    torch.ops.load_library(str(cpu))
    if not (torch.cuda.is_available() and cuda.exists()):
        return False
    torch.ops.load_library(str(cuda))
    return True


has_cuda_kernels: bool = _load_libraries()

# Every module of this folder that describes ops has a register(): adding a file is enough.
for _info in pkgutil.iter_modules(__path__):
    _module = importlib.import_module(f"{__name__}.{_info.name}")
    if hasattr(_module, "register"):
        _module.register()

__all__ = ["has_cuda_kernels"]
