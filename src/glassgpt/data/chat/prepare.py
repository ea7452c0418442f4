"""Conversations to a dataset folder: render, hold some out, cut what does not fit, pack into rows, write."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glassgpt.data.chat.dataset import (
    CONVERSATIONS_FILE,
    TEMPLATE_FILE,
    ConversationDataset,
    ConversationSummary,
    SplitConversations,
    flags_file,
)
from glassgpt.data.chat.jinja_template import JinjaTemplate
from glassgpt.data.chat.messages import Conversation
from glassgpt.data.chat.packing import pack
from glassgpt.data.chat.render import Rendered, render
from glassgpt.data.chat.rows import STARTS, SUPERVISED, TEXT
from glassgpt.data.files import write_atomically
from glassgpt.data.shard_writer import ShardWriter
from glassgpt.data.shards import SPLITS
from glassgpt.data.staging import staged_folder
from glassgpt.data.summary import SUMMARY_FILE, DatasetSummary, SplitSummary
from glassgpt.data.tokenizers import TOKENIZER_FILE, Tokenizer
from glassgpt.errors import DataError

VALIDATION_FRACTION = 0.05
LONGEST_ROW, SHORTEST_ROW = 2048, 64
"""Most and fewest tokens that a row has unless the user says otherwise: attention takes memory for their square."""
Flags = NDArray[np.uint8]
ReadText = Callable[[int, int], NDArray[np.int64]]
"""Returns passages of a text, from their number and their length in tokens: (count, length) int64."""


@dataclass(frozen=True)
class Packed:
    """Rendered conversations of one split in rows.

    Attributes:
        ids: (rows, row length) the tokens.
        flags: (rows, row length) their flags.
        conversations: number of conversations; see `SplitConversations`.
        cut: number of conversations without their last turns.
        dropped: number of conversations that did not fit.
        tokens: number of tokens of conversations, without padding.
        text: number of tokens of text in rows of its own.
    """

    ids: NDArray[np.int64]
    flags: Flags
    conversations: int
    cut: int
    dropped: int
    tokens: int
    text: int = 0


def split_held_out(
    conversations: Sequence[Conversation], fraction: float = VALIDATION_FRACTION
) -> tuple[list[Conversation], list[Conversation]]:
    """Return the conversations to train on and those to validate on; the same first question is never in both.

    At most the fraction is held out, or all conversations with the rarest question if these are more.

    Raises:
        DataError: all conversations have the same first question.
    """
    by_question: dict[str, list[Conversation]] = {}
    for each in conversations:
        question = next(message.content for message in each.messages if message.role == "user")
        by_question.setdefault(question, []).append(each)
    order = sorted(by_question, key=lambda question: hashlib.sha256(question.encode(errors="replace")).digest())
    wanted = max(1, round(fraction * len(conversations)))
    validation: list[Conversation] = []
    train: list[Conversation] = []
    if len(order) < 2:
        raise DataError("the conversations have only one first question, so that none can be held out; add others")
    smallest = min(order, key=lambda question: len(by_question[question]))
    wanted = max(wanted, len(by_question[smallest]))
    for question in order:
        group = by_question[question]
        (validation if len(validation) + len(group) <= wanted else train).extend(group)
    return train, validation


def choose_row_length(longest: int, context_length: int) -> int:
    """Return the tokens that a model reads of a row: its context, halved while the longest conversation fits."""
    length, wanted = context_length, max(SHORTEST_ROW, min(longest, LONGEST_ROW))
    while length % 2 == 0 and length // 2 >= wanted:
        length //= 2
    return length


def fit(
    tokenizer: Tokenizer, template: JinjaTemplate, conversation: Conversation, row_length: int
) -> tuple[Rendered | None, bool]:
    """Return a conversation's tokens, without its last turns if it is too long, and whether any were cut.

    Nothing is left of a conversation whose first answer ends beyond the row.
    """
    messages = conversation.messages
    while any(message.role == "assistant" and message.weight for message in messages):
        rendered = render(tokenizer, template, replace(conversation, messages=messages))
        if len(rendered.tokens) <= row_length:
            return rendered, len(messages) < len(conversation.messages)
        messages = messages[:-2]
    return None, True


def pack_split(
    rendered: Sequence[tuple[Rendered | None, bool]], row_length: int, pad: int, seed: int, what: str
) -> Packed:
    """Return the conversations of a split in rows, in an order that depends on the seed.

    Raises:
        DataError: none of them fits.
    """
    fitting = [each for each, _ in rendered if each is not None]
    if not fitting:
        raise DataError(
            f"none of the {len(rendered):,} conversations of the {what} split fits into a row of {row_length - 1} tokens; use "
            "longer rows (--row-tokens) or a model with a longer context"
        )
    order = np.random.default_rng(seed).permutation(len(fitting))
    rows = pack([len(fitting[at].tokens) for at in order], row_length)
    ids = np.full((len(rows), row_length), pad, dtype=np.int64)
    flags = np.zeros((len(rows), row_length), dtype=np.uint8)
    for row, members in enumerate(rows):
        end = 0
        for member in members:
            one = fitting[order[member]]
            start, end = end, end + len(one.tokens)
            ids[row, start:end] = one.tokens
            flags[row, start:end] = np.array(one.supervised) * SUPERVISED
            flags[row, start] = STARTS  # the first token of a conversation has nothing before it
        flags[row, end : end + 1] = STARTS  # of the padding, which so attends to nothing
    cut = sum(was_cut and each is not None for each, was_cut in rendered)
    tokens = sum(len(each.tokens) for each in fitting)
    return Packed(ids, flags, len(fitting), cut, len(rendered) - len(fitting), tokens)


def mix_text(packed: Packed, read_text: ReadText, share: float, seed: int) -> Packed:
    """Return rows with rows of text among them, in random order; of these every token is learned but the first.

    Args:
        packed: the rows of conversations.
        read_text: reads the text.
        share: share of all tokens that the text is to have.
        seed: of the order.
    """
    rows, length = packed.ids.shape
    count = max(1, round(rows * share / (1 - share)))
    text = read_text(count, length)
    flags = np.full(text.shape, SUPERVISED | TEXT, dtype=np.uint8)
    flags[:, 0] = STARTS | TEXT
    order = np.random.default_rng(seed).permutation(rows + count)
    ids, all_flags = np.concatenate([packed.ids, text]), np.concatenate([packed.flags, flags])
    return replace(packed, ids=ids[order], flags=all_flags[order], text=text.size)


def padding_token(tokenizer: Tokenizer) -> int:
    """Return the id that fills rows: a special token that does not end answers, else id 0 (it is never learned)."""
    others = {name: token for name, token in tokenizer.special_tokens.items() if token != tokenizer.end_of_text}
    named = [token for name, token in others.items() if "pad" in name.lower()]
    rest = [*named, *others.values(), 0 if tokenizer.end_of_text else 1]
    return rest[0]


def write_conversations(
    out: Path,
    splits: tuple[Sequence[Conversation], Sequence[Conversation]],
    tokenizer: Tokenizer,
    template: JinjaTemplate,
    template_text: str,
    *,
    context_length: int,
    row_tokens: int = 0,
    seed: int = 0,
    options: dict[str, Any] | None = None,
    replay: tuple[ReadText, float] | None = None,
) -> ConversationDataset:
    """Write conversations as a dataset; it appears complete or not at all.

    Args:
        out: folder to create.
        splits: the conversations to train on and to validate on.
        tokenizer: the model's.
        template: writes a conversation.
        template_text: its source, which is kept.
        context_length: of the model.
        row_tokens: tokens that the model reads of a row; 0 chooses by the longest conversation.
        seed: of the order of conversations in rows.
        options: recorded in the summary.
        replay: reads the text to mix into the training split, and its share of all tokens.

    Raises:
        DataError: no conversation fits, or the disk is full.
        GenerationError: the template refuses a conversation.
        UsageError: the folder exists.
    """
    fitted = [[fit(tokenizer, template, each, context_length + 1) for each in part] for part in splits]
    longest = max((len(one.tokens) for part in fitted for one, _ in part if one is not None), default=0)
    chosen = choose_row_length(longest - 1, context_length) if longest else context_length
    length = row_tokens or chosen
    if length < longest - 1:
        fitted = [[fit(tokenizer, template, each, length + 1) for each in part] for part in splits]
    pad = padding_token(tokenizer)
    packed = [pack_split(part, length + 1, pad, seed, name) for part, name in zip(fitted, SPLITS, strict=True)]
    if replay is not None:
        packed[0] = mix_text(packed[0], *replay, seed)
    with staged_folder(out, force=False) as (folder, _):
        parts = {name: _write_split(folder, name, one, tokenizer) for name, one in zip(SPLITS, packed, strict=True)}
        counts = np.bincount(np.concatenate([one.ids.ravel() for one in packed]), minlength=tokenizer.vocab_size)
        summary = ConversationSummary(length + 1, tokenizer.end_of_text, pad, *(parts[name][1] for name in SPLITS))
        write_atomically(folder / CONVERSATIONS_FILE, summary.to_json().encode())
        write_atomically(folder / TEMPLATE_FILE, template_text.encode())
        tokenizer.save(folder / TOKENIZER_FILE)
        rule = "whole conversations, by their first question"
        sides = {name: part for name, (part, _) in parts.items()}
        info = DatasetSummary.of(tokenizer, sides, rule, counts, options=options)
        write_atomically(folder / SUMMARY_FILE, info.to_json().encode())
    return ConversationDataset.open(out)


def _write_split(
    folder: Path, name: str, packed: Packed, tokenizer: Tokenizer
) -> tuple[SplitSummary, SplitConversations]:
    writer = ShardWriter(folder, name, tokenizer)
    try:
        writer.write(packed.ids.ravel())
        writer.close()
    finally:
        writer.abort()
    raw = packed.flags.tobytes()
    write_atomically(folder / flags_file(name), raw)
    n_bytes = int(tokenizer.byte_lengths()[packed.ids].sum())
    counts = SplitConversations(
        packed.conversations,
        packed.cut,
        packed.dropped,
        packed.tokens,
        int((packed.flags & SUPERVISED > 0).sum()),
        hashlib.sha256(raw).hexdigest(),
        packed.text,
    )
    return SplitSummary(packed.conversations, n_bytes, n_bytes, writer.tokens, tuple(writer.names)), counts
