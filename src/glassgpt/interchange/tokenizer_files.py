"""Tokenizers as Hugging Face files.

Export writes `tokenizer.json` for every tokenizer, `vocab.json` and `merges.txt` if it has merges, and our own file,
from which it can be restored exactly. Import reads our file, or a byte-level BPE from Hugging Face's, which is what
GPT-2 models come with.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from glassgpt.data.tokenizers import END_OF_TEXT, Tokenizer, tokenizer_from_json
from glassgpt.data.tokenizers.bpe import GPT2_PATTERN, BPETokenizer
from glassgpt.data.tokenizers.byte_level import byte_of_character, to_bytes
from glassgpt.errors import InterchangeError

NATIVE_FILE = "glassgpt-tokenizer.json"
SPACE_SYMBOL = "\u2581"  # SentencePiece's representation of a space

# The tokenizers library also matches the name of a byte, <0x41>, in ordinary text. Splitting after "<" prevents that.
BYTE_NAME = r"<(?=0x[0-9A-F]{2,3}>)"

Json = dict[str, Any]


def write_tokenizer_files(tokenizer: Tokenizer, context_length: int, folder: Path) -> None:
    """Write a tokenizer so that `AutoTokenizer.from_pretrained(folder)` produces the same ids."""
    tokenizer.save(folder / NATIVE_FILE)
    content = _tokenizer_json(tokenizer)
    _write_json(folder / "tokenizer.json", content)
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": context_length,
            "bos_token": END_OF_TEXT,
            "eos_token": END_OF_TEXT,
            "unk_token": END_OF_TEXT,
            "clean_up_tokenization_spaces": False,
        },
    )
    if content["model"]["type"] == "BPE":
        _write_json(folder / "vocab.json", content["model"]["vocab"] | {END_OF_TEXT: tokenizer.end_of_text})
        merges = [" ".join(pair) for pair in content["model"]["merges"]]
        (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")


def read_tokenizer_files(folder: Path) -> Tokenizer | None:
    """Read the tokenizer of a folder; None if it has no tokenizer files.

    Raises:
        InterchangeError: the files are damaged or describe a tokenizer that cannot be reproduced exactly.
    """
    if (folder / NATIVE_FILE).is_file():
        return tokenizer_from_json((folder / NATIVE_FILE).read_text(encoding="utf-8"))
    try:
        if (folder / "tokenizer.json").is_file():
            content: Json = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
            return _from_tokenizer_json(content, folder / "tokenizer.json")
        if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
            vocab = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
            lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
            merges = [line.split(" ") for line in lines if line and not line.startswith("#version")]
            return _byte_level_bpe(vocab, merges, GPT2_PATTERN, folder / "vocab.json")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InterchangeError(f"the tokenizer files of {folder} cannot be read: {error}") from error
    return None


def _tokenizer_json(tokenizer: Tokenizer) -> Json:
    """Return the content of Hugging Face's `tokenizer.json`."""
    if tokenizer.kind == "unigram":
        content: Json = json.loads(tokenizer.payload["model"])
        content["decoder"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    elif tokenizer.kind == "sentencepiece":
        content = _sentencepiece_json(tokenizer)
    else:
        content = _bpe_json(tokenizer)
    content["added_tokens"] = [
        {
            "id": tokenizer.end_of_text,
            "content": END_OF_TEXT,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
    ]
    return content


def _bpe_json(tokenizer: Tokenizer) -> Json:
    characters = {byte: character for character, byte in byte_of_character().items()}
    pieces = [tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size - 1)]
    printable = ["".join(characters[byte] for byte in piece) for piece in pieces]
    byte_level: Json = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    pre_tokenizer = byte_level
    if tokenizer.kind == "bpe":
        # The library reads {1,2}+ as "one or more times" instead of possessive; without the + it splits as our pattern does.
        pattern = re.sub(r"(\{\d+,\d+\})\+", r"\1", tokenizer.payload["pattern"])
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
            "vocab": {piece: token for token, piece in enumerate(printable)},
            "merges": [["".join(characters[b] for b in part) for part in pair] for pair in _merges(pieces)],
        },
    }


def _merges(pieces: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
    """Return the pair that each token longer than a byte was merged from, in order of rank."""
    ranks = {piece: rank for rank, piece in enumerate(pieces)}
    return [_last_pair(piece, ranks) for piece in pieces if len(piece) > 1]


def _last_pair(piece: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """Apply the lowest-ranked merge until two parts remain: they are the pair of the token's own merge."""
    parts = [piece[i : i + 1] for i in range(len(piece))]
    while len(parts) > 2:
        joined = [ranks.get(a + b, len(ranks)) for a, b in pairwise(parts)]
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
    """Return whether a token's name is not its text: bytes and the unknown token."""
    return backend.is_unknown(token) or backend.is_byte(token)


def _hf_piece(backend: Any, token: int) -> str:
    if backend.is_unknown(token):
        return "<0x100>"  # formatted like a byte, so that no text matches it
    piece: str = backend.id_to_piece(token)
    return piece if backend.is_byte(token) else piece.replace(SPACE_SYMBOL, " ")


def _from_tokenizer_json(content: Json, path: Path) -> Tokenizer:
    model = content["model"]
    if model["type"] != "BPE" or content.get("normalizer") is not None:
        raise InterchangeError(
            f"{path} holds a tokenizer of type {model['type']}; only byte-level BPE without a normalizer can be imported"
        )
    vocab: dict[str, int] = dict(model["vocab"])
    for added in content.get("added_tokens", []):
        vocab[added["content"]] = added["id"]
    merges = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
    return _byte_level_bpe(vocab, merges, _pattern(content.get("pre_tokenizer") or {}, path), path)


def _pattern(pre_tokenizer: Json, path: Path) -> str:
    steps: list[Json] = pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    kinds = [step.get("type") for step in steps]
    if kinds == ["ByteLevel"] and steps[0].get("use_regex", True) and not steps[0].get("add_prefix_space"):
        return GPT2_PATTERN
    if kinds == ["Split", "ByteLevel"] and "Regex" in steps[0]["pattern"]:
        return steps[0]["pattern"]["Regex"]
    raise InterchangeError(f"{path} has an unsupported pre-tokenizer ({', '.join(map(str, kinds))})")


def _byte_level_bpe(vocab: dict[str, int], merges: Sequence[Sequence[str]], pattern: str, path: Path) -> Tokenizer:
    """Build our tokenizer; ids, merges and the special token must be in the order that ours has."""
    by_id = sorted(vocab, key=vocab.__getitem__)
    if [vocab[piece] for piece in by_id] != list(range(len(by_id))) or by_id[-1] != END_OF_TEXT:
        raise InterchangeError(f"{path}: the ids must be 0 to {len(by_id) - 1} with {END_OF_TEXT} as the last")
    table = byte_of_character()
    pieces = [to_bytes(piece, table) for piece in by_id[:-1]]
    merged = [to_bytes("".join(pair), table) for pair in merges]
    if [piece for piece in pieces if len(piece) > 1] != merged:
        raise InterchangeError(
            f"{path}: the merges are not in the order of the ids, so the text would be encoded differently"
        )
    name = "gpt2" if len(pieces) == 50256 and pattern == GPT2_PATTERN else f"bpe-{len(by_id)}"
    return BPETokenizer(name, pattern, pieces)


def _write_json(path: Path, content: Json) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
