"""The models of the benchmarks: transformers models of known shapes with random weights, unpatched or patched by
liger-kernel, what they are given, and the training steps that are timed."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import torch

PATCHED = "liger-kernel"  # where it is installed
VARIANTS = ("eager", "torch.compile", PATCHED, "ours")
MASKS = ("none", "ones", "left", "right", "packed")

_SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
)


def _shape(family: str, *sizes: int, tied: bool = False, **more: Any) -> tuple[str, dict[str, Any]]:
    """A family and the values of its configuration."""
    return family, {**dict(zip(_SIZES, sizes, strict=True)), "tie_word_embeddings": tied, **more}


SHAPES = {
    "1b": _shape("llama", 2048, 8192, 16, 32, 8, 64, 128256, tied=True),  # Llama 3.2 1B
    "8b": _shape("llama", 4096, 14336, 32, 32, 8, 128, 128256),  # Llama 3 8B
    "8b4": _shape("llama", 4096, 14336, 4, 32, 8, 128, 128256),  # with 4 of its 32 layers
    "qwen3": _shape("qwen3", 2048, 6144, 8, 16, 8, 128, 151936, tied=True),  # 1.7B, 8 of 28 layers
    "gemma2": _shape("gemma2", 2304, 9216, 8, 8, 4, 256, 256000, tied=True),  # 2B, 8 of 26 layers
    "phi3": _shape("phi3", 3072, 8192, 8, 32, 32, 96, 32064, pad_token_id=0),  # mini, 8 of 32 layers
    "gpt_oss": _shape("gpt_oss", 2880, 2880, 2, 64, 8, 64, 201088, num_local_experts=32),  # 20B, 2 of 24 layers
    "tiny": _shape("llama", 256, 704, 4, 8, 4, 32, 8192, tied=True),
}


def parser_of_models(description: str) -> argparse.ArgumentParser:
    """Options that say which model is compiled, how, and what it is given."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="1b")
    parser.add_argument("--layers", type=int, help="instead of the shape's")
    parser.add_argument("--attention", default="sdpa", help="attn_implementation; gpt_oss and softcaps need eager")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compiled", choices=("model", "loss"), default="model", help="see build_step")
    parser.add_argument("--mask", choices=MASKS, default="none", help="see build_batch")
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing of every layer")
    parser.add_argument("--rewrite", default="auto", choices=("auto", "all", "none"), help="ours: option rewrite")
    parser.add_argument("--disable", default="", help="ours: rules to leave out, with commas")
    parser.add_argument("--inner", default="inductor", help="ours: option inner")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # the variant to build
    return parser


def build_model(arguments: argparse.Namespace) -> Any:
    """The transformers model of the shape, random weights, in training mode; patched only for that variant."""
    family, values = SHAPES[arguments.shape]
    if arguments.one == PATCHED:
        getattr(import_module("liger_kernel.transformers"), f"apply_liger_kernel_to_{family}")()
    from transformers import AutoConfig, AutoModelForCausalLM

    layers = {"num_hidden_layers": arguments.layers} if arguments.layers else {}
    more = {"max_position_embeddings": arguments.sequence, "use_cache": False}
    config = AutoConfig.for_model(family, **{**values, **layers, **more})
    torch.manual_seed(0)
    keywords = {"dtype": getattr(torch, arguments.dtype), "attn_implementation": arguments.attention}
    with torch.device(arguments.device):
        model = AutoModelForCausalLM.from_config(config, **keywords)
    if arguments.checkpointing:
        model.gradient_checkpointing_enable()
    return model.train()


def build_batch(vocab_size: int, arguments: argparse.Namespace) -> dict[str, torch.Tensor]:
    """Random tokens. --mask ones, left, right: with an attention_mask, which hides nothing, or a tenth of each row,
    which then has no labels; packed: with position_ids of four documents in each row."""
    ids = torch.randint(0, vocab_size, (arguments.batch, arguments.sequence), device=arguments.device)
    batch = {"input_ids": ids, "labels": ids.clone()}
    if arguments.mask == "packed":
        batch["position_ids"] = torch.arange(arguments.sequence, device=ids.device).expand_as(ids) % (
            arguments.sequence // 4
        )
    elif arguments.mask != "none":
        mask = torch.ones_like(ids)
        hidden = arguments.sequence // 10
        if arguments.mask != "ones":
            mask[:, slice(hidden) if arguments.mask == "left" else slice(arguments.sequence - hidden, None)] = 0
        batch["attention_mask"] = mask
        batch["labels"][mask == 0] = -100
    return batch


def is_ours(variant: str) -> bool:
    """Also "ours:aot_eager" and the like, which names the inner compiler."""
    return variant.partition(":")[0] == "ours"


def compile_keywords(arguments: argparse.Namespace) -> dict[str, Any]:
    """What torch.compile is given for the variant; "torch.compile:aot_eager" and the like name another backend."""
    kind, _, inner = arguments.one.partition(":")
    if kind != "ours":
        return {"backend": inner or "inductor"}
    disabled = [name for name in arguments.disable.split(",") if name]
    options = {"rewrite": arguments.rewrite, "disable": disabled, "inner": inner or arguments.inner}
    return {"backend": "liger", "options": options}


def build_step(model: Any, arguments: argparse.Namespace, **keywords: Any) -> Callable[..., torch.Tensor]:
    """A batch -> loss. --compiled model: logits are an output of the graph, as where a user compiles the model;
    --compiled loss: only the loss leaves the graph, as where a user compiles the training step. Keywords are given to
    torch.compile instead of the variant's own."""

    def loss_of(**batch: torch.Tensor) -> torch.Tensor:
        return model(**batch).loss

    if arguments.one in ("eager", PATCHED):
        return loss_of
    keywords = keywords or compile_keywords(arguments)
    if arguments.compiled == "loss":
        return torch.compile(loss_of, **keywords)
    compiled = torch.compile(model, **keywords)
    return lambda **batch: compiled(**batch).loss


def build_training_call(model: Any, batch: dict[str, torch.Tensor], arguments: argparse.Namespace) -> Callable[[], Any]:
    """Forward and backward of the variant on the batch, without an optimizer; gives the loss."""
    return partial(_train, model, build_step(model, arguments), batch)


def _train(model: Any, step_loss: Callable[..., torch.Tensor], batch: dict[str, torch.Tensor]) -> torch.Tensor:
    loss = step_loss(**batch)
    loss.backward()
    model.zero_grad(set_to_none=True)
    return loss.detach()


def check_losses(losses: dict[str, float], expected: float) -> None:
    """Raises RuntimeError where a variant's loss is another."""
    if any(abs(loss - expected) > 0.01 * abs(expected) for loss in losses.values()):
        raise RuntimeError(f"the losses differ: expected {expected}, actual {losses}")
