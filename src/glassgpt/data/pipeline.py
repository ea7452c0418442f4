"""The stages of `prepare`: read and deduplicate documents, encode them in the background, write each split."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from glassgpt.data.documents import Document, DuplicateFilter, text_digest
from glassgpt.data.origins import MAX_ORIGINS
from glassgpt.data.remarks import normalized, remarks_on
from glassgpt.data.shard_writer import ShardWriter
from glassgpt.data.sources import DocumentSource
from glassgpt.data.splitting import VALIDATION, SplitRule, SplitText
from glassgpt.data.summary import SplitSummary
from glassgpt.data.tokenizers import TokenIds, Tokenizer

BATCH_CHARACTERS = 2_000_000
"""Characters encoded at once: enough to keep every core busy, little enough for any memory."""
MAX_CHARACTERS_AHEAD = 12_000_000
"""Characters read ahead of the encoder, so that reading continues while the tokenizer is still loading."""

RuledSource = tuple[DocumentSource, SplitRule]
"""A source and the rule that divides its documents."""


class DocumentStream:
    """One pass over the sources, without empty documents and, unless switched off, without exact duplicates.

    Args:
        sources: the sources with their rules.
        deduplicate: whether to drop exact copies.
        advance: called with each number of bytes read.

        normalize: names of `NORMALIZATIONS` to apply.

    Attributes:
        validation_origins: origin of each validation text so far, or of as many as `write_origins` stores and one more.
        duplicates: number of duplicates dropped so far.
        empty: number of empty documents dropped so far, also of those that only have blanks.
        remarks: number of documents so far by what is remarkable in them, see `glassgpt.data.remarks`.
    """

    def __init__(
        self,
        sources: Sequence[RuledSource],
        *,
        deduplicate: bool,
        advance: Callable[[int], None] | None = None,
        normalize: Sequence[str] = (),
    ) -> None:
        self._sources = sources
        self._deduplicate = deduplicate
        self._advance = advance
        self._normalize = normalize
        self.validation_origins: list[str] = []
        self.duplicates = 0
        self.empty = 0
        self.remarks: Counter[str] = Counter()

    def split_texts(self) -> Iterator[SplitText]:
        """Yield each document divided by its rule."""
        for digest, document, rule in self.documents():
            for split, text in rule.divide(digest, document.text):
                if split == VALIDATION and len(self.validation_origins) <= MAX_ORIGINS:
                    self.validation_origins.append(document.origin)
                yield split, text

    def documents(self) -> Iterator[tuple[int, Document, SplitRule]]:
        """Yield each document with its digest and its rule."""
        new_texts = DuplicateFilter()
        for document, rule in self._all_documents():
            if not document.text or document.text.isspace():
                self.empty += 1
                continue
            text = normalized(document.text, self._normalize)
            digest = text_digest(text.encode())
            if self._deduplicate and not new_texts.add(digest):
                self.duplicates += 1
            else:
                self.remarks.update(remarks_on(text))
                yield digest, replace(document, text=text) if self._normalize else document, rule

    def _all_documents(self) -> Iterator[tuple[Document, SplitRule]]:
        for source, rule in self._sources:
            position = 0
            for document in source.documents():
                if self._advance:
                    self._advance(document.position - position)
                position = document.position
                yield document, rule


def total_size(sources: Sequence[RuledSource]) -> int | None:
    """Return the size of all sources together, or None if one is unknown."""
    sizes = [source.size for source, _ in sources]
    known = [size for size in sizes if size is not None]
    return sum(known) if len(known) == len(sizes) else None


def encode_in_background(
    texts: Iterable[SplitText], tokenizer: Tokenizer
) -> Iterator[tuple[list[SplitText], list[TokenIds]]]:
    """Yield batches of texts with their tokens, encoding a few batches ahead while further documents are read."""
    waiting: deque[tuple[list[SplitText], Future[list[TokenIds]]]] = deque()
    characters = 0
    background = ThreadPoolExecutor(1)
    try:
        for batch in _batches(texts):
            waiting.append((batch, background.submit(tokenizer.encode_batch, [text for _, text in batch])))
            characters += _characters(batch)
            while characters > MAX_CHARACTERS_AHEAD and waiting:
                encoded, tokens = waiting.popleft()
                characters -= _characters(encoded)
                yield encoded, tokens.result()
        while waiting:
            encoded, tokens = waiting.popleft()
            yield encoded, tokens.result()
    finally:
        background.shutdown(wait=False, cancel_futures=True)


def _characters(batch: Sequence[SplitText]) -> int:
    return sum(len(text) for _, text in batch)


def _batches(texts: Iterable[SplitText]) -> Iterator[list[SplitText]]:
    batch: list[SplitText] = []
    characters = 0
    for text in texts:
        batch.append(text)
        characters += len(text[1])
        if characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


class SplitWriter:
    """Writes one split and counts its tokens. Each document is stored as end-of-text followed by its tokens.

    End-of-text comes *before* a document: generation starts a document from it, and every byte of the text has a
    preceding token from which it can be predicted.
    """

    def __init__(self, shards: ShardWriter) -> None:
        self.shards = shards
        self.counts = np.zeros(shards.tokenizer.vocab_size, dtype=np.int64)
        self._start = np.array([shards.tokenizer.end_of_text], dtype=shards.tokenizer.dtype)
        self._documents = self._characters = 0

    def add(self, texts: Sequence[str], tokens: Sequence[TokenIds]) -> None:
        """Append documents."""
        flat = np.concatenate([part for ids in tokens for part in (self._start, ids)])
        self.shards.write(flat)
        self.counts += np.bincount(flat, minlength=len(self.counts))
        self._documents += len(texts)
        self._characters += sum(map(len, texts))

    def finish(self) -> SplitSummary:
        """Complete the shards and return the counts."""
        self.shards.close()
        return SplitSummary(
            documents=self._documents,
            characters=self._characters,
            bytes=int(self.counts @ self.shards.tokenizer.byte_lengths()),
            tokens=self.shards.tokens,
            shards=tuple(self.shards.names),
        )


def add_to_splits(writers: Mapping[str, SplitWriter], texts: Sequence[SplitText], tokens: Sequence[TokenIds]) -> None:
    """Append a batch of encoded texts to the splits they belong to."""
    for split, writer in writers.items():
        chosen = [(text, ids) for (name, text), ids in zip(texts, tokens, strict=True) if name == split]
        if chosen:
            writer.add([text for text, _ in chosen], [ids for _, ids in chosen])
