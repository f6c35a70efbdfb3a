"""The loss of a language model's head, forward and backward together: linear layer and cross entropy.

    python bench/linear_cross_entropy.py --rows 8192,32768 --hidden 2048,4096

Against its three matrix products as cuBLAS does them, which bound it from below, and against eager, torch.compile,
Inductor's auto_chunker, and liger-kernel and cut-cross-entropy where they are installed. Memory is the peak above what
was allocated before the call; the gradients that it leaves behind are given apart. Errors are relative, root mean
square, against float64.
"""

from __future__ import annotations

import argparse
import gc
import importlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from _timing import Call, Timing, compare, format_table, machine, write_results

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if cuda else "cpu")
    parser.add_argument("--dtype", default="bfloat16" if cuda else "float32")
    parser.add_argument("--rows", default="8192" if cuda else "512", help="tokens, with commas")
    parser.add_argument("--hidden", default="2048,4096" if cuda else "256", help="sizes of hidden states, with commas")
    parser.add_argument("--vocab", type=int, default=128256 if cuda else 8192)
    parser.add_argument("--only", default="", help="names of implementations, with commas")
    parser.add_argument("--ignored", type=float, default=0.0, help="share of the tokens that have no label")
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--json", type=Path, default=Path("bench/results/linear_cross_entropy.json"))
    return parser.parse_args(argv)


def reference(hidden_states: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(hidden_states, weight).float(), target)


def liger_kernel(hidden_states: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    functional = importlib.import_module("liger_kernel.transformers.functional")
    return functional.liger_fused_linear_cross_entropy(hidden_states, weight, target)


def cut_cross_entropy(hidden_states: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    return importlib.import_module("cut_cross_entropy").linear_cross_entropy(hidden_states, weight, target)


def implementations() -> dict[str, Loss]:
    """By name; what is not installed fails when it is called."""
    return {
        "eager": reference,
        "inductor": torch.compile(reference, dynamic=False),
        "auto_chunker": torch.compile(reference, dynamic=False, options={"auto_chunker.enable": True}),
        "liger-kernel": liger_kernel,
        "cut-cross-entropy": cut_cross_entropy,
        "ours": torch.compile(reference, dynamic=False, backend="liger"),
    }


@dataclass(frozen=True)
class Size:
    rows: int
    hidden: int
    vocab: int

    def inputs(self, arguments: argparse.Namespace) -> tuple[Tensor, Tensor, Tensor]:
        """Hidden states and weight, which require gradients, and the target."""
        keywords: dict[str, Any] = {"device": arguments.device, "dtype": getattr(torch, arguments.dtype)}
        hidden_states = torch.randn(self.rows, self.hidden, **keywords).requires_grad_()
        weight = (torch.randn(self.vocab, self.hidden, **keywords) * self.hidden**-0.5).requires_grad_()
        target = torch.randint(0, self.vocab, (self.rows,), device=arguments.device)
        target[torch.rand(self.rows, device=arguments.device) < arguments.ignored] = -100
        return hidden_states, weight, target


def products(hidden_states: Tensor, weight: Tensor) -> Call:
    """The three matrix products, in the dtype of the operands, over logits that are there already."""
    logits = torch.empty(len(hidden_states), len(weight), device=weight.device, dtype=weight.dtype)
    hidden_states, weight = hidden_states.detach(), weight.detach()
    grad_hidden, grad_weight = torch.empty_like(hidden_states), torch.empty_like(weight)

    def call() -> None:
        torch.mm(hidden_states, weight.t(), out=logits)
        torch.mm(logits, weight, out=grad_hidden)
        torch.mm(logits.t(), hidden_states, out=grad_weight)

    return call


def step(loss: Loss, inputs: tuple[Tensor, Tensor, Tensor]) -> Call:
    """One forward and backward; the gradients are dropped."""
    return lambda: torch.autograd.grad(loss(*inputs), inputs[:2])


def exact(hidden_states: Tensor, weight: Tensor, target: Tensor, chunk: int = 1024) -> tuple[Tensor, Tensor, Tensor]:
    """Loss and both gradients in float64, some rows at a time."""
    wide_weight = weight.detach().double()
    grad_weight, grad_hidden = torch.zeros_like(wide_weight), []
    total = torch.zeros((), dtype=torch.float64, device=weight.device)
    for rows, classes in zip(hidden_states.detach().split(chunk), target.split(chunk), strict=True):
        leaf = (rows.double() @ wide_weight.t()).requires_grad_()
        loss = F.cross_entropy(leaf, classes, reduction="sum") / (target >= 0).sum()
        (grad_logits,) = torch.autograd.grad(loss, leaf)
        grad_hidden.append(grad_logits @ wide_weight)
        grad_weight.addmm_(grad_logits.t(), rows.double())
        total += loss.detach()
    return total, torch.cat(grad_hidden), grad_weight


def relative_error(value: Tensor, truth: Tensor) -> float:
    return float((value.double() - truth).norm() / truth.norm())


@dataclass(frozen=True)
class Result:
    timing: dict[str, Any]
    peak_bytes: int | None
    errors: dict[str, float]


def peak_of(call: Call, device: str) -> int | None:
    if device != "cuda":
        return None
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return int(torch.cuda.max_memory_allocated() - before)


def errors_of(loss: Loss, inputs: tuple[Tensor, Tensor, Tensor], truth: tuple[Tensor, ...]) -> dict[str, float]:
    value = loss(*inputs)
    gradients = torch.autograd.grad(value, inputs[:2])
    names = ("loss", "hidden_states", "weight")
    return {n: relative_error(v, t) for n, v, t in zip(names, (value.detach(), *gradients), truth, strict=True)}


def measure(size: Size, arguments: argparse.Namespace) -> dict[str, Result | str]:
    """A result for every implementation that runs, else why it does not."""
    inputs = size.inputs(arguments)
    only = [name for name in arguments.only.split(",") if name]
    calls: dict[str, Call] = {}
    peaks: dict[str, int | None] = {}
    errors: dict[str, dict[str, float]] = {}
    failed: dict[str, Result | str] = {}
    truth = exact(*inputs)
    for name, loss in implementations().items():
        if only and name not in only:
            continue
        try:
            errors[name] = errors_of(loss, inputs, truth)
            call = step(loss, inputs)
            call()
            peaks[name], calls[name] = peak_of(call, arguments.device), call
        except Exception as error:  # what is not installed, or does not run here, is a line of the table
            failed[name] = f"{type(error).__name__}: {error}".splitlines()[0][:60]
    del truth
    calls["three products"] = products(inputs[0], inputs[1])
    timings = compare(calls, device=arguments.device, repetitions=arguments.repetitions, warmup=2)
    results = {name: Result(vars(timings[name]), peaks.get(name), errors.get(name, {})) for name in calls}
    return {**results, **failed}


def row(name: str, result: Result | str, bound: float, left: int) -> list[str]:
    if isinstance(result, str):
        return [name, result, "", "", "", "", ""]
    timing = Timing(**result.timing)
    working = "" if result.peak_bytes is None else f"{(result.peak_bytes - left) / 1e6:.0f} MB"
    errors = [f"{result.errors[key]:.2e}" if result.errors else "" for key in ("loss", "hidden_states", "weight")]
    return [name, f"{timing.median:.2f} ms", f"{timing.median / bound:.3f}", working, *errors]


def main() -> None:
    arguments = parse()
    where = machine(arguments.device)
    itemsize = getattr(torch, arguments.dtype).itemsize
    everything: dict[str, Any] = {}
    header = ["", "time", "of the products", "memory above gradients", "error of loss", "dX", "dW"]
    for hidden in map(int, arguments.hidden.split(",")):
        for rows in map(int, arguments.rows.split(",")):
            torch.manual_seed(0)
            torch._dynamo.reset()
            size = Size(rows, hidden, arguments.vocab)
            results = measure(size, arguments)
            products_result = results["three products"]
            assert isinstance(products_result, Result)
            bound = products_result.timing["median"]
            left = (size.rows + size.vocab) * size.hidden * itemsize
            print(f"\n{size}, {arguments.dtype}, {arguments.ignored:.0%} ignored; {where['device']}")
            print(f"gradients: {left / 1e6:.0f} MB\n")
            print(format_table([header, *(row(name, result, bound, left) for name, result in results.items())]))
            everything[f"{rows}x{hidden}x{size.vocab}"] = {
                name: result if isinstance(result, str) else asdict(result) for name, result in results.items()
            }
    write_results(arguments, where, everything)


if __name__ == "__main__":
    main()
