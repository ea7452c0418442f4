"""Typical mistakes in the exercises of lesson 7, each as an implementation that makes it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from glassgpt.learn.lessons.lesson7 import solutions
from glassgpt.model.cache import KVCache

Choose = Callable[[Tensor], int]


def temperature_after_softmax(logits: Tensor, temperature: float) -> Tensor:
    """Divide the probabilities."""
    return logits.softmax(dim=-1) / temperature


def temperature_without_effect(logits: Tensor, temperature: float) -> Tensor:
    """Divide the probabilities, and normalize them again."""
    return logits.softmax(dim=-1)


def temperature_multiplied(logits: Tensor, temperature: float) -> Tensor:
    """Multiply the logits."""
    return (logits * temperature).softmax(dim=-1)


def temperature_softmax_over_batch(logits: Tensor, temperature: float) -> Tensor:
    """Normalize over the sequences."""
    return (logits / temperature).softmax(dim=0)


def temperature_overflows(logits: Tensor, temperature: float) -> Tensor:
    """Raise e to numbers that are too large."""
    powers = (logits / temperature).exp()
    return powers / powers.sum(dim=-1, keepdim=True)


def _top_p(logits: Tensor, p: float, is_dropped: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    ordered, order = logits.sort(dim=-1, descending=True)
    shares = ordered.softmax(dim=-1)
    kept = ordered.masked_fill(is_dropped(shares, shares.cumsum(dim=-1)), -math.inf)
    return torch.empty_like(logits).scatter(-1, order, kept)


def top_p_drops_crossing(logits: Tensor, p: float) -> Tensor:
    """Drop the token that crosses p."""
    return _top_p(logits, p, lambda shares, total: total > p)


def top_p_keeps_one_more(logits: Tensor, p: float) -> Tensor:
    """Keep the token after the one that crosses p, too."""
    return _top_p(logits, p, lambda shares, total: (total - shares - shares.roll(1, -1)).index_fill(
        -1, torch.tensor([0, 1]), -1.0) >= p)  # fmt: skip


def top_p_as_threshold(logits: Tensor, p: float) -> Tensor:
    """Drop every token whose own probability is below 1 - p."""
    return logits.masked_fill(logits.softmax(dim=-1) < 1 - p, -math.inf)


def top_p_in_sorted_order(logits: Tensor, p: float) -> Tensor:
    """Leave the logits in sorted order."""
    return solutions.top_p(logits, p).sort(dim=-1, descending=True).values


def top_p_mask_not_moved(logits: Tensor, p: float) -> Tensor:
    """Apply the mask of the sorted logits to the unsorted ones."""
    shares = logits.sort(dim=-1, descending=True).values.softmax(dim=-1)
    return logits.masked_fill(shares.cumsum(dim=-1) - shares >= p, -math.inf)


def top_p_ascending(logits: Tensor, p: float) -> Tensor:
    """Begin with the least probable token."""
    ordered, order = logits.sort(dim=-1)
    shares = ordered.softmax(dim=-1)
    kept = ordered.masked_fill(shares.cumsum(dim=-1) - shares >= p, -math.inf)
    return torch.empty_like(logits).scatter(-1, order, kept)


def top_p_zeros(logits: Tensor, p: float) -> Tensor:
    """Set the logits of dropped tokens to 0."""
    kept = solutions.top_p(logits, p)
    return kept.masked_fill(kept == -math.inf, 0.0)


def top_p_of_logits(logits: Tensor, p: float) -> Tensor:
    """Return probabilities instead of logits."""
    return solutions.top_p(logits, p).softmax(dim=-1)


def _penalized(logits: Tensor, tokens: Sequence[int], change: Callable[[Tensor], Tensor]) -> Tensor:
    result = logits.clone()
    for token in set(tokens):
        result[token] = change(logits[token])
    return result


def penalty_divides_negative(logits: Tensor, tokens: Sequence[int], penalty: float) -> Tensor:
    """Divide negative logits as well."""
    return _penalized(logits, tokens, lambda logit: logit / penalty)


def penalty_multiplies(logits: Tensor, tokens: Sequence[int], penalty: float) -> Tensor:
    """Multiply positive logits as well."""
    return _penalized(logits, tokens, lambda logit: logit * penalty)


def penalty_rewards(logits: Tensor, tokens: Sequence[int], penalty: float) -> Tensor:
    """Swap both cases."""
    return _penalized(logits, tokens, lambda logit: logit * penalty if logit > 0 else logit / penalty)


def penalty_subtracted(logits: Tensor, tokens: Sequence[int], penalty: float) -> Tensor:
    """Subtract the penalty."""
    return _penalized(logits, tokens, lambda logit: logit - penalty)


def penalty_each_time(logits: Tensor, tokens: Sequence[int], penalty: float) -> Tensor:
    """Apply the penalty once per occurrence."""
    result = logits.clone()
    for token in tokens:
        result[token] = result[token] / penalty if result[token] > 0 else result[token] * penalty
    return result


def penalty_divides_each_time(logits: Tensor, tokens: Sequence[int], penalty: float) -> Tensor:
    """Divide once per occurrence, negative logits as well."""
    result = logits.clone()
    for token in tokens:
        result[token] /= penalty
    return result


def penalty_last_token_only(logits: Tensor, tokens: Sequence[int], penalty: float) -> Tensor:
    """Weaken only the last token."""
    return solutions.repetition_penalty(logits, tokens[-1:], penalty)


def sample_most_probable(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Ignore the random numbers."""
    return probabilities.argmax(dim=-1)


def sample_one_before(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Return the token before the one in whose section the number is."""
    return solutions.sample(probabilities, uniform) - 1


def sample_one_after(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Return the token after the one in whose section the number is."""
    return solutions.sample(probabilities, uniform) + 1


def sample_same_number(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Use the first number for every row."""
    return solutions.sample(probabilities, uniform[:1].expand(len(probabilities)))


def sample_sum_over_batch(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Add up over the rows instead of the tokens."""
    ends = probabilities.cumsum(dim=0)
    return (ends <= uniform[:, None]).sum(dim=-1).clamp(max=probabilities.size(-1) - 1)


def sample_past_the_end(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Count the ends before the number, which are all of them if rounding has left the last one below it."""
    return (probabilities.cumsum(dim=-1) <= uniform[:, None]).sum(dim=-1)


def sample_without_sum(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Take the first token whose own probability exceeds the number."""
    return (probabilities > uniform[:, None]).int().argmax(dim=-1)


@torch.no_grad()
def _generate(model: Any, prompt: Sequence[int], max_tokens: int, choose: Choose, *, mistake: str) -> list[int]:
    """Generate with one part changed."""
    cache = KVCache(model.config, slots=1)
    text, new = list(prompt), list(prompt)
    if mistake == "last token twice":
        model(torch.tensor([new]), cache)
        new = new[-1:]
    for _ in range(max_tokens):
        if mistake == "forgets":
            cache = KVCache(model.config, slots=1)
        logits = model(torch.tensor([new]), None if mistake == "no cache" else cache)
        token = choose(logits[0, 0 if mistake == "first position" else -1])
        text.append(token)
        new = text if mistake in ("whole text again", "no cache") else [token]
    return text if mistake == "prompt included" else text[len(prompt) :]


def generation_with(mistake: str) -> Callable[..., list[int]]:
    """Return a `generate` with a mistake."""

    def generate(model: Any, prompt: Sequence[int], max_tokens: int, choose: Choose) -> list[int]:
        return _generate(model, prompt, max_tokens, choose, mistake=mistake)

    return generate


def generate_one_too_few(model: Any, prompt: Sequence[int], max_tokens: int, choose: Choose) -> list[int]:
    """Stop one token early."""
    return solutions.generate(model, prompt, max_tokens - 1, choose)


def stream_each_alone(tokens: Sequence[bytes]) -> list[str]:
    """Decode each token by itself, with replacement characters."""
    return [*(token.decode(errors="replace") for token in tokens), ""]


def stream_drops_bytes(tokens: Sequence[bytes]) -> list[str]:
    """Decode each token by itself, without the bytes that are no complete character."""
    return [*(token.decode(errors="ignore") for token in tokens), ""]


def stream_loses_rest(tokens: Sequence[bytes]) -> list[str]:
    """Leave out what remains at the end."""
    return [*solutions.stream_text(tokens)[:-1], ""]


def stream_whole_text(tokens: Sequence[bytes]) -> list[str]:
    """Show the whole text so far after each token."""
    pieces = solutions.stream_text(tokens)
    return ["".join(pieces[: i + 1]) for i in range(len(tokens))] + pieces[-1:]


def stream_keeps_pending(tokens: Sequence[bytes]) -> list[str]:
    """Show characters again, because shown bytes are not removed."""
    whole = [b"".join(tokens[: i + 1]).decode(errors="ignore") for i in range(len(tokens))]
    return [*whole, b"".join(tokens).decode(errors="replace")]
