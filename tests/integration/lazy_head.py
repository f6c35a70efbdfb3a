"""A small model whose logits only the caller reads."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

VOCAB = 40


class Head(nn.Module):
    """A layer before the head, so that gradients have somewhere to go."""

    def __init__(self, *, bias: bool = True, softcap: float | None = None, shifted: bool = False) -> None:
        super().__init__()
        self.body = nn.Linear(16, 24)
        self.head = nn.Linear(24, VOCAB, bias=bias)
        self.softcap = softcap
        self.shifted = shifted

    def forward(self, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.head(torch.tanh(self.body(x)))
        if self.softcap is not None:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        if self.shifted:
            return F.cross_entropy(logits[:, :-1].reshape(-1, VOCAB), target[:, 1:].reshape(-1)), logits
        return F.cross_entropy(logits.view(-1, VOCAB).float(), target.view(-1)), logits


def setup(device: str = "cpu", inner: str = "aot_eager", logits: str = "auto", **head: Any) -> tuple[Any, Head, Any]:
    torch.manual_seed(0)
    model = Head(**head).to(device)
    inputs = (torch.randn(3, 5, 16, device=device), torch.randint(0, VOCAB, (3, 5), device=device))
    options = {"inner": inner, "logits": logits, "strict": True}
    return torch.compile(model, backend="liger", options=options), model, inputs


def gradients(model: nn.Module, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters()), allow_unused=True))
