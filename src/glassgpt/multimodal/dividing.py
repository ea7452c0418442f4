"""Divide documents between training and validation, so that no medium is on both sides."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from glassgpt.data.documents import text_digest
from glassgpt.data.shards import Split
from glassgpt.data.splitting import VALIDATION, ChosenSplit, HashSplit, TailSplit, choose_rule
from glassgpt.errors import DataError
from glassgpt.multimodal.documents import Document
from glassgpt.multimodal.media_store import MediaWriter


@dataclass(frozen=True)
class Division:
    """Documents by split.

    Attributes:
        splits: the documents.
        rule: how they were divided, in words.
    """

    splits: dict[Split, list[Document]]
    rule: str


def drop_duplicates(documents: Sequence[Document]) -> list[Document]:
    """Return the documents without exact copies of earlier ones: the same media and the same text."""
    seen: set[bytes] = set()
    kept: list[Document] = []
    for document in documents:
        key = hashlib.blake2b(repr(document.turns).encode(errors="surrogatepass"), digest_size=16).digest()
        if key not in seen:
            seen.add(key)
            kept.append(document)
    return kept


def divide(documents: Sequence[Document], media: MediaWriter, fraction: float, seed: int) -> Division:
    """Assign documents by a seeded hash of their media; documents that share a medium stay together.

    A document without media is assigned by its text.

    Args:
        documents: the documents.
        media: has stored their media.
        fraction: share of the documents wanted for validation.
        seed: of the hash.

    Raises:
        DataError: all documents share their media, so that none can be held out.
    """
    groups = _groups(documents, media)
    sizes = Counter(groups)
    if len(sizes) < 2:
        raise DataError(
            f"there is nothing to hold out: the {len(documents):,} documents share the same media or text; add others, or name "
            "the data to validate on with --validation-source"
        )
    rule = choose_rule(sizes.items(), fraction, seed)
    if isinstance(rule, TailSplit):  # pictures cannot be cut
        ordered = sorted(sizes, key=HashSplit(fraction, seed).score)
        count = min(max(1, round(fraction * len(ordered))), len(ordered) - 1)  # neither split may be empty
        rule = ChosenSplit(frozenset(ordered[:count]), fraction, seed)
    splits: dict[Split, list[Document]] = {"train": [], "validation": []}
    for group, document in zip(groups, documents, strict=True):
        [(split, _)] = rule.divide(group, "")
        splits["validation" if split == VALIDATION else "train"].append(document)
    return Division(splits, f"by media, {fraction:.3g} for validation, seed {seed}")


def shared_documents(splits: dict[Split, list[Document]]) -> int:
    """Return the number of validation documents of which a medium also is in a training document."""
    seen = {medium.item for document in splits["train"] for medium in document.media}
    return sum(any(medium.item in seen for medium in document.media) for document in splits["validation"])


def _groups(documents: Sequence[Document], media: MediaWriter) -> list[int]:
    """Return a 64-bit digest per document, which is the same for documents that are connected by media."""
    leader: dict[int, int] = {}

    def find(item: int) -> int:
        while leader.setdefault(item, item) != item:
            leader[item] = leader[leader[item]]  # halves the path for the next search
            item = leader[item]
        return item

    for document in documents:
        for medium in document.media:
            leader[find(medium.item)] = find(document.media[0].item)
    members: dict[int, bytes] = {}
    for item in leader:  # the smallest checksum, so that the group does not depend on the order of the documents
        members[find(item)] = min(members.get(find(item), b"\xff" * 33), media.digest(item))
    return [
        text_digest(members[find(medium[0].item)] if (medium := document.media) else "\n".join(document.texts).encode())
        for document in documents
    ]
