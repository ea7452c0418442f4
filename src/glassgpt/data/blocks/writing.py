"""The driver: encode all blocks, choose the documents, write the shards. The result does not depend on where the work runs."""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from itertools import chain, groupby, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from glassgpt.data.bad_rows import BadRows
from glassgpt.data.blocks.choice import Choice, choose, find_contaminated
from glassgpt.data.blocks.encode import EncodeSettings, encode_block
from glassgpt.data.blocks.later import divide_by_document
from glassgpt.data.blocks.layout import ShardFormat, SplitPlan, plan_split, write_shard
from glassgpt.data.blocks.parts import BlockResult, Part
from glassgpt.data.blocks.plan import Block, plan_blocks
from glassgpt.data.blocks.ray_tasks import ray_tasks
from glassgpt.data.observer import PrepareObserver
from glassgpt.data.pipeline import RuledSource, total_size
from glassgpt.data.prepare_options import PrepareOptions
from glassgpt.data.processes import Carrier, InProcess, processes
from glassgpt.data.readers import no_document
from glassgpt.data.remarks import REMARKS
from glassgpt.data.shards import SPLITS
from glassgpt.data.sources import DocumentSource
from glassgpt.data.splitting import LaterSplit, TailSplit
from glassgpt.data.summary import SplitSummary
from glassgpt.data.threads import worker_threads
from glassgpt.data.tokenizers import TOKENIZER_FILE, Tokenizer
from glassgpt.errors import DataError, WrongDataError

IN_PROCESS_BYTES = 32_000_000
"""Size of all sources up to which this process does the work itself, in about a second; starting others takes as long. Twice
as much with fastokens, whose threads need no other processes to use all cores."""
Advance = Callable[[int], None]


def is_small(sources: Iterable[DocumentSource]) -> bool:
    """Return whether the sources are encoded in this process, and soon."""
    size = total_size(sources)
    return size is not None and size <= IN_PROCESS_BYTES * (2 if find_spec("fastokens") else 1)


@dataclass(frozen=True)
class Folders:
    """The folders of the dataset, of the parts, and of files that are not needed afterwards."""

    dataset: Path
    parts: Path
    scratch: Path


@dataclass
class Encoded:
    """All parts.

    Attributes:
        parts: in the order of the text.
        labels: name of the source of each part.
        lines: number of line ends in the file before each part.
        empty: number of empty documents.
    """

    parts: list[Part] = field(default_factory=list[Part])
    labels: list[str] = field(default_factory=list[str])
    lines: list[int] = field(default_factory=list[int])
    empty: int = 0

    def origins(self, number: int) -> list[str]:
        """Return the origin of each document of a part."""
        return [_moved(origin, self.labels[number], self.lines[number]) for origin in self.parts[number].origins()]


@dataclass(frozen=True)
class Chosen:
    """The documents of a dataset.

    Attributes:
        encoded: all parts.
        choice: which of their documents are kept.
    """

    encoded: Encoded
    choice: Choice

    def validation_origins(self, limit: int) -> list[str]:
        """Return the origin of each validation text, or of as many as the limit and one more."""
        found: list[str] = []
        for number in range(len(self.encoded.parts)):
            kept = self.choice.of_part(number)[:, 1]
            if kept.any():
                origins = self.encoded.origins(number)
                found += [origins[at] for at in np.flatnonzero(kept)]
            if len(found) > limit:
                break
        return found[: limit + 1]

    def remarks(self) -> Counter[str]:
        """Return the number of documents by what is remarkable in them."""
        counts: Counter[str] = Counter()
        for number, part in enumerate(self.encoded.parts):
            flags = part.documents()["flags"][self.choice.of_part(number).any(axis=1)]
            for bit, name in enumerate(REMARKS):
                counts[name] += int(np.count_nonzero(flags & (1 << bit)))
        return counts

    def origin(self, document: int) -> str:
        """Return the origin of a document."""
        part, number = self.choice.place(document)
        return self.encoded.origins(part)[number]


@dataclass(frozen=True)
class Written:
    """The result of writing the shards.

    Attributes:
        splits: counts of each split.
        counts: how often each token occurs.
        chosen: the documents.
        sources: the sources with the rules that divided their documents.
    """

    splits: dict[str, SplitSummary]
    counts: NDArray[np.int64]
    chosen: Chosen
    sources: Sequence[RuledSource]


def write_shards(
    sources: Sequence[RuledSource],
    tokenizer: Tokenizer,
    options: PrepareOptions,
    folders: Folders,
    observer: PrepareObserver,
    bad_rows: BadRows,
    check: Callable[[Chosen, dict[str, SplitPlan]], None],
) -> Written:
    """Encode the sources and write the shards of a dataset.

    Args:
        sources: the sources with their rules; all or none with `LaterSplit`.
        tokenizer: the tokenizer; it is saved in the dataset's folder.
        options: see `PrepareOptions`.
        folders: see there.
        observer: notified of progress.
        bad_rows: counts the rows that are skipped.
        check: called before anything is written; raises an error if nothing should be.

    Raises:
        GlassGPTError: the first thing that is wrong with the text, or what `check` raises.
    """
    all_sources = [source for source, _ in sources]
    are_small = is_small(all_sources)
    settings = _encode_settings(tokenizer, options, folders, keeps_parts=not are_small)
    blocks = plan_blocks(sources, folders.scratch / "blocks")
    with _carrier(options, blocks, is_small=are_small) as (carrier, blocks):

        def encode(blocks: Iterable[Block]) -> Encoded:
            with observer.progress("preparing", total_size(all_sources)) as advance:
                return _encode(carrier, blocks, settings, tokenizer, advance, bad_rows)

        encoded = encode(blocks)
        if isinstance(later := sources[0][1], LaterSplit):
            rule = divide_by_document(encoded.parts, later)
            sources = [(source, rule) for source in all_sources]
            if isinstance(rule, TailSplit):  # nearly all documents are copies
                encoded = encode(plan_blocks(sources, folders.scratch / "blocks"))
        choice = choose(encoded.parts, deduplicate=options.deduplicate, similarity=options.near_duplicates)
        if settings.ngrams:
            choice.contaminated = find_contaminated(choice, carrier.map)
            if options.contamination == "remove":
                choice.kept[choice.contaminated, 0] = False
        form = ShardFormat.of(tokenizer)
        plans = {
            split: plan_split(choice, split, side, folders.dataset, form, options.shard_tokens)
            for side, split in enumerate(SPLITS)
        }
        chosen = Chosen(encoded, choice)
        check(chosen, plans)
        return Written(*_write(carrier, plans, tokenizer, observer), chosen, sources)


def _encode_settings(
    tokenizer: Tokenizer, options: PrepareOptions, folders: Folders, *, keeps_parts: bool
) -> EncodeSettings:
    return EncodeSettings(
        folders.parts,
        folders.dataset / TOKENIZER_FILE,
        tokenizer.fingerprint,
        options.normalize,
        options.skip_bad,
        sketches=options.near_duplicates is not None,
        ngrams=options.contamination != "ignore",
        keeps_parts=keeps_parts,
    )


@contextmanager
def _carrier(
    options: PrepareOptions, blocks: Iterator[Block], *, is_small: bool
) -> Generator[tuple[Carrier, Iterator[Block]]]:
    """Yield where the work runs, and the blocks."""
    if options.engine == "ray":
        with ray_tasks(options.ray_address, options.workers) as tasks:
            yield tasks, blocks
        return
    cores = worker_threads()
    first = list(islice(blocks, cores))
    if is_small or len(first) <= 1 or cores == 1:
        yield InProcess(), chain(first, blocks)
        return
    with processes(len(first), threads=cores // len(first)) as workers:
        yield workers, chain(first, blocks)


def _encode(
    carrier: Carrier,
    blocks: Iterable[Block],
    settings: EncodeSettings,
    tokenizer: Tokenizer,
    advance: Advance,
    bad_rows: BadRows,
) -> Encoded:
    encoded = Encoded()
    results = _results(carrier, blocks, settings, tokenizer, advance)
    for _, of_source in groupby(results, lambda pair: pair[0].number):
        found = lines = 0
        block = None
        for block, result in of_source:
            _raise_problem(block, result, lines, bad_rows)
            encoded.parts.append(Part(settings.folder, result.name))
            encoded.labels.append(block.label if block.is_range else "")
            encoded.lines.append(lines)
            encoded.empty += result.empty
            found += result.documents + result.empty + len(result.bad_rows)
            lines += result.lines
        if block is not None and block.is_range and not found:
            raise DataError(no_document(block.label))
    return encoded


def _results(
    carrier: Carrier,
    blocks: Iterable[Block],
    settings: EncodeSettings,
    tokenizer: Tokenizer,
    advance: Advance,
) -> Iterator[tuple[Block, BlockResult]]:
    """Yield each block with its result, in order."""
    submitted: deque[Block] = deque()

    def noted() -> Iterator[Block]:
        for block in blocks:
            submitted.append(block)
            yield block

    is_here = isinstance(carrier, InProcess)
    function = partial(encode_block, settings=settings)
    if is_here:
        function = partial(function, tokenizer=tokenizer, advance=advance)
    for result in carrier.map(function, noted()):
        block = submitted.popleft()
        if not is_here:  # otherwise each document advances
            advance(block.size)
        yield block, result


def _raise_problem(block: Block, result: BlockResult, lines: int, bad_rows: BadRows) -> None:
    """Count the bad rows of a block, and raise its error, both with the lines of the file."""
    label = block.label if block.is_range else ""
    for origin, message, is_wrong in result.bad_rows:
        error = (WrongDataError if is_wrong else DataError)(_moved(message, label, lines))
        bad_rows.skip(_moved(origin, label, lines), error)
    if result.error is not None:
        kind, message = result.error
        error = kind.__new__(kind)
        error.args = (_moved(message, label, lines),)
        raise error


def _moved(text: str, label: str, lines: int) -> str:
    """Return a text that begins with a line of a block with the line of the file instead."""
    if not label or not lines:
        return text
    return re.sub(rf"\A({re.escape(label)}, line )(\d+)", lambda found: f"{found[1]}{int(found[2]) + lines}", text)


def _write(
    carrier: Carrier, plans: dict[str, SplitPlan], tokenizer: Tokenizer, observer: PrepareObserver
) -> tuple[dict[str, SplitSummary], NDArray[np.int64]]:
    tasks = [task for plan in plans.values() for task in plan.shards]
    size = np.dtype(tokenizer.dtype).itemsize
    counts = {split: np.zeros(tokenizer.vocab_size, dtype=np.int64) for split in SPLITS}
    with observer.progress("writing shards", sum(task.tokens for task in tasks) * size) as advance:
        for task, found in zip(tasks, carrier.map(write_shard, tasks), strict=True):
            counts[SPLITS[task.side]] += found
            advance(task.tokens * size)
    lengths = tokenizer.byte_lengths()
    splits = {
        split: SplitSummary(
            documents=plan.documents,
            characters=plan.characters,
            bytes=int(counts[split] @ lengths),
            tokens=plan.tokens,
            shards=tuple(task.path.name for task in plan.shards),
        )
        for split, plan in plans.items()
    }
    return splits, sum(counts.values(), np.zeros(tokenizer.vocab_size, dtype=np.int64))
