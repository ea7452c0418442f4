"""Rules that divide documents into training and validation text."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from glassgpt.errors import DataError

TRAIN, VALIDATION = "train", "validation"
MIN_DOCUMENTS = 10
"""Documents needed to assign whole documents. With fewer, a single one may be most of the text, and its assignment would
decide everything."""
SURVEYED_DOCUMENTS, SURVEYED_CHARACTERS = 10_000, 64_000_000
"""Documents, and characters, whose sizes are read before the rule is chosen."""
MAX_DEVIATION = 1.5
"""Factor by which the share of validation text may differ from what was wanted."""
SplitText = tuple[str, str]
"""The name of a split and a text that belongs to it."""


class SplitRule(Protocol):
    """Divides documents between the splits; deterministic for each document."""

    @property
    def description(self) -> str:
        """The rule in words, for the dataset summary."""
        ...

    def divide(self, digest: int, text: str) -> Iterator[SplitText]:
        """Yield the parts of one document with their splits."""
        ...


@dataclass(frozen=True)
class HashSplit:
    """Assigns each whole document to a split by a seeded hash of its text.

    Attributes:
        fraction: share of hash values assigned to validation.
        seed: of the hash.
        exception: a digest and its split, used where the hash alone would leave that split empty.
    """

    fraction: float
    seed: int
    exception: tuple[int, str] | None = None

    @property
    def description(self) -> str:
        """The rule in words."""
        text = f"by document, {self.fraction:.3g} for validation, seed {self.seed}"
        return f"{text}; one document moved to {self.exception[1]}, otherwise empty" if self.exception else text

    def score(self, digest: int) -> float:
        """Return the seeded hash of a document's digest as a number in [0, 1)."""
        content = f"{self.seed}:{digest}".encode()
        value = int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")
        return value / 2**64

    def split_of(self, digest: int) -> str:
        """Return the split of a document."""
        if self.exception and digest == self.exception[0]:
            return self.exception[1]
        return VALIDATION if self.score(digest) < self.fraction else TRAIN

    def divide(self, digest: int, text: str) -> Iterator[SplitText]:
        """Yield the whole document."""
        yield self.split_of(digest), text


@dataclass(frozen=True)
class FixedSplit:
    """Assigns every document of a source to the split the user named the source for."""

    split: str

    @property
    def description(self) -> str:
        """The rule in words."""
        return f"{self.split} text from its own sources"

    def divide(self, digest: int, text: str) -> Iterator[SplitText]:
        """Yield the whole document."""
        yield self.split, text


@dataclass(frozen=True)
class TailSplit:
    """Cuts each document: the last `fraction` of its characters is validation text."""

    fraction: float
    reason: str

    @property
    def description(self) -> str:
        """The rule in words."""
        return f"the last {self.fraction:.3g} of the characters of each document for validation ({self.reason})"

    def divide(self, digest: int, text: str) -> Iterator[SplitText]:
        """Yield head and tail, unless empty."""
        cut = int(len(text) * (1 - self.fraction))
        for split, part in ((TRAIN, text[:cut]), (VALIDATION, text[cut:])):
            if part:
                yield split, part


@dataclass(frozen=True)
class ChosenSplit:
    """Assigns whole documents that were chosen so that the share of the text is as wanted.

    Attributes:
        validation: digests of the validation documents.
        fraction: the share that was wanted.
        seed: of the order in which they were chosen.
    """

    validation: frozenset[int]
    fraction: float
    seed: int

    @property
    def description(self) -> str:
        """The rule in words."""
        return f"by document, chosen towards {self.fraction:.3g} of the text for validation, seed {self.seed}"

    def split_of(self, digest: int) -> str:
        """Return the split of a document."""
        return VALIDATION if digest in self.validation else TRAIN

    def divide(self, digest: int, text: str) -> Iterator[SplitText]:
        """Yield the whole document."""
        yield self.split_of(digest), text


@dataclass(frozen=True)
class LaterSplit:
    """Keeps all documents whole, as training text, until a rule is chosen from all of them; see `blocks.later`.

    Attributes:
        fraction: share of the text wanted for validation.
        seed: of the rule.
    """

    fraction: float
    seed: int

    @property
    def description(self) -> str:
        """Empty: no dataset is written with it."""
        return ""

    def divide(self, digest: int, text: str) -> Iterator[SplitText]:
        """Yield the whole document."""
        yield TRAIN, text


def choose_rule(
    documents: Iterable[tuple[int, int]], fraction: float, seed: int
) -> HashSplit | ChosenSplit | TailSplit:
    """Return a rule that leaves neither split empty: by document, or by tail if there are too few documents.

    Documents are assigned by their hash, unless the share of the *text* then is far from `fraction`, because they differ
    in size. Reads the documents only until there are enough for an estimate (or all of them, if there are fewer) and
    both splits have one.

    Args:
        documents: digest and size of each document.
        fraction: share of the text wanted for validation.
        seed: of the hash.

    Raises:
        DataError: there are no documents.
    """
    rule = HashSplit(fraction, seed)
    sizes: dict[int, int] = {}
    splits: set[str] = set()
    lowest = highest = None
    characters = 0
    for digest, size in documents:
        scored = (rule.score(digest), digest)
        lowest, highest = min(lowest or scored, scored), max(highest or scored, scored)
        splits.add(rule.split_of(digest))
        if len(sizes) < SURVEYED_DOCUMENTS and characters < SURVEYED_CHARACTERS:
            sizes[digest] = size
            characters += size
        elif len(splits) == 2 and len(sizes) >= MIN_DOCUMENTS:
            return rule
        elif len(sizes) < MIN_DOCUMENTS:
            sizes[digest] = size
    if lowest is None or highest is None:
        raise DataError("the sources hold no text")
    if len(sizes) < MIN_DOCUMENTS:
        count = "is only one document" if len(sizes) == 1 else f"are only {len(sizes)} documents"
        return TailSplit(fraction, f"there {count}")
    share = sum(size for digest, size in sizes.items() if rule.split_of(digest) == VALIDATION) / sum(sizes.values())
    if len(splits) == 2 and is_near(share, fraction):
        return rule
    chosen = _chosen_by_size(sizes, rule)
    chosen_share = sum(sizes[digest] for digest in chosen) / sum(sizes.values())
    if characters < SURVEYED_CHARACTERS and abs(chosen_share - fraction) < abs(share - fraction):
        return ChosenSplit(chosen, fraction, seed)
    if len(splits) == 2:
        return rule
    # The hash left one split empty: move the document that was closest to it.
    moved = (lowest[1], VALIDATION) if VALIDATION not in splits else (highest[1], TRAIN)
    return HashSplit(fraction, seed, moved)


def is_near(share: float, fraction: float) -> bool:
    """Return whether the validation text's share is what was wanted, as nearly as documents allow in general."""
    return fraction / MAX_DEVIATION <= share <= fraction * MAX_DEVIATION


def _chosen_by_size(sizes: Mapping[int, int], rule: HashSplit) -> frozenset[int]:
    """Take documents in the order of their hashes, each only if it brings the share nearer to what is wanted."""
    wanted = rule.fraction * sum(sizes.values())
    chosen: set[int] = set()
    taken = 0
    for digest in sorted(sizes, key=rule.score):
        if abs(taken + sizes[digest] - wanted) < abs(taken - wanted):
            chosen.add(digest)
            taken += sizes[digest]
    by_size = sorted(sizes, key=lambda digest: (sizes[digest], rule.score(digest)))
    if not chosen:
        chosen.add(by_size[0])
    elif len(chosen) == len(sizes):
        chosen.remove(by_size[0])
    return frozenset(chosen)
