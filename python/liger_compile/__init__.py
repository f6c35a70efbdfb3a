"""liger-compile: a `torch.compile` backend that rewrites known patterns of unpatched models to fused native kernels.

    torch.compile(model, backend="liger")

Importing this package costs next to nothing: neither torch nor the compiler is imported before it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from liger_compile._version import __version__

if TYPE_CHECKING:
    import liger_compile.functional as functional
    import liger_compile.nn as nn
    from liger_compile.explaining import explain
    from liger_compile.lazy_logits import StaleLogitsError
    from liger_compile.reporting import Record, Report, expect_rewrites, report, reports, reset

__all__ = [
    "Record",
    "Report",
    "StaleLogitsError",
    "__version__",
    "expect_rewrites",
    "explain",
    "functional",
    "nn",
    "report",
    "reports",
    "reset",
]

_HOMES = {
    "Record": "reporting",
    "Report": "reporting",
    "StaleLogitsError": "lazy_logits",
    "expect_rewrites": "reporting",
    "explain": "explaining",
    "report": "reporting",
    "reports": "reporting",
    "reset": "reporting",
}
_SUBMODULES = ("functional", "nn")


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
