"""The demo's text: the sources of the Python standard library, tokenised by a BPE trained on them."""

from __future__ import annotations

import hashlib
import json
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import torch

SPECIAL_TOKENS = ["<pad>", "<bos>", "<eos>"]


def standard_library_sources(max_bytes: int) -> list[str]:
    """Texts of standard library modules, tests left out, in an order that depends on their names alone."""
    root = Path(sysconfig.get_path("stdlib"))
    skipped = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__", "lib2to3"}
    paths = [path for path in root.rglob("*.py") if not skipped & set(path.relative_to(root).parts)]
    # Sorted by digest, not by name: neighbours in one package would make the first batches alike.
    paths.sort(key=lambda path: hashlib.sha256(str(path.relative_to(root)).encode()).digest())
    texts: list[str] = []
    size = 0
    for path in paths:
        text = path.read_text(encoding="utf-8", errors="replace")
        if size + len(text) > max_bytes and texts:
            break
        texts.append(text)
        size += len(text)
    return texts


def train_tokenizer(texts: list[str], vocab_size: int):  # type: ignore[no-untyped-def]
    """A byte-level BPE `tokenizers.Tokenizer` of at most vocab_size entries, trained on the texts."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def token_stream(max_bytes: int, vocab_size: int) -> tuple[torch.Tensor, str]:
    """Token ids of the standard library as int64 `[num_tokens]`, documents ended by <eos>, and a line that says so."""
    texts = standard_library_sources(max_bytes)
    tokenizer = train_tokenizer(texts, vocab_size)
    end = SPECIAL_TOKENS.index("<eos>")
    ids: list[int] = []
    for encoding in tokenizer.encode_batch(texts):
        ids += [*encoding.ids, end]
    size = sum(map(len, texts)) / 1e6
    line = f"{len(texts)} files of the standard library, {size:.1f} MB, {len(ids):,} tokens, BPE of {vocab_size}"
    return torch.tensor(ids, dtype=torch.int64), line


def batches(tokens: torch.Tensor, batch: int, sequence: int, steps: int, seed: int) -> Iterator[torch.Tensor]:
    """`steps` batches of token ids `[batch, sequence]` at random offsets; the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        offsets = torch.randint(0, len(tokens) - sequence, (batch,), generator=generator)
        yield torch.stack([tokens[offset : offset + sequence] for offset in offsets.tolist()])


def save_spec(spec: dict, folder: Path) -> Path:
    """Write what a run needs to know as JSON and return the file's path."""
    path = folder / "spec.json"
    path.write_text(json.dumps(spec))
    return path
