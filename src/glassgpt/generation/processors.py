"""Logits processors: small functions from logits to logits.

Their order is transformers' (bias, repetition, n-grams, banned words, least length, constraint, one's own,
temperature, top-k, top-p, min-p, typical); presence and frequency, which it has not, stand beside the repetition
penalty. Each is there only if it does something, and those from temperature on only if something is drawn.

Shapes: logits (B, V) float32; a token that must not come gets minus infinity. Nothing here makes the host wait for
a GPU, but the last check of `process`, and that only where a processor looks at the history, which is on the host.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor

from glassgpt.data.tokenizers import Tokenizer
from glassgpt.errors import GenerationError
from glassgpt.generation import constrained
from glassgpt.generation.options import GenerationOptions, Processor, TokenHistory

SORTED_AT_ONCE = 256
"""Tokens that top-p looks at before it sorts the whole vocabulary, which takes a CPU ten times as long."""

TokenSequence = tuple[int, ...]


@dataclass(frozen=True)
class LogitsProcessor:
    """A processor as it is spoken of.

    Attributes:
        name: as in `GenerationOptions`, and in `--explain`.
        apply: what it does.
        reads_history: whether it looks at the rows' histories; those that do not may be captured in a CUDA graph.
    """

    name: str
    apply: Processor
    reads_history: bool = True


def build_processors(options: GenerationOptions, vocabulary: Tokenizer) -> list[LogitsProcessor]:
    """What the settings ask for, in the order of this module's docstring; only what does something.

    Args:
        options: checked settings.
        vocabulary: the model's tokenizer, which turns words into tokens.

    Raises:
        GenerationError: a setting names a token outside the vocabulary, or a constraint cannot be understood.
        MissingExtraError: constraints need a library that is not installed.
    """
    _refuse_unknown_ids(options, vocabulary)
    built = [*_penalties(options, vocabulary), *_limits_of_content(options, vocabulary)]
    built += _form(options, vocabulary)
    built += [_own(function) for function in options.processors]
    return built if options.is_greedy else [*built, *_limits_of_sampling(options)]


def process(logits: Tensor, processors: Sequence[LogitsProcessor], histories: Sequence[TokenHistory]) -> Tensor:
    """Apply processors one after the other.

    Args:
        logits: (B, V) float32.
        processors: see `build_processors`.
        histories: one a row.

    Raises:
        GenerationError: together they leave a row no token.
    """
    for processor in processors:
        logits = processor.apply(logits, histories)
    if any(processor.reads_history for processor in processors):
        _require_something_left(logits, processors, histories)
    return logits


def _require_something_left(
    logits: Tensor, processors: Sequence[LogitsProcessor], histories: Sequence[TokenHistory]
) -> None:
    stuck = logits.amax(dim=-1) == -math.inf  # (B,)
    if bool(stuck.any()):
        after = len(histories[int(stuck.int().argmax())].output)
        names = ", ".join(processor.name for processor in processors)
        raise GenerationError(
            f"after {after} new tokens every token is forbidden by the settings together ({names}); loosen one of them"
        )


def _own(function: Processor) -> LogitsProcessor:
    """A function of the user's, whose result is looked at before it does harm."""
    name = getattr(function, "__name__", type(function).__name__)

    def apply(logits: Tensor, histories: Sequence[TokenHistory]) -> Tensor:
        given = function(logits.clone(), histories)  # it may write into what it gets
        _require_logits(name, given, logits)
        return given

    return LogitsProcessor(name, apply)


def _require_logits(name: str, given: object, logits: Tensor) -> None:
    if not isinstance(given, Tensor) or given.shape != logits.shape or not given.is_floating_point():
        what = f"a tensor {tuple(given.shape)} of {given.dtype}" if isinstance(given, Tensor) else repr(given)
        raise GenerationError(
            f"the processor {name} gave {what}; it must give logits, {tuple(logits.shape)} of {logits.dtype}"
        )
    if bool(given.isnan().any()):
        raise GenerationError(f"the processor {name} gave a logit that is no number (NaN)")


def _penalties(options: GenerationOptions, vocabulary: Tokenizer) -> Iterable[LogitsProcessor]:
    if options.logit_bias:
        biases = _sequences_of(options.logit_bias, vocabulary)
        yield LogitsProcessor("logit_bias", SequenceBias(biases), reads_history=any(len(ids) > 1 for ids in biases))
    if (repetition := options.repetition_penalty) != 1:
        yield LogitsProcessor("repetition_penalty", lambda x, rows: apply_repetition_penalty(x, repetition, rows))
    if (presence := options.presence_penalty) != 0:
        yield LogitsProcessor("presence_penalty", lambda x, rows: apply_presence_penalty(x, presence, rows))
    if (frequency := options.frequency_penalty) != 0:
        yield LogitsProcessor("frequency_penalty", lambda x, rows: apply_frequency_penalty(x, frequency, rows))


def _limits_of_content(options: GenerationOptions, vocabulary: Tokenizer) -> Iterable[LogitsProcessor]:
    if (n := options.no_repeat_ngram) > 0:
        yield LogitsProcessor("no_repeat_ngram", lambda x, rows: apply_no_repeat_ngram(x, n, rows))
    if options.ban:
        banned = banned_sequences(options.ban, vocabulary)
        reads = any(len(ids) > 1 for ids in banned)
        yield LogitsProcessor("ban", SequenceBias(dict.fromkeys(banned, -math.inf)), reads_history=reads)
    if (least := options.min_tokens) > 0:
        ends = (vocabulary.end_of_text, *options.stop_tokens)
        yield LogitsProcessor("min_tokens", lambda x, rows: apply_min_tokens(x, least, ends, rows))


def _form(options: GenerationOptions, vocabulary: Tokenizer) -> Iterable[LogitsProcessor]:
    if options.regex is not None:
        yield LogitsProcessor("regex", constrained.regex_constraint(options.regex, vocabulary))
    if options.choices:
        yield LogitsProcessor("choices", constrained.choices_constraint(options.choices, vocabulary))
    if options.json_schema is not None:
        yield LogitsProcessor("json_schema", constrained.json_schema_constraint(options.json_schema, vocabulary))


def _limits_of_sampling(options: GenerationOptions) -> Iterable[LogitsProcessor]:
    temperature = options.temperature
    if points := options.temperature_schedule:
        yield LogitsProcessor("temperature", lambda x, rows: apply_temperature_schedule(x, temperature, points, rows))
    elif temperature != 1:
        yield LogitsProcessor("temperature", lambda x, _: x / temperature, reads_history=False)
    if (k := options.top_k) > 0:
        yield LogitsProcessor("top_k", lambda x, _: apply_top_k(x, k), reads_history=False)
    if (top_p := options.top_p) < 1:
        yield LogitsProcessor("top_p", lambda x, _: apply_top_p(x, top_p), reads_history=False)
    if (min_p := options.min_p) > 0:
        yield LogitsProcessor("min_p", lambda x, _: apply_min_p(x, min_p), reads_history=False)
    if (mass := options.typical_p) < 1:
        yield LogitsProcessor("typical_p", lambda x, _: apply_typical_p(x, mass), reads_history=False)


def _refuse_unknown_ids(options: GenerationOptions, vocabulary: Tokenizer) -> None:
    named = {
        "logit_bias": [key for key in options.logit_bias if isinstance(key, int)],
        "stop_tokens": options.stop_tokens,
    }
    wrong = [
        f"{name} names the token {token}; allowed are 0 to {vocabulary.vocab_size - 1}, the tokens of {vocabulary.name}"
        for name, tokens in named.items()
        for token in tokens
        if not 0 <= token < vocabulary.vocab_size
    ]
    if wrong:
        raise GenerationError("\n".join(wrong))


def _sequences_of(bias: Mapping[int | str, float], vocabulary: Tokenizer) -> dict[TokenSequence, float]:
    """Ids and texts as token sequences; what is named twice is added up."""
    biases: dict[TokenSequence, float] = {}
    for key, value in bias.items():
        tokens = (key,) if isinstance(key, int) else tuple(vocabulary.encode(key))
        biases[tokens] = biases.get(tokens, 0.0) + value
    return biases


def banned_sequences(words: Iterable[str], vocabulary: Tokenizer) -> list[TokenSequence]:
    """The tokens of each word, with and without a space before it: at a text's beginning and inside it."""
    spellings = [spelling for word in words for spelling in (word.removeprefix(" "), f" {word.removeprefix(' ')}")]
    return list(dict.fromkeys(tuple(vocabulary.encode(spelling)) for spelling in spellings))


class SequenceBias:
    """Adds to the logit of each sequence's last token, where the others stand before it.

    Args:
        biases: what to add, by token sequence; minus infinity forbids.
    """

    def __init__(self, biases: Mapping[TokenSequence, float]) -> None:
        self._single = {ids[0]: value for ids, value in biases.items() if len(ids) == 1}
        self._longer = {ids: value for ids, value in biases.items() if len(ids) > 1}
        self._ready: tuple[Tensor, Tensor] | None = None

    def __call__(self, logits: Tensor, histories: Sequence[TokenHistory]) -> Tensor:
        """(B, V) -> (B, V)."""
        if self._single:
            ids, values = self._on(logits.device)
            logits = logits.index_add(1, ids, values.expand(logits.size(0), -1))
        if self._longer:
            logits = _add(logits, *self._completed(histories))
        return logits

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        # Kept where it was last used, so that a step that is captured in a graph copies nothing.
        if self._ready is None or self._ready[0].device != device:
            values = torch.tensor(list(self._single.values()), device=device)
            self._ready = torch.tensor(list(self._single), device=device), values
        return self._ready

    def _completed(self, histories: Sequence[TokenHistory]) -> tuple[list[int], list[int], list[float]]:
        longest = max(map(len, self._longer)) - 1
        ends = [_end(history, longest) for history in histories]
        found = [
            (row, ids[-1], value)
            for row, end in enumerate(ends)
            for ids, value in self._longer.items()
            if end[len(end) - len(ids) + 1 :] == ids[:-1] and len(end) >= len(ids) - 1
        ]
        return [row for row, _, _ in found], [token for _, token, _ in found], [value for _, _, value in found]


def _end(history: TokenHistory, count: int) -> TokenSequence:
    """The last tokens of prompt and output, `count` of them or all."""
    if len(history.output) >= count:
        return tuple(history.output[len(history.output) - count :])
    return (*history.prompt, *history.output)[-count:]


def _flat(logits: Tensor, rows: Sequence[int], tokens: Sequence[int]) -> Tensor:
    """Where (row, token) lies in the logits' memory: (N,) int64 on their device, without waiting for it."""
    places = torch.tensor(rows, dtype=torch.long) * logits.size(1) + torch.tensor(tokens, dtype=torch.long)
    return places.to(logits.device, non_blocking=True)


def _add(logits: Tensor, rows: Sequence[int], tokens: Sequence[int], values: Sequence[float]) -> Tensor:
    amounts = torch.tensor(values, dtype=logits.dtype).to(logits.device, non_blocking=True)
    return logits.flatten().index_add(0, _flat(logits, rows, tokens), amounts).view_as(logits)


def _mark(logits: Tensor, rows: Sequence[int], tokens: Sequence[int]) -> Tensor:
    """(B, V) bool, true at each (row, token)."""
    marked = torch.zeros_like(logits, dtype=torch.bool)
    return marked.flatten().index_fill_(0, _flat(logits, rows, tokens), True).view_as(logits)


def _spread(texts: Sequence[Collection[int]]) -> tuple[list[int], list[int]]:
    """Tokens of several rows as two lists: row, token."""
    return [row for row, text in enumerate(texts) for _ in text], [token for text in texts for token in text]


def apply_repetition_penalty(logits: Tensor, penalty: float, histories: Sequence[TokenHistory]) -> Tensor:
    """Weaken every token of a row's prompt and output, once however often it occurred (Keskar et al. 2019, eq. 4).

    A positive logit is divided, a negative one multiplied: both move towards less probable.
    """
    seen = _mark(logits, *_spread([{*history.prompt, *history.output} for history in histories]))
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def apply_presence_penalty(logits: Tensor, penalty: float, histories: Sequence[TokenHistory]) -> Tensor:
    """Subtract the penalty from every token that occurred in a row's output (OpenAI's API reference)."""
    return logits - penalty * _mark(logits, *_spread([history.output for history in histories]))


def apply_frequency_penalty(logits: Tensor, penalty: float, histories: Sequence[TokenHistory]) -> Tensor:
    """Subtract the penalty from a token for each time it occurred in a row's output (OpenAI's API reference)."""
    rows, tokens = _spread([history.output for history in histories])
    return _add(logits, rows, tokens, [-penalty] * len(tokens))


def apply_no_repeat_ngram(logits: Tensor, n: int, histories: Sequence[TokenHistory]) -> Tensor:
    """Forbid every token that would complete n tokens which a row's prompt and output hold already.

    Paulus et al. 2018, section 2.5 (there for n = 3).
    """
    rows, tokens = _spread([_completing([*history.prompt, *history.output], n) for history in histories])
    return logits.masked_fill(_mark(logits, rows, tokens), -math.inf)


def _completing(text: Sequence[int], n: int) -> list[int]:
    """What followed, earlier in the text, the n - 1 tokens that stand at its end."""
    if len(text) < n:
        return []
    windows = sliding_window_view(np.array(text), n)  # (windows, n)
    end = np.array(text[len(text) - n + 1 :], dtype=windows.dtype)
    return windows[(windows[:, :-1] == end).all(axis=1), -1].tolist()


def apply_min_tokens(logits: Tensor, least: int, ends: Sequence[int], histories: Sequence[TokenHistory]) -> Tensor:
    """Forbid the tokens that end a text in rows whose output is shorter than `least`."""
    short = [row for row, history in enumerate(histories) if len(history.output) < least]
    return logits.masked_fill(_mark(logits, *_spread_over(short, ends)), -math.inf)


def _spread_over(rows: Sequence[int], tokens: Sequence[int]) -> tuple[list[int], list[int]]:
    return [row for row in rows for _ in tokens], [token for _ in rows for token in tokens]


def temperature_at(position: int, temperature: float, points: Sequence[tuple[int, float]]) -> float:
    """Linear between points, from (0, temperature) to the first of them, constant after the last."""
    before = (0, temperature)
    for point in points:
        if position < point[0]:
            share = (position - before[0]) / (point[0] - before[0])
            return before[1] + share * (point[1] - before[1])
        before = point
    return before[1]


def apply_temperature_schedule(
    logits: Tensor, temperature: float, points: Sequence[tuple[int, float]], histories: Sequence[TokenHistory]
) -> Tensor:
    """Divide each row by the temperature for the length of its output."""
    values = [temperature_at(len(history.output), temperature, points) for history in histories]
    divisors = torch.tensor(values, dtype=logits.dtype).to(logits.device, non_blocking=True)
    return logits / divisors.unsqueeze(1)


def apply_top_k(logits: Tensor, k: int) -> Tensor:
    """Keep the k largest logits and whatever ties with the k-th (Fan et al. 2018)."""
    if k >= logits.size(-1):
        return logits
    kth = logits.topk(k).values[:, -1:]
    return logits.masked_fill(logits < kth, -math.inf)


def apply_top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the fewest most probable tokens that together reach p, the one that crosses p included.

    Holtzman et al. 2020, section 3.1. Of equally probable ones those with the lower ids come first.
    """
    columns = _columns_that_reach(p, logits)
    log_total = logits.logsumexp(dim=-1, keepdim=True)
    ordered, order = logits[:, columns].sort(descending=True, stable=True)
    probabilities = (ordered - log_total).exp()
    before = probabilities.cumsum(dim=-1) - probabilities  # what the more probable ones hold already
    kept = ordered.masked_fill(before >= p, -math.inf)
    return torch.full_like(logits, -math.inf).scatter(1, columns[order], kept)


def _columns_that_reach(p: float, logits: Tensor) -> Tensor:
    """Ids, ascending, among which every row's most probable tokens reach p: few, so that sorting them is cheap."""
    everything = torch.arange(logits.size(-1), device=logits.device)
    if logits.device.type != "cpu":  # a GPU sorts fast, and asking it how many suffice would mean to wait
        return everything
    few = min(SORTED_AT_ONCE, logits.size(-1))
    largest = logits.topk(few).values
    reached = (largest - logits.logsumexp(dim=-1, keepdim=True)).exp().sum(dim=-1)
    if bool((reached < p).any()):
        return everything
    return (logits >= largest[:, -1:]).any(dim=0).nonzero()[:, 0]


def apply_min_p(logits: Tensor, p: float) -> Tensor:
    """Drop tokens that are less probable than p times the most probable one (Nguyen et al. 2024, section 3)."""
    return logits.masked_fill(logits < logits.amax(dim=-1, keepdim=True) + math.log(p), -math.inf)


def apply_typical_p(logits: Tensor, mass: float) -> Tensor:
    """Keep the tokens whose surprise is nearest to the entropy and that together reach `mass`, ties included.

    Meister et al. 2022, equation 11.
    """
    log_p = logits.log_softmax(dim=-1)
    entropy = -(log_p.exp() * log_p).nansum(dim=-1, keepdim=True)  # a forbidden token's 0 · -inf counts as 0
    distance = (-log_p - entropy).abs()
    nearest, order = distance.sort(dim=-1)
    reached = log_p.exp().gather(1, order).cumsum(dim=-1)
    last = (reached < mass).sum(dim=-1, keepdim=True).clamp(max=logits.size(-1) - 1)
    return logits.masked_fill(distance > nearest.gather(1, last), -math.inf)
