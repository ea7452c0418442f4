"""Loading tokenizers by name or path, and training new ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

from glassgpt.data.files import require_regular
from glassgpt.data.tokenizers.base import (
    ERROR_CHARACTERS,
    FORMAT,
    FORMAT_VERSION,
    TOKENIZER_FILE,
    Tokenizer,
    library_errors,
)
from glassgpt.data.tokenizers.bpe import DEFAULT_PATTERN, PATTERNS, BPETokenizer, gpt2_tokenizer, train_bpe
from glassgpt.data.tokenizers.byte import ByteTokenizer
from glassgpt.data.tokenizers.library import LibraryTokenizer
from glassgpt.data.tokenizers.sentence_piece import SentencePieceTokenizer, train_sentencepiece
from glassgpt.data.tokenizers.unigram import UnigramTokenizer, train_unigram
from glassgpt.errors import GlassGPTError, TokenizerError, UsageError, WrongTokenizerError

NAMED: dict[str, Callable[[], Tokenizer]] = {"gpt2": gpt2_tokenizer, "bytes": ByteTokenizer}

KINDS: dict[str, Callable[[str, dict[str, Any]], Tokenizer]] = {
    kind.kind: kind.from_payload
    for kind in (BPETokenizer, ByteTokenizer, UnigramTokenizer, SentencePieceTokenizer, LibraryTokenizer)
}

TRAINERS: dict[str, Callable[[int, Iterable[str]], Tokenizer]] = {
    "bpe": train_bpe,
    "unigram": train_unigram,
    "sentencepiece": train_sentencepiece,
}

MIN_VOCAB_SIZE = 257
"""All 256 bytes and end-of-text; a smaller vocabulary could not represent every text."""


def load_tokenizer(name_or_path: str | Path) -> Tokenizer:
    """Load the tokenizer named `gpt2` or `bytes`, or one saved in a file, a dataset folder or a run folder.

    Raises:
        TokenizerError: there is no such name or file, or the file is damaged or not a glassgpt tokenizer.
    """
    named = NAMED.get(str(name_or_path))
    if named:
        return named()
    path = Path(name_or_path)
    if path.is_dir():
        path = path / TOKENIZER_FILE
        require_regular(path)  # the folder may come from a stranger
    if not path.is_file():
        if path.name == TOKENIZER_FILE and path.parent.is_dir():
            raise WrongTokenizerError(
                f"{path.parent} has no {TOKENIZER_FILE}; if it is a run or a dataset, restore that file"
            )
        raise WrongTokenizerError(
            f"tokenizer {str(name_or_path)!r} not found; give one of {', '.join(NAMED)}, "
            f"a {TOKENIZER_FILE}, or a dataset or run folder; "
            f"prepare also trains new ones: {', '.join(f'{kind}:SIZE' for kind in TRAINERS)}"
        )
    return _load_file(path)


def _load_file(path: Path) -> Tokenizer:
    try:
        return tokenizer_from_json(path.read_bytes().decode())
    except OSError as error:
        raise TokenizerError(f"cannot read {path}: {error.strerror}") from error
    except (UnicodeDecodeError, TokenizerError) as error:
        raise TokenizerError(f"{path}: {error}") from error


def tokenizer_from_json(text: str) -> Tokenizer:
    """Rebuild a tokenizer from the text of its `tokenizer.json`.

    Raises:
        TokenizerError: the text is damaged, not a glassgpt tokenizer, or of a newer version.
        MissingExtraError: the tokenizer needs a library that is not installed.
    """
    fields = _parse(text)
    if fields.get("format") != FORMAT:
        raise TokenizerError("not a glassgpt tokenizer; create one with: glassgpt prepare … --tokenizer …")
    if fields.get("version") != FORMAT_VERSION or fields.get("kind") not in KINDS:
        raise TokenizerError(
            f"tokenizer format {fields.get('version')}, kind {fields.get('kind')!r} is not supported "
            f"(supported: format {FORMAT_VERSION}, {', '.join(KINDS)}); update glassgpt"
        )
    return _rebuild(fields)


def _parse(text: str) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except json.JSONDecodeError as error:
        raise TokenizerError(f"the tokenizer is damaged: line {error.lineno}: {error.msg}") from error
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, thousands of brackets
        raise TokenizerError(f"the tokenizer is damaged: {str(error)[:ERROR_CHARACTERS]}") from error
    return cast("dict[str, Any]", fields) if isinstance(fields, dict) else {}


def _rebuild(fields: dict[str, Any]) -> Tokenizer:
    damaged = "the tokenizer is damaged: its content does not match its fingerprint; restore it from a copy"
    try:
        with library_errors(str(fields.get("name"))):
            tokenizer = KINDS[fields["kind"]](fields["name"], fields["payload"])
    except GlassGPTError:
        raise
    except Exception as error:  # each library has its own, and tokenizers raises plain `Exception`
        raise TokenizerError(damaged) from error
    if tokenizer.fingerprint != fields.get("fingerprint"):
        raise TokenizerError(damaged)
    return tokenizer


def is_training_spec(name: str) -> bool:
    """Return whether `name` requests training a tokenizer (`bpe:2048`) rather than loading one."""
    return name.partition(":")[0] in TRAINERS and ":" in name


def train_tokenizer(spec: str, texts: Iterable[str], pattern: str = DEFAULT_PATTERN) -> Tokenizer:
    """Train a tokenizer: `bpe:2048`, `unigram:8000` or `sentencepiece:8000`.

    The number is the vocabulary size, including end-of-text. `pattern` is one of `PATTERNS`.

    Raises:
        UsageError: the spec is malformed, the vocabulary is smaller than 257, or the pattern is not for this kind.
        TokenizerError: the text is too short for such a vocabulary.
        MissingExtraError: the tokenizer needs a library that is not installed.
    """
    kind, _, size = spec.partition(":")
    if kind not in TRAINERS or not size.isdecimal() or int(size) < MIN_VOCAB_SIZE:
        raise UsageError(
            f"cannot train a tokenizer {spec!r}; give KIND:SIZE, where KIND is one of {', '.join(TRAINERS)} "
            f"and SIZE is at least {MIN_VOCAB_SIZE}"
        )
    if problem := pattern_problem(spec, pattern):
        raise UsageError(problem)
    if kind == BPETokenizer.kind:
        return train_bpe(int(size), texts, pattern)
    return TRAINERS[kind](int(size), texts)


def pattern_problem(spec: str, pattern: str) -> str | None:
    """Return why a pattern cannot be used for a tokenizer, as one line of text; None if it can."""
    if pattern not in PATTERNS:
        return f"pattern is {pattern!r}; it must be one of {', '.join(PATTERNS)}"
    if pattern != DEFAULT_PATTERN and not (is_training_spec(spec) and spec.startswith(f"{BPETokenizer.kind}:")):
        return (
            f"the pattern {pattern} is for a BPE vocabulary that is trained, not for {spec}; give --tokenizer bpe:SIZE"
        )
    return None
