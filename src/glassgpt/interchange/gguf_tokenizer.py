"""Tokenizers in GGUF: a vocabulary, merges, and the name of one of the ways in which llama.cpp splits text.

A GGUF file does not contain the pattern that splits text into words, only a name, `tokenizer.ggml.pre`, for which
llama.cpp has the pattern in its source. A wrong name gives plausible text with other ids (llama.cpp#23252), so the name
is chosen by comparing ids, and a tokenizer that none of them fits is refused.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from glassgpt.data.tokenizers import Tokenizer
from glassgpt.data.tokenizers.bpe import PATTERNS
from glassgpt.data.tokenizers.library import load_backend
from glassgpt.errors import InterchangeError
from glassgpt.interchange.check_prompts import HELD_OUT, boundary_texts
from glassgpt.interchange.files import Json, shown
from glassgpt.interchange.tokenizer_checks import probing_texts
from glassgpt.interchange.tokenizer_files import library_pattern, tokenizer_json

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
"""GGUF's types of tokens."""
MERGE_OF_NO_TEXT = "ÿ ÿ"
"""Two bytes 0xFF, which occur in no UTF-8 text: llama.cpp does not load a BPE vocabulary without merges."""


MAX_WORDS = 4096
"""Tokens of the vocabulary on which ids are compared."""


@dataclass(frozen=True)
class PreTokenizer:
    """One of llama.cpp's ways to split text into words.

    Attributes:
        name: value of `tokenizer.ggml.pre`.
        patterns: each splits what the previous ones have left.
        ignore_merges: a word that is in the vocabulary becomes its token, whatever the merges say.
    """

    name: str
    patterns: tuple[str, ...]
    ignore_merges: bool = False


PRE_TOKENIZERS = (
    PreTokenizer("gpt-2", (PATTERNS["gpt2"],)),
    PreTokenizer("llama-bpe", (PATTERNS["llama"],), ignore_merges=True),
    PreTokenizer("qwen2", (PATTERNS["qwen2"],)),
    PreTokenizer("smollm", (r"\p{N}", PATTERNS["gpt2"])),
)
"""`make test-export` compares them with llama.cpp."""


@dataclass(frozen=True)
class TokenizerFields:
    """The part of a GGUF file that describes a tokenizer.

    Attributes:
        pre: name of the pre-tokenizer.
        tokens: text of each id, bytes as printable characters.
        types: GGUF's type of each id.
        merges: pairs in the order of their rank.
    """

    pre: str
    tokens: list[str]
    types: list[int]
    merges: list[str]


def tokenizer_fields(tokenizer: Tokenizer, vocab_size: int) -> TokenizerFields:
    """Return the fields of a tokenizer, filled with unused tokens up to the vocabulary size of the model.

    Args:
        tokenizer: BPE over bytes.
        vocab_size: rows of the token embedding, at least the size of the tokenizer.

    Raises:
        InterchangeError: llama.cpp has no tokenizer that gives the same ids.
        MissingExtraError: the library tokenizers, which computes the ids that are compared, is not installed.
    """
    content = bpe_content(tokenizer)
    pre = choose_pre_tokenizer(tokenizer, content)
    tokens = [f"[PAD{token}]" for token in range(vocab_size)]
    types = [UNUSED] * vocab_size
    vocab: dict[str, int] = content["model"]["vocab"]
    for text, token in vocab.items():
        tokens[token], types[token] = text, NORMAL
    for added in content["added_tokens"]:
        tokens[added["id"]], types[added["id"]] = added["content"], CONTROL if added["special"] else USER_DEFINED
    if len(set(tokens)) < len(tokens):
        twice = next(text for text in tokens if tokens.count(text) > 1)
        raise InterchangeError(f"two tokens are written as {shown(twice)}, which GGUF cannot express; use --format hf")
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in content["model"]["merges"]]
    return TokenizerFields(pre.name, tokens, types, merges or [MERGE_OF_NO_TEXT])


def bpe_content(tokenizer: Tokenizer) -> Json:
    """Return the `tokenizer.json` of a BPE over bytes.

    Raises:
        InterchangeError: it is another kind of tokenizer.
    """
    content = tokenizer_json(tokenizer) if tokenizer.kind != "sentencepiece" else {"model": {"type": "Unigram"}}
    model: Json = content["model"]
    if model["type"] != "BPE" or model.get("byte_fallback"):
        raise InterchangeError(
            f"llama.cpp cannot reproduce the ids of {tokenizer.name}, a tokenizer of kind {tokenizer.kind}: it runs BPE "
            f"over bytes only; train one with glassgpt prepare --tokenizer bpe:SIZE --pattern llama, or use --format hf"
        )
    return content


def choose_pre_tokenizer(tokenizer: Tokenizer, content: Json, held_out: Sequence[str] = HELD_OUT) -> PreTokenizer:
    """Return the first pre-tokenizer of llama.cpp with which all ids are those of the tokenizer.

    Args:
        tokenizer: BPE over bytes.
        content: see `bpe_content`.
        held_out: texts on which the ids are compared, besides the words of the vocabulary.

    Raises:
        InterchangeError: with each of them the ids of some text differ.
        MissingExtraError: see `tokenizer_fields`.
    """
    texts = [*probing_texts(tokenizer), *_words_in_contexts(tokenizer), *boundary_texts(), *held_out]
    texts = [text for text in texts if not any(name in text for name in tokenizer.special_tokens)]
    expected = [ids.tolist() for ids in tokenizer.encode_batch(texts)]
    differing: dict[str, list[str]] = {}
    for candidate in sorted(PRE_TOKENIZERS, key=lambda each: each.patterns != (tokenizer.payload.get("pattern"),)):
        backend = load_backend(json.dumps(with_pre_tokenizer(content, candidate)))
        found = (encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=False))
        wrong = [text for text, ids, ours in zip(texts, found, expected, strict=True) if ids != ours]
        if not wrong:
            return candidate
        differing[candidate.name] = wrong
    name, wrong = min(differing.items(), key=lambda item: len(item[1]))
    raise InterchangeError(
        f"llama.cpp splits text in {len(differing)} ways, and none gives the ids of {tokenizer.name}: with {name} "
        f"{len(wrong)} of {len(texts)} texts differ, such as {shown(min(wrong, key=len))}. Train with a tokenizer of "
        f"glassgpt prepare --tokenizer bpe:SIZE --pattern llama, or use --format hf"
    )


def _words_in_contexts(tokenizer: Tokenizer) -> list[str]:
    """Return tokens of the vocabulary beside blanks and digits, where the ways to split text differ."""
    step = max(1, tokenizer.vocab_size // MAX_WORDS)
    words = [tokenizer.token_bytes(token).decode(errors="ignore") for token in range(0, tokenizer.vocab_size, step)]
    return [text for word in words for text in (f"  {word}", f"7{word}", f"{word}77", f"{word}\n ")]


def with_pre_tokenizer(content: Json, candidate: PreTokenizer) -> Json:
    """Return a `tokenizer.json` that splits text as llama.cpp does, without special tokens."""
    steps: list[Json] = [
        {"type": "Split", "pattern": {"Regex": library_pattern(pattern)}, "behavior": "Isolated", "invert": False}
        for pattern in candidate.patterns
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {
        **content,
        "added_tokens": [token for token in content["added_tokens"] if not token["special"]],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*steps, byte_level]},
        "model": content["model"] | {"ignore_merges": candidate.ignore_merges},
    }


def write_tokenizer(writer: Any, fields: TokenizerFields, end_of_text: int) -> None:
    """Add the fields to a `gguf.GGUFWriter`; no token is added to a prompt."""
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(fields.pre)
    writer.add_token_list(fields.tokens)
    writer.add_token_types(fields.types)
    writer.add_token_merges(fields.merges)
    writer.add_bos_token_id(end_of_text)
    writer.add_eos_token_id(end_of_text)
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
