"""`logit_bias`: add to the logits of given tokens, or of the last token of given texts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from glassgpt.generation.processors.base import CONTENT, LogitsProcessor, ProcessorOptions, TokenHistory
from glassgpt.generation.processors.indexing import add_at
from glassgpt.schema import setting

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from glassgpt.data.tokenizers import Tokenizer

TokenSequence = tuple[int, ...]


def parse_token_name(text: str) -> int | str:
    """Parse the name of a token: `#262` is an id, anything else the token's text."""
    return int(text[1:]) if text[:1] == "#" and text[1:].isdecimal() else text


def _is_valid(bias: Mapping[int | str, float]) -> bool:
    return all(key != "" and value < math.inf for key, value in bias.items())


@dataclass(frozen=True)
class LogitBiasOptions(ProcessorOptions):
    """Settings of the logit bias."""

    logit_bias: Mapping[int | str, float] = setting(
        dict[int | str, float](),
        help="Add to the logit of a token, given by its id or text; minus infinity forbids it. If a text is several "
        "tokens, the last one is biased where the others precede it.",
        group=CONTENT,
        is_valid=_is_valid,
        must_be="a table that maps texts or #ids of tokens to finite numbers or -inf",
        metavar="TEXT=NUMBER or #ID=NUMBER",
        flag_help="given as TEXT=NUMBER or #ID=NUMBER, may be repeated",
        parse_key=parse_token_name,
    )

    def build(self, tokenizer: Tokenizer) -> Iterator[LogitsProcessor]:
        """Yield the bias, unless it is empty."""
        if self.logit_bias:
            biases = _by_sequence(self.logit_bias, tokenizer)
            yield LogitsProcessor("logit_bias", SequenceBias(biases), reads_history=any(len(ids) > 1 for ids in biases))

    def named_tokens(self) -> Iterator[tuple[str, int]]:
        """Yield the tokens that are given as ids."""
        yield from (("logit_bias", key) for key in self.logit_bias if isinstance(key, int))


def _by_sequence(bias: Mapping[int | str, float], tokenizer: Tokenizer) -> dict[TokenSequence, float]:
    """Return the bias by token sequence; values of a token named twice are added up."""
    biases: dict[TokenSequence, float] = {}
    for key, value in bias.items():
        tokens = (key,) if isinstance(key, int) else tuple(tokenizer.encode(key))
        biases[tokens] = biases.get(tokens, 0.0) + value
    return biases


class SequenceBias:
    """Adds to the logit of each sequence's last token where the other tokens of the sequence precede it.

    Args:
        biases: values to add, by token sequence; minus infinity forbids.
    """

    def __init__(self, biases: Mapping[TokenSequence, float]) -> None:
        self._single = {ids[0]: value for ids, value in biases.items() if len(ids) == 1}
        self._longer = {ids: value for ids, value in biases.items() if len(ids) > 1}
        self._cached: tuple[Tensor, Tensor] | None = None

    def __call__(self, logits: Tensor, histories: Sequence[TokenHistory], /) -> Tensor:
        """Return biased logits: (B, V) -> (B, V)."""
        if self._single:
            ids, values = self._single_on(logits.device)
            logits = logits.index_add(1, ids, values.expand(logits.size(0), -1))
        if self._longer:
            logits = add_at(logits, *self._matches(histories))
        return logits

    def _single_on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        import torch

        # Kept on the device, so that a step captured in a CUDA graph copies nothing from the host.
        if self._cached is None or self._cached[0].device != device:
            values = torch.tensor(list(self._single.values()), device=device)
            self._cached = torch.tensor(list(self._single), device=device), values
        return self._cached

    def _matches(self, histories: Sequence[TokenHistory]) -> tuple[list[int], list[int], list[float]]:
        """Return rows, tokens and values of the longer sequences of which only the last token is missing."""
        longest = max(map(len, self._longer)) - 1
        ends = [_last_tokens(history, longest) for history in histories]
        found = [
            (row, ids[-1], value)
            for row, end in enumerate(ends)
            for ids, value in self._longer.items()
            if end[len(end) - len(ids) + 1 :] == ids[:-1] and len(end) >= len(ids) - 1
        ]
        return [row for row, _, _ in found], [token for _, token, _ in found], [value for _, _, value in found]


def _last_tokens(history: TokenHistory, count: int) -> TokenSequence:
    """Return the last `count` tokens of prompt and output, or all if there are fewer."""
    if len(history.output) >= count:
        return tuple(history.output[len(history.output) - count :])
    return (*history.prompt, *history.output)[-count:]
