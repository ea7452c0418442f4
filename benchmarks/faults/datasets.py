"""The datasets of the suite, intact and damaged."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from glassgpt.data.grammar import grammar_text
from glassgpt.data.prepare import PrepareOptions, prepare
from glassgpt.data.shakespeare import installed_plays
from glassgpt.data.shard_format import HEADER, ShardHeader

SENTENCES, HELD_OUT = 8000, 800
SEED = 2026
"""Thresholds were calibrated on other text (seeds 1 to 3)."""
MakeDataset = Callable[[Path], Path]
"""Makes a dataset in a folder and returns its path."""


def prepared(folder: Path, train: str, validation: str, tokenizer: str = "bytes") -> Path:
    """Prepare a dataset of two texts."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.txt").write_text(train)
    (folder / "validation.txt").write_text(validation)
    options = PrepareOptions(
        sources=(str(folder / "train.txt"),),
        validation_sources=(str(folder / "validation.txt"),),
        out=folder / "data",
        tokenizer=tokenizer,
        workers=1,
        deduplicate=False,
        force=True,
    )
    prepare(options)
    return options.out


def training_text() -> str:
    """Return sentences of the grammar."""
    return grammar_text(SENTENCES, seed=SEED)


def held_out_text() -> str:
    """Return other sentences of the grammar."""
    return grammar_text(HELD_OUT, seed=SEED + 1)


def healthy_dataset(folder: Path) -> Path:
    """Prepare sentences of the grammar as bytes."""
    return prepared(folder, training_text(), held_out_text())


def grammar(sentences: int, tokenizer: str = "bytes", seed: int = SEED) -> MakeDataset:
    """Return a function that prepares another amount of the grammar, or other tokens."""
    return lambda folder: prepared(folder, grammar_text(sentences, seed), grammar_text(HELD_OUT, seed + 1), tokenizer)


def plays(folder: Path) -> Path:
    """Prepare Shakespeare as bytes: text that cannot be predicted well."""
    texts = [document.text for document, _ in zip(installed_plays(), range(6), strict=False)]
    return prepared(folder, "".join(texts[:-1])[:500_000], texts[-1][:60_000])


def with_tokens(change: Callable[[NDArray[np.int64]], NDArray[np.int64]], split: str = "train") -> MakeDataset:
    """Change the tokens of one split and update the checksum, so that only the content is wrong."""

    def make(folder: Path) -> Path:
        data = healthy_dataset(folder)
        shard = data / f"{split}-00000.bin"
        header = ShardHeader.read(shard)
        dtype = np.dtype(f"<u{header.bytes_per_token}")
        tokens = np.frombuffer(shard.read_bytes(), dtype, offset=HEADER.size).astype(np.int64)
        _write_with_checksum(shard, header, change(tokens).astype(dtype).tobytes())
        return data

    return make


def _write_with_checksum(shard: Path, header: ShardHeader, payload: bytes) -> None:
    import dataclasses
    import hashlib

    sealed = dataclasses.replace(header, checksum=hashlib.sha256(payload).digest())
    shard.write_bytes(sealed.pack() + payload)


def with_files(change: Callable[[Path], None]) -> MakeDataset:
    """Change the files of a healthy dataset."""

    def make(folder: Path) -> Path:
        data = healthy_dataset(folder)
        change(data)
        return data

    return make


def flip_bit(data: Path) -> None:
    """Flip a bit in the middle of a shard."""
    shard = data / "train-00000.bin"
    raw = bytearray(shard.read_bytes())
    raw[len(raw) // 2] ^= 1
    shard.write_bytes(raw)


def truncate_shard(data: Path) -> None:
    """Remove the last third of a shard."""
    shard = data / "train-00000.bin"
    raw = shard.read_bytes()
    shard.write_bytes(raw[: 2 * len(raw) // 3])


def swap_tokenizer(data: Path) -> None:
    """Replace the tokenizer by one trained on other text."""
    other = prepared(data.parent / "other", grammar_text(300, SEED + 5).upper(), held_out_text(), "bpe:257")
    shutil.copy(other / "tokenizer.json", data)
