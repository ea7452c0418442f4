"""The datasets of the suite, intact and damaged."""

from __future__ import annotations

import argparse
import gzip
import lzma
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from glassgpt.data import PrepareOptions, prepare
from glassgpt.data.grammar import grammar_text
from glassgpt.data.shakespeare import installed_plays
from glassgpt.data.shard_format import HEADER, ShardHeader

ROOT = Path(__file__).parents[2]
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
    return plays_as(folder, "bytes")


def plays_as(folder: Path, tokenizer: str) -> Path:
    """Prepare Shakespeare with a tokenizer."""
    texts = [document.text for document, _ in zip(installed_plays(), range(6), strict=False)]
    return prepared(folder, "".join(texts[:-1])[:500_000], texts[-1][:60_000], tokenizer)


def _split(text: str, folder: Path, tokenizer: str) -> Path:
    """Prepare a text: its last eighth is held out."""
    cut = len(text) * 7 // 8
    return prepared(folder, text[:cut], text[cut:], tokenizer)


def mixed_lines(text: str) -> str:
    """Return the paragraphs of a text in random order, so that what is held out is of the same kind.

    Each paragraph occurs once: copies on both sides of the split would be found, and rightly so.
    """
    paragraphs = list(dict.fromkeys(text.split("\n\n")))
    np.random.default_rng(SEED).shuffle(paragraphs)
    return "\n\n".join(paragraphs)


def python_code(tokenizer: str = "bytes", characters: int = 400_000) -> MakeDataset:
    """Return a function that prepares modules of Python's standard library."""

    def make(folder: Path) -> Path:
        sources = sorted(Path(argparse.__file__).parent.glob("*.py"), key=lambda path: path.stat().st_size)
        text = "\n\n".join(path.read_text(encoding="utf-8", errors="replace") for path in sources[40:90])
        return _split(mixed_lines(text)[:characters], folder, tokenizer)

    return make


def korean_text() -> str:
    """Return the Korean text of this repository: documents and the catalogue of findings."""
    documents = [ROOT / "README.ko.md", *sorted((ROOT / "docs").glob("*.ko.md"))]
    catalogue = sorted((ROOT / "src/glassgpt/diagnosis/catalogue").glob("*.toml"))
    lines = [line for path in catalogue for line in path.read_text(encoding="utf-8").splitlines()]
    entries = [line.partition(" = ")[2] for line in lines if re.search("[가-힣]", line)]
    return mixed_lines("\n\n".join([*(path.read_text(encoding="utf-8") for path in documents), *entries]))


def korean(tokenizer: str = "bytes") -> MakeDataset:
    """Return a function that prepares Korean text."""
    return lambda folder: _split(korean_text(), folder, tokenizer)


def markdown(folder: Path) -> Path:
    """Prepare the English documents of this repository."""
    paths = [path for path in sorted((ROOT / "docs").rglob("*.md")) if not path.name.endswith(".ko.md")]
    return _split(mixed_lines("\n\n".join(path.read_text(encoding="utf-8") for path in paths)), folder, "bytes")


def arithmetic(folder: Path) -> Path:
    """Prepare sums, whose operands cannot be predicted and whose results can."""
    generator = np.random.default_rng(SEED)
    pairs = generator.integers(0, 1000, (30_000, 2))
    return _split("".join(f"{a}+{b}={a + b}\n" for a, b in pairs), folder, "bytes")


def records(folder: Path) -> Path:
    """Prepare lines of JSON, as logs hold them: long fixed parts and short variable ones."""
    generator = np.random.default_rng(SEED)
    lines = (
        f'{{"step": {step}, "loss": {loss:.4f}, "ok": {str(bool(flag)).lower()}}}\n'
        for step, (loss, flag) in enumerate(
            zip(generator.gamma(2, 2, 9000), generator.integers(0, 2, 9000), strict=True)
        )
    )
    return _split("".join(lines), folder, "bytes")


def languages_mixed(folder: Path) -> Path:
    """Prepare paragraphs of Korean, English and Python in random order."""
    text = f"{korean_text()}\n\n{grammar_text(2000, SEED)}\n\n{Path(argparse.__file__).read_text(encoding='utf-8')}"
    return _split(mixed_lines(text), folder, "bytes")


def one_after_the_other(folder: Path) -> Path:
    """Prepare English followed by Korean, held out in the same proportion."""
    english, own = grammar_text(2500, SEED), korean_text()
    cut = len(own) * 7 // 8
    return prepared(folder, english + own[:cut], grammar_text(350, SEED + 1) + own[cut:])


def tiny(folder: Path) -> Path:
    """Prepare forty sentences."""
    return prepared(folder, grammar_text(40, SEED), grammar_text(40, SEED + 1))


def text_of(path: Path) -> MakeDataset:
    """Return a function that prepares a file: its text, or all longer strings of its JSON lines."""

    def make(folder: Path) -> Path:
        opened = {".xz": lzma.open, ".gz": gzip.open}.get(path.suffix, open)
        with opened(path, "rt", encoding="utf-8") as file:
            raw = file.read(2_000_000)
        if ".json" in path.name:
            raw = "\n\n".join(re.findall(r'"((?:[^"\\]|\\.){20,})"', raw)).replace("\\n", "\n")
        return _split(mixed_lines(raw)[:600_000], folder, "bytes")

    return make


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
