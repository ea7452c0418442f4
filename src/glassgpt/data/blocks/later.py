"""Divide a text that is encoded already between the splits: by document, so that its tokens are those of either split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from glassgpt.data.blocks.parts import Part
from glassgpt.data.splitting import VALIDATION, LaterSplit, SplitRule, TailSplit, choose_rule


def divide_by_document(parts: Sequence[Part], wanted: LaterSplit) -> SplitRule:
    """Return the rule that `choose_rule` chooses for the documents of all parts, and move them to their splits.

    A rule that cuts documents is only returned: their tokens are not those of the two pieces.
    """
    rule = choose_rule(_digests_and_sizes(parts), wanted.fraction, wanted.seed)
    if not isinstance(rule, TailSplit):
        for part in parts:
            table = part.documents()
            splits = (rule.split_of(digest) for digest in table["digest"].tolist())
            is_validation = np.fromiter((split == VALIDATION for split in splits), np.bool_, len(table))
            for column in ("tokens", "characters"):  # (documents, 2): training and validation
                table[column][is_validation] = table[column][is_validation][:, ::-1]
            part.path(".documents").write_bytes(table.tobytes())
    return rule


def _digests_and_sizes(parts: Sequence[Part]) -> Iterator[tuple[int, int]]:
    for part in parts:
        table = part.documents()
        yield from zip(table["digest"].tolist(), table["characters"].sum(axis=1).tolist(), strict=True)
