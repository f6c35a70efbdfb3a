"""Attention alone, forward and backward, over sequence lengths: as tracing leaves it, and as it can be called.

    python bench/attention.py --lengths 128,1024,4096,16384 --window 1024

"traced" is what plain torch.compile makes of transformers: a mask for every query and key, repeated heads. "causal" is
what the rule attention_mask writes. With --window, the exact ways that torch has for a sliding window are compared:
the mask again, FlexAttention with a block mask, and on CUDA the flash kernel's own window.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from _timing import Call, Timing, compare, format_table, machine

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if cuda else "cpu")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--lengths", default="128,512,2048,4096,16384" if cuda else "128,512,1024")
    parser.add_argument("--tokens", type=int, default=16384 if cuda else 1024, help="batch times length")
    parser.add_argument("--heads", type=int, default=32 if cuda else 8)
    parser.add_argument("--key-heads", type=int, default=8 if cuda else 2)
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--window", type=int, help="a sliding window instead of full causal attention")
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--json", type=Path, default=Path("bench/results/attention.json"))
    return parser.parse_args(argv)


def causal_mask(query: Tensor, window: int | None) -> Tensor:
    """As transformers spells it: bool [batch, 1, queries, keys], of which the batch is a view."""
    batch, _, length, _ = query.shape
    position = torch.arange(length, device=query.device)
    mask = position[None, None, None, :] <= position[None, None, :, None]
    if window is not None:
        mask = mask & (position[None, None, None, :] > position[None, None, :, None] - window)
    return mask.expand(batch, -1, length, length)


def traced(query: Tensor, key: Tensor, value: Tensor, window: int | None) -> Tensor:
    repeats = query.shape[1] // key.shape[1]

    def repeated(heads: Tensor) -> Tensor:
        batch, count, length, dim = heads.shape
        expanded = heads[:, :, None].expand(batch, count, repeats, length, dim)
        return expanded.reshape(batch, count * repeats, length, dim)

    mask = causal_mask(query, window)
    return F.scaled_dot_product_attention(query, repeated(key), repeated(value), attn_mask=mask)


def causal(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)


def flex(length: int, window: int, device: str) -> Attention:
    """FlexAttention with one block mask, which all layers of a model would share."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    def visible(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (key > query - window)

    block_mask = create_block_mask(visible, None, None, length, length, device=device)
    function: Any = partial(flex_attention, block_mask=block_mask, enable_gqa=True)
    return torch.compile(function)


def flash_window(query: Tensor, key: Tensor, value: Tensor, window: int) -> Tensor:
    """The flash kernel takes [batch, length, heads, dim], and how far each query sees to the left."""
    tensors = (tensor.transpose(1, 2) for tensor in (query, key, value))
    length = query.shape[2]
    output, *_ = torch.ops.aten._flash_attention_forward(
        *tensors, None, None, length, length, 0.0, True, False, window_size_left=window - 1, window_size_right=0
    )
    return output.transpose(1, 2)


def implementations(length: int, arguments: argparse.Namespace) -> dict[str, Attention]:
    window = arguments.window
    found: dict[str, Attention] = {"traced": torch.compile(partial(traced, window=window))}
    if window is None or window >= length:
        found["causal"] = torch.compile(causal)
        return found
    if arguments.device == "cuda":
        found["flex"] = flex(length, window, arguments.device)
        found["flash window"] = partial(flash_window, window=window)
    return found


def leaves(length: int, arguments: argparse.Namespace) -> list[Tensor]:
    """Query, key and value as projections leave them: [batch, heads, length, dim], transposed views."""
    batch = max(1, arguments.tokens // length)
    dtype = getattr(torch, arguments.dtype)
    torch.manual_seed(0)
    return [
        torch.randn(batch, length, heads, arguments.head_dim, device=arguments.device, dtype=dtype)
        .transpose(1, 2)
        .detach()
        .requires_grad_()
        for heads in (arguments.heads, arguments.key_heads, arguments.key_heads)
    ]


def measure(length: int, arguments: argparse.Namespace) -> dict[str, Timing]:
    """Forward and backward of each; their outputs must agree."""
    tensors = leaves(length, arguments)
    functions = implementations(length, arguments)
    outputs = {name: function(*tensors) for name, function in functions.items()}
    gradient = torch.randn_like(outputs["traced"])
    for name, output in outputs.items():
        torch.testing.assert_close(output, outputs["traced"], rtol=2e-2, atol=2e-2, msg=f"{name} differs")

    def both(function: Attention) -> Any:
        return torch.autograd.grad(function(*tensors), tensors, gradient)

    calls: dict[str, Call] = {name: partial(both, function) for name, function in functions.items()}
    return compare(calls, device=arguments.device, repetitions=arguments.repetitions)


def main() -> None:
    arguments = parse()
    table = [["length", "", "forward and backward", "against traced"]]
    results: dict[str, dict[str, Any]] = {}
    for length in (int(text) for text in arguments.lengths.split(",")):
        torch._dynamo.reset()
        timings = measure(length, arguments)
        results[str(length)] = {name: vars(timing) for name, timing in timings.items()}
        for name, timing in timings.items():
            table.append([str(length), name, str(timing), f"{timings['traced'].median / timing.median:.2f}"])
    where = machine(arguments.device)
    print(f"\n{arguments.dtype}, {arguments.tokens} tokens; {where['device']}, torch {where['torch']}\n")
    print(format_table(table))
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    options = {key: str(value) for key, value in vars(arguments).items()}
    arguments.json.write_text(json.dumps({"environment": where, "options": options, "results": results}, indent=1))


if __name__ == "__main__":
    main()
