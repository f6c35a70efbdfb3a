"""What is kept between forward and backward of rewritten graphs, and that gradients do not change by it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._functorch.config as functorch_config
from small_models import Block
from torch import Tensor, nn

import liger_compile
from allocations import allocated_bytes, peak_bytes
from liger_compile import backend, joint_graph
from liger_compile.tiny_models import tiny_batch, tiny_model

HIDDEN, WIDTH, BATCH, SEQUENCE = 64, 112, 2, 16
LONGER = 24  # so that no weight has as many elements as activations have


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    liger_compile.reset()
    # A compiled backward frees what was kept, unless it may run again.
    with functorch_config.patch(donated_buffer=False):
        yield


@contextlib.contextmanager
def kept_by(module: nn.Module) -> Iterator[list[tuple[int, ...]]]:
    """Shapes of the tensors that are kept for the backward pass inside; parameters are not counted."""
    shapes: dict[int, tuple[int, ...]] = {}
    known = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    found: list[tuple[int, ...]] = []

    def pack(tensor: Tensor) -> Tensor:
        address = tensor.untyped_storage().data_ptr()
        if address not in known and address not in shapes:
            shapes[address] = tuple(tensor.shape)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield found
    found += shapes.values()


def elements(shapes: list[tuple[int, ...]], *sizes: int) -> int:
    """How many tensors have this many elements."""
    return sum(torch.Size(shape).numel() == torch.Size(sizes).numel() for shape in shapes)


def compiled(module: Any, inner: str = "aot_eager", **keywords: Any) -> Any:
    return torch.compile(module, backend="liger", options={"inner": inner, "strict": True}, **keywords)


def without_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "keeping_less", lambda **options: contextlib.nullcontext())


def gradients(model: nn.Module, loss_of: Callable[[], Tensor]) -> list[Tensor]:
    model.zero_grad(set_to_none=True)
    loss_of().backward()
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("inner", ["aot_eager", "inductor"])
@pytest.mark.parametrize("dynamic", [None, True])
def test_a_llama_keeps_no_output_of_norms_and_gates(inner: str, dynamic: bool | None) -> None:
    model = tiny_model("llama", torch.bfloat16, use_cache=False, num_hidden_layers=2, head_dim=48)
    run, batch = compiled(model, inner, dynamic=dynamic), tiny_batch(model.config)
    run(**batch)
    with kept_by(model) as shapes:
        loss = run(**batch).loss
    assert elements(shapes, BATCH, SEQUENCE, WIDTH) == 2 * 2  # gates and ups
    # Two residual streams a layer, and the embedding; the gradient of the last hidden states.
    assert elements(shapes, BATCH, SEQUENCE, HIDDEN) == 2 * 2 + 1 + 1
    loss.backward()


@pytest.mark.parametrize("family", ["llama", "phi3", "gemma2", "olmo2", "qwen3"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_the_same_bits(family: str, checkpointing: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(family, torch.bfloat16, use_cache=False)
    if checkpointing:
        model.gradient_checkpointing_enable()
    batch = tiny_batch(model.config)
    ours = gradients(model, lambda: compiled(model)(**batch).loss)
    torch._dynamo.reset()
    without_pass(monkeypatch)
    plain = gradients(model, lambda: compiled(model)(**batch).loss)
    assert len(ours) == len(plain) > 0
    assert all(torch.equal(a, b) for a, b in zip(ours, plain, strict=True))


class Gated(nn.Module):
    """A GLU whose output is read as `read` says."""

    def __init__(self, read: Callable[[Tensor, nn.Linear], Any], *, trains_gates: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.gate, self.up = (nn.Linear(HIDDEN, WIDTH, bias=False).requires_grad_(trains_gates) for _ in range(2))
        self.down = nn.Linear(WIDTH, HIDDEN, bias=False)
        self.read = read

    def forward(self, x: Tensor) -> Any:
        product = nn.functional.silu(self.gate(x)) * self.up(x)
        return self.read(product, self.down)


READS: dict[str, tuple[Callable[[Tensor, nn.Linear], Any], int, int]] = {
    # name: (read, how many [tokens, width] tensors are kept, and without the pass)
    "linear": (lambda y, down: down(y).sum(), 2, 3),
    "views": (lambda y, down: down(y.unflatten(1, (2, -1))).square().sum(), 2, 3),
    "two readers": (lambda y, down: (down(y) + down(y * 2)).square().sum(), 3, 4),
    "returned": (lambda y, down: (down(y).sum(), y), 3, 3),
    "its own gradient reads it": (lambda y, down: down(y * y.detach()).sum(), 4, 4),
}


@pytest.mark.parametrize("name", READS)
def test_what_is_kept_of_a_gate(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read, *counts = READS[name]
    module = Gated(read)
    x = torch.randn(BATCH, SEQUENCE, HIDDEN, generator=torch.Generator().manual_seed(1))

    def loss_of() -> Tensor:
        result = compiled(module)(x)
        return result[0] + result[1].square().sum() if isinstance(result, tuple) else result

    def measured() -> tuple[list[Tensor], int]:
        result = gradients(module, loss_of)
        with kept_by(module) as shapes:
            loss_of()
        return result, elements(shapes, BATCH, SEQUENCE, WIDTH)

    ours, kept = measured()
    torch._dynamo.reset()
    without_pass(monkeypatch)
    plain, more = measured()
    assert (kept, more) == tuple(counts)
    assert all(torch.equal(a, b) for a, b in zip(ours, plain, strict=True))


class Shared(nn.Module):
    """The gradient of the product is that of `bias`, too."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(BATCH, LONGER, WIDTH))
        self.gated = Gated(lambda product, down: down(product + self.bias).square().sum())

    def forward(self, x: Tensor) -> Any:
        return self.gated(x)


class Packed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.gate_up, self.down = nn.Linear(HIDDEN, 2 * WIDTH), nn.Linear(WIDTH, HIDDEN)

    def forward(self, x: Tensor) -> Any:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(nn.functional.silu(gate) * up).square().sum()


class Checkpointed(nn.Module):
    """Computed again for the backward pass."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Any:
        return torch.utils.checkpoint.checkpoint(self.module, x, use_reentrant=False)


class Twice(nn.Module):
    """The gate is read by another node of the backward pass, which comes later."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(HIDDEN, WIDTH), nn.Linear(HIDDEN, WIDTH), nn.Linear(WIDTH, HIDDEN)

    def forward(self, x: Tensor) -> Any:
        gate = self.gate(x)
        gated = self.down(nn.functional.silu(gate) * self.up(x))
        return gated.square().sum() + gate.sin().sum()


WRITTEN_OVER: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    # name: (module, how many times [tokens, width] a backward pass allocates, and where nothing is written over)
    "gate": (lambda: Gated(lambda product, down: down(product).square().sum()), 3, 4),
    "packed": (Packed, 3, 4),
    "read by another": (Shared, 3, 3),
    "checkpointed": (lambda: Checkpointed(Gated(lambda product, down: down(product).square().sum())), 3, 6),
    "checkpointed, packed": (lambda: Checkpointed(Packed()), 3, 6),
    "checkpointed, gate read by another": (lambda: Checkpointed(Twice()), 5, 6),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", WRITTEN_OVER)
def test_an_output_is_written_over_its_gradient(
    name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    make, *counts = WRITTEN_OVER[name]
    module = make().to(dtype)
    x = torch.randn(BATCH, LONGER, HIDDEN, generator=torch.Generator().manual_seed(1), dtype=dtype)

    def measured() -> tuple[list[Tensor], int]:
        run = compiled(module, "inductor")
        result = gradients(module, lambda: run(x))
        loss = run(x)
        sizes = allocated_bytes(loss.backward, tmp_path)
        one = BATCH * LONGER * WIDTH * dtype.itemsize
        return result, sizes.count(one) + 2 * sizes.count(2 * one)

    with torch._inductor.config.patch(fx_graph_cache=False), functorch_config.patch(enable_autograd_cache=False):
        ours, count = measured()
        torch._dynamo.reset()
        monkeypatch.setattr(joint_graph, "_write_over_operands", lambda node: None)
        plain, more = measured()
    assert all(torch.equal(a, b) for a, b in zip(ours, plain, strict=True))
    assert (count, more) == tuple(counts)


def test_a_recomputed_norm_does_not_wait_for_the_gradients_of_weights(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    # As wide as in real models, else the backward of the norm holds more than that of the gate; and the gradients of
    # weights as large as what is freed before them.
    width, tokens = 4 * HIDDEN, 2 * 4 * HIDDEN
    module = Checkpointed(Block(HIDDEN, width)).bfloat16()
    x = torch.randn(BATCH, tokens // BATCH, HIDDEN, dtype=torch.bfloat16).requires_grad_()

    def measured() -> tuple[list[Tensor], int]:
        run = compiled(module, "inductor")
        result = gradients(module, lambda: run(x).square().sum())
        loss = run(x).square().sum()
        return result, peak_bytes(loss.backward, tmp_path)

    with torch._inductor.config.patch(fx_graph_cache=False), functorch_config.patch(enable_autograd_cache=False):
        ours, peak = measured()
        torch._dynamo.reset()
        monkeypatch.setattr(joint_graph, "_output_of_norm", lambda node: None)
        plain, higher_peak = measured()
    assert all(torch.equal(a, b) for a, b in zip(ours, plain, strict=True))
    assert peak < higher_peak


def test_frozen_gates_keep_the_output() -> None:
    module = Gated(READS["linear"][0], trains_gates=False)
    loss = compiled(module)(torch.randn(BATCH, SEQUENCE, HIDDEN))
    loss.backward()
    assert module.down.weight.grad is not None


def test_a_failure_inside_keeps_the_output(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise ValueError("no value")

    monkeypatch.setattr(joint_graph, "_evaluated", broken)
    module, x = Gated(READS["linear"][0]), torch.randn(BATCH, SEQUENCE, HIDDEN)
    with pytest.warns(RuntimeWarning, match="an output is kept for the backward pass, since ValueError: no value"):
        run = torch.compile(module, backend="liger", options={"inner": "aot_eager"})
        ours = gradients(module, lambda: run(x))
    torch.testing.assert_close(ours, gradients(module, lambda: module(x)))


def test_a_pass_of_the_user_runs_too() -> None:
    seen: list[torch.fx.GraphModule] = []

    def users_pass(gm: torch.fx.GraphModule, inputs: Any) -> torch.fx.GraphModule:
        seen.append(gm)
        return gm

    with functorch_config.patch(joint_custom_pass=users_pass):
        compiled(Gated(READS["linear"][0]))(torch.randn(BATCH, SEQUENCE, HIDDEN)).backward()
        assert functorch_config.joint_custom_pass is users_pass
    assert len(seen) == 1
    seen[0].graph.lint()


def test_a_graph_without_ops_of_ours_is_left_alone(run_script: Any, tmp_path: Path) -> None:
    """In a process in which nothing else has loaded the ops: only attention is rewritten, to torch's own."""
    script = tmp_path / "script.py"
    script.write_text(ATTENTION)
    assert run_script(script).stdout.split() == ["attention_mask", "1"]


ATTENTION = """
import torch, liger_compile
from torch.nn.functional import scaled_dot_product_attention

def attention(x):
    position = torch.arange(x.shape[2])
    return scaled_dot_product_attention(x, x, x, attn_mask=position <= position[:, None])

x = torch.randn(1, 2, 16, 8, requires_grad=True)
torch.compile(attention, backend="liger", options={"inner": "aot_eager"})(x).sum().backward()
print(*[text for name, count in liger_compile.report().counts.items() if count for text in (name, count)])
"""
