"""Launches every GPU kernel once or more, forward and backward, with sizes that take each path: for compute-sanitizer.

With --no-half-products the ops that multiply matrices run in float32 only: racecheck fails inside cuBLAS's kernels for
bfloat16 and float16. With --dtypes and names, with commas, these only and in this order.
"""

import argparse
import itertools

import torch

import liger_compile.ops  # noqa: F401

ops = torch.ops.liger


def tensor(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(shape, device="cuda").to(dtype).requires_grad_()


def backward(*outputs: torch.Tensor) -> None:
    torch.autograd.backward(outputs, [torch.randn_like(output) for output in outputs])


def norms(dtype: torch.dtype) -> None:
    for rows, width in itertools.product((1, 37), (7, 64, 129, 2048, 2056, 5120, 20480)):
        x, residual, weight = (tensor(rows, width, dtype=dtype) for _ in range(3))
        backward(ops.rms_norm(x, weight[0].detach().requires_grad_(), 1e-6, round_before_weight=True))
        backward(*ops.add_rms_norm(x, residual, weight[0].detach().requires_grad_(), 1e-6, weight_offset=1.0))
        backward(ops.rms_norm(x, None, 1e-6))
        values, plain_weight = x.detach(), weight[0].detach()
        rstd = ops.rms_norm_forward(values, plain_weight, 1e-6)[1]
        options = {"weight_offset": 0.0, "round_before_weight": True, "needs_weight_grad": True, "needs_out": True}
        ops.rms_norm_backward(values, values, values, plain_weight, rstd, **options)


def rotations(dtype: torch.dtype) -> None:
    for head_dim, rotary_dim in ((64, 64), (128, 128), (80, 32), (10, 6)):
        query = tensor(2, 33, 4, head_dim, dtype=dtype).transpose(1, 2)
        key = tensor(2, 33, 2, head_dim, dtype=dtype).transpose(1, 2)
        for table_dtype in {dtype, torch.float32}:
            cos, sin = (torch.randn(1, 1, 33, rotary_dim, device="cuda").to(table_dtype) for _ in range(2))
            backward(*ops.rope(query, key, cos, sin, contiguous_key=True))


def normed_rotations(dtype: torch.dtype) -> None:
    for head_dim, rotary_dim in ((64, 64), (128, 128), (80, 32), (10, 6), (512, 512)):
        query = tensor(2, 333, 4, head_dim, dtype=dtype).transpose(1, 2)
        key = tensor(2, 333, 2, head_dim, dtype=dtype).transpose(1, 2)
        for wide_tables, wide_weights in itertools.product((False, True), repeat=2):
            table_dtype, weight_dtype = (torch.float32 if wide else dtype for wide in (wide_tables, wide_weights))
            cos, sin = (torch.randn(1, 1, 333, rotary_dim, device="cuda").to(table_dtype) for _ in range(2))
            weights = [tensor(head_dim, dtype=weight_dtype) for _ in range(2)]
            backward(*ops.norm_rope(query, key, *weights, cos, sin, 1e-6, contiguous_key=True))
        backward(*ops.norm_rope(query, key, None, None, cos, sin, 1e-6))


def gates(dtype: torch.dtype) -> None:
    for width, activation in itertools.product((7, 112, 4096), ("silu", "gelu", "gelu_tanh")):
        backward(ops.glu(*(tensor(5, width, dtype=dtype) for _ in range(2)), activation=activation))
        backward(ops.glu_packed(tensor(5, 2 * width, dtype=dtype), activation=activation))
        gradient, gate, up = (tensor(5, width, dtype=dtype).detach() for _ in range(3))
        ops.glu_backward(gradient, gate, up, activation=activation, needs_out=True)
        ops.glu_backward_(gradient, gate, up, activation=activation)
        ops.glu_backward_all_(gradient, gate, up, activation=activation)


def losses(dtype: torch.dtype, *, with_products: bool = True) -> None:
    target = torch.arange(2000, device="cuda") % 300  # more rows than there are blocks at once
    backward(ops.cross_entropy(tensor(2000, 300, dtype=dtype), target, label_smoothing=0.1))
    options = {"label_smoothing": 0.1, "softcap": 5.0, "z_loss": 1e-3}
    for vocab, reduction, extra in itertools.product((33, 1000, 20011, 32064), ("mean", "none"), ({}, options)):
        target = torch.randint(0, vocab, (13,), device="cuda")
        target[3] = -100
        backward(ops.cross_entropy(tensor(13, vocab, dtype=dtype), target, reduction=reduction, **extra))
        if not with_products:
            continue
        hidden, weight, bias = (tensor(*shape, dtype=dtype) for shape in ((13, 64), (vocab, 64), (vocab,)))
        backward(ops.linear_cross_entropy(hidden, weight, target, bias, reduction=reduction, **extra))
        backward(*ops.linear_cross_entropy_with_logits(hidden, weight, target, bias, reduction=reduction, **extra))


def heads(dtype: torch.dtype) -> None:
    """Without options: in bfloat16 on Hopper another way. One chunk and several, labels that are far below the rest."""
    for tokens, vocab, scale in itertools.product((13, 300, 700), (33, 1000, 5003), (0.1, 10.0)):
        hidden, weight = (scale * tensor(rows, 72, dtype=dtype).detach() for rows in (tokens, vocab))
        target = torch.randint(0, vocab, (tokens,), device="cuda")
        target[3:5] = target[0]
        target[5] = -100
        ops.linear_cross_entropy(hidden, weight, target)
        for chunk_rows, labels in itertools.product((0, 256), (tokens, 40)):
            target[labels:] = -100
            needs = {"needs_grad_hidden_states": True, "needs_grad_weight": True}
            ops.linear_cross_entropy_forward(hidden, weight, target, chunk_rows=chunk_rows, **needs)


def units(dtype: torch.dtype) -> None:
    """Gated units with the products beside them."""
    for rows, width, activation in itertools.product((13, 300), (8, 200, 1000), ("silu", "gelu", "gelu_tanh")):
        a, gate, up = (tensor(rows, columns, dtype=dtype).detach() for columns in (72, width, width))
        gate_weight, up_weight, down_weight = (tensor(width, 72, dtype=dtype).detach() for _ in range(3))
        ops.mm_glu(a, gate_weight.t(), up_weight.t(), activation=activation)
        weight = down_weight.t().contiguous()
        ops.mm_glu_backward(a, weight, gate, up, activation=activation)
        ops.mm_glu_backward_(a, weight, gate, up, activation=activation)
        packed = torch.cat([gate_weight, up_weight]).t()
        gate_up, _ = ops.mm_glu_packed(a, packed, activation=activation)
        ops.mm_glu_packed_backward_(a, weight, gate_up, activation=activation)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-half-products", action="store_true")
    parser.add_argument("--dtypes", default="float32,bfloat16,float16")
    arguments = parser.parse_args()
    for dtype in (getattr(torch, name) for name in arguments.dtypes.split(",")):
        with_products = dtype == torch.float32 or not arguments.no_half_products
        losses(dtype, with_products=with_products)
        if with_products:
            heads(dtype)
            units(dtype)
        for exercise in (norms, rotations, normed_rotations, gates):
            exercise(dtype)
        torch.cuda.synchronize()
        print(dtype, "done", flush=True)


if __name__ == "__main__":
    main()
