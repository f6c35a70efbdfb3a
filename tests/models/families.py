"""What a two-layer tiny model of each family must give, and the exact run that it is compared with."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

sys.path.insert(0, str(Path(__file__).parents[1]))

from liger_compile.tiny_models import tiny_model
from numerics import check_pooled

SEEDS = (0, 1, 2)

COUNTS: dict[str, dict[str, int]] = {
    family: {"rms_norm": norms, rotations: 2, "glu": 2, "linear_cross_entropy": 1, "attention_mask": 2}
    for family, norms, rotations in (
        ("llama", 5, "rope"),
        ("mistral", 5, "rope"),
        ("qwen2", 5, "rope"),
        ("qwen3", 5, "norm_rope"),
        ("phi3", 5, "rope"),
        ("gemma", 5, "rope"),
        ("gemma2", 9, "rope"),
        ("gemma3_text", 9, "norm_rope"),
        ("olmo2", 9, "rope"),
        ("granite", 5, "rope"),
        ("smollm3", 5, "rope"),
    )
}


class ExactMode(TorchFunctionMode):
    """Runs model code in float64 throughout: where it names float32, it gets float64."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.float:
            return Tensor.double(args[0])
        args = tuple(_exact(value) for value in args)
        kwargs = {name: _exact(value) for name, value in (kwargs or {}).items()}
        return func(*args, **kwargs)


def _exact(value: Any) -> Any:
    return torch.float64 if value is torch.float32 else value


def exact_copy(model: torch.nn.Module) -> torch.nn.Module:
    """The model with the same values in float64; buffers too."""
    return copy.deepcopy(model).double()


def loss_logits_gradients(call: Any, model: torch.nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """One forward and backward: the loss, the logits and the gradient of every parameter."""
    model.zero_grad(set_to_none=True)
    output = call(**batch)
    output.loss.backward()
    named = {"loss": output.loss.detach(), "logits": output.logits.detach().clone()}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        assert parameter.grad is not None, f"{name} has no gradient"
        named[f"grad {name}"] = parameter.grad.detach().clone()
    return named


def losses_of_training(call: Any, model: torch.nn.Module, batches: Iterable[dict[str, Tensor]]) -> list[float]:
    """The loss of each AdamW step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for batch in batches:
        loss = call(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
    return losses


def compiled(model: torch.nn.Module, inner: str, **arguments: Any) -> Any:
    return torch.compile(model, backend="liger", options={"inner": inner, "rewrite": "all"}, **arguments)


def with_small_joined(run: dict[str, Tensor]) -> dict[str, Tensor]:
    """With all gradients of fewer than 64 elements as one vector."""
    small = [name for name, value in run.items() if name.startswith("grad ") and value.numel() < 64]
    joined = {name: value for name, value in run.items() if name not in small}
    if small:
        joined["small gradients"] = torch.cat([run[name].flatten() for name in small])
    return joined


def check_against_exact(
    family: str,
    model: Any,
    fused: Any,
    batch_of: Callable[[int], dict[str, Tensor]],
    narrowest: torch.dtype | None = None,
    weights_of: Callable[[int], Any] | None = None,
    pools_small: bool = False,
    **overrides: Any,
) -> None:
    """Loss, logits and every gradient of a tiny model and its compiled form, over three seeds of weights and batches.

    `narrowest` is the dtype that results are rounded to on their way, the parameters' own where it is not given.
    `weights_of` a seed is a model like the given one; without it, the family's `tiny_model` with `overrides`.
    `pools_small`: gradients of fewer than 64 elements are taken for one. By themselves they are too few for a root mean
    square, all the more where terms that are far larger cancel in them (biases of keys and of routers).

    Attention is spelled otherwise while transformers is traced, so plain eager is one run of two that count as eager:
    the other runs the traced graph as it is. The larger error of the two is what ours may have.
    """
    traced = torch.compile(model, backend="eager")
    dtype, device = model.lm_head.weight.dtype, model.device
    samples: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {}
    for seed in SEEDS:
        drawn_model = weights_of(seed) if weights_of else tiny_model(family, dtype, device, seed=seed, **overrides)
        model.load_state_dict(drawn_model.state_dict())
        batch = batch_of(seed)
        exact = exact_copy(model)
        exact.gradient_checkpointing_disable()
        with ExactMode():
            truth = loss_logits_gradients(exact, exact, batch)
        ours, *eager = (loss_logits_gradients(call, model, batch) for call in (fused, model, traced))
        if pools_small:
            truth, ours, *eager = (with_small_joined(run) for run in (truth, ours, *eager))
        for name, value in truth.items():
            worse = max((run[name] for run in eager), key=lambda run: (run.double() - value).abs().max().item())
            samples.setdefault(name, []).append((value, worse, ours[name]))
    for name, drawn in samples.items():
        check_pooled(f"{family} {name}", drawn, narrowest or dtype, only_rms=True)
