"""Called at the end of `import torch` (`torch.backends` entry point): it must cost nothing and never raise."""

from __future__ import annotations

import os
import warnings


def activate() -> None:
    """Make plain `torch.compile` rewrite where the environment has LIGER_COMPILE=1."""
    try:
        value = os.environ.get("LIGER_COMPILE", "")
        if value in ("", "0"):
            return
        if value != "1":
            warnings.warn(f"LIGER_COMPILE: expected 1 or 0, actual {value!r}: ignored", RuntimeWarning, stacklevel=2)
            return
        from liger_compile import environment

        environment.install()
    except Exception as error:  # an exception here would break `import torch` itself
        warnings.warn(f"LIGER_COMPILE=1 has no effect: {error!r}", RuntimeWarning, stacklevel=2)
