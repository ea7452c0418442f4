"""Preferences as a dataset: pairs of token sequences, split into those to train on and those to validate on.

It is a `TokenDataset` whose text is the pairs one after the other, each in a slot of the same size, so that positions,
resuming and quarantine work as for any text. Nothing but the file of the rows is on disk.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from glassgpt.data.chat.render import Rendered
from glassgpt.data.preferences.rows import Preference, PreferenceRows
from glassgpt.data.shards import Split, TokenArray, TokenDataset
from glassgpt.data.summary import DatasetSummary, SplitSummary
from glassgpt.data.tokenizers import Tokenizer
from glassgpt.errors import DataError


class PairTokens(TokenArray):
    """Pairs of conversations as one array of tokens: for each pair a slot with the chosen one, then the rejected one.

    Args:
        chosen: conversations that end with the better reply.
        rejected: the same ones with the worse reply.

    Attributes:
        ids: (pairs, 2, T); shorter conversations are followed by zeros, which no loss reads.
        supervised: (pairs, 2, T), whether a token belongs to the reply, its stop token included.
    """

    def __init__(self, chosen: Sequence[Rendered], rejected: Sequence[Rendered]) -> None:
        both = [one for pair in zip(chosen, rejected, strict=True) for one in pair]
        length = max((len(one.tokens) for one in both), default=1)
        self.ids = np.zeros((len(chosen), 2, length), dtype=np.int32)
        self.supervised = np.zeros((len(chosen), 2, length), dtype=bool)
        for at, one in enumerate(both):
            self.ids[at // 2, at % 2, : len(one.tokens)] = one.tokens
            self.supervised[at // 2, at % 2, : len(one.tokens)] = one.supervised
        super().__init__((self.ids.reshape(-1),))

    @property
    def slot(self) -> int:
        """Number of tokens between the starts of two pairs."""
        return 2 * self.ids.shape[2]

    @property
    def tokens_per_pair(self) -> int:
        """Mean number of tokens of a pair up to the end of its replies, rounded."""
        ends = self.ids.shape[2] - np.argmax(self.supervised[..., ::-1], axis=2)
        return round(float(ends.sum(axis=1).mean())) if len(self.ids) else 0

    def pairs(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return the tokens and the supervised ones of some pairs, (B, 2, T) up to the end of the longest reply."""
        ids, supervised = self.ids[indices], self.supervised[indices]
        longest = int(np.flatnonzero(supervised.any(axis=(0, 1))).max(initial=0)) + 1
        return ids[..., :longest].astype(np.int64), supervised[..., :longest]


@dataclass(frozen=True)
class PreferenceCounts:
    """Numbers of pairs.

    Attributes:
        train: pairs to train on.
        validation: pairs held out.
        skipped: rows that cannot be used, and were left out.
        too_long: pairs longer than the limit, which were left out.
    """

    train: int
    validation: int
    skipped: int
    too_long: int


class PreferenceDataset(TokenDataset):
    """Preferences as tokens; see `build_dataset`.

    Attributes:
        sha256: checksum of the file.
        template_sha256: checksum of the chat template that wrote the conversations.
        counts: numbers of pairs.
    """

    def __init__(
        self,
        file: Path,
        sha256: str,
        template_sha256: str,
        tokenizer: Tokenizer,
        splits: dict[Split, PairTokens],
        counts: PreferenceCounts,
    ) -> None:
        self.sha256, self.template_sha256, self.counts = sha256, template_sha256, counts
        self._splits, self._tokenizer = splits, tokenizer
        super().__init__(file, _summary(tokenizer, splits, counts), {})

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the model."""
        return self._tokenizer

    def split(self, name: Split) -> PairTokens:
        """Return the pairs of one split."""
        return self._splits[name]


def build_dataset(
    file: Path,
    given: PreferenceRows,
    tokenizer: Tokenizer,
    render: Callable[[Preference], tuple[Rendered, Rendered]],
    *,
    validation_share: float,
    max_tokens: int,
    template_sha256: str,
) -> PreferenceDataset:
    """Render rows and split them; rows of the same prompt are on the same side.

    Args:
        file: where the rows come from.
        given: the rows.
        tokenizer: the model's.
        render: returns both conversations of a row as tokens.
        validation_share: share of the prompts that are held out.
        max_tokens: pairs with a longer conversation are left out.
        template_sha256: checksum of the chat template by which `render` writes.

    Raises:
        DataError: one of the sides would have no pair.
    """
    sides: dict[Split, list[tuple[Rendered, Rendered]]] = {"train": [], "validation": []}
    too_long = 0
    for row in given.rows:
        pair = render(row)
        if max(len(one.tokens) for one in pair) > max_tokens:
            too_long += 1
        else:
            sides["validation" if is_held_out(row, validation_share) else "train"].append(pair)
    for name, pairs in sides.items():
        if not pairs:
            raise DataError(
                f"{file}: no pair is left for {name} ({len(given.rows)} rows, of which {too_long} are longer than "
                f"{max_tokens} tokens); give more rows, or change --preference.validation-share or --preference.max-tokens"
            )
    splits: dict[Split, PairTokens] = {
        name: PairTokens([pair[0] for pair in pairs], [pair[1] for pair in pairs]) for name, pairs in sides.items()
    }
    counts = PreferenceCounts(len(sides["train"]), len(sides["validation"]), len(given.skipped), too_long)
    return PreferenceDataset(file, given.sha256, template_sha256, tokenizer, splits, counts)


def is_held_out(row: Preference, share: float) -> bool:
    """Decide by a checksum of the prompt, so that the side does not depend on the other rows."""
    digest = hashlib.sha256(repr(row.prompt).encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def _summary(tokenizer: Tokenizer, splits: dict[Split, PairTokens], counts: PreferenceCounts) -> DatasetSummary:
    sides = {name: SplitSummary(len(pairs.ids), 0, 0, len(pairs), ()) for name, pairs in splits.items()}
    return DatasetSummary.of(tokenizer, sides, "a checksum of the prompt", skipped=counts.skipped)
