"""Sources to a dataset folder: read, drop duplicates, split, encode, write."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from glassgpt.data.bad_rows import BadRows
from glassgpt.data.code.prepare import code_problems, code_source, spec_for_code
from glassgpt.data.code.sentinels import with_sentinels
from glassgpt.data.encodings import is_text_encoding
from glassgpt.data.files import write_atomically
from glassgpt.data.observer import PrepareObserver
from glassgpt.data.origins import write_origins
from glassgpt.data.pipeline import (
    DocumentStream,
    RuledSource,
    SplitWriter,
    add_to_splits,
    encode_in_background,
    total_size,
)
from glassgpt.data.readers import ReadOptions
from glassgpt.data.remarks import NORMALIZATIONS, remark_texts
from glassgpt.data.shard_writer import SHARD_TOKENS, ShardWriter
from glassgpt.data.shards import SPLITS
from glassgpt.data.sources import DocumentSource, SourceOptions, resolve_sources
from glassgpt.data.splitting import TRAIN, VALIDATION, FixedSplit, SplitRule, TailSplit, choose_rule, is_near
from glassgpt.data.staging import staged_folder
from glassgpt.data.summary import SUMMARY_FILE, DatasetSummary, SplitSummary
from glassgpt.data.threads import limited_threads
from glassgpt.data.tokenizers import TOKENIZER_FILE, Tokenizer, is_training_spec, load_tokenizer
from glassgpt.data.tokenizers.bpe import DEFAULT_PATTERN
from glassgpt.data.tokenizers.custom import CustomTrainer, custom_trainer, is_custom_spec
from glassgpt.data.tokenizers.load import pattern_problem
from glassgpt.data.tokenizers.worker import train_interruptibly
from glassgpt.errors import DataError, UsageError

TRAINING_CHARACTERS = 256_000_000
"""Maximum number of characters of the training text that a tokenizer is trained on."""


@dataclass(frozen=True)
class PrepareOptions:
    """Options of `prepare`.

    Attributes:
        sources: see `glassgpt.data.sources.resolve_sources`.
        out: dataset folder to create.
        tokenizer: a name, a path, or KIND:SIZE or MODULE:FUNCTION:SIZE to train one on the training text.
        pattern: how a BPE that is trained splits text into words; see `bpe.PATTERNS`.
        field: field or column that holds the text.
        validation_fraction: share of the documents (or of each one's characters) used for validation.
        validation_sources: sources of the validation text; all of `sources` is then training text.
        split: "document", or "tail" to cut each document.
        seed: of the split and of the grammar's text.
        workers: number of threads; 0 means one per core. The result does not depend on it.
        deduplicate: drop exact copies of documents.
        force: replace an existing dataset.
        encoding: encoding of text and JSON files; empty means UTF-8.
        separator: text between two documents of a text file; empty means one document per file.
        normalize: changes made to every text: "nfc" composes characters, "lf" drops carriage returns.
        skip_bad: number of bad rows of JSON, Parquet and hosted datasets that may be skipped.
        follow_links: follow links that lead out of a folder that is a source.
        shard_tokens: tokens per shard file.
        format: "text", or "code" for trees of source code, which are filtered; see `glassgpt.data.code`.
        suffixes: of the files of code to take from folders; empty takes those of `glassgpt.data.code.tree.SUFFIXES`.
        exclude: files and folders of problems whose text must not be in the code.
    """

    sources: tuple[str, ...]
    out: Path
    tokenizer: str = "gpt2"
    pattern: str = DEFAULT_PATTERN
    field: str = "text"
    validation_fraction: float = 0.1
    validation_sources: tuple[str, ...] = ()
    split: Literal["document", "tail"] = "document"
    seed: int = 1337
    workers: int = 0
    deduplicate: bool = True
    force: bool = False
    encoding: str = ""
    separator: str = ""
    normalize: tuple[str, ...] = ()
    skip_bad: int = 0
    follow_links: bool = False
    shard_tokens: int = SHARD_TOKENS
    format: Literal["text", "code"] = "text"
    suffixes: tuple[str, ...] = ()
    exclude: tuple[Path, ...] = ()

    def problems(self) -> list[str]:
        """Return every invalid option as one line of text; empty if the options are valid."""
        checks = (
            (bool(self.sources), "no source given; name files, folders, '-', or shakespeare"),
            (
                0 < self.validation_fraction < 1,
                f"validation_fraction is {self.validation_fraction}; it must be between 0 and 1, exclusive",
            ),
            (self.split in ("document", "tail"), f"split is {self.split!r}; it must be 'document' or 'tail'"),
            (self.workers >= 0, f"workers is {self.workers}; it must not be negative"),
            (
                not self.encoding or is_text_encoding(self.encoding),
                f"encoding is {self.encoding!r}, which is unknown; it must be one of Python, such as cp949 or utf-16",
            ),
            (
                all(name in NORMALIZATIONS for name in self.normalize),
                f"normalize is {', '.join(self.normalize)}; it must be of {', '.join(NORMALIZATIONS)}",
            ),
            (self.skip_bad >= 0, f"skip_bad is {self.skip_bad}; it must not be negative"),
            (self.shard_tokens > 0, f"shard_tokens is {self.shard_tokens}; it must be positive"),
            (
                not self.validation_sources or self.split == "document",
                "split 'tail' cannot be combined with validation sources; remove one of them",
            ),
            (
                [*self.sources, *self.validation_sources].count("-") < 2,
                "standard input can only be read once; name '-' once",
            ),
        )
        problems = [message for is_valid, message in checks if not is_valid]
        if not is_custom_spec(self.tokenizer) and (problem := pattern_problem(self.tokenizer, self.pattern)):
            problems.append(problem)
        return [*problems, *self._format_problems()]

    def _format_problems(self) -> Iterator[str]:
        return code_problems(
            is_code=self.format == "code",
            sources=self.sources,
            suffixes=self.suffixes,
            tokenizer=self.tokenizer,
            for_code={"suffix": bool(self.suffixes), "exclude": bool(self.exclude)},
            for_text={
                "field": self.field != "text",
                "encoding": bool(self.encoding),
                "separator": bool(self.separator),
                "skip_bad": bool(self.skip_bad),
                "validation_source": bool(self.validation_sources),
            },
        )

    def recorded(self) -> dict[str, Any]:
        """Return the options that determine the content, as stored in the dataset."""
        names = ("tokenizer", "field", "validation_fraction", "split", "seed", "deduplicate", "shard_tokens")
        names += ("encoding", "separator", "skip_bad", "follow_links")
        names += ("pattern",) if self.pattern != DEFAULT_PATTERN else ()
        lists = {name: list(getattr(self, name)) for name in ("sources", "validation_sources", "normalize")}
        code = {"format": self.format, "suffixes": list(self.suffixes), "exclude": list(map(str, self.exclude))}
        return lists | {name: getattr(self, name) for name in names} | (code if self.format == "code" else {})


def prepare(options: PrepareOptions, observer: PrepareObserver | None = None) -> DatasetSummary:
    """Create a dataset; it appears under `options.out` complete, or not at all.

    Args:
        options: sources, tokenizer, split and destination.
        observer: notified of progress; see `glassgpt.data.show.ConsoleObserver`.

    Raises:
        UsageError: the options are invalid, or `out` exists and must not be replaced.
        DataError: a source cannot be read, contains no text or invalid text, the disk is full, or something appeared at
            `out` in the meantime.
        TokenizerError: the tokenizer cannot be loaded or trained.
        PluginError: the tokenizer is a function that cannot be imported.
        Interrupted: SIGINT or SIGTERM was received; nothing was written.
    """
    observer = observer or PrepareObserver()
    if problems := options.problems():
        raise UsageError("\n".join(problems))
    custom = custom_trainer(options.tokenizer) if is_custom_spec(options.tokenizer) else None

    def on_leftover(folder: Path) -> None:
        observer.on_note(f"removed {folder}, which a killed prepare left behind")

    staged = staged_folder(options.out, force=options.force, on_leftover=on_leftover)
    with limited_threads(options.workers), staged as (staging, scratch):
        bad_rows = BadRows(options.skip_bad)
        if options.format == "code":
            sources = _ruled_code(options, staging, observer)
        else:
            sources = _ruled_sources(options, bad_rows, scratch, observer)
        tokenizer = _load_or_train_tokenizer(sources, options, custom, scratch, observer)
        summary = replace(_write(sources, tokenizer, options, staging, observer), skipped=len(bad_rows))
        tokenizer.save(staging / TOKENIZER_FILE)
        write_atomically(staging / SUMMARY_FILE, summary.to_json().encode())
    if bad_rows.first:
        observer.on_note(f"bad rows skipped: {len(bad_rows):,}, the first one: {bad_rows.first}")
    observer.on_prepared(summary, tokenizer)
    return summary


def _ruled_sources(
    options: PrepareOptions, bad_rows: BadRows, scratch: Path, observer: PrepareObserver
) -> list[RuledSource]:
    reading = ReadOptions(options.encoding or None, options.separator or None, bad_rows)
    source_options = SourceOptions(options.field, options.seed, options.follow_links, reading)

    def resolve(names: Sequence[str], purpose: str) -> list[DocumentSource]:
        return resolve_sources(names, source_options, scratch=scratch / purpose, observer=observer)

    sources = resolve(options.sources, "sources")
    validation_sources = resolve(options.validation_sources, "validation")
    rule = FixedSplit(TRAIN) if validation_sources else _choose_rule(sources, options)
    return [
        *((source, rule) for source in sources),
        *((source, FixedSplit(VALIDATION)) for source in validation_sources),
    ]


def _ruled_code(options: PrepareOptions, folder: Path, observer: PrepareObserver) -> list[RuledSource]:
    source, selection = code_source(
        options.sources,
        options.suffixes,
        options.exclude,
        observer,
        follow_links=options.follow_links,
        keep_duplicates=not options.deduplicate,
    )
    selection.write(folder)
    return [(source, _choose_rule([source], options))]


def _choose_rule(sources: Sequence[DocumentSource], options: PrepareOptions) -> SplitRule:
    if options.split == "tail":
        return TailSplit(options.validation_fraction, "as requested")
    undivided = [(source, FixedSplit(TRAIN)) for source in sources]
    stream = DocumentStream(undivided, deduplicate=False, normalize=options.normalize)
    documents = ((digest, len(document.text)) for digest, document, _ in stream.documents())
    return choose_rule(documents, options.validation_fraction, options.seed)


def _load_or_train_tokenizer(
    sources: Sequence[RuledSource],
    options: PrepareOptions,
    custom: CustomTrainer | None,
    scratch: Path,
    observer: PrepareObserver,
) -> Tokenizer:
    is_code = options.format == "code"
    if custom is None and not is_training_spec(options.tokenizer):
        tokenizer = load_tokenizer(options.tokenizer)
        return with_sentinels(tokenizer) if is_code else tokenizer
    observer.on_tokenizer_training(options.tokenizer)
    stream = DocumentStream(sources, deduplicate=options.deduplicate, normalize=options.normalize)
    if custom is not None:
        tokenizer, requested = custom.train(_training_texts(stream), options.pattern), custom.vocab_size or 0
    else:
        spec = spec_for_code(options.tokenizer) if is_code else options.tokenizer
        tokenizer = train_interruptibly(spec, _training_texts(stream), scratch, options.pattern)
        tokenizer = with_sentinels(tokenizer) if is_code else tokenizer
        requested = int(options.tokenizer.partition(":")[2])
    if tokenizer.vocab_size < requested:
        observer.on_small_vocabulary(tokenizer.vocab_size)
    return tokenizer


def _training_texts(stream: DocumentStream) -> Iterator[str]:
    left = TRAINING_CHARACTERS
    for split, text in stream.split_texts():
        if split == TRAIN:
            yield text[:left]
            left -= len(text)
        if left <= 0:
            return


def _write(
    sources: Sequence[RuledSource],
    tokenizer: Tokenizer,
    options: PrepareOptions,
    folder: Path,
    observer: PrepareObserver,
) -> DatasetSummary:
    writers = {split: SplitWriter(ShardWriter(folder, split, tokenizer, options.shard_tokens)) for split in SPLITS}
    try:
        with observer.progress("preparing", total_size(sources)) as advance:
            stream = DocumentStream(
                sources, deduplicate=options.deduplicate, advance=advance, normalize=options.normalize
            )
            for texts, tokens in encode_in_background(stream.split_texts(), tokenizer):
                add_to_splits(writers, texts, tokens)
        splits = {split: writer.finish() for split, writer in writers.items()}
    finally:
        for writer in writers.values():
            writer.shards.abort()
    _check_splits(splits, options, observer)
    write_origins(folder, stream.validation_origins)
    for text in remark_texts(stream.remarks):
        observer.on_note(text)
    counts = sum(writer.counts for writer in writers.values())
    rules = "; ".join(dict.fromkeys(rule.description for _, rule in sources))
    return _summarize(splits, np.asarray(counts), stream, rules, tokenizer, options)


def _check_splits(splits: dict[str, SplitSummary], options: PrepareOptions, observer: PrepareObserver) -> None:
    total = sum(found.characters for found in splits.values())
    for split, found in splits.items():
        if found.tokens:
            continue
        if options.validation_sources:
            raise DataError(f"there is no {split} text: its sources are empty or only contain duplicates")
        raise DataError(
            f"there is no {split} text: {total:,} characters are too few to split; add text, or name the validation text "
            "with --validation-source"
        )
    share = splits[VALIDATION].characters / total
    if not options.validation_sources and not is_near(share, options.validation_fraction):
        observer.on_note(
            f"{share:.2%} of the text is for validation instead of {options.validation_fraction:.2%}, because documents "
            "are assigned whole and differ in size; cut each of them with --split tail, or try another --seed"
        )


def _summarize(
    splits: dict[str, SplitSummary],
    counts: NDArray[np.int64],
    stream: DocumentStream,
    rules: str,
    tokenizer: Tokenizer,
    options: PrepareOptions,
) -> DatasetSummary:
    return DatasetSummary.of(
        tokenizer, splits, rules, counts, options=options.recorded(), duplicates=stream.duplicates, empty=stream.empty
    )
