"""The summary of a prepared dataset: the typed content of `dataset.json`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from glassgpt.data.files import read_regular
from glassgpt.data.tokenizers import Tokenizer
from glassgpt.errors import DataError
from glassgpt.schema.json_fields import from_json, json_object

SUMMARY_FILE = "dataset.json"
FORMAT = "glassgpt-dataset"
FORMAT_VERSION = 1
FREQUENT_TOKENS = 20
SINCE_0_2 = ("near_duplicates", "contaminated")


@dataclass(frozen=True)
class SplitSummary:
    """Counts of one split; `tokens` includes the end-of-text token before each document."""

    documents: int
    characters: int
    bytes: int
    tokens: int
    shards: tuple[str, ...]


@dataclass(frozen=True)
class DatasetSummary:
    """Counts and origin of a prepared dataset.

    Attributes:
        split_rule: how documents were divided between training and validation, in words.
        duplicates: number of dropped exact copies.
        empty: number of dropped empty documents.
        vocabulary_used: number of distinct ids that occur, including end-of-text.
        frequent_tokens: most frequent ids (without end-of-text) and their counts.
        options: the options of `prepare`.
        skipped: number of bad rows that were skipped.
        near_duplicates: number of dropped documents that resemble an earlier one.
        contaminated: number of documents whose training text shares sequences of words with the validation text.
    """

    tokenizer_name: str
    tokenizer_fingerprint: str
    vocab_size: int
    train: SplitSummary
    validation: SplitSummary
    split_rule: str
    duplicates: int
    empty: int
    vocabulary_used: int
    frequent_tokens: tuple[tuple[int, int], ...]
    options: dict[str, Any]
    skipped: int = 0
    near_duplicates: int = 0
    contaminated: int = 0

    @classmethod
    def of(
        cls,
        tokenizer: Tokenizer,
        splits: Mapping[str, SplitSummary],
        split_rule: str,
        counts: NDArray[np.int64] | None = None,
        *,
        options: dict[str, Any] | None = None,
        duplicates: int = 0,
        empty: int = 0,
        skipped: int = 0,
        near_duplicates: int = 0,
        contaminated: int = 0,
    ) -> Self:
        """Return the summary of a dataset.

        Args:
            tokenizer: of the dataset.
            splits: counts of "train" and "validation".
            split_rule: how they were divided, in words.
            counts: how often each id occurs; None leaves the vocabulary out.
            options: see the attributes, as are the other numbers.
        """
        counts = np.zeros(tokenizer.vocab_size, dtype=np.int64) if counts is None else counts
        return cls(
            tokenizer_name=tokenizer.name,
            tokenizer_fingerprint=tokenizer.fingerprint,
            vocab_size=tokenizer.vocab_size,
            train=splits["train"],
            validation=splits["validation"],
            split_rule=split_rule,
            vocabulary_used=int(np.count_nonzero(counts)),
            frequent_tokens=most_frequent(np.where(tokenizer.byte_lengths() > 0, counts, 0)),
            options=options or {},
            duplicates=duplicates,
            empty=empty,
            skipped=skipped,
            near_duplicates=near_duplicates,
            contaminated=contaminated,
        )

    def split(self, name: str) -> SplitSummary:
        """Return the counts of "train" or "validation"."""
        return {"train": self.train, "validation": self.validation}[name]

    def to_json(self) -> str:
        """Return the content of `dataset.json`."""
        fields = {"format": FORMAT, "version": FORMAT_VERSION, **asdict(self)}
        for name in SINCE_0_2:  # a dataset without them can be read by earlier versions
            if not fields[name]:
                del fields[name]
        return json.dumps({**fields, "sha256": _checksum(fields)}, indent=2) + "\n"

    @classmethod
    def read(cls, path: Path) -> DatasetSummary:
        """Read `dataset.json`.

        Raises:
            DataError: the file is damaged, not a glassgpt dataset, or of a newer version.
        """
        try:
            fields = json_object(read_regular(path))
            checksum = fields.pop("sha256", None)  # earlier datasets have none
            if checksum is not None and checksum != _checksum(fields):
                raise ValueError("its content does not match its checksum")
        except (OSError, ValueError) as error:
            raise DataError(f"{path} is damaged or not a glassgpt dataset: {error}; prepare the data again") from error
        file_format, version = fields.pop("format", None), fields.pop("version", None)
        if file_format != FORMAT or isinstance(version, bool) or version != FORMAT_VERSION:  # True equals 1
            raise DataError(
                f"{path} has format {file_format} {version}, expected {FORMAT} {FORMAT_VERSION}; "
                "update glassgpt or prepare the data again"
            )
        return cls._from_fields(path, fields)

    @classmethod
    def _from_fields(cls, path: Path, fields: dict[str, Any]) -> DatasetSummary:
        try:
            summary = from_json(cls, fields, may_lack_defaults=True)
            for name in (*summary.train.shards, *summary.validation.shards):
                if Path(name).name != name:
                    raise ValueError(f"it names the shard {name!r}")
            return summary
        except ValueError as error:
            raise DataError(f"{path} is damaged: {error}; prepare the data again") from error


def most_frequent(counts: NDArray[np.int64]) -> tuple[tuple[int, int], ...]:
    """Return the most frequent ids with their counts, from the count of each id."""
    order = np.argsort(-counts, kind="stable")[:FREQUENT_TOKENS]  # stable: among equal counts the lowest id first
    return tuple((int(token), int(counts[token])) for token in order if counts[token])


def _checksum(fields: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
