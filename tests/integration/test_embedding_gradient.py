"""The gradient of an embedding in rewritten graphs: torch's own operator, where Inductor would want far more memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._functorch.config as functorch_config
from torch import Tensor, nn
from torch._inductor.decomposition import select_decomp_table

import liger_compile.ops  # noqa: F401
from allocations import allocated_bytes
from liger_compile import decompositions
from numerics import check_pooled

OURS = {torch.ops.liger.linear_cross_entropy_scale.default}
VOCAB, HIDDEN, TOKENS = 501, 48, 700


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if tensors in half precision on the CPU were on a GPU."""
    is_half = (torch.bfloat16, torch.float16)
    monkeypatch.setattr(decompositions, "_stays_whole", lambda grad_output: grad_output.dtype in is_half)
    with functorch_config.patch(enable_autograd_cache=False), torch._inductor.config.patch(fx_graph_cache=False):
        yield


class Embedded(nn.Module):
    """An embedding, and something to rewrite."""

    def __init__(self, dtype: torch.dtype, device: str, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(VOCAB, HIDDEN, dtype=dtype, device=device, **options)
        self.norm = nn.RMSNorm(HIDDEN, eps=1e-6, dtype=dtype, device=device)

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.embedding(ids)
        wide = hidden.float()
        normed = self.norm.weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)).to(hidden.dtype)
        return normed


def ids_on(device: str) -> Tensor:
    """Some tokens often, most of them seldom or never."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(VOCAB, (2, TOKENS), generator=generator)
    ids[:, ::3] = 7
    return ids.to(device)


def gradient(run: Any, module: Embedded, ids: Tensor) -> Tensor:
    module.zero_grad(set_to_none=True)
    output = run(ids)
    seed = torch.randn(output.shape, generator=torch.Generator().manual_seed(2)).to(output)
    output.backward(seed)
    assert module.embedding.weight.grad is not None
    return module.embedding.weight.grad


def compiled(module: nn.Module) -> Any:
    return torch.compile(module, backend="liger", options={"strict": True, "rewrite": "all"})


def check(module: Embedded, ids: Tensor) -> Tensor:
    exact = Embedded(torch.float64, ids.device.type, padding_idx=module.embedding.padding_idx)
    exact.load_state_dict({name: value.double() for name, value in module.state_dict().items()})
    runs = gradient(exact, exact, ids), gradient(module, module, ids), gradient(compiled(module), module, ids)
    check_pooled("embedding", [runs], module.embedding.weight.dtype)
    return runs[-1]


@pytest.mark.parametrize("padding_idx", [None, 7])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_gradients_are_those_of_eager(on_cpu: None, dtype: torch.dtype, padding_idx: int | None) -> None:
    ours = check(Embedded(dtype, "cpu", padding_idx=padding_idx), ids_on("cpu"))
    assert padding_idx is None or not ours[padding_idx].any()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("padding_idx", [None, 7])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_gradients_on_cuda(dtype: torch.dtype, padding_idx: int | None) -> None:
    module, ids = Embedded(dtype, "cuda", padding_idx=padding_idx), ids_on("cuda")
    ours = check(module, ids)
    assert padding_idx is None or not ours[padding_idx].any()
    assert torch.equal(ours, gradient(compiled(module), module, ids)), "not deterministic"


def test_nothing_of_the_size_of_the_table_is_allocated_in_float32(on_cpu: None, tmp_path: Path) -> None:
    module, ids = Embedded(torch.bfloat16, "cpu"), ids_on("cpu")
    run, plain = compiled(module), torch.compile(module)
    gradient(run, module, ids)
    gradient(plain, module, ids)
    assert VOCAB * HIDDEN * 4 not in allocated_bytes(lambda: gradient(run, module, ids), tmp_path)
    assert VOCAB * HIDDEN * 4 in allocated_bytes(lambda: gradient(plain, module, ids), tmp_path)


def test_other_tables_are_taken_apart_as_ever() -> None:
    """In float32 Inductor needs no more memory than torch."""
    table = decompositions.decompositions_for({})
    gradient = table[torch.ops.aten.embedding_dense_backward.default]
    for dtype, device in ((torch.float32, "meta"), (torch.bfloat16, "cpu")):
        grad_output, ids = torch.ones(2, 3, 4, dtype=dtype, device=device), torch.ones(2, 3, dtype=torch.int64)
        assert gradient(grad_output, ids.to(device), 5, -1, False).shape == (5, 4)


def test_inductors_own_table_is_not_changed(on_cpu: None) -> None:
    operator = torch.ops.aten.embedding_dense_backward.default
    before = select_decomp_table()[operator]
    table = decompositions.decompositions_for({})
    assert select_decomp_table()[operator] is before
    assert table.keys() - OURS == select_decomp_table().keys()
    assert table[operator] is not before


def test_options_choose_among_inductors_decompositions() -> None:
    table = decompositions.decompositions_for({"fallback_random": True})
    with torch._inductor.config.patch(fallback_random=True):
        assert table.keys() - OURS == select_decomp_table().keys()
    assert table.keys() - OURS != select_decomp_table().keys()


def test_inductor_scales_gradients_itself() -> None:
    (operator,) = OURS
    gradient, scale = torch.randn(5, 7), torch.tensor(0.3)
    for dtype in (torch.float32, torch.bfloat16):
        expected = operator(gradient, scale, dtype=dtype)
        assert torch.equal(decompositions.decompositions_for({})[operator](gradient, scale, dtype=dtype), expected)
