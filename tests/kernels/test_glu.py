"""liger::glu and liger::glu_packed: numerics against eager, layouts, autograd, compilation and errors."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import liger_compile.ops  # noqa: F401
from numerics import assert_as_accurate_as_eager, random_tensor

ops = torch.ops.liger

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
}
# Errors are compared as averages, so even the narrow shapes have a thousand elements; tiny ones have their own test.
SHAPES = [(1001,), (999, 1), (337, 3), (5, 31, 7), (9, 112), (3, 5, 1003), (2, 4096), (33, 2056)]
PACKED_SHAPES = [(*shape[:-1], 2 * shape[-1]) for shape in SHAPES]

for_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
for_activations = pytest.mark.parametrize("activation", ACTIVATIONS)
for_orders = pytest.mark.parametrize("gate_first", [True, False])


def eager_of(activation: str) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda gate, up: ACTIVATIONS[activation](gate) * up


def eager_packed_of(activation: str, gate_first: bool) -> Callable[[Tensor], Tensor]:
    def eager(gate_up: Tensor) -> Tensor:
        first, second = gate_up.chunk(2, dim=-1)
        return ACTIVATIONS[activation](first) * second if gate_first else ACTIVATIONS[activation](second) * first

    return eager


def pair(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Callable[[torch.Generator], dict[str, Tensor]]:
    return lambda generator: {
        name: random_tensor(shape, generator, dtype=dtype, device=device) for name in ("gate", "up")
    }


def random_pair(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor]:
    return tuple(pair(shape, dtype, device)(torch.Generator().manual_seed(5)).values())  # type: ignore[return-value]


@for_dtypes
@for_activations
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_is_as_accurate_as_eager(device: str, dtype: torch.dtype, activation: str, shape: tuple[int, ...]) -> None:
    fused = lambda gate, up: ops.glu(gate, up, activation=activation)  # noqa: E731
    assert_as_accurate_as_eager(fused, eager_of(activation), pair(shape, dtype, device))


@for_dtypes
@for_activations
@for_orders
@pytest.mark.parametrize("shape", PACKED_SHAPES, ids=str)
def test_packed_is_as_accurate_as_eager(
    device: str, dtype: torch.dtype, activation: str, gate_first: bool, shape: tuple[int, ...]
) -> None:
    assert_as_accurate_as_eager(
        lambda gate_up: ops.glu_packed(gate_up, activation=activation, gate_first=gate_first),
        eager_packed_of(activation, gate_first),
        lambda generator: {"gate_up": random_tensor(shape, generator, dtype=dtype, device=device)},
    )


@for_dtypes
@for_activations
@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 9, 17])
def test_tiny(device: str, dtype: torch.dtype, activation: str, size: int) -> None:
    gate, up = (x.requires_grad_() for x in random_pair((size,), dtype, device))
    truth = [x.detach().double().requires_grad_() for x in (gate, up)]
    out, exact = ops.glu(gate, up, activation=activation), eager_of(activation)(*truth)
    torch.testing.assert_close(out, exact.to(dtype))
    grads, exact_grads = torch.autograd.grad(out.sum(), (gate, up)), torch.autograd.grad(exact.sum(), truth)
    for grad, wanted in zip(grads, exact_grads, strict=True):
        torch.testing.assert_close(grad, wanted.to(dtype))


def test_the_standard_tells_activations_apart(device: str) -> None:
    fused = lambda gate, up: ops.glu(gate, up, activation="gelu")  # noqa: E731
    with pytest.raises(AssertionError, match="error"):
        assert_as_accurate_as_eager(fused, eager_of("gelu_tanh"), pair((64, 512), torch.float32, device))


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {  # of a [6, 4, 1200] tensor
    "rows with gaps": lambda x: x[..., :1000],
    "rows with gaps, 16-byte aligned": lambda x: x[..., 8:1008],
    "misaligned start": lambda x: x.flatten()[1:-1199].view(23, 1200),
    "misaligned width": lambda x: x[..., 1:1008],
    "every second row": lambda x: x[::2],
    "rows that walk unevenly": lambda x: x[:, 1:3],
    "transposed leading dims": lambda x: x.transpose(0, 1),
    "transposed last dim": lambda x: x.transpose(1, 2),
    "every second column": lambda x: x[..., ::2],
    "expanded rows": lambda x: x[:1].expand(5, 4, 1200),
    "expanded columns": lambda x: x[..., :1].expand(6, 4, 64),
    "one row": lambda x: x[2, 1, :1004],
}


def spaced_like(values: Tensor) -> Tensor:
    """The values in rows with a gap between them."""
    spaced = values.new_empty(*values.shape[:-1], values.shape[-1] + 8)[..., 8:]
    return spaced.copy_(values)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@for_activations
def test_layouts_change_no_value(device: str, layout: str, dtype: torch.dtype, activation: str) -> None:
    view = LAYOUTS[layout]
    gate, up = (view(x) for x in random_pair((6, 4, 1200), dtype, device))
    grad_out = view(random_pair((6, 4, 1200), dtype, device)[0].flip(0))
    plain = [x.contiguous() for x in (gate, up, grad_out)]
    for inputs in ((gate, up, grad_out), (gate, plain[1], plain[2]), (plain[0], up, plain[2])):
        out = ops.glu(*inputs[:2], activation=activation)
        assert torch.equal(out, ops.glu(*plain[:2], activation=activation))
        assert out.is_contiguous()
        grads = ops.glu_backward(inputs[2], *inputs[:2], activation=activation)
        wanted = ops.glu_backward(plain[2], *plain[:2], activation=activation)
        assert all(torch.equal(grad, want) for grad, want in zip(grads, wanted, strict=True))
        again = ops.glu_backward(inputs[2], *inputs[:2], activation=activation, needs_out=True)
        assert all(map(torch.equal, again[:2], wanted[:2]))
        tolerance = 2**-23 if dtype == torch.float32 else 0.0  # of one rounding, between two kernels on a GPU
        torch.testing.assert_close(again[2], out, rtol=tolerance, atol=0.0)
        assert again[2].is_contiguous()
        for overwritten in (plain[2].clone(), spaced_like(plain[2])):
            in_place = ops.glu_backward_(overwritten, *inputs[:2], activation=activation)
            assert all(map(torch.equal, (*in_place, overwritten), (*wanted[:2], again[2])))
            inputs_ = overwritten.copy_(plain[2]), spaced_like(plain[0]), plain[1].clone()
            ops.glu_backward_all_(*inputs_, activation=activation)
            assert all(map(torch.equal, inputs_, (again[2], *wanted[:2])))


@for_dtypes
@for_orders
@pytest.mark.parametrize("layout", LAYOUTS)
def test_packed_is_glu_of_the_halves(device: str, dtype: torch.dtype, gate_first: bool, layout: str) -> None:
    gate_up = LAYOUTS[layout](random_pair((6, 4, 1200), dtype, device)[0])
    if gate_up.shape[-1] % 2:
        gate_up = gate_up[..., :-1]
    gate, up = gate_up.chunk(2, dim=-1)[:: 1 if gate_first else -1]
    out = ops.glu_packed(gate_up, activation="silu", gate_first=gate_first)
    assert torch.equal(out, ops.glu(gate, up, activation="silu"))
    grad_out = torch.randn_like(out)
    packed, nothing = ops.glu_packed_backward(grad_out, gate_up, activation="silu", gate_first=gate_first)
    assert nothing.numel() == 0
    halves = ops.glu_backward(grad_out, gate, up, activation="silu")[:2][:: 1 if gate_first else -1]
    assert torch.equal(packed, torch.cat(halves, dim=-1))
    options = {"activation": "silu", "gate_first": gate_first, "needs_out": True}
    assert all(map(torch.equal, ops.glu_packed_backward(grad_out, gate_up, **options), (packed, out)))
    overwritten, twice = grad_out.clone(), spaced_like(gate_up)
    in_place = ops.glu_packed_backward_(overwritten, gate_up, activation="silu", gate_first=gate_first)
    assert torch.equal(in_place, packed) and torch.equal(overwritten, out)
    ops.glu_packed_backward_all_(grad_out, twice, activation="silu", gate_first=gate_first)
    assert torch.equal(twice, packed) and torch.equal(grad_out, out)
    assert packed.is_contiguous()


@for_dtypes
@for_activations
def test_saturated_gates_are_finite_and_right(device: str, dtype: torch.dtype, activation: str) -> None:
    gates = torch.tensor([-1e4, -1e3, -200, -88.5, -30, -11, 0, 11, 30, 88.5, 200, 1e3, 1e4] * 3)
    ups = torch.linspace(-2, 2, gates.numel())
    assert_as_accurate_as_eager(
        lambda gate, up: ops.glu(gate, up, activation=activation),
        eager_of(activation),
        lambda generator: {"gate": gates.to(dtype).to(device), "up": ups.to(dtype).to(device)},
    )


@for_activations
def test_not_a_number_stays_one(device: str, activation: str) -> None:
    gate, up = torch.ones(2, 40, device=device), torch.ones(2, 40, device=device)
    gate[0, 3] = up[1, 39] = torch.nan
    out = ops.glu(gate, up, activation=activation)
    assert torch.equal(out.isnan(), (gate + up).isnan())


@for_activations
@pytest.mark.parametrize("shape", [(0,), (0, 8), (4, 0), (2, 0, 6)], ids=str)
def test_empty(device: str, activation: str, shape: tuple[int, ...]) -> None:
    gate, up = (torch.empty(shape, device=device, requires_grad=True) for _ in range(2))
    out = ops.glu(gate, up, activation=activation)
    assert out.shape == shape
    out.sum().backward()
    assert gate.grad is not None and gate.grad.shape == shape
    packed = ops.glu_packed(gate, activation=activation)
    assert packed.shape == (*shape[:-1], shape[-1] // 2)
    packed.sum().backward()


@pytest.mark.parametrize("frozen", ["gate", "up"])
def test_gradient_of_one_input(device: str, frozen: str) -> None:
    fused = lambda gate, up: ops.glu(gate, up, activation="silu")  # noqa: E731
    assert_as_accurate_as_eager(fused, eager_of("silu"), pair((7, 96), torch.float32, device), frozen=[frozen])


def test_expanded_upstream_gradient(device: str) -> None:
    gate, up = (x.requires_grad_() for x in random_pair((7, 96), torch.float32, device))
    grads = torch.autograd.grad(ops.glu(gate, up, activation="gelu").sum(), (gate, up))
    wanted = torch.autograd.grad(eager_of("gelu")(gate, up).sum(), (gate, up))
    torch.testing.assert_close(grads, wanted)


def test_backward_twice_gives_equal_gradients_and_leaves_inputs(device: str) -> None:
    gate, up = (x.requires_grad_() for x in random_pair((7, 96), torch.bfloat16, device))
    before = gate.detach().clone(), up.detach().clone()
    out = ops.glu(gate, up, activation="gelu_tanh")
    first, second = (torch.autograd.grad(3 * out.sum(), (gate, up), retain_graph=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert torch.equal(gate, before[0]) and torch.equal(up, before[1])


def test_second_derivative_is_an_error(device: str) -> None:
    gate, up = (x.requires_grad_() for x in random_pair((2, 8), torch.float32, device))
    (grad,) = torch.autograd.grad(ops.glu(gate, up, activation="silu").square().sum(), gate, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_only_inputs_are_saved(device: str) -> None:
    gate, up = (x.requires_grad_() for x in random_pair((7, 96), torch.float32, device))
    saved: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: (saved.append(x.data_ptr()), x)[1], lambda x: x):
        ops.glu(gate, up, activation="silu")
        ops.glu_packed(gate, activation="silu")
    assert saved == [gate.data_ptr(), up.data_ptr(), gate.data_ptr()]


@for_dtypes
@for_activations
def test_opcheck(device: str, dtype: torch.dtype, activation: str) -> None:
    gate, up = random_pair((3, 5, 26), dtype, device)
    grad_out = torch.randn_like(gate)
    half = grad_out[..., :13]
    torch.library.opcheck(ops.glu.default, (gate, up), {"activation": activation})
    torch.library.opcheck(ops.glu_packed.default, (gate,), {"activation": activation})
    for order in (True, False):
        options = {"activation": activation, "gate_first": order}
        torch.library.opcheck(ops.glu_packed.default, (gate.clone().requires_grad_(),), options)
        torch.library.opcheck(ops.glu_packed_backward.default, (half, gate), options)
        torch.library.opcheck(ops.glu_packed_backward.default, (half, gate), {**options, "needs_out": True})
        torch.library.opcheck(ops.glu_packed_backward_.default, (half.contiguous(), gate), options)
        torch.library.opcheck(ops.glu_packed_backward_all_.default, (half.contiguous(), gate.clone()), options)
    torch.library.opcheck(
        ops.glu.default, (gate.clone().requires_grad_(), up.clone().requires_grad_()), {"activation": activation}
    )
    torch.library.opcheck(
        ops.glu_backward.default,
        (grad_out, gate.transpose(0, 1).contiguous().transpose(0, 1), up),
        {"activation": activation},
    )
    torch.library.opcheck(ops.glu_backward.default, (grad_out, gate, up), {"activation": activation, "needs_out": True})
    torch.library.opcheck(ops.glu_backward_.default, (grad_out.clone(), gate, up), {"activation": activation})
    overwritten = tuple(x.clone() for x in (grad_out, gate, up))
    torch.library.opcheck(ops.glu_backward_all_.default, overwritten, {"activation": activation})


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_into_one_graph(device: str, backend: str, dynamic: bool) -> None:
    def model(gate: Tensor, up: Tensor, gate_up: Tensor) -> Tensor:
        packed = ops.glu_packed(gate_up * 2, activation="gelu_tanh", gate_first=False)
        return ops.glu(gate + 1, up, activation="silu").sum() + (packed * packed).sum()

    torch._dynamo.reset()
    compiled = torch.compile(model, backend=backend, fullgraph=True, dynamic=dynamic)
    for rows in (4, 6):
        gate, up = random_pair((rows, 24), torch.float32, device)
        inputs = [x.requires_grad_() for x in (gate, up, torch.cat([up, gate], dim=-1).detach())]
        grads = torch.autograd.grad(compiled(*inputs), inputs)
        torch.testing.assert_close(grads, torch.autograd.grad(model(*inputs), inputs))
        with torch.no_grad():
            torch.testing.assert_close(compiled(*inputs), model(*inputs))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients(device: str, mode: Callable[[], torch.no_grad]) -> None:
    gate, up = (x.requires_grad_() for x in random_pair((3, 40), torch.float32, device))
    with mode():
        out = ops.glu(gate, up, activation="gelu")
        packed = ops.glu_packed(gate, activation="gelu")
    assert not out.requires_grad and not packed.requires_grad
    torch.testing.assert_close(out, eager_of("gelu")(gate, up).detach())
    torch.testing.assert_close(packed, eager_packed_of("gelu", True)(gate).detach())


def error_cases(device: str) -> dict[str, tuple[str, tuple[Tensor, ...], dict[str, object], str]]:
    x, silu = torch.ones(2, 6, device=device), {"activation": "silu"}
    unknown = r'activation must be "silu", "gelu" or "gelu_tanh", got "relu"'
    return {
        "activation": ("glu", (x, x), {"activation": "relu"}, f"liger::glu: {unknown}"),
        "packed activation": ("glu_packed", (x,), {"activation": "relu"}, f"liger::glu_packed: {unknown}"),
        "dtype": ("glu", (x.double(), x.double()), silu, "gate must be float32, bfloat16 or float16, got float64"),
        "dtypes": ("glu", (x, x.half()), silu, "up must be float32, got float16"),
        "shapes": ("glu", (x, x[:1]), silu, r"up must have shape \[2, 6\], got \[1, 6\]"),
        "rank": ("glu", (x.sum(), x.sum()), silu, r"gate must have at least 1 dimension\(s\), got shape \[\]"),
        "grad dtype": ("glu_backward", (x.half(), x, x), silu, "grad_out must be float32, got float16"),
        "grad shape": ("glu_backward", (x[:1], x, x), silu, r"grad_out must have shape \[2, 6\], got \[1, 6\]"),
        "grad strides": (
            "glu_backward_",
            (x[:1].expand(2, 6), x, x),
            silu,
            "grad_out must have contiguous rows at equal distances: it is overwritten",
        ),
        "packed grad strides": (
            "glu_packed_backward_",
            (x[:, ::2], x),
            silu | {"gate_first": True},
            "grad_out must have contiguous rows at equal distances: it is overwritten",
        ),
        "gate strides": (
            "glu_backward_all_",
            (x, x[:1].expand(2, 6), x),
            silu,
            "gate must have contiguous rows at equal distances: it is overwritten",
        ),
        "up strides": (
            "glu_backward_all_",
            (x, x, x[:1].expand(2, 6)),
            silu,
            "up must have contiguous rows at equal distances: it is overwritten",
        ),
        "packed strides": (
            "glu_packed_backward_all_",
            (x[:, :3], x[:1].expand(2, 6)),
            silu | {"gate_first": True},
            "gate_up must have contiguous rows at equal distances: it is overwritten",
        ),
        "odd": ("glu_packed", (x[:, :5],), silu, r"gate_up must have an even last dimension, got shape \[2, 5\]"),
        "packed dtype": ("glu_packed", (x.int(),), silu, "gate_up must be float32, bfloat16 or float16, got int32"),
        "packed grad shape": (
            "glu_packed_backward",
            (x, x),
            silu | {"gate_first": True},
            r"grad_out must have shape \[2, 3\], got \[2, 6\]",
        ),
    }


@pytest.mark.parametrize("case", error_cases("cpu"))
def test_errors_name_argument_expected_and_actual(device: str, case: str) -> None:
    name, args, kwargs, message = error_cases(device)[case]
    with pytest.raises(RuntimeError, match=message):
        getattr(ops, name)(*args, **kwargs)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs two devices")
def test_devices_must_agree() -> None:
    with pytest.raises(RuntimeError, match="up must be on the device of gate"):
        ops.glu(torch.ones(2, 6, device="cuda"), torch.ones(2, 6), activation="silu")
