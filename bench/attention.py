"""Attention alone, forward and backward, over sequence lengths: plain torch.compile against ours.

    python bench/attention.py --mask causal --lengths 128,1024,4096,16384
    python bench/attention.py --mask window --window 1024

Both compile what transformers' models are traced to: a boolean mask for every query and key, and repeated heads.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from _timing import Call, Timing, compare, format_table, machine, write_results

MASKS = ("causal", "window", "chunks", "padding", "documents")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if cuda else "cpu")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--mask", choices=MASKS, default="causal", help="what is hidden beside later keys")
    parser.add_argument("--window", type=int, default=1024, help="of a sliding window, or the size of chunks")
    parser.add_argument("--lengths", default="128,512,2048,4096,16384" if cuda else "128,512,1024")
    parser.add_argument("--tokens", type=int, default=16384 if cuda else 1024, help="batch times length")
    parser.add_argument("--heads", type=int, default=32 if cuda else 8)
    parser.add_argument("--key-heads", type=int, default=8 if cuda else 2)
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--rewrite", default="all", choices=("auto", "all"), help="ours: option rewrite")
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--json", type=Path, default=Path("bench/results/attention.json"))
    return parser.parse_args(argv)


def mask_of(kind: str, size: int, query: Tensor, marks: Tensor) -> Tensor:
    """As transformers spells it: bool [batch, 1, queries, keys]. `marks`, [batch, keys], are positive where a key is
    not padding, and the numbers of documents; as floats, so that nothing about them is known before the call."""
    batch, _, length, _ = query.shape
    position = torch.arange(length, device=query.device)
    of_query, of_key = position[None, None, :, None], position[None, None, None, :]
    mask = of_key <= of_query
    if kind == "window":
        mask = mask & (of_key > of_query - size)
    elif kind == "chunks":
        mask = mask & (of_key // size == of_query // size)
    elif kind == "padding":
        mask = mask & (marks > 0)[:, None, None, :]
    elif kind == "documents":
        mask = mask & (marks[:, None, :, None] == marks[:, None, None, :])
    return mask.expand(batch, -1, length, length)


def attention(kind: str, size: int, query: Tensor, key: Tensor, value: Tensor, marks: Tensor) -> Tensor:
    repeats = query.shape[1] // key.shape[1]

    def repeated(heads: Tensor) -> Tensor:
        batch, count, length, dim = heads.shape
        expanded = heads[:, :, None].expand(batch, count, repeats, length, dim)
        return expanded.reshape(batch, count * repeats, length, dim)

    mask = mask_of(kind, size, query, marks)
    return F.scaled_dot_product_attention(query, repeated(key), repeated(value), attn_mask=mask)


def inputs(length: int, arguments: argparse.Namespace) -> tuple[list[Tensor], Tensor]:
    """Query, key and value as projections leave them, [batch, heads, length, dim] in transposed views; and the marks:
    a tenth of each row is padding on the right, or each row has four documents."""
    batch = max(1, arguments.tokens // length)
    torch.manual_seed(0)
    leaves = [
        torch.randn(
            batch, length, heads, arguments.head_dim, device=arguments.device, dtype=getattr(torch, arguments.dtype)
        )
        .transpose(1, 2)
        .detach()
        .requires_grad_()
        for heads in (arguments.heads, arguments.key_heads, arguments.key_heads)
    ]
    position = torch.arange(length, device=arguments.device)
    marks = position < length - length // 10 if arguments.mask == "padding" else position * 4 // length
    return leaves, marks.float().expand(batch, -1).contiguous()


def measure(length: int, arguments: argparse.Namespace) -> tuple[dict[str, Timing], str]:
    """Forward and backward of each, whose outputs must agree; and what our report says."""
    import liger_compile

    leaves, marks = inputs(length, arguments)
    function = partial(attention, arguments.mask, arguments.window)
    options = {"rewrite": arguments.rewrite}
    functions = {
        "torch.compile": torch.compile(function),
        "ours": torch.compile(function, backend="liger", options=options),
    }
    liger_compile.reset()
    torch._dynamo.reset()
    outputs = {name: compiled(*leaves, marks) for name, compiled in functions.items()}
    gradient = torch.randn_like(outputs["ours"])
    torch.testing.assert_close(outputs["ours"], outputs["torch.compile"], rtol=2e-2, atol=2e-2)

    def both(compiled: Callable[..., Tensor]) -> Any:
        return torch.autograd.grad(compiled(*leaves, marks), leaves, gradient)

    calls: dict[str, Call] = {name: partial(both, compiled) for name, compiled in functions.items()}
    timings = compare(calls, device=arguments.device, repetitions=arguments.repetitions)
    return timings, "; ".join(record.detail or record.reason for record in liger_compile.report().records)


def main() -> None:
    arguments = parse()
    table = [["length", "torch.compile", "ours", "times as fast"]]
    results: dict[str, dict[str, Any]] = {}
    for length in (int(text) for text in arguments.lengths.split(",")):
        timings, report = measure(length, arguments)
        results[str(length)] = {"report": report, **{name: vars(timing) for name, timing in timings.items()}}
        plain, ours = timings["torch.compile"], timings["ours"]
        table.append([str(length), str(plain), str(ours), f"{plain.median / ours.median:.2f}"])
        print(f"{length}: {report}", flush=True)
    where = machine(arguments.device)
    shape = f"{arguments.heads} / {arguments.key_heads} heads of {arguments.head_dim}"
    print(f"\n{arguments.mask}, {arguments.dtype}, {arguments.tokens} tokens, {shape}; {where['device']}\n")
    print(format_table(table))
    write_results(arguments, where, results)


if __name__ == "__main__":
    main()
