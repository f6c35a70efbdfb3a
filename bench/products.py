"""The matrix products of a model's linear layers, forward and backward: torch.mm against ours.

    python bench/products.py --shape 8b4 --tokens 16384

Both run cuBLAS; ours may choose another of its kernels (csrc/ops/blas_product.h). Where the two take the same time it
made no other choice.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import liger_compile.ops  # noqa: F401
from _models import SHAPES
from _timing import compare, format_table, machine, write_results


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="1b" if cuda else "tiny")
    parser.add_argument("--tokens", type=int, default=16384 if cuda else 128)
    parser.add_argument("--device", default="cuda" if cuda else "cpu")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--json", type=Path, default=Path("bench/results/products.json"))
    return parser.parse_args(argv)


def layers(values: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Inputs and outputs of each kind of linear layer."""
    hidden, inner, head_dim = values["hidden_size"], values["intermediate_size"], values["head_dim"]
    queries, keys = values["num_attention_heads"] * head_dim, values["num_key_value_heads"] * head_dim
    attention = {"q": (hidden, queries), "k, v": (hidden, keys), "o": (queries, hidden)}
    return {**attention, "gate, up": (hidden, inner), "down": (inner, hidden)}


def operands(arguments: argparse.Namespace, inputs: int, outputs: int) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Of the products that a linear layer and its backward pass are, as autograd makes them."""
    keywords: dict[str, Any] = {"device": arguments.device, "dtype": getattr(torch, arguments.dtype)}
    x, grad = (torch.randn(arguments.tokens, width, **keywords) for width in (inputs, outputs))
    weight = torch.randn(outputs, inputs, **keywords) * inputs**-0.5
    yield "forward", x, weight.t()
    yield "gradient of the input", grad, weight
    yield "gradient of the weight", grad.t(), x


def main() -> None:
    arguments = parse()
    torch.manual_seed(0)
    table = [["layer", "product", "torch.mm", "ours", "times as fast"]]
    results: dict[str, Any] = {}
    for name, (inputs, outputs) in layers(SHAPES[arguments.shape][1]).items():
        for product, a, b in operands(arguments, inputs, outputs):
            calls = {"torch.mm": lambda: torch.mm(a, b), "ours": lambda: torch.ops.liger.mm(a, b)}  # noqa: B023
            timings = compare(calls, device=arguments.device, repetitions=arguments.repetitions)
            plain, ours = timings["torch.mm"], timings["ours"]
            results[f"{name} {product}"] = {key: vars(timing) for key, timing in timings.items()}
            speedup = f"{plain.median / ours.median:.3f}"
            table.append([name, product, f"{plain.median:.3f} ms", f"{ours.median:.3f} ms", speedup])
    where = machine(arguments.device)
    print(f"\n{arguments.shape}, {arguments.tokens} tokens, {arguments.dtype}; {where['device']}\n")
    print(format_table(table))
    write_results(arguments, where, results)


if __name__ == "__main__":
    main()
