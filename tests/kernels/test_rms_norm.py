"""`liger::rms_norm` and `liger::add_rms_norm`: accuracy, gradients, layouts, registration, errors."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import liger_compile.ops  # noqa: F401
from numerics import assert_as_accurate_as_eager, random_tensor, wide

ops = torch.ops.liger
EPS = 1e-6
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
HALF_DTYPES = [torch.bfloat16, torch.float16]
# Below, at and above what a vector, a group of lanes and a block hold; odd ones have a tail or no vectors at all.
WIDTHS = [8, 17, 64, 96, 128, 136, 200, 257, 1000, 2048, 4096, 5120]


def llama(hidden_states: Tensor, weight: Tensor) -> Tensor:
    x = wide(hidden_states)
    x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS)
    return weight * x.to(hidden_states.dtype)


def olmo(hidden_states: Tensor, weight: Tensor) -> Tensor:
    x = wide(hidden_states)
    x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS)
    return (weight * x).to(hidden_states.dtype)


def gemma(hidden_states: Tensor, weight: Tensor) -> Tensor:
    x = wide(hidden_states)
    x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS)
    return (x * (1.0 + wide(weight))).to(hidden_states.dtype)


def unweighted(hidden_states: Tensor) -> Tensor:
    x = wide(hidden_states)
    return (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS)).to(hidden_states.dtype)


def unweighted_wide(hidden_states: Tensor) -> Tensor:
    x = wide(hidden_states)
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS)


FAMILIES: dict[str, tuple[Callable[..., Tensor], dict[str, Any]]] = {
    "llama": (llama, {"round_before_weight": True}),
    "olmo": (olmo, {}),
    "gemma": (gemma, {"weight_offset": 1.0}),
}


def fused_norm(hidden_states: Tensor, weight: Tensor | None = None, **options: Any) -> Tensor:
    return ops.rms_norm(hidden_states, weight, EPS, **options)


def fused_add(hidden_states: Tensor, residual: Tensor, weight: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    return ops.add_rms_norm(hidden_states, residual, weight, EPS, **options)


def eager_add(eager: Callable[..., Tensor], hidden_states: Tensor, residual: Tensor, weight: Tensor) -> Any:
    total = hidden_states + residual
    return eager(total, weight), total


def inputs_of(shape: tuple[int, ...], dtype: torch.dtype, weight_dtype: torch.dtype | None, device: str) -> Any:
    def make(generator: torch.Generator) -> dict[str, Any]:
        inputs: dict[str, Any] = {"hidden_states": random_tensor(shape, generator, dtype=dtype, device=device)}
        if weight_dtype is not None:
            inputs["weight"] = random_tensor(shape[-1:], generator, dtype=weight_dtype, device=device)
        return inputs

    return make


def inputs_with_residual(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Any:
    def make(generator: torch.Generator) -> dict[str, Any]:
        inputs = inputs_of(shape, dtype, dtype, device)(generator)
        # Both summands on one grid and of one size, so that the rounding of their sum is the same for every spelling.
        return inputs | {"residual": random_tensor(shape, generator, dtype=dtype, device=device)}

    return make


class TestAccuracy:
    @pytest.mark.parametrize("family", FAMILIES)
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("width", WIDTHS)
    def test_widths(self, device: str, width: int, dtype: torch.dtype, family: str) -> None:
        eager, options = FAMILIES[family]
        fused = functools.partial(fused_norm, **options)
        assert_as_accurate_as_eager(fused, eager, inputs_of((4, 33, width), dtype, dtype, device))

    @pytest.mark.parametrize("family", FAMILIES)
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("width", [64, 250, 1000, 4096])
    def test_residual_addition(self, device: str, width: int, dtype: torch.dtype, family: str) -> None:
        eager, options = FAMILIES[family]
        assert_as_accurate_as_eager(
            functools.partial(fused_add, **options),
            functools.partial(eager_add, eager),
            inputs_with_residual((3, 31, width), dtype, device),
        )

    @pytest.mark.parametrize("dtype", HALF_DTYPES, ids=str)
    @pytest.mark.parametrize("width", [64, 129, 2048])
    def test_float32_weight(self, device: str, width: int, dtype: torch.dtype) -> None:
        make = inputs_of((2, 35, width), dtype, torch.float32, device)
        # Eager promotes to the dtype of the weight, here float32; OLMo casts back.
        widening = functools.partial(fused_norm, round_before_weight=True, out_dtype=torch.float32)
        assert_as_accurate_as_eager(widening, llama, make)
        assert_as_accurate_as_eager(fused_norm, olmo, make)

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("width", [32, 129, 2048])
    def test_no_weight(self, device: str, width: int, dtype: torch.dtype) -> None:
        make = inputs_of((2, 35, width), dtype, None, device)
        assert_as_accurate_as_eager(fused_norm, unweighted, make)
        assert_as_accurate_as_eager(functools.partial(fused_norm, out_dtype=torch.float32), unweighted_wide, make)

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("width", [8192, 16384, 16385, 40000])
    def test_wide_rows(self, device: str, width: int, dtype: torch.dtype) -> None:
        assert_as_accurate_as_eager(fused_norm, olmo, inputs_of((5, width), dtype, dtype, device), seeds=(0,))

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("rows,width", [(3001, 128), (1500, 768)])
    def test_many_rows(self, device: str, rows: int, width: int, dtype: torch.dtype) -> None:
        fused = functools.partial(fused_norm, round_before_weight=True)
        assert_as_accurate_as_eager(fused, llama, inputs_of((rows, width), dtype, dtype, device), seeds=(0,))

    def test_rows_of_one_element(self, device: str) -> None:
        # A row's own direction has no gradient but for eps, so every spelling is left with rounding errors.
        x = torch.tensor([[2.0], [-0.5]], device=device, requires_grad=True)
        weight = torch.tensor([3.0], device=device, requires_grad=True)
        out = ops.rms_norm(x, weight, EPS)
        torch.testing.assert_close(out, olmo(x, weight))
        grads = torch.autograd.grad(out, [x, weight], torch.ones_like(out))
        torch.testing.assert_close(grads, torch.autograd.grad(olmo(x, weight), [x, weight], torch.ones_like(out)))

    def test_bits_of_the_rounding_before_the_weight(self, device: str) -> None:
        generator = torch.Generator().manual_seed(0)
        x = random_tensor((64, 512), generator, dtype=torch.bfloat16, device=device)
        weight = random_tensor((512,), generator, dtype=torch.bfloat16, device=device)
        early, late = ops.rms_norm(x, weight, EPS, round_before_weight=True), ops.rms_norm(x, weight, EPS)
        assert not torch.equal(early, late)
        # The kernel's rstd may differ from eager's by a float32 ulp, which moves few roundings.
        assert (early != llama(x, weight)).float().mean() < 1e-3
        assert (late != olmo(x, weight)).float().mean() < 1e-3


class TestLayouts:
    def layouts(self, device: str) -> dict[str, Tensor]:
        base = torch.randn(4, 6, 8, 64, generator=torch.Generator().manual_seed(0)).to(device)
        return {
            "transposed": base.transpose(1, 2),
            "last dim strided": base.transpose(2, 3),
            "slice of rows": base[:, :, 1:5],
            "slice of columns": base[..., 8:40],
            "unaligned columns": base[..., 3:50],
            "expanded": base[:1, :, :1].expand(4, 6, 8, 64),
            "one row": base[0, 0, 0],
            "every second column": base[..., ::2],
        }

    @pytest.mark.parametrize("name", list(layouts(None, "cpu")))  # type: ignore[arg-type]
    def test_same_as_contiguous(self, device: str, name: str) -> None:
        x = self.layouts(device)[name]
        weight = torch.linspace(-1, 2, x.shape[-1], device=device)
        out = self.run(x, weight)
        expected = self.run(x.contiguous(), weight)
        for actual, wanted in zip(out, expected, strict=True):
            assert torch.equal(actual, wanted)
            assert actual.is_contiguous()

    def run(self, x: Tensor, weight: Tensor) -> list[Tensor]:
        out, rstd = ops.rms_norm_forward(x, weight, EPS)
        summed, total, _ = ops.add_rms_norm_forward(x, x, weight, EPS)
        grads = ops.rms_norm_backward(
            x, x, x, weight, rstd, weight_offset=0.0, round_before_weight=False, needs_weight_grad=True
        )
        return [out, rstd, summed, total, *grads]

    @pytest.mark.parametrize("shape", [(0, 16), (2, 0, 16), (3, 0)])
    def test_empty(self, device: str, shape: tuple[int, ...]) -> None:
        x = torch.empty(shape, device=device, requires_grad=True)
        weight = torch.ones(shape[-1], device=device, requires_grad=True)
        out, total = ops.add_rms_norm(x, x, weight, EPS)
        assert out.shape == total.shape == shape
        (out.sum() + total.sum()).backward()
        assert x.grad is not None and weight.grad is not None
        assert x.grad.shape == shape
        assert torch.equal(weight.grad, torch.zeros_like(weight))

    def test_more_than_2_to_the_31_elements(self, device: str) -> None:
        if device == "cpu" or torch.cuda.get_device_properties(0).total_memory < 40 * 2**30:
            pytest.skip("needs a GPU with 40 GiB")
        rows, width = 2**31 // 4096 + 3, 4096
        x = torch.randn(rows, width, device=device, dtype=torch.bfloat16)
        weight = torch.randn(width, device=device, dtype=torch.bfloat16)
        out, rstd = ops.rms_norm_forward(x, weight, EPS)
        tail = ops.rms_norm(x[-8:].clone(), weight, EPS)
        assert torch.equal(out[-8:], tail)
        options = {"weight_offset": 0.0, "round_before_weight": False, "needs_weight_grad": False}
        grad, *_ = ops.rms_norm_backward(out, None, x, weight, rstd, **options)
        tail_grad, *_ = ops.rms_norm_backward(tail, None, x[-8:].clone(), weight, rstd[-8:].clone(), **options)
        assert torch.equal(grad[-8:], tail_grad)


class TestGradients:
    def make(self, device: str, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(0)
        x, residual = (random_tensor((3, 5, 48), generator, dtype=dtype, device=device) for _ in range(2))
        return x, residual, random_tensor((48,), generator, dtype=dtype, device=device)

    @pytest.mark.parametrize("wanted", list(itertools.product([False, True], repeat=3)))
    def test_any_subset_of_inputs(self, device: str, wanted: tuple[bool, ...]) -> None:
        inputs = [value.requires_grad_(flag) for value, flag in zip(self.make(device), wanted, strict=True)]
        out, total = ops.add_rms_norm(*inputs, EPS)
        assert out.requires_grad is any(wanted)
        if not any(wanted):
            return
        (out.square().sum() + total.sum()).backward()
        assert tuple(value.grad is not None for value in inputs) == wanted

    @pytest.mark.parametrize("used", ["out", "sum"])
    def test_one_output_unused(self, device: str, used: str) -> None:
        def gradients(norm: Callable[..., Any]) -> list[Tensor | None]:
            inputs = [value.requires_grad_() for value in self.make(device)]
            out, total = norm(*inputs)
            (out if used == "out" else total).square().sum().backward()
            return [value.grad for value in inputs]

        eager = gradients(functools.partial(eager_add, olmo))
        for actual, expected in zip(gradients(lambda *args: ops.add_rms_norm(*args, EPS)), eager, strict=True):
            assert (actual is None) is (expected is None)
            torch.testing.assert_close(actual, expected)

    def test_frozen_weight_costs_nothing(self, device: str) -> None:
        x, _, weight = self.make(device)
        _, rstd = ops.rms_norm_forward(x, weight, EPS)
        _, grad, _ = ops.rms_norm_backward(
            x, None, x, weight, rstd, weight_offset=0.0, round_before_weight=False, needs_weight_grad=False
        )
        assert grad.shape == (0,)

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("width", WIDTHS)
    @pytest.mark.parametrize("options", [options for _, options in FAMILIES.values()], ids=list(FAMILIES))
    def test_backward_gives_the_output_again(
        self, device: str, dtype: torch.dtype, width: int, options: dict[str, Any]
    ) -> None:
        generator = torch.Generator().manual_seed(width)
        x, weight = (random_tensor(shape, generator, dtype=dtype, device=device) for shape in ((70, width), (width,)))
        out, rstd = ops.rms_norm_forward(x, weight, EPS, **options)
        defaults = {"weight_offset": 0.0, "round_before_weight": False, "needs_weight_grad": True}
        backward = functools.partial(ops.rms_norm_backward, x, x, x, weight, rstd, **{**defaults, **options})
        *grads, again = backward(needs_out=True)
        *wanted, nothing = backward()
        assert nothing.numel() == 0 and all(map(torch.equal, grads, wanted))
        if dtype == torch.float32:  # the forward pass on the CPU knows more of rstd than it gives
            torch.testing.assert_close(again, out, rtol=2**-22, atol=0)
        else:
            assert torch.equal(again, out)

    def test_backward_twice(self, device: str) -> None:
        x, residual, weight = (value.requires_grad_() for value in self.make(device))
        out, total = ops.add_rms_norm(x, residual, weight, EPS)
        loss = (out * 3 + total).sum()
        first = torch.autograd.grad(loss, [x, residual, weight], retain_graph=True)
        second = torch.autograd.grad(loss, [x, residual, weight])
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))

    def test_same_tensor_in_both_summands(self, device: str) -> None:
        x, _, weight = self.make(device)
        x.requires_grad_()
        out, total = ops.add_rms_norm(x, x, weight, EPS)
        (out.square().sum() + total.sum()).backward()
        actual, x.grad = x.grad, None
        out, total = eager_add(olmo, x, x, weight)
        (out.square().sum() + total.sum()).backward()
        torch.testing.assert_close(actual, x.grad)

    def test_no_second_derivative(self, device: str) -> None:
        x, _, weight = (value.requires_grad_() for value in self.make(device))
        (grad,) = torch.autograd.grad(ops.rms_norm(x, weight, EPS).square().sum(), x, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            grad.sum().backward()

    def test_saves_only_the_sum(self, device: str) -> None:
        x, residual, weight = (value.requires_grad_() for value in self.make(device))
        saved: list[Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda value: saved.append(value) or value, lambda value: value):
            _, total = ops.add_rms_norm(x, residual, weight, EPS)
        assert [tuple(value.shape) for value in saved] == [(3, 5, 48), (48,), (3, 5)]
        assert torch.equal(saved[0], total)

    def test_deterministic(self, device: str) -> None:
        generator = torch.Generator().manual_seed(0)
        x = random_tensor((4096, 256), generator, dtype=torch.bfloat16, device=device)
        weight = torch.ones(256, device=device, dtype=torch.bfloat16)
        _, rstd = ops.rms_norm_forward(x, weight, EPS)
        options = {"weight_offset": 0.0, "round_before_weight": False, "needs_weight_grad": True}
        runs = [ops.rms_norm_backward(x, None, x, weight, rstd, **options)[1] for _ in range(5)]
        assert all(torch.equal(runs[0], run) for run in runs)

    @pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
    def test_modes_without_gradients(self, device: str, mode: Callable[[], Any]) -> None:
        x, residual, weight = (value.requires_grad_() for value in self.make(device))
        with mode():
            out, total = ops.add_rms_norm(x, residual, weight, EPS)
            alone = ops.rms_norm(total, weight, EPS)
        assert not out.requires_grad and not total.requires_grad and not alone.requires_grad
        assert torch.equal(out, alone)

    def test_autocast_changes_nothing(self, device: str) -> None:
        x, _, weight = self.make(device)
        with torch.autocast(device, dtype=torch.bfloat16):
            out = ops.rms_norm(x, weight, EPS)
        assert out.dtype == torch.float32 and torch.equal(out, ops.rms_norm(x, weight, EPS))


SAMPLES: list[tuple[str, Callable[..., Any]]] = [
    ("plain", lambda x, r, w: ("rms_norm", (x, w, EPS), {})),
    ("unweighted", lambda x, r, w: ("rms_norm", (x, None, EPS), {})),
    ("gemma", lambda x, r, w: ("rms_norm", (x, w, EPS), {"weight_offset": 1.0, "round_before_weight": True})),
    ("wide out", lambda x, r, w: ("rms_norm", (x, None, EPS), {"out_dtype": torch.float32})),
    ("transposed", lambda x, r, w: ("rms_norm", (x.transpose(0, 1), w, EPS), {})),
    ("add", lambda x, r, w: ("add_rms_norm", (x, r, w, EPS), {})),
    ("add unweighted", lambda x, r, w: ("add_rms_norm", (x, r, None, EPS), {"round_before_weight": True})),
    ("forward", lambda x, r, w: ("rms_norm_forward", (x.detach(), w.detach(), EPS), {})),
    ("add forward", lambda x, r, w: ("add_rms_norm_forward", (x.detach(), r.detach(), w.detach(), EPS), {})),
]


class TestRegistration:
    def inputs(self, device: str, dtype: torch.dtype) -> list[Tensor]:
        generator = torch.Generator().manual_seed(0)
        shapes: list[tuple[int, ...]] = [(2, 5, 40), (2, 5, 40), (40,)]
        return [random_tensor(shape, generator, dtype=dtype, device=device).requires_grad_() for shape in shapes]

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    @pytest.mark.parametrize("sample", [sample for _, sample in SAMPLES], ids=[name for name, _ in SAMPLES])
    def test_opcheck(self, device: str, sample: Callable[..., Any], dtype: torch.dtype) -> None:
        name, args, kwargs = sample(*self.inputs(device, dtype))
        torch.library.opcheck(getattr(ops, name).default, args, kwargs)

    @pytest.mark.parametrize("needs_weight_grad", [False, True])
    @pytest.mark.parametrize("with_sum", [False, True])
    def test_opcheck_backward(self, device: str, with_sum: bool, needs_weight_grad: bool) -> None:
        x, grad, weight = (value.detach() for value in self.inputs(device, torch.bfloat16))
        _, rstd = ops.rms_norm_forward(x, weight, EPS)
        options = {"weight_offset": 0.0, "round_before_weight": True, "needs_weight_grad": needs_weight_grad}
        options["needs_out"] = with_sum
        args = (grad.transpose(0, 1), grad.transpose(0, 1) if with_sum else None, x.transpose(0, 1), weight)
        torch.library.opcheck(ops.rms_norm_backward.default, (*args, rstd.transpose(0, 1)), options)

    @pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
    def test_compiled(self, device: str, backend: str) -> None:
        def block(x: Tensor, residual: Tensor, weight: Tensor) -> Tensor:
            out, total = ops.add_rms_norm(x * 2, residual, weight, EPS)
            return ops.rms_norm(out.relu(), weight, EPS) + total

        expected = self.block_results(block, device)
        torch._dynamo.reset()
        actual = self.block_results(torch.compile(block, backend=backend, fullgraph=True), device)
        for ours, wanted in zip(actual, expected, strict=True):
            torch.testing.assert_close(ours, wanted)

    def block_results(self, block: Callable[..., Tensor], device: str) -> list[Tensor]:
        inputs = self.inputs(device, torch.float32)
        out = block(*inputs)
        return [out.detach(), *torch.autograd.grad(out.square().sum(), inputs)]

    @torch._dynamo.config.patch(error_on_recompile=True)  # one graph serves every number of rows
    def test_compiled_for_dynamic_shapes(self, device: str) -> None:
        torch._dynamo.reset()
        compiler = functools.partial(torch.compile, fullgraph=True, dynamic=True, backend="aot_eager")
        compiled = compiler(lambda x, w: ops.rms_norm(x, w, EPS))
        for rows in (3, 5, 8):
            x, weight = torch.randn(rows, 24, device=device), torch.randn(24, device=device)
            torch.testing.assert_close(compiled(x, weight), olmo(x, weight))
