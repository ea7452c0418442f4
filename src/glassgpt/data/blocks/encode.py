"""Encode one block: its tokens and a table of its documents, written as a part."""

from __future__ import annotations

import dataclasses
import json
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from glassgpt.data.bad_rows import BadRows
from glassgpt.data.blocks.ngrams import ngram_hashes
from glassgpt.data.blocks.parts import DOCUMENT, SKETCHED, BlockResult, Part, PartWriter, part_name
from glassgpt.data.blocks.plan import Block
from glassgpt.data.code.near_duplicates import sketch_of
from glassgpt.data.pipeline import DocumentStream, encode_in_background
from glassgpt.data.readers import FileSource
from glassgpt.data.remarks import REMARKS, remarks_on
from glassgpt.data.splitting import TRAIN, SplitText
from glassgpt.data.text_cuts import FILE_BUFFER_BYTES
from glassgpt.data.tokenizers import Tokenizer, load_tokenizer
from glassgpt.errors import DataError, GlassGPTError, WrongDataError


@dataclass(frozen=True)
class EncodeSettings:
    """The settings that a process needs to encode a block.

    Attributes:
        folder: folder for the parts.
        tokenizer_file: the saved tokenizer.
        fingerprint: of the tokenizer.
        normalize: names of `NORMALIZATIONS` to apply.
        max_bad_rows: number of rows that may be skipped.
        sketches: compute what near-duplicates are found by.
        ngrams: compute what text in both splits is found by.
        keeps_parts: whether parts are kept if `prepare` fails.
    """

    folder: Path
    tokenizer_file: Path
    fingerprint: str
    normalize: tuple[str, ...] = ()
    max_bad_rows: int = 0
    sketches: bool = False
    ngrams: bool = False
    keeps_parts: bool = True

    def part_of(self, block: Block) -> Part:
        """Return the part of a block; its name follows from everything that determines its content."""
        settings = (self.fingerprint, *self.normalize, str(self.max_bad_rows), str(self.sketches), str(self.ngrams))
        return Part(self.folder, part_name(block.identity, _rule_text(block), *settings))


def encode_block(
    block: Block,
    settings: EncodeSettings,
    tokenizer: Tokenizer | None = None,
    advance: Callable[[int], None] | None = None,
) -> BlockResult:
    """Encode a block, unless its part exists, and write its part.

    An error that the text causes is part of the result, because its line is only known when the earlier blocks are.

    Args:
        block: the block.
        settings: see there.
        tokenizer: the tokenizer; None reads it from its file, once for each process.
        advance: called with each number of bytes read.
    """
    part = settings.part_of(block)
    if (done := part.result()) is not None:
        return done
    bad_rows = _BadRowsOfBlock(settings.max_bad_rows)
    if isinstance(block.source, FileSource):
        source = dataclasses.replace(block.source, options=dataclasses.replace(block.source.options, bad_rows=bad_rows))
        block = dataclasses.replace(block, source=source)
    tokenizer = tokenizer or _tokenizer(settings.tokenizer_file, settings.fingerprint)
    try:
        with PartWriter(part, settings.keeps_parts) as writer:
            documents = _Documents(block, settings, writer, advance or _ignore)
            documents.encode(tokenizer)
            result = BlockResult(
                part.name, len(documents.digests), documents.empty, _line_ends(block), tuple(bad_rows.rows)
            )
            writer.finish(result)
            return result
    except _TooManyBadRows:
        return BlockResult("", bad_rows=tuple(bad_rows.rows))
    except GlassGPTError as error:
        return BlockResult("", bad_rows=tuple(bad_rows.rows), error=(type(error), str(error)))


@dataclass
class _Documents:
    """The documents of a block, noted while they are encoded."""

    block: Block
    settings: EncodeSettings
    writer: PartWriter
    advance: Callable[[int], None]
    digests: array[int] = field(default_factory=lambda: array("Q"))
    flags: array[int] = field(default_factory=lambda: array("B"))
    texts: array[int] = field(default_factory=lambda: array("I"))
    """For each text of a document in a split: twice the number of the document, plus one for validation."""
    characters: array[int] = field(default_factory=lambda: array("I"))
    tokens: array[int] = field(default_factory=lambda: array("I"))
    empty: int = 0

    def encode(self, tokenizer: Tokenizer) -> None:
        dtype = np.dtype(tokenizer.dtype).newbyteorder("<")
        for suffix in (".tokens", ".origins"):
            self.writer.append(suffix, b"")
        for _, encoded in encode_in_background(self._split_texts(), tokenizer):
            for ids in encoded:
                self.tokens.append(len(ids))
                self.writer.append(".tokens", ids.astype(dtype, copy=False).tobytes())
        self.writer.append(".documents", self._table().tobytes())

    def _split_texts(self) -> Iterator[SplitText]:
        block, position = self.block, 0
        stream = DocumentStream([(block.source, block.rule)], deduplicate=False, normalize=self.settings.normalize)
        for digest, document, rule in stream.documents():
            self.advance(document.position - position)
            position = document.position
            flags = sum(1 << REMARKS.index(name) for name in remarks_on(document.text))
            self.writer.append(".origins", json.dumps(document.origin).encode() + b"\n")
            self.digests.append(digest)
            self.flags.append(flags | self._add_sketch(document.text))
            for split, text in rule.divide(digest, document.text):
                self.texts.append(2 * len(self.digests) - 2 + (split != TRAIN))
                self.characters.append(len(text))
                self._add_ngrams(text)
                yield split, text
        self.empty = stream.empty
        self.advance(block.size - position)

    def _add_sketch(self, text: str) -> int:
        if not self.settings.sketches or (sketch := sketch_of(text)) is None:
            return 0
        self.writer.append(".sketches", sketch)
        return SKETCHED

    def _add_ngrams(self, text: str) -> None:
        if self.settings.ngrams:
            hashes = ngram_hashes(text)
            self.writer.append(".ngrams", hashes.tobytes())
            self.writer.append(".ngram-counts", np.uint32(len(hashes)).tobytes())

    def _table(self) -> np.ndarray[Any, Any]:
        table = np.zeros(len(self.digests), DOCUMENT)
        table["digest"], table["flags"] = self.digests, self.flags
        document, side = np.divmod(np.array(self.texts, dtype=np.int64), 2)
        table["tokens"][document, side] = self.tokens
        table["characters"][document, side] = self.characters
        return table


class _TooManyBadRows(Exception):  # noqa: N818 - never seen outside
    """The driver will say so, with the numbers of the lines."""


class _BadRowsOfBlock(BadRows):
    """Notes the bad rows of a block, up to one more than may be skipped in all blocks."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.rows: list[tuple[str, str, bool]] = []

    def __len__(self) -> int:
        return len(self.rows)

    def skip(self, origin: str, error: DataError) -> None:
        self.rows.append((origin, str(error), isinstance(error, WrongDataError)))
        if len(self.rows) > self.limit:
            raise _TooManyBadRows


def _line_ends(block: Block) -> int:
    if not block.is_range or not isinstance(block.source, FileSource) or block.source.span is None:
        return 0
    start, end = block.source.span
    count = 0
    with block.source.path.open("rb") as file:
        file.seek(start)
        while start < end and (content := file.read(min(FILE_BUFFER_BYTES, end - start))):
            count += content.count(b"\n")
            start += len(content)
    return count


def _rule_text(block: Block) -> str:
    """Return everything that determines how a rule divides documents."""
    fields = dataclasses.asdict(block.rule)  # pyright: ignore[reportArgumentType] - every rule is a dataclass
    return json.dumps([type(block.rule).__name__, fields], default=sorted)


@lru_cache(maxsize=1)
def _tokenizer(path: Path, fingerprint: str) -> Tokenizer:
    tokenizer = load_tokenizer(path)
    if tokenizer.fingerprint != fingerprint:
        raise DataError(f"{path} has changed while text was prepared with it; prepare again")
    return tokenizer


def _ignore(n_bytes: int) -> None:
    pass
