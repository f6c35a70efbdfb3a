"""Models of plain torch with few patterns, quick to compile."""

import torch


class Norm(torch.nn.Module):
    """RMSNorm as Llama spells it."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(1.0 + 0.1 * torch.randn(hidden_size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = x.float()
        variance = wide.pow(2).mean(-1, keepdim=True)
        return self.weight * (wide * torch.rsqrt(variance + 1e-6)).to(x.dtype)


class Mlp(torch.nn.Module):
    """Gated MLP with SiLU."""

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.gate = torch.nn.Linear(hidden_size, intermediate_size, bias=False)
        self.up = torch.nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down = torch.nn.Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(torch.nn.functional.silu(self.gate(x)) * self.up(x))


class Block(torch.nn.Module):
    """One norm and one MLP: rewrites are rms_norm 1, glu 1."""

    def __init__(self, hidden_size: int = 32, intermediate_size: int = 48) -> None:
        super().__init__()
        self.norm = Norm(hidden_size)
        self.mlp = Mlp(hidden_size, intermediate_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.mlp(self.norm(x))


class Plain(torch.nn.Module):
    """Nothing to rewrite."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(32, 32)
        self.second = torch.nn.Linear(32, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(x)))


def block(seed: int = 0) -> Block:
    torch.manual_seed(seed)
    return Block()


def batch(rows: int = 4) -> torch.Tensor:
    return torch.randn(2, rows, 32, generator=torch.Generator().manual_seed(1))
