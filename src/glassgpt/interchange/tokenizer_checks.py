"""Check that a Hugging Face tokenizer keeps all text, and that ours gives the same ids as the library."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from glassgpt.data.tokenizers import Tokenizer
from glassgpt.data.tokenizers.bpe import SELF_CHECK
from glassgpt.data.tokenizers.byte_level import byte_of_character
from glassgpt.data.tokenizers.library import BYTE_PIECE, RARE_BYTES, LibraryTokenizer, load_backend
from glassgpt.errors import InterchangeError, MissingExtraError, TokenizerError
from glassgpt.interchange.files import Json, name_of, shown

LOSSLESS_STEPS = ("Split", "Digits", "Punctuation", "UnicodeScripts", "ByteLevel")
UTF8_BYTES = frozenset(range(256)) - {0xC0, 0xC1, *range(0xF5, 0x100)}
"""Bytes that occur in UTF-8 text."""

ADVICE = (
    "Use the model with transformers, or train a tokenizer that keeps all text: "
    "glassgpt prepare SOURCE --tokenizer bpe:SIZE"
)

PROBE_TOKENS = 4096
PROBE_WORDS = 24


def pre_tokenizer_steps(pre_tokenizer: Json | None) -> list[Json]:
    """Return the steps of a pre-tokenizer, nested sequences flattened."""
    if not pre_tokenizer:
        return []
    if pre_tokenizer["type"] != "Sequence":
        return [pre_tokenizer]
    return [step for part in pre_tokenizer["pretokenizers"] for step in pre_tokenizer_steps(part)]


def lossy_parts(content: Json, special_tokens: Mapping[str, int]) -> Iterator[str]:
    """Yield the parts of a tokenizer that lose text or depend on more than the text."""
    model = content["model"]
    if model["type"] not in ("BPE", "Unigram"):
        yield f"it holds a tokenizer of type {name_of(model['type'])}; only byte-level BPE and Unigram keep all text"
    if content.get("normalizer"):
        kind = content["normalizer"].get("type")
        yield f"its normalizer {shown(kind)} changes the text; normalize the text beforehand and set normalizer to null"
    yield from _lossy_steps(pre_tokenizer_steps(content.get("pre_tokenizer")), model)
    yield from (
        f"its {key} is {shown(model[key])}, which is not supported; set it to null if the model does not need it"
        for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix")
        if model.get(key)
    )
    yield from _missing_bytes(model, special_tokens)
    for token in content.get("added_tokens") or ():
        if not token.get("special") and (token.get("lstrip") or token.get("rstrip")):
            yield f"its added token {shown(token['content'])} drops the spaces beside it (lstrip, rstrip)"


def _lossy_steps(steps: Sequence[Json], model: Json) -> Iterator[str]:
    kinds = [step["type"] for step in steps]
    for step in steps:
        if step["type"] not in LOSSLESS_STEPS:
            yield f"its pre-tokenizer {shown(step['type'])} does not keep all white space"
        elif step.get("behavior") == "Removed":
            yield f"its pre-tokenizer {step['type']} has the behavior Removed, which drops text"
        elif step["type"] == "ByteLevel" and step.get("add_prefix_space", True):
            yield "its ByteLevel has add_prefix_space, which adds a space to each text; set it to false"
    if kinds.count("ByteLevel") != (0 if model.get("byte_fallback") else 1):
        yield f"its pre-tokenizer ({', '.join(map(str, kinds)) or 'none'}) is not byte-level, so it loses characters"


def _missing_bytes(model: Json, special_tokens: Mapping[str, int]) -> Iterator[str]:
    vocab = model["vocab"]
    pieces = {str(item if isinstance(vocab, dict) else item[0]) for item in vocab} - special_tokens.keys()
    if model.get("byte_fallback"):
        present = {int(match[1], 16) for piece in pieces if (match := BYTE_PIECE.fullmatch(piece))}
    else:
        present = {byte for character, byte in byte_of_character().items() if character in pieces}
    if missing := sorted(UTF8_BYTES - present - RARE_BYTES.keys()):
        examples = ", ".join(f"0x{byte:02X}" for byte in missing[:3])
        yield (
            f"its vocabulary lacks {len(missing)} of the bytes of UTF-8 text ({examples}), so that it drops characters; "
            f"train it with initial_alphabet=pre_tokenizers.ByteLevel.alphabet()"
        )


def verify_tokenizer(tokenizer: Tokenizer, content: Json, path: Path) -> None:
    """Compare ids and decoded text with the library's on a probing text, if the library is installed.

    Raises:
        InterchangeError: they differ, or a text does not survive encoding and decoding.
    """
    try:
        # transformers sets truncation and padding for each call; a file has those of the last call before it was saved.
        theirs: Any = load_backend(json.dumps(content | {"truncation": None, "padding": None}))
    except MissingExtraError:
        theirs = None
    except TokenizerError as error:
        raise InterchangeError(f"{path}: {error}") from error
    for probe in probing_texts(tokenizer):
        text = tokenizer.without_unknown(probe) if isinstance(tokenizer, LibraryTokenizer) else probe
        ids = tokenizer.encode(text)
        if tokenizer.decode(ids) != text:
            raise InterchangeError(f"{path}: the text {shown(text)} does not survive encoding and decoding. {ADVICE}")
        if theirs is not None and theirs.encode(text, add_special_tokens=False).ids != ids:
            raise InterchangeError(
                f"{path}: the library tokenizers gives the text {shown(text)} other ids than glassgpt; "
                f"please report this tokenizer. {ADVICE}"
            )


def probing_texts(tokenizer: Tokenizer) -> Iterator[str]:
    """Yield texts that show differences: known problem cases, every script, and the words of the vocabulary.

    Texts that spell out a special token are left out: the library matches it, our tokenizers do not.
    """
    step = max(1, tokenizer.vocab_size // PROBE_TOKENS)
    special = set(tokenizer.special_tokens.values())
    pieces = [tokenizer.token_bytes(token) for token in range(0, tokenizer.vocab_size, step) if token not in special]
    words = [piece.decode() for piece in pieces if _is_utf8(piece)]
    texts = [*SELF_CHECK.split("<|endoftext|>"), "", " ", "\n", "   word", "a\r\n\r\nb\u2028c\x85d"]
    texts += ["".join(words[i : i + PROBE_WORDS]) for i in range(0, len(words), PROBE_WORDS)]
    texts += ["".join(words[i::97][:PROBE_WORDS]) for i in range(min(97, len(words)))]
    yield from (text for text in texts if not any(name in text for name in tokenizer.special_tokens))


def _is_utf8(piece: bytes) -> bool:
    try:
        piece.decode()
    except UnicodeDecodeError:
        return False
    return True
