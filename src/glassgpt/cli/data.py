"""Commands that turn text into datasets and tokens."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from glassgpt import console
from glassgpt.cli.media import MediaArguments, is_drawing, prepare_media, require_defaults, require_no_media
from glassgpt.cli.shared import Flag, Integer, Texts, reject_unknown_options, run_name
from glassgpt.data.tokenizers.fast import begin_to_load_gpt2
from glassgpt.errors import UsageError
from glassgpt.lazy import import_for_good
from glassgpt.openmp import without_blas_threads

EARLY_BYTES = 64_000_000
"""Size of a file up to which the vocabulary is loaded while the rest of `prepare` is imported; see `writing.is_small`."""


def prepare(
    *sources: Texts,
    out: Path,
    tokenizer: str = "gpt2",
    pattern: Literal["glassgpt", "code", "gpt2", "llama", "qwen2"] = "glassgpt",
    format: Literal["text", "code", "multimodal"] = "text",
    suffix: Annotated[tuple[str, ...], Parameter(negative="", show_default=False)] = (),
    exclude: Annotated[tuple[Path, ...], Parameter(negative="", show_default=False)] = (),
    field: str = "text",
    validation_fraction: float = 0.1,
    validation_source: Annotated[
        tuple[str, ...], Parameter(negative="", allow_leading_hyphen=True, show_default=False)
    ] = (),
    split: Literal["document", "tail"] = "document",
    seed: Integer = 1337,
    workers: Integer = 0,
    keep_duplicates: Flag = False,
    near_duplicates: Annotated[float | None, Parameter(show_default=False)] = None,
    contamination: Literal["ignore", "warn", "remove", "refuse"] = "ignore",
    engine: Literal["pool", "ray"] = "pool",
    ray_address: str = "",
    encoding: str = "",
    separator: str = "",
    normalize: Annotated[tuple[Literal["nfc", "lf"], ...], Parameter(negative="", show_default=False)] = (),
    skip_bad: Integer = 0,
    follow_links: Flag = False,
    force: Flag = False,
    media: MediaArguments | None = None,
) -> None:
    """Prepare text for training: build a dataset of token shards.

    Parameters
    ----------
    sources:
        Text files; folders, of which .txt, .md, .text, .jsonl, .ndjson and .parquet files are read, and .json files
        that hold rows (one per line, or an array); patterns such as 'code/**/*.py'; all of these also compressed (.gz, .xz, .zst); - for standard input; a URL; hf:NAME for a
        Hugging Face dataset; shakespeare or grammar. For multimodal: .jsonl files with image, audio, prompt, text, content or
        messages; folders of pictures and sounds, each with its text in a .txt file of the same name, or in a folder named for
        it; text files.
    out:
        Dataset folder to create.
    tokenizer:
        gpt2, bytes, a path to a tokenizer, or one to train: bpe:SIZE, unigram:SIZE, sentencepiece:SIZE, or with your own
        function MODULE:FUNCTION:SIZE.
    pattern:
        How a bpe:SIZE splits text into words: code keeps indentation together. Choose gpt2, llama (numbers every three digits) or qwen2 (digit by
        digit) for a model that will be exported to GGUF: llama.cpp does not know glassgpt's own (every two digits).
    format:
        text; or code: folders of source code, of which generated and minified files, near-duplicates and files with
        secrets are left out, and whose tokenizer can fill in the middle (needs the extra code); or multimodal: text with
        pictures and sound (needs the extra multimodal).
    suffix:
        Suffix of the files of code to read, such as .py; by default those of 20 languages. May be repeated.
    exclude:
        Problems of a benchmark (JSON, one object per line, as HumanEval's, or the folder of Exercism's); files of code that
        have text of them are left out. May be repeated.
    field:
        Field of a row of JSON or Parquet that holds the text.
    validation_fraction:
        Share of the text used for validation.
    validation_source:
        Source of the validation text; the other sources are then used for training only. May be repeated.
    split:
        Use whole documents for validation, or the tail of each document; with fewer than ten documents always the tail.
    seed:
        Determines which documents are used for validation.
    workers:
        Number of processes (of tokenizer threads, for little text), and of those that filter code; 0 uses all cores.
    keep_duplicates:
        Keep exact duplicates of documents instead of dropping them.
    near_duplicates:
        Drop documents whose sequences of five words are this similar to those of an earlier one, such as 0.8 (0.5 to 1).
    contamination:
        What to do with training documents that share 13 words in a row with a validation document: ignore them, warn,
        remove them, or refuse to write the dataset.
    engine:
        Where the work runs: pool, processes of this machine; ray, the tasks of a Ray cluster (needs the extra ray). The
        dataset is the same.
    ray_address:
        Address of the Ray cluster, such as HOST:6379 or auto; without one, Ray is started on this machine for this command.
    encoding:
        Encoding of text and JSON files, such as cp949 or utf-16; UTF-8 if not given.
    separator:
        Text between the documents of a text file, such as '<|endoftext|>'; it is left out.
    normalize:
        nfc composes decomposed characters (Korean from macOS), lf drops the carriage returns of Windows. May be repeated.
    skip_bad:
        Number of bad rows (null, not JSON, not UTF-8, a picture that cannot be decoded) that are skipped and counted; one
        more is an error.
    follow_links:
        Follow links that lead out of a source folder.
    force:
        Replace an existing dataset.
    """
    from glassgpt.cli.code import check_code

    reject_unknown_options(sources, prepare)
    if not sources:
        raise UsageError("no source given; name files, folders, or shakespeare")
    if format == "code":
        check_code(exclude, keep_duplicates=keep_duplicates)
    if format == "multimodal" or is_drawing(media, format):
        require_defaults(
            {
                "suffix": (suffix, ()), "exclude": (exclude, ()), "field": (field, "text"), "split": (split, "document"),
                "near_duplicates": (near_duplicates, None), "contamination": (contamination, "ignore"),
                "engine": (engine, "pool"), "ray_address": (ray_address, ""), "encoding": (encoding, ""),
                "separator": (separator, ""), "normalize": (normalize, ()),
            }
        )  # fmt: skip
        common = {
            "sources": sources, "out": out, "tokenizer": run_name(tokenizer), "pattern": pattern, "seed": seed,
            "validation_fraction": validation_fraction, "validation_sources": validation_source, "workers": workers,
            "deduplicate": not keep_duplicates, "skip_bad": skip_bad, "follow_links": follow_links, "force": force,
        }  # fmt: skip
        prepare_media(media, common)
        return
    require_no_media(media)
    without_blas_threads()
    if tokenizer == "gpt2" and all(map(_is_small_file, sources)):
        begin_to_load_gpt2()
    import_for_good("glassgpt.data.show")
    from glassgpt.data.prepare_options import PrepareOptions
    from glassgpt.data.show import prepare_and_show

    options = PrepareOptions(
        sources=sources,
        out=out,
        tokenizer=run_name(tokenizer),
        pattern=pattern,
        field=field,
        validation_fraction=validation_fraction,
        validation_sources=validation_source,
        split=split,
        seed=seed,
        workers=workers,
        deduplicate=not keep_duplicates,
        near_duplicates=near_duplicates,
        contamination=contamination,
        engine=engine,
        ray_address=ray_address,
        force=force,
        encoding=encoding,
        separator=separator,
        normalize=normalize,
        skip_bad=skip_bad,
        follow_links=follow_links,
        format=format,
        suffixes=suffix,
        exclude=exclude,
    )
    prepare_and_show(options)
    console.info(f"wrote the dataset {out}; train on it with: glassgpt train PRESET --data {shlex.quote(str(out))}")


def _is_small_file(source: str) -> bool:
    """Return whether a source is a file that this process will encode, rather than its worker processes."""
    path = Path(source)
    return path.is_file() and path.stat().st_size <= EARLY_BYTES


def tokenize(
    *texts: Texts,
    tokenizer: Annotated[
        tuple[str, ...], Parameter(name=("--tokenizer", "-t"), negative="", show_default=", ".join)
    ] = ("gpt2",),
    parse_special_tokens: Flag = False,
    compare: Flag = False,
) -> None:
    """Show the tokens of a text in color, with ids and bytes; or compare tokenizers and languages.

    Parameters
    ----------
    texts:
        The text to tokenize; - reads standard input.
    tokenizer:
        gpt2, bytes, or a path (a tokenizer.json, a dataset, a run). May be repeated.
    parse_special_tokens:
        Read a special token spelled in the text, such as `<|endoftext|>`, as that token, not as ordinary text.
    compare:
        Compare tokenizers by characters per token on the given texts, or by default on eight languages and code.
    """
    from glassgpt.data.show import compare_tokenizers, show_tokens
    from glassgpt.data.tokenizers import load_tokenizer

    reject_unknown_options(texts, tokenize)
    texts = tuple(sys.stdin.read() if text == "-" else text for text in texts)
    if compare:
        compare_tokenizers(tokenizer, {text[:30]: text for text in texts} or None)
        return
    if not texts:
        raise UsageError("no text given; pass it in quotes, use - for standard input, or use --compare")
    for name in tokenizer:
        for text in texts:
            show_tokens(load_tokenizer(name), text, parse_special_tokens=parse_special_tokens)
