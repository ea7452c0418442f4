"""Sources to a dataset folder: read, drop duplicates, split, encode, write."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

from glassgpt.data.bad_rows import BadRows
from glassgpt.data.blocks.layout import SplitPlan
from glassgpt.data.blocks.parts import parts_folder
from glassgpt.data.blocks.ray_tasks import require_ray
from glassgpt.data.blocks.writing import Chosen, Folders, is_small, write_shards
from glassgpt.data.code.near_duplicates import RENSA_FOR_TEXT
from glassgpt.data.code.prepare import code_source, spec_for_code
from glassgpt.data.code.sentinels import with_sentinels
from glassgpt.data.documents import Document
from glassgpt.data.files import write_atomically
from glassgpt.data.observer import PrepareObserver
from glassgpt.data.origins import MAX_ORIGINS, write_origins
from glassgpt.data.overlaps import contamination_text, near_duplicate_texts
from glassgpt.data.pipeline import DocumentStream, RuledSource
from glassgpt.data.prepare_options import PrepareOptions
from glassgpt.data.readers import ReadOptions
from glassgpt.data.remarks import remark_texts
from glassgpt.data.remembered import remembered
from glassgpt.data.sources import DocumentSource, SourceOptions, resolve_sources
from glassgpt.data.splitting import (
    MIN_DOCUMENTS,
    TRAIN,
    VALIDATION,
    FixedSplit,
    LaterSplit,
    SplitRule,
    TailSplit,
    choose_rule,
    is_near,
)
from glassgpt.data.staging import staged_folder
from glassgpt.data.summary import SUMMARY_FILE, DatasetSummary
from glassgpt.data.threads import limited_threads
from glassgpt.data.tokenizers import TOKENIZER_FILE, Tokenizer, is_training_spec, load_tokenizer
from glassgpt.data.tokenizers.custom import CustomTrainer, custom_trainer, is_custom_spec
from glassgpt.data.tokenizers.worker import train_interruptibly
from glassgpt.errors import DataError, UsageError, require_extra

TRAINING_CHARACTERS = 256_000_000
"""Maximum number of characters of the training text that a tokenizer is trained on."""


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
    if options.near_duplicates is not None:
        require_extra(*RENSA_FOR_TEXT)
    if options.engine == "ray":
        require_ray()
    with limited_threads(options.workers), staged as (staging, scratch):
        bad_rows = BadRows(options.skip_bad)
        if options.format == "code":
            sources = _ruled_code(options, staging, observer)
        else:
            sources = _ruled_sources(options, bad_rows, scratch, observer)
        tokenizer = _load_or_train_tokenizer(sources, options, custom, scratch, observer)
        tokenizer.save(staging / TOKENIZER_FILE)
        with parts_folder(options.out, scratch, observer, keeps=not is_small(source for source, _ in sources)) as parts:
            folders = Folders(staging, parts, scratch)
            summary = _write(sources, tokenizer, options, folders, observer, bad_rows)
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
    if options.engine != "ray" and is_small([*sources, *validation_sources]):
        kept, validation_sources = remembered(sources), remembered(validation_sources)
        if not validation_sources and _can_split_later(kept, options):
            return [(source, LaterSplit(options.validation_fraction, options.seed)) for source in sources]
        sources = kept
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


def _can_split_later(sources: Sequence[DocumentSource], options: PrepareOptions) -> bool:
    """Return whether the text can be encoded before it is divided: by document, for a tokenizer that is not trained on it."""
    if options.split == "tail" or is_custom_spec(options.tokenizer) or is_training_spec(options.tokenizer):
        return False
    return sum(1 for _ in islice(_undivided(sources, options), MIN_DOCUMENTS)) == MIN_DOCUMENTS


def _choose_rule(sources: Sequence[DocumentSource], options: PrepareOptions) -> SplitRule:
    if options.split == "tail":
        return TailSplit(options.validation_fraction, "as requested")
    documents = ((digest, len(document.text)) for digest, document, _ in _undivided(sources, options))
    return choose_rule(documents, options.validation_fraction, options.seed)


def _undivided(sources: Sequence[DocumentSource], options: PrepareOptions) -> Iterator[tuple[int, Document, SplitRule]]:
    undivided = [(source, FixedSplit(TRAIN)) for source in sources]
    return DocumentStream(undivided, deduplicate=False, normalize=options.normalize).documents()


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
    folders: Folders,
    observer: PrepareObserver,
    bad_rows: BadRows,
) -> DatasetSummary:
    def check(chosen: Chosen, plans: Mapping[str, SplitPlan]) -> None:
        if options.contamination == "refuse" and (problem := contamination_text(chosen, options.contamination)):
            raise DataError(problem)
        _check_splits(plans, options, observer)

    written = write_shards(sources, tokenizer, options, folders, observer, bad_rows, check)
    chosen, choice = written.chosen, written.chosen.choice
    write_origins(folders.dataset, chosen.validation_origins(MAX_ORIGINS))
    for text in (*remark_texts(chosen.remarks()), *near_duplicate_texts(chosen)):
        observer.on_note(text)
    if text := contamination_text(chosen, options.contamination):
        observer.on_note(text)
    return DatasetSummary.of(
        tokenizer,
        written.splits,
        "; ".join(dict.fromkeys(rule.description for _, rule in written.sources)),
        written.counts,
        options=options.recorded(),
        duplicates=choice.duplicates,
        empty=chosen.encoded.empty,
        skipped=len(bad_rows),
        near_duplicates=len(choice.near_duplicates),
        contaminated=len(choice.contaminated),
    )


def _check_splits(splits: Mapping[str, SplitPlan], options: PrepareOptions, observer: PrepareObserver) -> None:
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
