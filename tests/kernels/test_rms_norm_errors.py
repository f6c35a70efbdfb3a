"""Error messages of `liger::rms_norm` and `liger::add_rms_norm`: the argument, what was expected, what came."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import liger_compile.ops  # noqa: F401

EPS = 1e-6
ops = torch.ops.liger


class TestErrors:
    X = torch.zeros(2, 8)

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (
                lambda x: ops.rms_norm(x.double(), None, EPS),
                "rms_norm: hidden_states must be float32, bfloat16 or float16, got float64",
            ),
            (lambda x: ops.rms_norm(x[0, 0], None, EPS), "hidden_states must have at least 1 dim"),
            (lambda x: ops.rms_norm(x, x[0, :7], EPS), r"weight must have shape \[8\], got \[7\]"),
            (lambda x: ops.rms_norm(x, x[0].half(), EPS), "weight must be float32, got float16"),
            (
                lambda x: ops.rms_norm(x.half(), x[0].bfloat16(), EPS),
                "weight must be float16 or float32, got bfloat16",
            ),
            (
                lambda x: ops.rms_norm(x, None, EPS, out_dtype=torch.float16),
                "out_dtype float16 is not supported with hidden_states float32 and weight None",
            ),
            (
                lambda x: ops.add_rms_norm(x, x[:1], None, EPS),
                r"add_rms_norm: residual must have shape \[2, 8\], got \[1, 8\]",
            ),
            (lambda x: ops.add_rms_norm(x, x.half(), None, EPS), "residual must be float32, got float16"),
            (
                lambda x: ops.rms_norm_backward(
                    x, None, x, None, x, weight_offset=0.0, round_before_weight=False, needs_weight_grad=False
                ),
                r"rstd must have shape \[2\], got \[2, 8\]",
            ),
        ],
    )
    def test_message(self, device: str, call: Callable[[Tensor], Any], message: str) -> None:
        with pytest.raises(RuntimeError, match=message) as error:
            call(self.X.to(device))
        assert ".cpp" not in str(error.value)

    def test_devices(self) -> None:
        if not torch.cuda.is_available():
            pytest.skip("needs two devices")
        with pytest.raises(RuntimeError, match=r"weight must be on the device of hidden_states \(cuda:0\), got cpu"):
            ops.rms_norm(self.X.cuda(), self.X[0], EPS)
