"""Writing tokenizers as Hugging Face files.

`tokenizer.json` is written for every tokenizer, `vocab.json` and `merges.txt` if it has merges, and our own file, from
which it can be restored exactly. `tokenizer_import` is the way back.
"""

from __future__ import annotations

import json
import re
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

from glassgpt.data.tokenizers import Tokenizer
from glassgpt.data.tokenizers.bpe import GPT2_PATTERN, PATTERNS
from glassgpt.data.tokenizers.byte_level import byte_of_character
from glassgpt.errors import InterchangeError
from glassgpt.interchange.files import Json

NATIVE_FILE = "glassgpt-tokenizer.json"
NATIVE_KEY = "glassgpt_tokenizer"
"""Key of `tokenizer_config.json` that holds our own file for a tokenizer that cannot be restored from
`tokenizer.json`: SentencePiece's model has more fields, and the library changes the last digit of a Unigram score each
time it reads one. transformers keeps this key, but not our file, when it saves a tokenizer."""
SPACE_SYMBOL = "\u2581"  # SentencePiece's representation of a space

# The tokenizers library also matches the name of a byte, <0x41>, in ordinary text. Splitting after "<" prevents that.
BYTE_NAME = r"<(?=0x[0-9A-F]{2,3}>)"


def write_tokenizer_files(tokenizer: Tokenizer, context_length: int, folder: Path) -> None:
    """Write a tokenizer so that `AutoTokenizer.from_pretrained(folder)` produces the same ids."""
    tokenizer.save(folder / NATIVE_FILE)
    content = tokenizer_json(tokenizer)
    _write_json(folder / "tokenizer.json", content)
    end_of_text = next(name for name, token in tokenizer.special_tokens.items() if token == tokenizer.end_of_text)
    settings: Json = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context_length,
        "bos_token": end_of_text,
        "eos_token": end_of_text,
        "unk_token": end_of_text,
        "clean_up_tokenization_spaces": False,
    }
    if tokenizer.kind in ("unigram", "sentencepiece"):
        settings[NATIVE_KEY] = tokenizer.to_json()
    _write_json(folder / "tokenizer_config.json", settings)
    if content["model"]["type"] == "BPE":
        _write_json(folder / "vocab.json", content["model"]["vocab"] | tokenizer.special_tokens)
        pairs: list[str | list[str]] = content["model"]["merges"]
        merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in pairs]
        (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")


def tokenizer_json(tokenizer: Tokenizer) -> Json:
    """Return the content of Hugging Face's `tokenizer.json`."""
    if tokenizer.kind == "unigram":
        content: Json = json.loads(tokenizer.payload["model"])
        content["decoder"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    elif tokenizer.kind == "sentencepiece":
        content = _sentencepiece_json(tokenizer)
    elif tokenizer.kind == "huggingface":
        content = json.loads(tokenizer.payload["tokenizer"])
    else:
        content = _bpe_json(tokenizer)
    added = [
        *content.get("added_tokens", ()),
        *(special_token_json(*item) for item in tokenizer.special_tokens.items()),
    ]
    content["added_tokens"] = sorted(added, key=lambda token: token["id"])
    return content


def special_token_json(name: str, token: int) -> Json:
    """Return a special token as an entry of `added_tokens`."""
    return {
        "id": token,
        "content": name,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }


def _bpe_json(tokenizer: Tokenizer) -> Json:
    characters = {byte: character for character, byte in byte_of_character().items()}
    special = set(tokenizer.special_tokens.values())
    ranks = {tokenizer.token_bytes(token): token for token in range(tokenizer.vocab_size) if token not in special}
    printable = {"".join(characters[byte] for byte in piece): token for piece, token in ranks.items()}
    byte_level: Json = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    pre_tokenizer = byte_level
    if tokenizer.kind == "bpe":
        pattern = library_pattern(tokenizer.payload["pattern"])
        split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        pre_tokenizer = {"type": "Sequence", "pretokenizers": [split, byte_level]}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "normalizer": None,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": printable,
            "merges": [["".join(characters[b] for b in part) for part in pair] for pair in _merges(ranks)],
        },
    }


ORIGINAL_GPT2_PATTERN = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
"""The pattern that OpenAI published, which every library knows."""
LETTER_VARIANTS = {"s": "sS\u017f", "k": "kK\u212a"}
"""Characters that a pattern with (?i:…) matches too, where they are more than both cases of a letter."""


def library_pattern(pattern: str) -> str:
    """Return a pattern that splits every text like ours in each library that reads tokenizer.json.

    Patterns of ours are written without inline flags, which ONNX Runtime GenAI and JavaScript reject, and without
    possessive quantifiers, which JavaScript does not have. In our patterns a possessive quantifier only saves time:
    what it would give back never helps what follows, except at the end of the text, which is written differently.
    """
    if pattern == GPT2_PATTERN:
        return ORIGINAL_GPT2_PATTERN
    if pattern not in PATTERNS.values():
        return earlier_library_pattern(pattern)
    pattern = re.sub(r"\(\?i:([^()]*)\)", lambda match: f"(?:{_in_both_cases(match[1])})", pattern)
    pattern = pattern.replace(r"\s++$", r"\s+(?![\s\S])")  # with $ a run could end before a line break
    return re.sub(r"(?<=[+*?])\+|(?<=\d\})\+", "", pattern)


def _in_both_cases(pattern: str) -> str:
    """Return a pattern of letters and classes of letters that matches them in both cases."""
    parts: list[str] = []
    pieces: list[str] = re.findall(r"\[\w+\]|.", pattern)
    for part in pieces:
        letters = "".join(LETTER_VARIANTS.get(c, c + c.upper()) for c in part if c.isalpha())
        parts.append(f"[{letters}]" if letters else part)
    return "".join(parts)


def earlier_library_pattern(pattern: str) -> str:
    """Return a pattern as the library `tokenizers` reads it; exports of earlier versions have these.

    It reads {1,2}+ as "one or more times" instead of possessive; without the + the two agree.
    """
    return re.sub(r"(\{\d+,\d+\})\+", r"\1", pattern)


def _merges(ranks: dict[bytes, int]) -> list[tuple[bytes, bytes]]:
    """Return the pair that each token longer than a byte was merged from, in order of rank."""
    return [last_pair(piece, ranks) for piece in ranks if len(piece) > 1]


def last_pair(piece: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """Apply the lowest-ranked merge until two parts remain: they are the pair of the token's own merge."""
    parts = [piece[i : i + 1] for i in range(len(piece))]
    while len(parts) > 2:
        joined = [ranks.get(a + b, sys.maxsize) for a, b in pairwise(parts)]
        at = joined.index(min(joined))
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts[0], parts[1]


def _sentencepiece_json(tokenizer: Tokenizer) -> Json:
    """Return a Unigram model over the same tokens, with plain spaces.

    SentencePiece represents a space as U+2581. With plain spaces no normalization is needed, and a U+2581 in the text
    is what it is for our tokenizer: a character outside the vocabulary, encoded as three bytes.
    """
    import base64

    import sentencepiece

    backend: Any = sentencepiece.SentencePieceProcessor(model_proto=base64.b64decode(tokenizer.payload["model"]))
    vocab = [[_hf_piece(backend, i), backend.get_score(i)] for i in range(backend.vocab_size())]
    ambiguous = [piece for i, (piece, _) in enumerate(vocab) if not _is_special(backend, i) and "<0" in piece]
    if ambiguous:
        raise InterchangeError(
            f"this tokenizer cannot be represented exactly in Hugging Face's format: its token {ambiguous[0]!r} is "
            f"ambiguous with a byte name such as <0x41>; train a bpe or unigram tokenizer instead"
        )
    cut = {"type": "Split", "pattern": {"Regex": BYTE_NAME}, "behavior": "MergedWithPrevious", "invert": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "normalizer": None,
        "pre_tokenizer": cut,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {"type": "Unigram", "unk_id": backend.unk_id(), "vocab": vocab, "byte_fallback": True},
    }


def _is_special(backend: Any, token: int) -> bool:
    """Return whether a token's name differs from its text, as for bytes and the unknown token."""
    return backend.is_unknown(token) or backend.is_byte(token)


def _hf_piece(backend: Any, token: int) -> str:
    if backend.is_unknown(token):
        return "<0x100>"  # formatted like a byte, so that no text matches it
    piece: str = backend.id_to_piece(token)
    return piece if backend.is_byte(token) else piece.replace(SPACE_SYMBOL, " ")


def _write_json(path: Path, content: Json) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
