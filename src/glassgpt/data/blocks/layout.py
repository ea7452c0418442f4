"""Lay out the tokens of the kept texts as shards: the plan of one split, and the writing of one shard.

Each text is stored as end-of-text followed by its tokens. End-of-text comes *before* a text: generation starts a document
from it, and every byte of the text has a preceding token from which it can be predicted.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glassgpt.data.blocks.choice import Choice, Mask
from glassgpt.data.blocks.parts import Part
from glassgpt.data.shard_writer import ShardFile, shard_name
from glassgpt.data.tokenizers import Tokenizer

TOKENS_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class ShardFormat:
    """The facts about the tokenizer that a process needs to write a shard; see `Tokenizer`."""

    vocab_size: int
    fingerprint: str
    dtype: type[np.generic]
    end_of_text: int

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> ShardFormat:
        """Return the format of a tokenizer's shards."""
        return cls(tokenizer.vocab_size, tokenizer.fingerprint, tokenizer.dtype, tokenizer.end_of_text)


@dataclass(frozen=True)
class ShardTask:
    """One shard to write.

    Attributes:
        path: the file.
        side: 0 for training, 1 for validation.
        parts: the parts that it has tokens of, and which documents of each have kept text in the split, packed bits.
        skip: tokens of the first part that belong to the shard before.
        tokens: number of tokens of the shard.
        format: see there.
    """

    path: Path
    side: int
    parts: Sequence[tuple[Part, NDArray[np.uint8]]]
    skip: int
    tokens: int
    format: ShardFormat


@dataclass(frozen=True)
class SplitPlan:
    """The shards of one split.

    Attributes:
        documents: number of texts.
        characters: their number.
        tokens: their number, with an end-of-text for each text.
        shards: what to write.
    """

    documents: int
    characters: int
    tokens: int
    shards: Sequence[ShardTask]


def plan_split(
    choice: Choice, split: str, side: int, folder: Path, format: ShardFormat, shard_tokens: int
) -> SplitPlan:
    """Return the shards of a split.

    Args:
        choice: the kept texts.
        split: name of the split, "train" or "validation".
        side: its column in the tables of documents, 0 or 1.
        folder: destination of the shards.
        format: see `ShardFormat`.
        shard_tokens: maximum number of tokens per shard.
    """
    documents = characters = 0
    ends = np.zeros(len(choice.parts) + 1, dtype=np.int64)
    for number, part in enumerate(choice.parts):
        kept = choice.of_part(number)[:, side]
        table = part.documents()[kept]
        documents += len(table)
        characters += int(table["characters"][:, side].sum(dtype=np.int64))
        ends[number + 1] = ends[number] + len(table) + table["tokens"][:, side].sum(dtype=np.int64)
    shards: list[ShardTask] = []
    for number, start in enumerate(range(0, int(ends[-1]), shard_tokens)):
        end = min(start + shard_tokens, int(ends[-1]))
        first = int(np.searchsorted(ends, start, side="right")) - 1
        last = int(np.searchsorted(ends, end, side="left"))
        chosen = [(choice.parts[at], np.packbits(choice.of_part(at)[:, side])) for at in range(first, last)]
        path = folder / shard_name(split, number)
        shards.append(ShardTask(path, side, chosen, start - int(ends[first]), end - start, format))
    return SplitPlan(documents, characters, int(ends[-1]), shards)


def write_shard(task: ShardTask) -> NDArray[np.int64]:
    """Write a shard under a temporary name, rename it, and return how often each token is in it, (vocab_size,)."""
    form, left, skip = task.format, task.tokens, task.skip
    counts = np.zeros(form.vocab_size, dtype=np.int64)
    temporary = task.path.with_name(f".{task.path.name}.{secrets.token_hex(4)}")
    shard = ShardFile(temporary, form.vocab_size, form.fingerprint, form.dtype)
    try:
        for part, packed in task.parts:
            kept = np.unpackbits(packed, count=part.size()).astype(np.bool_)
            for tokens in stored_tokens(part, kept, task.side, form):
                chosen = tokens[skip : skip + left]
                skip, left = max(0, skip - len(tokens)), left - len(chosen)
                shard.append(chosen)
                counts += np.bincount(chosen, minlength=form.vocab_size)
                if not left:
                    break
        shard.finish()
        os.replace(temporary, task.path)
    finally:
        shard.abort()
        temporary.unlink(missing_ok=True)
    return counts


def stored_tokens(part: Part, kept: Mask, side: int, format: ShardFormat) -> Iterator[NDArray[Any]]:
    """Yield the tokens of the kept texts of a part in one split, each text after an end-of-text, some texts at a time."""
    table, stored = part.documents(), part.mapped(".tokens", np.dtype(format.dtype).newbyteorder("<"))
    lengths = table["tokens"].astype(np.int64)  # (documents, 2), in the order in which they are stored
    ends = np.concatenate([[0], np.cumsum(lengths.sum(axis=1))])
    first = 0
    while first < len(table):
        last = max(first + 1, int(np.searchsorted(ends, ends[first] + TOKENS_AT_ONCE, side="right")) - 1)
        is_chosen = np.zeros((last - first, 2), dtype=np.bool_)
        is_chosen[:, side] = kept[first:last]
        of_texts = lengths[first:last]
        tokens = stored[ends[first] : ends[last]][np.repeat(is_chosen.ravel(), of_texts.ravel())]
        yield _after_end_of_text(tokens, of_texts[is_chosen], format)
        first = last


def _after_end_of_text(tokens: NDArray[Any], lengths: NDArray[np.int64], format: ShardFormat) -> NDArray[Any]:
    """Return the tokens of texts with an end-of-text before each.

    Args:
        tokens: of all texts.
        lengths: number of tokens of each text.
        format: see `ShardFormat`.
    """
    is_text = np.ones(len(tokens) + len(lengths), dtype=np.bool_)
    is_text[np.concatenate([[0], np.cumsum(lengths + 1)])[:-1].astype(np.int64)] = False
    laid_out = np.full(len(is_text), format.end_of_text, dtype=format.dtype)
    laid_out[is_text] = tokens
    return laid_out
