"""llama.cpp as the engine of a check, through the package cyllama, which contains it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glassgpt.errors import InterchangeError

CACHE_TYPES = {"f32": 0, "f16": 1}
NO_FLASH_ATTENTION, CHOOSE = 0, -1


class LlamaCpp:
    """A GGUF file in llama.cpp on the CPU.

    Args:
        path: the file.
        context_length: tokens of each sequence.
        threads: of its own.
        sequences: decoded at once.
        cache_type: of keys and values, f32 or f16; with f16 llama.cpp may choose flash attention.
    """

    def __init__(
        self, path: Path, context_length: int, threads: int = 1, sequences: int = 1, cache_type: str = "f32"
    ) -> None:
        """Load a file.

        Raises:
            InterchangeError: llama.cpp refuses it.
        """
        self._library: Any = import_module("cyllama.llama.llama_cpp")  # without type information
        self._library.disable_logging()
        model_class = type("Model", (self._library.LlamaModel,), {"n_vocab": property(_vocab_size)})
        settings = self._library.LlamaContextParams()
        settings.n_ctx = context_length * sequences
        settings.n_batch = settings.n_ubatch = context_length
        settings.n_seq_max = sequences
        settings.n_threads = settings.n_threads_batch = threads
        settings.type_k = settings.type_v = CACHE_TYPES[cache_type]
        settings.flash_attn_type = NO_FLASH_ATTENTION if cache_type == "f32" else CHOOSE
        try:
            self._model: Any = model_class(str(path), self._library.LlamaModelParams(), False)
            self._context: Any = self._library.LlamaContext(self._model, settings, False)
        except (ValueError, RuntimeError, MemoryError) as error:
            raise InterchangeError(f"llama.cpp cannot load {path}: {error}") from error
        self._vocab: Any = self._model.get_vocab()

    def tokenize(self, text: str) -> list[int]:
        """Return the ids of a text, in which no special token is recognized."""
        return self._vocab.tokenize(text, False, False)

    def logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """See `Engine.logits`."""
        self.clear()
        self.decode({0: tokens}, 0)
        # One by one: cyllama returns lists, of which those of all tokens would take 32 bytes per logit.
        return np.stack([np.array(self._context.get_logits_ith(at), np.float32) for at in range(len(tokens))])

    def greedy(self, tokens: Sequence[int], count: int) -> list[int]:
        """See `Engine.greedy`."""
        self.clear()
        self.decode({0: tokens}, 0)
        at, new = len(tokens) - 1, list[int]()
        while len(new) < count:
            new.append(int(np.argmax(self._context.get_logits_ith(at))))
            if len(new) < count:
                self.decode({0: new[-1:]}, len(tokens) + len(new) - 1)
                at = 0
        return new

    def clear(self) -> None:
        """Empty the cache."""
        self._context.kv_cache_clear()

    def decode(self, tokens: Mapping[int, Sequence[int]], start: int) -> None:
        """Compute the logits of new tokens of some sequences, all of which begin at the position `start`.

        Raises:
            InterchangeError: llama.cpp refuses them.
        """
        count = sum(map(len, tokens.values()))
        batch = self._library.LlamaBatch(n_tokens=count, embd=0, n_seq_max=1)
        for sequence, ids in tokens.items():
            for position, token in enumerate(ids, start):
                batch.add(token, position, [sequence], True)
        if self._context.decode(batch) != 0:
            raise InterchangeError(f"llama.cpp cannot decode {count} tokens from position {start} on")


def _vocab_size(model: Any) -> int:
    """Return the number of tokens: cyllama 0.2.18 reads this property of its models, which do not have it."""
    return model.get_vocab().n_vocab
