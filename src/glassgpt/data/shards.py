"""Reading tokens from disk: a dataset folder, and its shards as one long memory-mapped array.

The file format is in `shard_format.py`, writing in `shard_writer.py`; `shard_files.py` knows where the files are.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from functools import cached_property, partial
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from glassgpt.data.files import require_regular
from glassgpt.data.folder_kinds import not_a_dataset
from glassgpt.data.shard_files import shard_files
from glassgpt.data.shard_format import REBUILD_HINT, ShardHeader, check_headers, outside_vocabulary, verify_checksum
from glassgpt.data.summary import SUMMARY_FILE, DatasetSummary
from glassgpt.data.threads import map_waiting
from glassgpt.data.tokenizers import Tokenizer, load_tokenizer
from glassgpt.data.tokenizers.base import TOKENIZER_FILE
from glassgpt.errors import DataError, TokenizerError, WrongDataError

Split = Literal["train", "validation"]
SPLITS: tuple[Split, ...] = ("train", "validation")


class TokenArray:
    """Several shards as one long array of tokens; nothing is read from disk until it is requested.

    Args:
        shards: the tokens.
        vocab_size: every token must be below it; None does not check.
        name: of the text, for error messages.
        is_local: whether the tokens are on this machine, so that reading all of them is cheap.

    Attributes:
        row_length: tokens of a row if the text consists of rows that must be read whole, else 0.
    """

    row_length = 0

    def __init__(
        self, shards: Sequence[Any], vocab_size: int | None = None, name: str = "the text", is_local: bool = True
    ) -> None:
        self.shards, self._vocab_size, self._name, self.is_local = shards, vocab_size, name, is_local
        self._ends = list(accumulate(len(shard) for shard in shards))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def read(self, start: int, count: int, *, any_id: bool = False) -> NDArray[np.int64]:
        """Return a copy of the tokens `start` … `start + count - 1`, (count,) int64; `any_id` accepts unknown ids.

        Raises:
            IndexError: the range exceeds the array.
            DataError: a token is outside the vocabulary.
        """
        if start < 0 or count < 0 or start + count > len(self):
            raise IndexError(f"tokens {start} to {start + count} of {len(self)}")
        tokens = np.empty(count, dtype=np.int64)
        filled = 0
        while filled < count:  # once per shard that the range touches
            shard, offset = self._locate(start + filled)
            part = shard[offset : offset + count - filled]
            tokens[filled : filled + len(part)] = part
            filled += len(part)
        if not any_id and self._vocab_size is not None and (highest := int(tokens.max(initial=0))) >= self._vocab_size:
            raise DataError(outside_vocabulary(self._name, highest, self._vocab_size))
        return tokens

    def read_many(self, starts: Sequence[int], count: int, *, any_id: bool = False) -> list[NDArray[np.int64]]:
        """Return `read(start, count)` for each start."""
        read = partial(self.read, count=count, any_id=any_id)
        return [read(start) for start in starts] if self.is_local else map_waiting(read, starts)

    def _locate(self, position: int) -> tuple[NDArray[Any], int]:
        index = bisect_right(self._ends, position)
        return self.shards[index], position - (self._ends[index - 1] if index else 0)


class TokenDataset:
    """A prepared dataset: a folder with shards, the tokenizer that produced them, and a summary.

    Attributes:
        folder: the dataset folder.
        info: the summary written by `prepare`.
        headers: header of each shard, by name.
        files: the files of the shards, in the folder or on their way there.
    """

    def __init__(self, folder: Path, info: DatasetSummary, headers: dict[str, ShardHeader]) -> None:
        self.folder, self.info, self.headers = folder, info, headers
        self.files = shard_files(folder)

    @classmethod
    def open(cls, folder: Path) -> TokenDataset:
        """Open a dataset and check its summary and shard headers; `verify` checks the tokens too.

        Raises:
            DataError: the folder is not a dataset, or is incomplete, damaged or of a newer version.
        """
        folder = Path(folder)
        if not (folder / SUMMARY_FILE).is_file():
            raise WrongDataError(not_a_dataset(folder))
        require_regular(folder / TOKENIZER_FILE)
        info = DatasetSummary.read(folder / SUMMARY_FILE)
        files = shard_files(folder)
        headers = {name: files.header(name) for name in (*info.train.shards, *info.validation.shards)}
        check_headers(folder, headers, info)
        return cls(folder, info, headers)

    @property
    def vocab_size(self) -> int:
        """Vocabulary size of the tokenizer."""
        return self.info.vocab_size

    @property
    def tokenizer_fingerprint(self) -> str:
        """Fingerprint (hex) of the tokenizer."""
        return self.info.tokenizer_fingerprint

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that produced the tokens.

        Raises:
            TokenizerError: `tokenizer.json` is missing, damaged, or belongs to another tokenizer.
        """
        tokenizer = load_tokenizer(self.folder)
        if tokenizer.fingerprint != self.tokenizer_fingerprint:
            raise TokenizerError(
                f"{self.folder}: tokenizer.json ({tokenizer.name}) is not the tokenizer that made the tokens "
                f"({self.info.tokenizer_name}); restore the original file or {REBUILD_HINT}"
            )
        return tokenizer

    def split(self, name: Split) -> TokenArray:
        """Return the tokens of one split, memory-mapped."""
        shards = [self.files.array(shard, self.headers[shard]) for shard in self.info.split(name).shards]
        return TokenArray(shards, self.vocab_size, f"the {name} split of {self.folder}", not self.files.missing())

    def verify(self) -> None:
        """Read every shard and compare it with its checksum.

        Raises:
            DataError: a shard is damaged; the message names it.
        """
        for name, header in self.headers.items():
            verify_checksum(self.folder / name, header)
