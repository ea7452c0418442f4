"""Train a tokenizer with a function of the user, named `module:function` or `module:function:SIZE`; see `glassgpt.plugin`.

The function receives the training texts, and the vocabulary size if one is given. It returns the merges of a byte-level
BPE, or a tokenizer of this package. Either is saved in full, so that a run can be used without the module.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, cast

from glassgpt import plugin
from glassgpt.data.tokenizers.base import ERROR_CHARACTERS, Tokenizer
from glassgpt.data.tokenizers.bpe import DEFAULT_PATTERN, PATTERNS, BPETokenizer
from glassgpt.data.tokenizers.load import TRAINERS, tokenizer_from_json
from glassgpt.errors import GlassGPTError, TokenizerError, UsageError


def is_custom_spec(name: str) -> bool:
    """Return whether `name` is `module:function` or `module:function:SIZE`, not one of ours and not a path."""
    if plugin.SPEC.fullmatch(_split(name)[0]) is None:
        return False
    return name.partition(":")[0] not in TRAINERS and not os.path.exists(name)


def _split(name: str) -> tuple[str, int | None]:
    spec, _, size = name.rpartition(":")
    return (spec, int(size)) if ":" in spec and size.isdecimal() else (name, None)


@dataclass(frozen=True)
class CustomTrainer:
    """A function of the user that trains a tokenizer.

    Attributes:
        spec: `module:function`.
        function: called with the texts, and with the vocabulary size if there is one.
        vocab_size: requested number of ids, including end-of-text, or None.
    """

    spec: str
    function: Callable[..., Any]
    vocab_size: int | None

    def train(self, texts: Iterable[str], pattern: str = DEFAULT_PATTERN) -> Tokenizer:
        """Call the function and return its tokenizer.

        Args:
            texts: the training text.
            pattern: how the words are split between which bytes are not merged; see `bpe.PATTERNS`.

        Raises:
            PluginFailedError: the function fails.
            TokenizerError: it returns neither merges nor a tokenizer that can be saved.
            UsageError: it returns a tokenizer, which has its own pattern, although one is given.
        """
        try:
            result = self.function(texts) if self.vocab_size is None else self.function(texts, self.vocab_size)
        except GlassGPTError:
            raise
        except (Exception, SystemExit) as error:
            raise plugin.failed(self.spec, error) from error
        if isinstance(result, Tokenizer):
            if pattern != DEFAULT_PATTERN:
                raise UsageError(f"{self.spec} returns a tokenizer, which has its own pattern; leave --pattern out")
            return _require_reloadable(result, self.spec)
        pieces = _pieces(result, self.spec)
        return BPETokenizer(f"bpe-{len(pieces) + 1}", PATTERNS[pattern], pieces)


def custom_trainer(name: str) -> CustomTrainer:
    """Import the function that a specification names, which the user has given and thereby allowed.

    Raises:
        PluginError: the module or the function does not exist, or it cannot be called with that.
    """
    spec, size = _split(name)
    plugin.allow(spec)
    parameters = ("texts",) if size is None else ("texts", "vocab_size")
    return CustomTrainer(spec, plugin.load_function(spec, parameters), size)


def _pieces(merges: Any, spec: str) -> list[bytes]:
    """Return the bytes of each id: the 256 bytes, then the results of the merges."""
    if not isinstance(merges, Sequence) or isinstance(merges, str | bytes):
        raise TokenizerError(
            f"{spec} returned {type(merges).__name__}; it must return a list of merges (left id, right id), or a tokenizer"
        )
    pieces = [bytes([byte]) for byte in range(256)]
    for at, pair in enumerate(cast("Sequence[Any]", merges)):
        if not _is_pair(pair, len(pieces)):
            raise TokenizerError(
                f"merge {at} of {spec} is {str(pair)[:ERROR_CHARACTERS]}; it must be two ids from 0 to {len(pieces) - 1}: "
                "bytes (0 to 255) or earlier merges (from 256)"
            )
        left, right = map(int, pair)
        pieces.append(pieces[left] + pieces[right])
    return list(dict.fromkeys(pieces))  # merges of different pairs can give the same bytes, which need only one id


def _is_pair(pair: Any, size: int) -> bool:
    if not isinstance(pair, Sequence) or isinstance(pair, str | bytes):
        return False
    ids = cast("Sequence[Any]", pair)
    return len(ids) == 2 and all(isinstance(token, Integral) and 0 <= int(token) < size for token in ids)


def _require_reloadable(tokenizer: Tokenizer, spec: str) -> Tokenizer:
    try:
        is_same = tokenizer_from_json(tokenizer.to_json()).fingerprint == tokenizer.fingerprint
    except GlassGPTError as error:
        raise TokenizerError(f"the tokenizer of {spec} cannot be saved: {error}") from error
    if not is_same:
        raise TokenizerError(f"the tokenizer of {spec} cannot be saved: loaded again, it is another one")
    return tokenizer
