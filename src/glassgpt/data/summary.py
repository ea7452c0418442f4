"""What `prepare` found and wrote: the typed content of `dataset.json`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from glassgpt.errors import DataError

SUMMARY_FILE = "dataset.json"
FORMAT = "glassgpt-dataset"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class SplitSummary:
    """One split of a data set. `tokens` counts the end-of-text before each document too."""

    documents: int
    characters: int
    bytes: int
    tokens: int
    shards: tuple[str, ...]


@dataclass(frozen=True)
class DatasetSummary:
    """A prepared data set in figures.

    Attributes:
        split_rule: in words, how documents were divided between training and validation.
        duplicates: exact copies of documents that were dropped.
        empty: documents without any text, which were dropped too.
        vocabulary_used: how many different ids occur, end-of-text included.
        frequent_tokens: the most frequent ids (end-of-text excluded) with their counts.
        options: the options `prepare` was called with.
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

    def split(self, name: str) -> SplitSummary:
        """The figures of "train" or "validation"."""
        return {"train": self.train, "validation": self.validation}[name]

    def to_json(self) -> str:
        """The text of `dataset.json`."""
        return json.dumps({"format": FORMAT, "version": FORMAT_VERSION, **asdict(self)}, indent=2) + "\n"

    @classmethod
    def read(cls, path: Path) -> DatasetSummary:
        """Read `dataset.json`.

        Raises:
            DataError: the file is damaged, of another program, or of a newer version.
        """
        try:
            fields = json.loads(path.read_bytes())
            found, version = fields.pop("format"), fields.pop("version")
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise DataError(f"{path} is damaged or not a data set of glassgpt: {error}") from error
        if found != FORMAT or version != FORMAT_VERSION:
            raise DataError(
                f"{path} has the format {found} {version}, known here is {FORMAT} {FORMAT_VERSION}; "
                "update glassgpt, or prepare the data again"
            )
        return cls._from_fields(path, fields)

    @classmethod
    def _from_fields(cls, path: Path, fields: dict[str, Any]) -> DatasetSummary:
        try:
            splits = {name: _split_from(fields.pop(name)) for name in ("train", "validation")}
            frequent = tuple((token, count) for token, count in fields.pop("frequent_tokens"))
            return cls(**splits, frequent_tokens=frequent, **fields)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path} is damaged: {error}; prepare the data again") from error


def _split_from(fields: dict[str, Any]) -> SplitSummary:
    shards = tuple(fields.pop("shards"))
    return SplitSummary(shards=shards, **fields)
