"""One training run of the demo, in a process of its own so that its memory is its own.

`python -m liger_compile.demo_run SPEC VARIANT` reads the spec that `liger_compile.demo` wrote, trains, and prints one
JSON object a line: {"step", "loss", "seconds"} after each step and {"done": {...}} at the end.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from liger_compile.demo_text import batches
from liger_compile.tiny_models import tiny_config

VARIANTS = ("eager", "torch.compile", "ours")


def build_model(spec: dict[str, Any]) -> torch.nn.Module:
    """The transformers model of the spec, unpatched, with the random weights of the spec's seed."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(spec["seed"])
    config = tiny_config(spec["model"], use_cache=False, **spec["config"])
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return model.to(device=spec["device"], dtype=getattr(torch, spec["dtype"])).train()


def loss_function(model: torch.nn.Module, variant: str, options: dict[str, Any]) -> Callable[[torch.Tensor], Any]:
    """batch of token ids [batch, sequence] -> loss, as the variant computes it."""

    def loss_of(batch: torch.Tensor) -> torch.Tensor:
        return model(input_ids=batch, labels=batch).loss

    if variant == "torch.compile":
        return torch.compile(loss_of)
    if variant == "ours":
        return torch.compile(loss_of, backend="liger", options=options)
    return loss_of


class MemoryMeter:
    """Peak memory of training steps above what stays between steps (weights and optimizer state)."""

    def __init__(self, device: str) -> None:
        self.cuda = device == "cuda"
        self.before = 0

    def start(self) -> None:
        """Take the level between two steps; the peak counts from here."""
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
        elif sys.platform == "linux":
            ctypes.CDLL(None).malloc_trim(0)  # what is free but kept would hide the growth
            Path("/proc/self/clear_refs").write_text("5")  # resets the peak of the resident set
            self.before = self._resident("VmRSS")

    def growth(self) -> int | None:
        """Bytes of the peak above the level at start; None where this system cannot tell."""
        if self.cuda:
            return torch.cuda.max_memory_allocated() - self.before
        return self._resident("VmHWM") - self.before if sys.platform == "linux" else None

    @staticmethod
    def _resident(field: str) -> int:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
        raise RuntimeError(f"/proc/self/status has no {field}")


def train(spec: dict[str, Any], variant: str) -> dict[str, Any]:
    """Train as the spec says, printing every step, and return what the demo's table shows."""
    model = build_model(spec)
    loss_of = loss_function(model, variant, spec["options"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=spec["learning_rate"], foreach=False)
    memory = MemoryMeter(spec["device"])
    tokens = torch.load(spec["tokens"])
    seconds: list[float] = []
    for step, batch in enumerate(batches(tokens, spec["batch"], spec["sequence"], spec["steps"], spec["seed"])):
        if step == spec["warmup"]:
            memory.start()
        begin = time.perf_counter()
        loss = loss_of(batch.to(spec["device"]))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        value = loss.item()  # waits for the device
        del loss
        seconds.append(time.perf_counter() - begin)
        print(json.dumps({"step": step, "loss": value, "seconds": seconds[-1]}), flush=True)
    return summary(spec, variant, seconds, memory.growth())


def summary(spec: dict[str, Any], variant: str, seconds: list[float], memory: int | None) -> dict[str, Any]:
    """Steady speed, time of the first step above a steady one, memory, and our report where there is one."""
    steady = sorted(seconds[spec["warmup"] :])
    median = steady[len(steady) // 2]
    result: dict[str, Any] = {
        "tokens_per_second": spec["batch"] * spec["sequence"] / median,
        "first_step_seconds": seconds[0],
        "memory_bytes": memory,
    }
    if variant == "ours":
        import liger_compile

        report = liger_compile.report()
        report.save(spec["report"])
        result["report"] = str(report)
    return result


def main() -> None:
    spec = json.loads(Path(sys.argv[1]).read_text())
    print(json.dumps({"done": train(spec, sys.argv[2])}), flush=True)


if __name__ == "__main__":
    main()
