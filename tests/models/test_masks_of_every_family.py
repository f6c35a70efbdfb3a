"""Attention of the families that the other tests of models leave out: other mask functions, experts, and the language
models of families that also see pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers

import liger_compile
from liger_compile.tiny_models import FAMILIES, random_model, tiny_config, tiny_model
from models.families import COUNTS, check_against_exact, compiled
from models.test_attention_masks import Batch, batch_maker, fresh_dynamo  # noqa: F401

PICTURE = 200  # a token that no text has
EXPERTS = ("mixtral", "qwen3_moe", "gpt_oss", "llama4_text", "deepseek_v3")

# The attention of gpt_oss has sinks, which no kernel of torch's takes; of the others both layers are restored. llama4
# counts its chunks from the first token that is not padding.
RESTORED = {"gpt_oss": 0}
TWO_MASKS = ("gemma3_text",)  # layers take turns
CASES = [
    (family, change)
    for family in FAMILIES
    for change in ("nothing", "ones", "left", "documents")
    if (family not in COUNTS or family in TWO_MASKS) and (family, change) != ("gpt_oss", "left")
]


@pytest.mark.parametrize(("family", "change"), CASES)
def test_a_mask_of_another_family(family: str, change: str, device: str) -> None:
    # Experts are chosen by the largest of computed numbers, in half precision not always the same ones.
    dtype = torch.float32 if family in EXPERTS else torch.bfloat16
    config: dict[str, Any] = {"experts_implementation": "batched_mm"} if family in EXPERTS else {}
    if change == "documents":
        config["use_cache"] = False
    model = tiny_model(family, dtype, device, **config)
    fused = compiled(model, "aot_eager")
    make = batch_maker(model, change)
    with liger_compile.expect_rewrites(attention_mask=RESTORED.get(family, 2)):
        fused(**make(0))
    check_against_exact(family, model, fused, make, pools_small=True, **config)


def text_config(family: str, **more: Any) -> dict[str, Any]:
    return {**tiny_config("llama", **more).to_dict(), "model_type": family}


def paligemma() -> Any:
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision.update(image_size=28, patch_size=14)
    return transformers.AutoConfig.for_model(
        "paligemma",
        text_config=text_config("gemma"),
        vision_config={**vision, "model_type": "siglip_vision_model"},
        projection_dim=64,
        image_token_index=PICTURE,
    )


def qwen_vl(family: str, **vision: Any) -> Any:
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
    return transformers.AutoConfig.for_model(
        family,
        text_config=text_config(f"{family}_text", rope_parameters=rope),
        vision_config={"depth": 1, "num_heads": 2, **vision},
        image_token_id=PICTURE,
        video_token_id=PICTURE + 1,
        vision_start_token_id=PICTURE + 2,
        vision_end_token_id=PICTURE + 3,
    )


def mllama() -> Any:
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_global_layers": 1}
    vision.update(attention_heads=2, image_size=28, patch_size=14, vision_output_dim=64)
    return transformers.AutoConfig.for_model(
        "mllama",
        text_config=text_config("mllama_text_model", head_dim=None, cross_attention_layers=[1]),
        vision_config={**vision, "intermediate_layers_indices": [0], "supported_aspect_ratios": [[1, 1]]},
    )


# How a family is configured, and how many calls of attention are restored where no picture is given. The second half of
# paligemma's tokens is the suffix, and the first half sees all of itself.
WITH_PICTURES: dict[str, tuple[Callable[[], Any], int]] = {
    "paligemma": (paligemma, 0),
    "qwen2_vl": (lambda: qwen_vl("qwen2_vl", embed_dim=32, hidden_size=64, mlp_ratio=2), 2),
    "qwen2_5_vl": (
        lambda: qwen_vl(
            "qwen2_5_vl", hidden_size=32, intermediate_size=48, out_hidden_size=64, fullatt_block_indexes=[0]
        ),
        2,
    ),
    "mllama": (mllama, 1),
}


# In the names of parameters that text alone does not reach: mllama's second layer attends to pictures.
OF_PICTURES = {"mllama": ("vision", "projector", "layers.1.")}


@pytest.mark.parametrize("change", ["nothing", "ones", "left"])
@pytest.mark.parametrize("family", WITH_PICTURES)
def test_a_mask_of_a_family_that_sees_pictures(family: str, change: str, device: str) -> None:
    configure, restored = WITH_PICTURES[family]
    parts = OF_PICTURES.get(family, ("vision", "visual", "projector"))

    def weights_of(seed: int) -> Any:
        auto_class = transformers.AutoModelForImageTextToText
        model = random_model(configure(), torch.bfloat16, device, seed=seed, auto_class=auto_class)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not any(part in name for part in parts))
        return model

    def make(seed: int) -> Batch:
        batch = make_text(seed)
        if family == "paligemma":
            batch["token_type_ids"] = torch.zeros_like(batch["input_ids"])
            batch["token_type_ids"][:, 8:] = 1
        return batch

    model = weights_of(0)
    fused = compiled(model, "aot_eager")
    make_text = batch_maker(model, change)
    with liger_compile.expect_rewrites(attention_mask=restored):
        fused(**make(0))
    check_against_exact(family, model, fused, make, weights_of=weights_of, pools_small=True)
