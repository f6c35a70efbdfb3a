"""Logits on demand in training: what is allocated, and what trainers and wrappers do with the model's output."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn

import liger_compile
from allocations import allocated_bytes
from liger_compile.lazy_logits import LazyLogits
from liger_compile.tiny_models import tiny_batch, tiny_model

# The logits are by far the largest tensor, and several chunks of those that the loss is computed in.
TOKENS, VOCAB = 1024, 40000


@pytest.fixture(autouse=True)
def fresh() -> None:
    torch._dynamo.reset()
    liger_compile.reset()


def large_allocations(call: Callable[[], object], folder: Path) -> int:
    """How many allocations while `call` runs hold all logits."""
    return sum(size >= TOKENS * VOCAB * 4 for size in allocated_bytes(call, folder))


@pytest.mark.parametrize("inner", ["aot_eager", "inductor"])
def test_no_tensor_of_all_logits_is_allocated_until_they_are_read(inner: str, tmp_path: Path) -> None:
    model = tiny_model("llama", vocab_size=VOCAB, hidden_size=16, head_dim=4, use_cache=False, tie_word_embeddings=True)
    fused = torch.compile(model, backend="liger", options={"inner": inner})
    batch = tiny_batch(model.config, sequence=TOKENS // 2)
    fused(**batch).loss.backward()

    def step(read: Callable[[Tensor], object]) -> None:
        model.zero_grad()
        output = fused(**batch)
        read(output.logits)
        output.loss.backward()

    assert large_allocations(lambda: step(lambda logits: None), tmp_path) == 0
    assert large_allocations(lambda: step(lambda logits: logits[:, -1].argmax(-1)), tmp_path) == 0
    assert large_allocations(lambda: step(lambda logits: (logits.detach().max(), logits.detach().sum())), tmp_path) == 1


class Examples(torch.utils.data.Dataset[dict[str, Tensor]]):
    def __init__(self, config: Any) -> None:
        batches = [tiny_batch(config, seed=seed) for seed in range(6)]
        self._rows = [{name: value[row] for name, value in batch.items()} for batch in batches for row in range(2)]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self._rows[index]


def trained(folder: Path, compile_forward: bool) -> tuple[list[float], dict[str, float]]:
    """The losses of each step of a Trainer, and what it evaluates to, by metrics on the logits."""
    pytest.importorskip("accelerate")
    from transformers import Trainer, TrainingArguments

    model = tiny_model("llama", use_cache=False)
    if compile_forward:
        model.forward = torch.compile(model.forward, backend="liger", options={"inner": "aot_eager"})
    arguments = TrainingArguments(
        str(folder),
        per_device_train_batch_size=2,
        per_device_eval_batch_size=2,
        num_train_epochs=1,
        logging_steps=1,
        report_to=[],
        use_cpu=True,
        save_strategy="no",
        disable_tqdm=True,
        include_for_metrics=["loss"],
    )

    def metrics(prediction: Any) -> dict[str, float]:
        assert isinstance(prediction.predictions, numpy.ndarray)
        hits = prediction.predictions[:, :-1].argmax(-1) == prediction.label_ids[:, 1:]
        return {"accuracy": float(hits.mean()), "mean": float(prediction.predictions.mean())}

    examples = Examples(model.config)
    trainer = Trainer(model, arguments, train_dataset=examples, eval_dataset=examples, compute_metrics=metrics)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    evaluated = trainer.evaluate()
    return losses, {name: evaluated[name] for name in ("eval_loss", "eval_accuracy", "eval_mean")}


def test_a_trainer_trains_and_evaluates(tmp_path: Path) -> None:
    ours, eager = trained(tmp_path, True), trained(tmp_path, False)
    assert any("logits on demand" in record.detail for record in liger_compile.report().rewrites)
    numpy.testing.assert_allclose(ours[0], eager[0], rtol=1e-3)
    for name, value in eager[1].items():
        numpy.testing.assert_allclose(ours[1][name], value, rtol=1e-3, atol=1e-4, err_msg=name)


def test_accelerate_widens_them() -> None:
    pytest.importorskip("accelerate")
    from accelerate.utils.operations import convert_outputs_to_fp32

    model = tiny_model("llama", torch.bfloat16, use_cache=False)
    fused = torch.compile(model, backend="liger", options={"inner": "aot_eager"})
    batch = tiny_batch(model.config)
    widened = convert_outputs_to_fp32(fused.forward)(**batch)
    assert widened.logits.dtype == torch.float32 and isinstance(widened.logits, LazyLogits)
    torch.testing.assert_close(widened.logits, model(**batch).logits.float(), rtol=5e-2, atol=5e-2)


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("options", [{}, {"find_unused_parameters": True}, {"static_graph": True}], ids=str)
def test_distributed_data_parallel(one_process: None, options: dict[str, Any]) -> None:
    model = tiny_model("llama", use_cache=False)
    batch = tiny_batch(model.config)
    parallel = nn.parallel.DistributedDataParallel(
        torch.compile(model, backend="liger", options={"inner": "aot_eager"}), **options
    )
    found = []
    for call in (parallel, model):
        for _ in range(2):
            model.zero_grad()
            output = call(**batch)
            (output.loss + output.logits.float().logsumexp(-1).mean()).backward()
        found.append([parameter.grad.clone() for parameter in model.parameters()])
    assert isinstance(parallel(**batch).logits, LazyLogits)
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


def test_logits_of_a_model_under_fsdp_are_kept(one_process: None) -> None:
    from torch.distributed.fsdp import FSDPModule, fully_shard

    from liger_compile.on_demand import why_logits_kept

    assert why_logits_kept("auto", stored=False) == ""
    model = fully_shard(nn.Linear(4, 4), mesh=torch.distributed.init_device_mesh("cpu", (1,)))
    assert isinstance(model, FSDPModule)
    assert why_logits_kept("auto", stored=False).startswith("the model is sharded")
    assert why_logits_kept("lazy", stored=False) == ""


def test_generation_and_evaluation_share_a_model() -> None:
    model = tiny_model("llama").eval()
    batch = tiny_batch(model.config)
    arguments = {"max_new_tokens": 4, "do_sample": False, "disable_compile": True}
    expected = model.generate(batch["input_ids"], **arguments)
    with torch.no_grad():
        loss, logits = model(**batch).loss, model(**batch).logits
    model.forward = torch.compile(model.forward, backend="liger", options={"inner": "aot_eager"})
    with torch.no_grad():
        output = model(**batch)
    torch.testing.assert_close((output.loss, output.logits + 0), (loss, logits))
    assert torch.equal(model.generate(batch["input_ids"], **arguments), expected)
