"""Mix old text into the training text (replay), so that a model that learns a domain forgets less.

An epoch then consists of the whole new text and of pieces of the old one, spread evenly over it. The mixture is one long
array of tokens like any other: batches, resuming and quarantine need not know of it.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from glassgpt.adaptation.config import ReplayConfig
from glassgpt.data.chat.dataset import is_conversations, open_dataset
from glassgpt.data.folder_kinds import rows_in
from glassgpt.data.remote.folder import dataset_folder
from glassgpt.data.shards import Split, TokenArray, TokenDataset
from glassgpt.errors import DataError, WrongDataError, WrongTokenizerError

PIECES = 64
"""Places of the old text that pieces are taken from."""


class MixedTokens(TokenArray):
    """Spans of several texts as one long array.

    Args:
        spans: text, first token and number of tokens of each span.
    """

    def __init__(self, spans: list[tuple[TokenArray, int, int]]) -> None:
        super().__init__((), is_local=all(text.is_local for text, *_ in spans))
        self._spans = [span for span in spans if span[2] > 0]
        self._span_ends = list(accumulate(count for *_, count in self._spans))

    def __len__(self) -> int:
        return self._span_ends[-1] if self._span_ends else 0

    def read(self, start: int, count: int, *, any_id: bool = False) -> NDArray[np.int64]:
        """See `TokenArray.read`."""
        if start < 0 or count < 0 or start + count > len(self):
            raise IndexError(f"tokens {start} to {start + count} of {len(self)}")
        parts: list[NDArray[np.int64]] = []
        while count > 0:
            index = bisect_right(self._span_ends, start)
            text, first, length = self._spans[index]
            offset = start - (self._span_ends[index] - length)
            taken = min(count, length - offset)
            parts.append(text.read(first + offset, taken, any_id=any_id))
            start, count = start + taken, count - taken
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)


class ReplayDataset(TokenDataset):
    """A dataset whose training text has pieces of another one mixed in; it is validated on its own text alone.

    Args:
        dataset: the new text.
        old: the old text.
        share: share of the mixture that is old text.

    Attributes:
        old: the old text.
    """

    def __init__(self, dataset: TokenDataset, old: TokenDataset, share: float) -> None:
        super().__init__(dataset.folder, dataset.info, dataset.headers)
        self.old, self._share = old, share

    def split(self, name: Split) -> TokenArray:
        """Return the tokens of one split."""
        new = super().split(name)
        if name == "validation":
            return new
        wanted = round(len(new) * self._share / (1 - self._share))
        return MixedTokens([(new, 0, len(new)), *_pieces(self.old.split("train"), wanted)])


def mixed_in(dataset: TokenDataset) -> TokenDataset | None:
    """Return the dataset whose text is mixed into another one, or None."""
    from glassgpt.data.code.batches import FIMDataset  # needs torch, and this file is imported early

    inner = dataset.dataset if isinstance(dataset, FIMDataset) else dataset
    return inner.old if isinstance(inner, ReplayDataset) else None


def _pieces(text: TokenArray, wanted: int) -> list[tuple[TokenArray, int, int]]:
    """Return spans of `wanted` tokens in all: the whole text as often as it fits, then pieces spread evenly over it."""
    spans = [(text, 0, len(text))] * (wanted // len(text))
    rest = wanted % len(text)
    borders = np.linspace(0, rest, PIECES + 1).astype(int)
    places = np.linspace(0, len(text), PIECES + 1).astype(int)
    spans += [
        (text, int(place), int(end - start))
        for place, start, end in zip(places[:-1], borders[:-1], borders[1:], strict=True)
    ]
    return spans


def read_passages(text: TokenArray, count: int, length: int) -> NDArray[np.int64]:
    """Return passages spread evenly over a text, (count, length); they overlap if it is short.

    Raises:
        DataError: it is shorter than a passage.
    """
    if len(text) < length:
        raise DataError(
            f"the old text has only {len(text):,} tokens; give one of at least {length:,}, or use shorter rows"
        )
    starts = np.linspace(0, len(text) - length, count).astype(int)
    return np.stack([text.read(int(start), length) for start in starts])


def open_old_text(folder: Path, fingerprint: str, new: Path) -> TokenDataset:
    """Open the text that is to be mixed in.

    Args:
        folder: its dataset.
        fingerprint: of the new text's tokenizer.
        new: what names that tokenizer, for messages.

    Raises:
        DataError: it cannot be opened, or consists of conversations or documents with media.
        WrongTokenizerError: it was prepared with another tokenizer.
    """
    if rows := rows_in(folder):  # their padding and questions would be learned
        raise WrongDataError(f"replay.data is {folder}, which holds {rows}; name a dataset of text")
    old = TokenDataset.open(folder)
    if old.tokenizer_fingerprint != fingerprint:
        raise WrongTokenizerError(
            f"{old.folder} was prepared with another tokenizer than {new}; prepare the old text again with "
            f"--tokenizer {new}"
        )
    return old


def open_training_data(data: str | Path, replay: ReplayConfig) -> TokenDataset:
    """Open the dataset that a run is trained on, with old text mixed in if that is configured.

    Raises:
        DataError: a dataset cannot be opened, or one of two consists of conversations.
        WrongTokenizerError: the two were prepared with different tokenizers.
    """
    dataset = open_dataset(dataset_folder(data))
    if not replay.data:
        return dataset
    if is_conversations(dataset.folder):
        raise WrongDataError(
            f"replay.data cannot be combined with the conversations in {dataset.folder}; leave it empty"
        )
    old = open_old_text(dataset_folder(replay.data), dataset.tokenizer_fingerprint, dataset.folder)
    return ReplayDataset(dataset, old, replay.share)
