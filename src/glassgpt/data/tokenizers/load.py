"""From a name, a path or a training request to a tokenizer."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

from glassgpt.data.tokenizers.base import FORMAT, FORMAT_VERSION, TOKENIZER_FILE, Tokenizer
from glassgpt.data.tokenizers.bpe import BPETokenizer, gpt2_tokenizer, train_bpe
from glassgpt.data.tokenizers.byte import ByteTokenizer
from glassgpt.data.tokenizers.sentence_piece import SentencePieceTokenizer, train_sentencepiece
from glassgpt.data.tokenizers.unigram import UnigramTokenizer, train_unigram
from glassgpt.errors import TokenizerError, UsageError

NAMED: dict[str, Callable[[], Tokenizer]] = {"gpt2": gpt2_tokenizer, "bytes": ByteTokenizer}

KINDS: dict[str, Callable[[str, dict[str, Any]], Tokenizer]] = {
    kind.kind: kind.from_payload for kind in (BPETokenizer, ByteTokenizer, UnigramTokenizer, SentencePieceTokenizer)
}

TRAINERS: dict[str, Callable[[int, Iterable[str]], Tokenizer]] = {
    "bpe": train_bpe,
    "unigram": train_unigram,
    "sentencepiece": train_sentencepiece,
}

SMALLEST_VOCABULARY = 257
"""Each byte and end-of-text: below that a tokenizer could not write every text."""


def load_tokenizer(name_or_path: str | Path) -> Tokenizer:
    """The tokenizer called `gpt2` or `bytes`, or the one saved in a file or in a data set's or run's folder.

    Raises:
        TokenizerError: there is no such name or file, or the file is damaged or of another program.
    """
    named = NAMED.get(str(name_or_path))
    if named:
        return named()
    path = Path(name_or_path)
    if path.is_dir():
        path = path / TOKENIZER_FILE
    if not path.is_file():
        raise TokenizerError(
            f"there is no tokenizer {str(name_or_path)!r}: give one of {', '.join(NAMED)}, "
            f"a {TOKENIZER_FILE}, or a data set or run that holds one; "
            f"prepare also trains one: {', '.join(f'{kind}:SIZE' for kind in TRAINERS)}"
        )
    return _load_file(path)


def _load_file(path: Path) -> Tokenizer:
    try:
        return tokenizer_from_json(path.read_bytes().decode())
    except (UnicodeDecodeError, TokenizerError) as error:
        raise TokenizerError(f"{path}: {error}") from error


def tokenizer_from_json(text: str) -> Tokenizer:
    """Rebuild a tokenizer from the text of its `tokenizer.json`.

    Raises:
        TokenizerError: the text is damaged, of another program, or of a newer version.
        MissingExtraError: the kind needs a library that is not installed.
    """
    fields = _parse(text)
    if fields.get("format") != FORMAT:
        raise TokenizerError("not a tokenizer of glassgpt; make one with: glassgpt prepare … --tokenizer …")
    if fields.get("version") != FORMAT_VERSION or fields.get("kind") not in KINDS:
        raise TokenizerError(
            f"tokenizer format {fields.get('version')}, kind {fields.get('kind')!r} is not known here "
            f"(known: format {FORMAT_VERSION}, {', '.join(KINDS)}); update glassgpt"
        )
    return _rebuild(fields)


def _parse(text: str) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except json.JSONDecodeError as error:
        raise TokenizerError(f"the tokenizer is damaged: line {error.lineno}: {error.msg}") from error
    return cast("dict[str, Any]", fields) if isinstance(fields, dict) else {}


def _rebuild(fields: dict[str, Any]) -> Tokenizer:
    damaged = "the tokenizer is damaged: its content does not match its fingerprint; take it from a copy"
    try:
        tokenizer = KINDS[fields["kind"]](fields["name"], fields["payload"])
    except (KeyError, TypeError, ValueError) as error:
        raise TokenizerError(damaged) from error
    if tokenizer.fingerprint != fields.get("fingerprint"):
        raise TokenizerError(damaged)
    return tokenizer


def is_training_spec(name: str) -> bool:
    """Whether `name` asks for a tokenizer to be trained (`bpe:2048`) rather than loaded."""
    return name.partition(":")[0] in TRAINERS and ":" in name


def train_tokenizer(spec: str, texts: Iterable[str]) -> Tokenizer:
    """Train the tokenizer that `spec` asks for: `bpe:2048`, `unigram:8000` or `sentencepiece:8000`.

    The number is the size of the vocabulary, end-of-text included.

    Raises:
        UsageError: the spec cannot be understood, or the vocabulary is smaller than 257.
        TokenizerError: the text is too little for such a vocabulary.
        MissingExtraError: the kind needs a library that is not installed.
    """
    kind, _, size = spec.partition(":")
    if kind not in TRAINERS or not size.isdecimal() or int(size) < SMALLEST_VOCABULARY:
        raise UsageError(
            f"cannot train a tokenizer {spec!r}: give KIND:SIZE with a kind of {', '.join(TRAINERS)} "
            f"and a size of at least {SMALLEST_VOCABULARY}"
        )
    return TRAINERS[kind](int(size), texts)
