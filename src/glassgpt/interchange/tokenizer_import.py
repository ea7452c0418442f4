"""Read tokenizers from Hugging Face files, exactly or not at all.

A tokenizer becomes one of our own kinds if that gives the same ids for every text; otherwise the library `tokenizers`
continues to encode it, provided that it loses no text. What remains is refused by name. `verify_tokenizer` then compares
the result with the library on a probing text.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

from glassgpt.data.tokenizers import END_OF_TEXT, Tokenizer, load_tokenizer, tokenizer_from_json
from glassgpt.data.tokenizers.bpe import GPT2_PATTERN, PATTERNS, BPETokenizer
from glassgpt.data.tokenizers.byte_level import byte_of_character, to_bytes
from glassgpt.data.tokenizers.library import LibraryTokenizer, load_backend
from glassgpt.data.tokenizers.unigram import UnigramTokenizer
from glassgpt.errors import InterchangeError, TokenizerError
from glassgpt.interchange.files import Json, read_json, read_text, reason, shown
from glassgpt.interchange.tokenizer_checks import ADVICE, lossy_parts, pre_tokenizer_steps, verify_tokenizer
from glassgpt.interchange.tokenizer_files import (
    NATIVE_FILE,
    NATIVE_KEY,
    earlier_library_pattern,
    last_pair,
    library_pattern,
    tokenizer_json,
)

KNOWN_PATTERNS = {
    **{earlier_library_pattern(pattern): pattern for pattern in PATTERNS.values()},
    **{library_pattern(pattern): pattern for pattern in PATTERNS.values()},
}
"""Our pattern for each of the library's that splits every text in the same way; tests compare them."""

SCORE_TOLERANCE = 1e-9
"""Relative; the library changes the last digit of a score each time it reads one."""

MIN_SPECIAL_NAME = 2
"""Characters of a special token's name, from which on it is taken not to occur in ordinary text."""

Notify = Callable[[str], None]


@dataclass(frozen=True)
class TokenizerSource:
    """The Hugging Face files of a tokenizer.

    Attributes:
        path: the file that decides the ids, for messages.
        content: the content of `tokenizer.json`, or its equivalent for `vocab.json` and `merges.txt`.
        special_tokens: id of each special token.
        end_of_text: name of the token that separates documents.
    """

    path: Path
    content: Json
    special_tokens: dict[str, int]
    end_of_text: str


def read_tokenizer_files(folder: Path, notify: Notify = lambda message: None) -> Tokenizer | None:
    """Read the tokenizer of a folder and compare it with the library; None if it has no tokenizer files.

    Args:
        folder: holds `tokenizer.json`, or `vocab.json` and `merges.txt`, or our own `glassgpt-tokenizer.json`.
        notify: receives what the user should know about a tokenizer that is read nevertheless.

    Raises:
        InterchangeError: the files are damaged or describe a tokenizer that cannot be reproduced exactly.
        TokenizerError: our own file is damaged.
        MissingExtraError: the tokenizer needs a library that is not installed.
    """
    try:
        content, path = _read_content(folder)
        if content is None:
            file = folder / NATIVE_FILE
            return load_tokenizer(file) if file.is_file() else None
        native = _restored_exactly(folder, content, notify)
        if native is not None:
            verify_tokenizer(native, content, path)
            return native
        return tokenizer_from_source(_source(folder, content, path))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise InterchangeError(f"the tokenizer files of {folder} cannot be read: {reason(error)}") from error


def tokenizer_from_source(source: TokenizerSource) -> Tokenizer:
    """Return the tokenizer of our own or the library's kind that gives the same ids, compared with the library.

    Raises:
        InterchangeError: it cannot be reproduced exactly.
        MissingExtraError: it needs a library that is not installed.
    """
    tokenizer = _native_kind(source) or _library_kind(source)
    verify_tokenizer(tokenizer, source.content, source.path)
    return tokenizer


def _read_content(folder: Path) -> tuple[Json | None, Path]:
    path = folder / "tokenizer.json"
    if path.is_file():
        return read_json(path), path
    path = folder / "vocab.json"
    if not path.is_file() or not (folder / "merges.txt").is_file():
        return None, path
    lines = read_text(folder / "merges.txt").split("\n")
    merges = [line.rstrip("\r") for line in lines[1 if lines[0].startswith("#version") else 0 :]]
    vocab = read_json(path)
    special = {END_OF_TEXT: vocab[END_OF_TEXT]} if END_OF_TEXT in vocab else {}
    special |= _added_by_transformers(folder)
    byte_level: Json = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    model = {"type": "BPE", "vocab": vocab, "merges": [line for line in merges if line]}
    added = [
        {"id": token, "content": name, "special": True, "single_word": False}
        | dict.fromkeys(("lstrip", "rstrip", "normalized"), False)
        for name, token in sorted(special.items(), key=lambda item: item[1])
    ]
    return {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "decoder": byte_level,
        "model": model,
    }, path


def _added_by_transformers(folder: Path) -> dict[str, int]:
    """Return the tokens that transformers added to `vocab.json`, which it keeps in a separate file."""
    path = folder / "added_tokens.json"
    return dict(read_json(path)) if path.is_file() else {}


def _restored_exactly(folder: Path, content: Json, notify: Notify) -> Tokenizer | None:
    """Return the tokenizer of our own file if exporting it gives `content`; the file may be older than `content`."""
    path = folder / NATIVE_FILE
    settings = _settings(folder)
    if path.is_file():
        native = load_tokenizer(path)
    elif isinstance(settings.get(NATIVE_KEY), str):
        path = folder / "tokenizer_config.json"
        native = tokenizer_from_json(settings[NATIVE_KEY])
    else:
        return None
    if _same_ids(tokenizer_json(native), content):
        return native
    notify(
        f"the tokenizer in {path} is not that of tokenizer.json, which transformers reads and which is used; "
        f"if it is the right one, delete tokenizer.json"
    )
    return None


def _settings(folder: Path) -> Json:
    path = folder / "tokenizer_config.json"
    return read_json(path) if path.is_file() else {}


def _same_ids(one: Json, other: Json) -> bool:
    """Return whether two `tokenizer.json` contents produce the same ids; scores may differ in the last digits."""
    scores = [[score for _, score in _scored(content)] for content in (one, other)]
    return (
        len(scores[0]) == len(scores[1])
        and all(map(partial(math.isclose, rel_tol=SCORE_TOLERANCE), *scores))
        and _ids_of(one) == _ids_of(other)
    )


def _scored(content: Json) -> list[tuple[str, float]]:
    """Return the tokens of a Unigram model with their scores; empty for another model."""
    vocab: object = content["model"]["vocab"]
    return cast("list[tuple[str, float]]", vocab) if isinstance(vocab, list) else []


def _ids_of(content: Json) -> Any:
    """Return the parts of `tokenizer.json` that determine ids, except scores, in canonical form."""
    steps: list[Json] = [_without_defaults(step) for step in pre_tokenizer_steps(content.get("pre_tokenizer"))]
    if [step["type"] for step in steps] == ["ByteLevel"] and steps[0].get("use_regex", True) is not False:
        steps = [_split(GPT2_PATTERN), {"type": "ByteLevel", "use_regex": False}]
    for step in steps:
        pattern = step.get("pattern", {}).get("Regex")
        if pattern in KNOWN_PATTERNS:
            step["pattern"] = {"Regex": KNOWN_PATTERNS[pattern]}
    added = {token["content"]: (token["id"], bool(token.get("special"))) for token in content.get("added_tokens") or ()}
    special = {name for name, (_, is_special) in added.items() if is_special}  # may be listed in the vocabulary, too
    model = _without_defaults(content["model"])
    vocab: Json | list[Any] = content["model"]["vocab"]
    model["vocab"] = (
        {piece: token for piece, token in vocab.items() if piece not in special}
        if isinstance(vocab, dict)
        else [piece for piece, _ in vocab]
    )
    model["merges"] = [tuple(pair) for pair in _merges(content["model"])]
    return content.get("normalizer"), steps, model, added


def _without_defaults(part: Mapping[str, Any]) -> Json:
    """Return a part of `tokenizer.json` without defaults and values that do not affect ids."""
    return {
        key: value
        for key, value in part.items()
        if key not in ("trim_offsets", "unk_token", "fuse_unk") and (value or key == "use_regex")
    }


def _split(pattern: str) -> Json:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}


def _merges(model: Json) -> list[list[str]]:
    pairs: list[str | list[str]] = model.get("merges") or []
    return [pair.split(" ") if isinstance(pair, str) else pair for pair in pairs]


def _source(folder: Path, content: Json, path: Path) -> TokenizerSource:
    special = {token["content"]: token["id"] for token in content.get("added_tokens") or () if token.get("special")}
    vocab = content["model"]["vocab"]
    ids: dict[str, int] = dict(vocab) if isinstance(vocab, dict) else {p: i for i, (p, _) in enumerate(vocab)}
    ids |= {token["content"]: token["id"] for token in content.get("added_tokens") or ()}
    end_of_text = _end_of_text(folder, ids, special)
    if end_of_text is None:
        raise InterchangeError(
            f"{path} has no end-of-text token; name it as eos_token in {folder / 'tokenizer_config.json'}"
        )
    special[end_of_text] = ids[end_of_text]
    if short := sorted(name for name in special if len(name.strip()) < MIN_SPECIAL_NAME):
        raise InterchangeError(
            f"{path}: its special token {shown(short[0])} occurs in ordinary text, which is ordinary text for glassgpt; "
            f"rename it, for example to <|{short[0].strip() or 'space'}|>"
        )
    if added := _added_by_post_processor(content.get("post_processor")):
        raise InterchangeError(
            f"{path}: its post_processor adds {shown(added)} to each text, which glassgpt does not; set post_processor "
            f"to null, and write these tokens yourself where the model needs them"
        )
    return TokenizerSource(path, content, special, end_of_text)


def _end_of_text(folder: Path, ids: Mapping[str, int], special: Mapping[str, int]) -> str | None:
    """Return the name of the token that separates documents: transformers' `eos_token`, or GPT-2's."""
    eos = _settings(folder).get("eos_token")
    if isinstance(eos, dict):
        eos = cast(Json, eos).get("content")
    if isinstance(eos, str) and eos in ids:
        return eos
    if END_OF_TEXT in ids:
        return END_OF_TEXT
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    return next((name for name, token in special.items() if token == config.get("eos_token_id")), None)


def _native_kind(source: TokenizerSource) -> Tokenizer | None:
    """Convert the tokenizer to one of our kinds, or return None if none of them produces the same ids."""
    if source.content.get("normalizer") or any(not t.get("special") for t in source.content.get("added_tokens") or ()):
        return None
    model = source.content["model"]
    if model["type"] == "Unigram":
        return _unigram(source)
    if model["type"] != "BPE" or any(
        model.get(key) for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges")
    ):
        return None
    return _bytes(source) or _bpe(source)


def _unigram(source: TokenizerSource) -> Tokenizer | None:
    content = source.content | dict.fromkeys(("truncation", "padding", "post_processor", "decoder"))
    content["added_tokens"] = []
    try:
        tokenizer = UnigramTokenizer("unigram", load_backend(json.dumps(content)).to_str())
    except (TokenizerError, KeyError):
        return None
    tokenizer.name = f"unigram-{tokenizer.vocab_size}"
    return _if_equal(tokenizer, source)


def _bytes(source: TokenizerSource) -> Tokenizer | None:
    return _if_equal(load_tokenizer("bytes"), source)


def _bpe(source: TokenizerSource) -> Tokenizer | None:
    pattern = _known_pattern(pre_tokenizer_steps(source.content.get("pre_tokenizer")))
    vocab: dict[str, int] = source.content["model"]["vocab"]
    by_id = sorted((piece for piece in vocab if piece not in source.special_tokens), key=vocab.__getitem__)
    table = byte_of_character()
    if pattern is None or any(character not in table for piece in by_id for character in piece):
        return None
    ranks = {to_bytes(piece, table): vocab[piece] for piece in by_id}
    if not {bytes([byte]) for byte in range(256)} <= ranks.keys():
        return None
    merges = [tuple(to_bytes(part, table) for part in pair) for pair in _merges(source.content["model"])]
    # tiktoken merges by the rank of the result; that is the same if each token has one merge, in the order of the ids.
    if [last_pair(piece, ranks) for piece in ranks if len(piece) > 1] != merges:
        return None
    special = source.special_tokens
    if sorted({*ranks.values(), *special.values()}) != list(range(len(ranks) + len(special))):
        return None
    is_usual = special == {END_OF_TEXT: len(ranks)}
    name = (
        "gpt2" if len(ranks) == 50256 and pattern == GPT2_PATTERN and is_usual else f"bpe-{len(ranks) + len(special)}"
    )
    return BPETokenizer(name, pattern, list(ranks), special, source.end_of_text)


def _known_pattern(steps: Sequence[Json]) -> str | None:
    """Return our pattern if it splits every text as these steps do."""
    if not steps or steps[-1]["type"] != "ByteLevel" or steps[-1].get("add_prefix_space", True):
        return None
    uses_regex = steps[-1].get("use_regex", True)
    if len(steps) == 1:
        return GPT2_PATTERN if uses_regex else None
    split = steps[0]
    if len(steps) != 2 or uses_regex or _without_defaults(split) != _split(split.get("pattern", {}).get("Regex", "")):
        return None
    return KNOWN_PATTERNS.get(split["pattern"]["Regex"])


def _if_equal(tokenizer: Tokenizer, source: TokenizerSource) -> Tokenizer | None:
    is_equal = tokenizer.special_tokens == source.special_tokens and _same_ids(
        tokenizer_json(tokenizer), source.content
    )
    return tokenizer if is_equal else None


def _library_kind(source: TokenizerSource) -> Tokenizer:
    problem = next(lossy_parts(source.content, source.special_tokens), None)
    if problem is not None:
        raise InterchangeError(f"{source.path}: {problem}. {ADVICE}")
    content = source.content | dict.fromkeys(("truncation", "padding", "post_processor"))
    content["added_tokens"] = [token for token in source.content.get("added_tokens") or () if not token.get("special")]
    try:
        text = load_backend(json.dumps(content)).to_str()
        tokenizer = LibraryTokenizer("huggingface", text, source.special_tokens, source.end_of_text)
    except TokenizerError as error:
        raise InterchangeError(f"{source.path}: {error}. {ADVICE}") from error
    tokenizer.name = f"{source.content['model']['type'].lower()}-{tokenizer.vocab_size}"
    return tokenizer


def _added_by_post_processor(part: Json | None) -> list[str]:
    """Return the special tokens that a post-processor adds to a single text."""
    if not part or part["type"] == "ByteLevel":
        return []
    if part["type"] == "Sequence":
        return [name for each in part["processors"] for name in _added_by_post_processor(each)]
    if part["type"] == "TemplateProcessing":
        return [item["SpecialToken"]["id"] for item in part["single"] if "SpecialToken" in item]
    return [str(part["type"])]
