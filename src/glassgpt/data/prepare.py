"""The whole way from sources to a data set folder: read, drop duplicates, split, encode, write."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from glassgpt import console
from glassgpt.data import splitting
from glassgpt.data.documents import Document, DuplicateFilter, digest
from glassgpt.data.files import limited_threads, write_atomically
from glassgpt.data.shards import SHARD_TOKENS, SPLITS, ShardWriter
from glassgpt.data.show import visible
from glassgpt.data.sources import DocumentSource, resolve
from glassgpt.data.staging import staged
from glassgpt.data.summary import SUMMARY_FILE, DatasetSummary, SplitSummary
from glassgpt.data.tokenizers import (
    TOKENIZER_FILE,
    TokenIds,
    Tokenizer,
    is_training_spec,
    load_tokenizer,
    train_tokenizer,
)
from glassgpt.errors import DataError, UsageError

BATCH_CHARACTERS = 2_000_000
"""Text encoded at once: enough for every core, little enough for any memory."""
BATCHES_AHEAD = 8
"""Enough to go on reading while the tokenizer is still being loaded."""
TRAINING_CHARACTERS = 256_000_000
"""A tokenizer is trained on the first so many characters of the training text."""
FREQUENT_TOKENS = 20


@dataclass(frozen=True)
class PrepareOptions:
    """What to prepare and how.

    Attributes:
        sources: see `glassgpt.data.sources.resolve`.
        out: the data set folder to make.
        tokenizer: a name, a path, or KIND:SIZE to train one on the training text.
        field: field or column that holds the text.
        validation_fraction: share of the documents (or of each one's characters) held out.
        validation_sources: sources whose documents are the validation text; `sources` are then all training text.
        split: "document", or "tail" to cut each document.
        seed: of the split, and of the grammar's text.
        workers: threads; 0 means one a core. The result does not depend on it.
        deduplicate: drop exact copies of documents.
        force: replace a data set that is there.
        shard_tokens: tokens a shard file.
    """

    sources: tuple[str, ...]
    out: Path
    tokenizer: str = "gpt2"
    field: str = "text"
    validation_fraction: float = 0.1
    validation_sources: tuple[str, ...] = ()
    split: Literal["document", "tail"] = "document"
    seed: int = 1337
    workers: int = 0
    deduplicate: bool = True
    force: bool = False
    shard_tokens: int = SHARD_TOKENS

    def problems(self) -> list[str]:
        """What is wrong with the options, one line each."""
        checks = (
            (bool(self.sources), "there is no source: name files, folders, '-', or shakespeare"),
            (0 < self.validation_fraction < 1, "validation_fraction must lie between 0 and 1"),
            (self.split in ("document", "tail"), f"split {self.split!r} is neither 'document' nor 'tail'"),
            (self.workers >= 0, "workers must not be negative"),
            (self.shard_tokens > 0, "shard_tokens must be positive"),
            (
                not self.validation_sources or self.split == "document",
                "split 'tail' does not go with sources for validation",
            ),
            (
                [*self.sources, *self.validation_sources].count("-") < 2,
                "standard input can be read once; name '-' once",
            ),
        )
        return [message for holds, message in checks if not holds]

    def recorded(self) -> dict[str, Any]:
        """The options that decide the content, as they are kept in the data set."""
        names = ("tokenizer", "field", "validation_fraction", "split", "seed", "deduplicate", "shard_tokens")
        sources = {"sources": list(self.sources), "validation_sources": list(self.validation_sources)}
        return sources | {name: getattr(self, name) for name in names}


def prepare(options: PrepareOptions) -> DatasetSummary:
    """Make a data set; it appears under `options.out` complete, or not at all.

    Raises:
        UsageError: options that cannot work, or an `out` that must not be replaced.
        DataError: a source cannot be read, holds no text or invalid text, or the disk is full.
        TokenizerError: the tokenizer cannot be loaded or trained.
        Interrupted: Ctrl-C or SIGTERM; nothing was written.
    """
    return _prepare(options)[0]


def prepare_and_show(options: PrepareOptions) -> DatasetSummary:
    """The same, and then the summary is printed."""
    summary, tokenizer = _prepare(options)
    show_summary(summary, tokenizer)
    return summary


def _prepare(options: PrepareOptions) -> tuple[DatasetSummary, Tokenizer]:
    if problems := options.problems():
        raise UsageError("\n".join(problems))
    with limited_threads(options.workers), staged(options.out, force=options.force) as (staging, scratch):
        sources = _resolved(options, scratch)
        tokenizer = _tokenizer(sources, options)
        summary = _write(sources, tokenizer, options, staging)
        tokenizer.save(staging / TOKENIZER_FILE)
        write_atomically(staging / SUMMARY_FILE, summary.to_json().encode())
    return summary, tokenizer


def show_summary(summary: DatasetSummary, tokenizer: Tokenizer) -> None:
    """Print the figures of a data set and its most frequent tokens."""
    splits = (summary.train, summary.validation)
    rows = [
        [name, *(f"{getattr(split, name):,}" for split in splits)]
        for name in ("documents", "characters", "bytes", "tokens")
    ]
    rows.append(["characters per token", *(_per_token(split) for split in splits)])
    console.table(f"tokenizer {summary.tokenizer_name}", ["", *SPLITS], rows)
    console.output(f"split: {summary.split_rule}")
    console.output(f"exact duplicates dropped: {summary.duplicates:,}; empty documents: {summary.empty:,}")
    share = summary.vocabulary_used / summary.vocab_size
    console.output(f"vocabulary used: {summary.vocabulary_used:,} of {summary.vocab_size:,} ({share:.1%})")
    frequent = (f"'{visible(tokenizer.token_bytes(token))}' {count:,}" for token, count in summary.frequent_tokens)
    console.output(f"most frequent: {'  '.join(frequent)}")


def _per_token(split: SplitSummary) -> str:
    return f"{split.characters / split.tokens:.2f}" if split.tokens else "–"


RuledSource = tuple[DocumentSource, splitting.SplitRule]
"""A source, and the rule by which its documents are divided."""


def _resolved(options: PrepareOptions, scratch: Path) -> list[RuledSource]:
    def of(names: Sequence[str], purpose: str) -> list[DocumentSource]:
        return resolve(names, field=options.field, seed=options.seed, scratch=scratch / purpose)

    sources = of(options.sources, "sources")
    held_out = of(options.validation_sources, "validation")
    rule = splitting.Whole(splitting.TRAIN) if held_out else _rule(sources, options)
    return [
        *((source, rule) for source in sources),
        *((each, splitting.Whole(splitting.VALIDATION)) for each in held_out),
    ]


class _Reading:
    """One pass over the sources, and what it found."""

    def __init__(
        self, sources: Sequence[RuledSource], *, deduplicate: bool, meter: console.ProgressMeter | None = None
    ) -> None:
        self._sources = sources
        self._deduplicate = deduplicate
        self._meter = meter
        self.duplicates = 0
        self.empty = 0

    def parts(self) -> Iterator[splitting.Part]:
        """The parts of the documents that are not empty and not seen before."""
        for value, document, rule in self.documents():
            yield from rule.parts(value, document.text)

    def documents(self) -> Iterator[tuple[int, Document, splitting.SplitRule]]:
        """Documents that are not empty and not seen before, each with the digest of its text and its rule."""
        seen = DuplicateFilter()
        for document, rule in self._all():
            content = _checked_bytes(document)
            value = digest(content)
            if not content:
                self.empty += 1
            elif self._deduplicate and not seen.add(value):
                self.duplicates += 1
            else:
                yield value, document, rule

    def _all(self) -> Iterator[tuple[Document, splitting.SplitRule]]:
        for source, rule in self._sources:
            position = 0
            for document in source.documents():
                if self._meter:
                    self._meter.advance(document.position - position)
                position = document.position
                yield document, rule


def _checked_bytes(document: Document) -> bytes:
    try:
        return document.text.encode()
    except UnicodeEncodeError as error:
        surrogate = ord(document.text[error.start])
        raise DataError(
            f"{document.origin}: the text holds the lone surrogate U+{surrogate:04X} at character "
            f"{error.start}, which is no Unicode character; repair or remove it"
        ) from error


def _rule(sources: Sequence[DocumentSource], options: PrepareOptions) -> splitting.SplitRule:
    if options.split == "tail":
        return splitting.Tail(options.validation_fraction, "as asked")
    unruled = [(source, splitting.Whole(splitting.TRAIN)) for source in sources]
    digests = (value for value, _, _ in _Reading(unruled, deduplicate=False).documents())
    return splitting.plan(digests, options.validation_fraction, options.seed)


def _tokenizer(sources: Sequence[RuledSource], options: PrepareOptions) -> Tokenizer:
    if not is_training_spec(options.tokenizer):
        return load_tokenizer(options.tokenizer)
    console.info(f"training the tokenizer {options.tokenizer} …")
    reading = _Reading(sources, deduplicate=options.deduplicate)
    trained = train_tokenizer(options.tokenizer, _training_texts(reading))
    if trained.vocab_size < int(options.tokenizer.partition(":")[2]):
        console.info(f"the text has pieces for {trained.vocab_size:,} tokens only; the vocabulary has so many")
    return trained


def _training_texts(reading: _Reading) -> Iterator[str]:
    left = TRAINING_CHARACTERS
    for side, text in reading.parts():
        if side == splitting.TRAIN:
            yield text[:left]
            left -= len(text)
        if left <= 0:
            return


def _write(
    sources: Sequence[RuledSource],
    tokenizer: Tokenizer,
    options: PrepareOptions,
    folder: Path,
) -> DatasetSummary:
    outputs = {split: _Output(ShardWriter(folder, split, tokenizer, options.shard_tokens)) for split in SPLITS}
    try:
        with console.progress("preparing", _total_size(sources)) as meter:
            reading = _Reading(sources, deduplicate=options.deduplicate, meter=meter)
            for parts, tokens in _encoded(_batches(reading.parts()), tokenizer):
                _store(outputs, parts, tokens)
        splits = {split: output.finish() for split, output in outputs.items()}
        for split, found in splits.items():
            if not found.tokens and options.validation_sources:
                raise DataError(f"there is no {split} text: the sources for it are empty, or hold what others hold too")
    finally:
        for output in outputs.values():
            output.writer.abort()
    counts = sum(output.counts for output in outputs.values())
    rules = "; ".join(dict.fromkeys(rule.description for _, rule in sources))
    return _summary(splits, np.asarray(counts), reading, rules, tokenizer, options)


def _total_size(sources: Sequence[RuledSource]) -> int | None:
    sizes = [source.size for source, _ in sources]
    known = [size for size in sizes if size is not None]
    return sum(known) if len(known) == len(sizes) else None


def _batches(parts: Iterable[splitting.Part]) -> Iterator[list[splitting.Part]]:
    batch: list[splitting.Part] = []
    characters = 0
    for part in parts:
        batch.append(part)
        characters += len(part[1])
        if characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _encoded(
    batches: Iterable[list[splitting.Part]], tokenizer: Tokenizer
) -> Iterator[tuple[list[splitting.Part], list[TokenIds]]]:
    """Encode in the background, a few batches ahead, while the next documents are read."""
    waiting: deque[tuple[list[splitting.Part], Future[list[TokenIds]]]] = deque()
    with ThreadPoolExecutor(1) as background:
        for batch in batches:
            waiting.append((batch, background.submit(tokenizer.encode_batch, [text for _, text in batch])))
            if len(waiting) > BATCHES_AHEAD:
                parts, tokens = waiting.popleft()
                yield parts, tokens.result()
        for parts, tokens in waiting:
            yield parts, tokens.result()


def _store(outputs: dict[str, _Output], parts: list[splitting.Part], tokens: list[TokenIds]) -> None:
    for side, output in outputs.items():
        chosen = [(text, ids) for (to, text), ids in zip(parts, tokens, strict=True) if to == side]
        if chosen:
            output.add([text for text, _ in chosen], [ids for _, ids in chosen])


class _Output:
    """One split being written: each document as end-of-text and then its tokens.

    End-of-text stands *before* a document: whoever generates from it begins a document, and every byte
    of the text has a token before it from which it can be predicted.
    """

    def __init__(self, writer: ShardWriter) -> None:
        self.writer = writer
        self.counts = np.zeros(writer.tokenizer.vocab_size, dtype=np.int64)
        self._start = np.array([writer.tokenizer.end_of_text], dtype=writer.tokenizer.dtype)
        self._documents = self._characters = 0

    def add(self, texts: Sequence[str], tokens: Sequence[TokenIds]) -> None:
        """Append documents."""
        flat = np.concatenate([part for ids in tokens for part in (self._start, ids)])
        self.writer.write(flat)
        self.counts += np.bincount(flat, minlength=len(self.counts))
        self._documents += len(texts)
        self._characters += sum(map(len, texts))

    def finish(self) -> SplitSummary:
        """Complete the shards and give the figures."""
        self.writer.close()
        return SplitSummary(
            documents=self._documents,
            characters=self._characters,
            bytes=int(self.counts @ self.writer.tokenizer.byte_lengths()),
            tokens=self.writer.tokens,
            shards=tuple(self.writer.names),
        )


def _summary(
    splits: dict[str, SplitSummary],
    counts: NDArray[np.int64],
    reading: _Reading,
    rules: str,
    tokenizer: Tokenizer,
    options: PrepareOptions,
) -> DatasetSummary:
    return DatasetSummary(
        tokenizer_name=tokenizer.name,
        tokenizer_fingerprint=tokenizer.fingerprint,
        vocab_size=tokenizer.vocab_size,
        train=splits["train"],
        validation=splits["validation"],
        split_rule=rules,
        duplicates=reading.duplicates,
        empty=reading.empty,
        vocabulary_used=int(np.count_nonzero(counts)),
        frequent_tokens=_most_frequent(counts[: tokenizer.end_of_text]),
        options=options.recorded(),
    )


def _most_frequent(counts: NDArray[np.int64]) -> tuple[tuple[int, int], ...]:
    order = np.argsort(-counts, kind="stable")[:FREQUENT_TOKENS]  # stable: among equals the lowest id first
    return tuple((int(token), int(counts[token])) for token in order if counts[token])
