"""Sums of matrix products, as the gradients of what several linear layers read: Inductor's code against ours.

    python bench/sums_of_products.py --shapes 1b 8b --tokens 16384

Of every sum, in the order in which autograd makes the products (v, k, q; up, gate):

- "mm, add": torch.mm, and a pointwise kernel that Inductor makes of the additions;
- "our mm, add": the same with liger::mm;
- "ours": what the pass of liger_compile/summed_products.py makes of it;
- "in place": the first product, and torch's addmm into it, by cuBLAS's own choice.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

import liger_compile.ops  # noqa: F401
from _models import SHAPES
from _timing import Call, Timing, compare, format_table, graphed, machine, write_results
from liger_compile import products

Pairs = list[tuple[Tensor, Tensor]]


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", choices=SHAPES, nargs="+", default=["1b", "8b"] if cuda else ["tiny"])
    parser.add_argument("--tokens", type=int, default=16384 if cuda else 128)
    parser.add_argument("--device", default="cuda" if cuda else "cpu")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--repetitions", type=int, default=30)
    parser.add_argument("--json", type=Path, default=Path("bench/results/sums_of_products.json"))
    return parser.parse_args(argv)


def sums(values: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Outputs of the linear layers that read one hidden state."""
    head_dim, inner = values["head_dim"], values["intermediate_size"]
    queries, keys = values["num_attention_heads"] * head_dim, values["num_key_value_heads"] * head_dim
    return {"v, k, q": (keys, keys, queries), "up, gate": (inner, inner)}


def operands(arguments: argparse.Namespace, hidden: int, widths: tuple[int, ...]) -> Pairs:
    keywords: dict[str, Any] = {"device": arguments.device, "dtype": getattr(torch, arguments.dtype)}
    return [
        (torch.randn(arguments.tokens, width, **keywords), torch.randn(width, hidden, **keywords) * width**-0.5)
        for width in widths
    ]


def apart(multiply: Callable[[Tensor, Tensor], Tensor], *flat: Tensor) -> Tensor:
    """Views as a batch, as in a model: between matrices Inductor would write torch's addmm, which copies one first."""
    total, *others = (multiply(a, b).view(2, -1, b.shape[1]) for a, b in zip(flat[::2], flat[1::2], strict=True))
    for other in others:
        total = total + other
    return total


def in_place(*flat: Tensor) -> Tensor:
    total = torch.mm(flat[0], flat[1])
    for a, b in zip(flat[2::2], flat[3::2], strict=True):
        torch.addmm(total, a, b, out=total)
    return total


def through_the_pass(flat: list[Tensor]) -> Callable[..., Tensor]:
    """The sum's graph after the pass; an error where the pass leaves it alone."""
    module = make_fx(lambda *flat: apart(torch.mm, *flat), tracing_mode="fake")(*flat)
    products.prefer_our_products(module.graph)
    if not module.graph.find_nodes(op="call_function", target=torch.ops.liger.addmm.default):
        raise SystemExit("the pass joins no such sum on this device, or none as small")
    module.recompile()
    return module


def variants(pairs: Pairs) -> dict[str, Callable[[], Tensor]]:
    flat = [matrix for pair in pairs for matrix in pair]
    compiled = torch.compile(apart, dynamic=False)
    ours = through_the_pass(flat)
    return {
        "mm, add": lambda: compiled(torch.mm, *flat),
        "our mm, add": lambda: compiled(torch.ops.liger.mm, *flat),
        "ours": lambda: ours(*flat),
        "in place": lambda: in_place(*flat),
    }


def measured(arguments: argparse.Namespace, hidden: int, widths: tuple[int, ...]) -> dict[str, Timing]:
    torch._dynamo.reset()  # so that no limit of recompilations is reached
    calls: dict[str, Call] = dict(variants(operands(arguments, hidden, widths)))
    values = [call() for call in calls.values()]
    for value in values:
        torch.testing.assert_close(value.view_as(values[0]), values[0], rtol=0.05, atol=0.05)
    if arguments.device == "cuda":
        calls = {name: graphed(call) for name, call in calls.items()}
    return compare(calls, device=arguments.device, repetitions=arguments.repetitions)


def main() -> None:
    arguments = parse()
    torch.manual_seed(0)
    if arguments.device == "cpu":  # to try the benchmark itself
        products._chooses_better, products._FEWEST_MULTIPLICATIONS = lambda device: True, 0
    else:
        torch.cuda.set_stream(torch.cuda.Stream())  # see graphed
    table: list[list[str]] = []
    results: dict[str, Any] = {}
    for shape in arguments.shapes:
        for name, widths in sums(SHAPES[shape][1]).items():
            timings = measured(arguments, SHAPES[shape][1]["hidden_size"], widths)
            results[f"{shape} {name}"] = {key: vars(timing) for key, timing in timings.items()}
            table = table or [["sum", *timings, "times as fast"]]
            speedup = f"{timings['our mm, add'].median / timings['ours'].median:.3f}"
            table.append([f"{shape} {name}", *(f"{timing.median:.3f} ms" for timing in timings.values()), speedup])
    where = machine(arguments.device)
    print(f"\n{arguments.tokens} tokens, {arguments.dtype}; {where['device']}; as fast: ours against our mm, add\n")
    print(format_table(table))
    write_results(arguments, where, results)


if __name__ == "__main__":
    main()
