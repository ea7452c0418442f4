"""`prepare --format code`: filtered source trees as a source of documents, and a tokenizer that can fill in the middle."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path

from glassgpt.data.code.examining import examine_all
from glassgpt.data.code.selection import CodeSource, Selection, select_files
from glassgpt.data.code.sentinels import SENTINELS
from glassgpt.data.code.tree import find_code_files
from glassgpt.data.observer import PrepareObserver
from glassgpt.data.tokenizers import is_training_spec
from glassgpt.data.tokenizers.custom import is_custom_spec
from glassgpt.data.tokenizers.load import MIN_VOCAB_SIZE

CODE_PATTERN = "code"
"""Name of the pattern that suits code; see `glassgpt.data.tokenizers.bpe.PATTERNS`."""


def code_source(
    names: Sequence[str],
    suffixes: Sequence[str],
    exclude: Sequence[Path],
    observer: PrepareObserver,
    *,
    follow_links: bool = False,
    keep_duplicates: bool = False,
) -> tuple[CodeSource, Selection]:
    """Return the files of source trees that pass the filters.

    Args:
        names: folders and files.
        suffixes: see `find_code_files`, as is `follow_links`.
        exclude: files and folders of problems whose text must not be in the training text.
        observer: notified of progress.
        follow_links: follow links that lead out of a folder.
        keep_duplicates: keep copies and near-duplicates.

    Raises:
        DataError: a file cannot be read, or none is kept.
        MissingExtraError: the library that finds near-duplicates is not installed.
    """
    files = find_code_files(names, suffixes, follow_links=follow_links)
    examining = examine_all([file.path for file in files], exclude, sketches=not keep_duplicates)
    size = sum(file.path.stat().st_size for file in files)
    with observer.progress("filtering", size) as advance, closing(examining) as examined:
        selection = select_files(files, examined, keep_duplicates=keep_duplicates, advance=advance)
    observer.on_code(selection)
    return CodeSource(selection.kept), selection


def spec_for_code(spec: str) -> str:
    """Return the specification of a tokenizer that leaves space for the special tokens of fill-in-the-middle."""
    if not is_training_spec(spec):
        return spec
    kind, _, size = spec.partition(":")
    return f"{kind}:{int(size) - len(SENTINELS)}" if size.isdecimal() else spec


def code_problems(
    *,
    is_code: bool,
    sources: Sequence[str],
    suffixes: Sequence[str],
    tokenizer: str,
    for_code: Mapping[str, bool],
    for_text: Mapping[str, bool],
) -> Iterator[str]:
    """Yield the conflicts between options and the format as one line of text each.

    Args:
        is_code: whether the sources are trees of code.
        sources: their names.
        suffixes: of the files to take from them.
        tokenizer: name, path or specification of the tokenizer.
        for_code: options that are for code alone, and whether each is given.
        for_text: options that are for text alone, and whether each is given.
    """
    misplaced, other = (for_text, "text") if is_code else (for_code, "code")
    for name, is_given in misplaced.items():
        if is_given:
            yield f"{name} is for --format {other}; leave it out"
    if not is_code:
        return
    if wrong := [suffix for suffix in suffixes if not suffix.startswith(".")]:
        yield f"suffix is {wrong[0]!r}; it must begin with a dot, as .py"
    if "-" in sources:
        yield "standard input cannot be read with --format code; give folders of source code, or files"
    is_other_training = is_training_spec(tokenizer) and not tokenizer.startswith("bpe:")
    if tokenizer == "bytes" or is_other_training or is_custom_spec(tokenizer):
        yield f"the tokenizer {tokenizer} cannot have the special tokens of --format code; use bpe:SIZE, or gpt2"
    size, least = tokenizer.partition(":")[2], MIN_VOCAB_SIZE + len(SENTINELS)
    if is_training_spec(tokenizer) and size.isdecimal() and int(size) < least:
        yield f"the tokenizer is {tokenizer}; with --format code its SIZE must be at least {least}"
