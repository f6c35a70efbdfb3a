"""Tiny random causal language models of the transformers families, for the demo, `liger-compile explain` and the tests.

Two layers, hidden 64, 4 heads over 2 key and value heads, vocabulary 128: small enough to compile in seconds on a
laptop, large enough that every structure of the family (grouped heads, partial rotary dims, q and k norms, experts) is
there. Everything can be overridden by name, with the names of the family's own configuration class.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

_COMMON: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 128,
    "attention_dropout": 0.0,
    # The families' own special token ids lie outside this vocabulary.
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

_EXPERTS: dict[str, Any] = {"num_experts_per_tok": 2, "num_local_experts": 4}

# What a family needs beyond _COMMON; None removes a name that its configuration does not know.
_FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {},
    "qwen2": {},
    "qwen3": {},
    "phi3": {},
    "gemma": {},
    "gemma2": {},
    "olmo2": {},
    "granite": {},
    "smollm3": {},
    "glm4": {},
    "olmo3": {},
    "gemma3_text": {},
    "starcoder2": {"embedding_dropout": 0.0, "residual_dropout": 0.0},
    "mixtral": _EXPERTS,
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "decoder_sparse_step": 1},
    "gpt_oss": _EXPERTS,
    "llama4_text": {"num_experts_per_tok": 1, "num_local_experts": 4, "intermediate_size_mlp": 112},
    "deepseek_v3": {
        "head_dim": None,
        "num_key_value_heads": 4,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "first_k_dense_replace": 1,
        "n_group": 1,
        "topk_group": 1,
        "q_lora_rank": 32,
        "kv_lora_rank": 32,
        "qk_rope_head_dim": 16,
        "qk_nope_head_dim": 16,
        "v_head_dim": 16,
    },
}

FAMILIES: tuple[str, ...] = tuple(_FAMILIES)
"""Names of the families that `tiny_config` knows."""


def tiny_config(family: str, **overrides: Any) -> Any:
    """A two-layer configuration of a transformers family.

    Args:
        family: one of `FAMILIES` (the `model_type` of its configuration), for example "llama" or "qwen3".
        **overrides: configuration values by name, for example `num_hidden_layers=4`; None leaves the family's default.

    Returns:
        The family's configuration object.

    Raises:
        ValueError: the family is not one of `FAMILIES`.
    """
    if family not in _FAMILIES:
        raise ValueError(f"family: expected one of {', '.join(FAMILIES)}, actual {family!r}")
    from transformers import AutoConfig

    values = {**_COMMON, **_FAMILIES[family], **overrides}
    return AutoConfig.for_model(family, **{name: value for name, value in values.items() if value is not None})


@contextlib.contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def tiny_model(
    family: str,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    *,
    seed: int = 0,
    **overrides: Any,
) -> Any:
    """A causal language model of `tiny_config(family, **overrides)` with random weights, in training mode.

    Args:
        family: one of `FAMILIES`.
        dtype: dtype of the parameters and floating point buffers, as `model.to(dtype)` gives it.
        device: where the model lives.
        seed: the weights depend on it alone; the caller's random state is left as it was.
        **overrides: configuration values by name.

    Returns:
        The transformers model, called as `model(input_ids=[batch, sequence], labels=[batch, sequence])`.

    Raises:
        ValueError: the family is not one of `FAMILIES`.
    """
    return random_model(tiny_config(family, **overrides), dtype, device, seed=seed)


def random_model(
    config: Any, dtype: torch.dtype, device: torch.device | str = "cpu", *, seed: int = 0, auto_class: Any = None
) -> Any:
    """The causal language model of a transformers configuration, as `tiny_model` makes it; or what another of its
    automatic classes makes."""
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]), _default_dtype(torch.float32):
        torch.manual_seed(seed)
        model = (auto_class or AutoModelForCausalLM).from_config(config, dtype=torch.float32)
        _randomize_vectors(model)
    return model.to(device=device, dtype=dtype).train()


def _randomize_vectors(model: torch.nn.Module) -> None:
    """Norm weights start as all ones or zeros and biases as zeros, which hides a wrong order or a dropped operand."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)


def tiny_batch(
    config: Any, batch: int = 2, sequence: int = 16, device: torch.device | str = "cpu", *, seed: int = 0
) -> dict[str, torch.Tensor]:
    """Random `input_ids` and `labels`, int64 `[batch, sequence]`, with no special token among them."""
    generator = torch.Generator().manual_seed(seed)
    input_ids = torch.randint(3, config.vocab_size, (batch, sequence), generator=generator).to(device)
    return {"input_ids": input_ids, "labels": input_ids.clone()}
