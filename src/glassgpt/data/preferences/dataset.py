"""Preferences as a dataset: pairs of token sequences, split into those to train on and those to validate on.

It is a `TokenDataset` whose text is the pairs one after the other, each in a slot of the same size, so that positions,
resuming and quarantine work as for any text. Nothing but the file of the rows is on disk.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from glassgpt.data.chat.render import Rendered
from glassgpt.data.preferences.rows import Preference, PreferenceRows
from glassgpt.data.shards import Split, TokenDataset
from glassgpt.data.summary import DatasetSummary, SplitSummary
from glassgpt.data.tokenizers import Tokenizer
from glassgpt.errors import DataError

if TYPE_CHECKING:
    from glassgpt.data.preferences.batches import PairTokens


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
    from glassgpt.data.preferences.batches import PairTokens  # needs torch, the rest of this file does not

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
