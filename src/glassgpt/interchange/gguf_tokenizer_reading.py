"""Read the tokenizer in the metadata of a GGUF file: byte-level BPE with one of the known ways to split text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from glassgpt.data.tokenizers import Tokenizer
from glassgpt.errors import InterchangeError
from glassgpt.interchange.files import Json, name_of, shown
from glassgpt.interchange.gguf_tokenizer import (
    CONTROL,
    MERGE_OF_NO_TEXT,
    PRE_TOKENIZERS,
    UNUSED,
    USER_DEFINED,
    PreTokenizer,
)
from glassgpt.interchange.tokenizer_files import library_pattern
from glassgpt.interchange.tokenizer_import import Notify, TokenizerSource, tokenizer_from_source

UNKNOWN = 2
CONTROL_TYPES = (UNKNOWN, CONTROL, UNUSED)
"""Types of tokens that no text becomes."""
KNOWN = {each.name: each for each in PRE_TOKENIZERS}


def read_gguf_tokenizer(fields: Mapping[str, Any], path: Path, notify: Notify) -> Tokenizer:
    """Return the tokenizer in a file's metadata, compared with the library `tokenizers`.

    Raises:
        InterchangeError: it is not byte-level BPE, or splits text in a way that is not known.
        MissingExtraError: it needs a library that is not installed.
    """
    kind, split = fields.get("tokenizer.ggml.model"), fields.get("tokenizer.ggml.pre")
    if kind != "gpt2":
        raise InterchangeError(
            f"{path}: its tokenizer is of type {name_of(kind)}; only gpt2, byte-level BPE, keeps all text. "
            f"Import the model from a folder in Hugging Face format instead"
        )
    if split not in KNOWN:
        raise InterchangeError(f"{path}: its tokenizer splits text as {name_of(split)}; known are {', '.join(KNOWN)}")
    names: list[str] = fields["tokenizer.ggml.tokens"]
    types: list[int] = fields.get("tokenizer.ggml.token_type", [1] * len(names))
    end_of_text = names[fields["tokenizer.ggml.eos_token_id"]]
    special = {
        name: token
        for token, (name, type_) in enumerate(zip(names, types, strict=True))
        if type_ in CONTROL_TYPES or name == end_of_text
    }
    added = [token for token, type_ in enumerate(types) if type_ == USER_DEFINED or names[token] in special]
    content = _library_content(fields, names, special, added, KNOWN[split])
    if fields.get("tokenizer.ggml.add_bos_token"):
        begin = names[fields["tokenizer.ggml.bos_token_id"]]
        notify(
            f"{path} asks for {shown(begin)} before each text, which glassgpt does not add; write it in your prompts"
        )
    return tokenizer_from_source(TokenizerSource(path, content, special, end_of_text))


def _library_content(
    fields: Mapping[str, Any], names: list[str], special: Mapping[str, int], added: list[int], split: PreTokenizer
) -> Json:
    """Return the equivalent `tokenizer.json`."""
    steps = [
        {"type": "Split", "pattern": {"Regex": library_pattern(pattern)}, "behavior": "Isolated", "invert": False}
        for pattern in split.patterns
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {
        "version": "1.0",
        "added_tokens": [
            {"id": token, "content": names[token], "special": names[token] in special} | flags for token in added
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*steps, byte_level]},
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "vocab": {name: token for token, name in enumerate(names)},
            "merges": [pair for pair in fields["tokenizer.ggml.merges"] if pair != MERGE_OF_NO_TEXT],
            "ignore_merges": split.ignore_merges,
        },
    }
