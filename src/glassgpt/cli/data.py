"""Text to a data set, and text to tokens."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from glassgpt import console
from glassgpt.cli.shared import Flag, Integer, Texts, reject_unknown_options
from glassgpt.errors import UsageError


def prepare(
    *sources: Texts,
    out: Path,
    tokenizer: str = "gpt2",
    field: str = "text",
    validation_fraction: float = 0.1,
    validation_source: Annotated[
        tuple[str, ...], Parameter(negative="", allow_leading_hyphen=True, show_default=False)
    ] = (),
    split: Literal["document", "tail"] = "document",
    seed: Integer = 1337,
    workers: Integer = 0,
    keep_duplicates: Flag = False,
    force: Flag = False,
) -> None:
    """Turn text into a data set: documents, tokens, shards.

    Parameters
    ----------
    sources:
        Text files, folders (of them .txt, .md, .text, .jsonl, .ndjson, .parquet), globs such as 'code/**/*.py', any of
        them also .gz, .xz or .zst; - for standard input;
        hf:NAME for a Hugging Face dataset; a URL; or the named sources shakespeare and grammar.
    out:
        Folder of the data set.
    tokenizer:
        gpt2, bytes, a path that holds a tokenizer, or one to train: bpe:SIZE, unigram:SIZE, sentencepiece:SIZE.
    field:
        Which field of a .jsonl or .parquet row is the text.
    validation_fraction:
        Share of the text that is held out.
    validation_source:
        A source that is the held-out text, the others then being for training alone; may be repeated.
    split:
        Hold out whole documents, or the tail of each; of fewer than ten documents always the tail of each.
    seed:
        Decides which documents are held out.
    workers:
        Parallel tokenizers; 0 takes all cores.
    keep_duplicates:
        Keep exact duplicates of documents instead of dropping them.
    force:
        Replace a data set that is there already.
    """
    from glassgpt.data.prepare import PrepareOptions, prepare_and_show

    reject_unknown_options(sources)
    if not sources:
        raise UsageError("no source is named; give files, folders, or the named source shakespeare")
    options = PrepareOptions(
        sources=sources,
        out=out,
        tokenizer=tokenizer,
        field=field,
        validation_fraction=validation_fraction,
        validation_sources=validation_source,
        split=split,
        seed=seed,
        workers=workers,
        deduplicate=not keep_duplicates,
        force=force,
    )
    prepare_and_show(options)
    console.info(f"the data set is in {out}; train on it with: glassgpt train PRESET --data {out}")


def tokenize(
    *texts: Texts,
    tokenizer: Annotated[
        tuple[str, ...], Parameter(name=("--tokenizer", "-t"), negative="", show_default=", ".join)
    ] = ("gpt2",),
    compare: Flag = False,
) -> None:
    """Show the pieces of a text in colour, with ids and bytes; or compare tokenizers and languages.

    Parameters
    ----------
    texts:
        The text; - reads standard input.
    tokenizer:
        gpt2, bytes, or a path (a tokenizer.json, a data set, a run); may be repeated.
    compare:
        Compare the tokenizers by characters per token, on the texts or else on eight languages and code.
    """
    from glassgpt.data.show import compare_tokenizers, show_tokens
    from glassgpt.data.tokenizers import load_tokenizer

    reject_unknown_options(texts)
    texts = tuple(sys.stdin.read() if text == "-" else text for text in texts)
    if compare:
        compare_tokenizers(tokenizer, {text[:30]: text for text in texts} or None)
        return
    if not texts:
        raise UsageError("no text is given; write it in quotes, use - for standard input, or ask for --compare")
    for name in tokenizer:
        for text in texts:
            show_tokens(load_tokenizer(name), text)
