"""Checks of generated text: loops, improbable text and early ends, and whether the model or a setting is the cause.

The same held-out prompts are continued three times: with the given settings, with greedy decoding, and with free
sampling (temperature 1, nothing truncated). A problem that only the given settings have is caused by a setting; one
that free sampling has as well is caused by the model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from glassgpt.data.tokenizers import Tokenizer
from glassgpt.data.tokenizers.printable import printable
from glassgpt.diagnosis.findings import CheckResult, Finding
from glassgpt.diagnosis.ngram_baseline import NGramBaseline
from glassgpt.generation.engine.generate import generate_many
from glassgpt.generation.engine.output import Sample
from glassgpt.generation.options import GenerationOptions
from glassgpt.model.transformer import LanguageModel

PROMPTS = 8
PROMPT_TOKENS = 24
NEW_TOKENS = 96
SEED = 1
LOOP_TIMES = 4
LOOP_TOKENS = 16
"""A loop is a passage repeated at least four times at the end of a text, at least 16 tokens in total."""
MIN_SHARE = 0.25
"""Share of the texts from which on a problem is reported."""
CLEARLY_MORE = 0.25
"""Difference of shares from which on a setting is blamed instead of the model."""
EARLY_TOKENS = 8
IMPROBABLE_NATS = 1.0
"""Nats per token above human text from which on generated text is improbable."""
FREE = GenerationOptions(temperature=1.0, top_p=1.0, max_tokens=NEW_TOKENS, seed=SEED)


@dataclass(frozen=True)
class GeneratedTexts:
    """Texts generated with the same settings, and their measurements.

    Attributes:
        samples: one for each prompt.
        loops: share of the texts that end in a loop.
        early: share that end within `EARLY_TOKENS` tokens without reaching the length limit.
        mean_surprisal: nats per generated token under the model itself; NaN if there are no tokens.
        example: a repeated passage, for display.
    """

    samples: list[Sample]
    loops: float
    early: float
    mean_surprisal: float
    example: str


def find_loop(tokens: Sequence[int]) -> list[int]:
    """Return the shortest passage that is repeated up to the end of a text, or an empty list.

    It must occur four times and fill 16 tokens in total, so that a few spaces in a row do not count.
    """
    for period in range(1, len(tokens) // LOOP_TIMES + 1):
        span = max(LOOP_TIMES, math.ceil(LOOP_TOKENS / period)) * period
        if span <= len(tokens) and all(tokens[-i] == tokens[-i - period] for i in range(1, span - period + 1)):
            return list(tokens[-period:])
    return []


def generate_and_measure(
    model: LanguageModel, tokenizer: Tokenizer, prompts: Sequence[str], options: GenerationOptions
) -> GeneratedTexts:
    """Continue the prompts and measure the texts."""
    samples = [found[0] for found in generate_many(model, tokenizer, prompts, replace(options, num_samples=1))]
    loops = [loop for sample in samples if (loop := find_loop(sample.tokens))]
    early = [s for s in samples if s.finish_reason != "length" and len(s.tokens) <= EARLY_TOKENS]
    # All bytes at once: a token may end inside a character.
    example = printable(b"".join(tokenizer.token_bytes(token) for token in loops[0])) if loops else ""
    return GeneratedTexts(
        samples,
        len(loops) / len(samples),
        len(early) / len(samples),
        mean_surprisal(model, tokenizer, prompts, samples),
        f"“{example[:40]}”",
    )


@torch.no_grad()
def mean_surprisal(
    model: LanguageModel, tokenizer: Tokenizer, prompts: Sequence[str], samples: Sequence[Sample]
) -> float:
    """Return the mean nats per token of the continuations under the model itself, without sampling settings."""
    nats, count = 0.0, 0
    device = next(model.parameters()).device
    for prompt, sample in zip(prompts, samples, strict=True):
        before = tokenizer.encode(prompt)
        tokens = torch.tensor([*before, *sample.tokens][: model.config.context_length + 1], device=device)
        written = len(tokens) - len(before)
        if written > 0:
            logprobs = model(tokens[None, :-1])[0].float().log_softmax(dim=-1)
            nats -= logprobs.gather(1, tokens[1:, None])[-written:].sum().item()
            count += written
    return nats / count if count else math.nan


def held_out_prompts(tokens: Sequence[int], tokenizer: Tokenizer, context_length: int) -> list[str]:
    """Return prompts from evenly spaced positions in held-out text, without end-of-text tokens.

    Args:
        tokens: held-out tokens.
        tokenizer: decodes them.
        context_length: of the model; a prompt takes at most a quarter of it.
    """
    length = max(1, min(PROMPT_TOKENS, context_length // 4))
    starts = range(0, max(1, len(tokens) - length), max(1, (len(tokens) - length) // PROMPTS))
    pieces = [[t for t in tokens[start : start + length] if t != tokenizer.end_of_text] for start in starts]
    texts = [tokenizer.decode(piece).replace("\ufffd", "") for piece in pieces]
    return [text for text in texts if text.strip()][:PROMPTS]


def diagnose_text(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    options: GenerationOptions,
    *,
    validation_loss: float,
    baseline: NGramBaseline,
) -> Iterator[CheckResult]:
    """Find problems of the text that these settings produce, and name their cause.

    Args:
        model: in evaluation mode.
        tokenizer: the model's.
        prompts: from held-out text.
        options: the settings to check.
        validation_loss: nats per token, on held-out text.
        baseline: n-gram baselines of the same text.
    """
    asked = replace(
        options, max_tokens=min(options.max_tokens, NEW_TOKENS), seed=SEED if options.seed is None else options.seed
    )
    given = generate_and_measure(model, tokenizer, prompts, asked)
    greedy = generate_and_measure(model, tokenizer, prompts, GenerationOptions(temperature=0.0, max_tokens=NEW_TOKENS))
    free = generate_and_measure(model, tokenizer, prompts, FREE)
    trained = check_training(validation_loss, baseline)
    yield trained
    yield check_loops(given, greedy, free, asked, validation_loss, is_trained=trained.passed)
    yield check_improbable_text(given, asked, validation_loss, is_trained=trained.passed)
    yield check_early_ends(given, greedy, free, asked)


def check_training(validation_loss: float, baseline: NGramBaseline) -> CheckResult:
    """Check that the model beats bigram frequencies; otherwise no setting can give good text."""
    values = {"loss": validation_loss, "rung": baseline.bigram}
    is_trained = validation_loss < baseline.bigram
    findings = () if is_trained else (Finding("GG-TXT-002", "warning", values, confidence=0.9),)
    return CheckResult("model", "compared with bigrams", values, findings)


def check_loops(
    given: GeneratedTexts,
    greedy: GeneratedTexts,
    free: GeneratedTexts,
    options: GenerationOptions,
    validation_loss: float,
    *,
    is_trained: bool,
) -> CheckResult:
    """Check whether texts end in loops. A setting is the cause if the model loops less with free sampling."""
    shares = {"share": given.loops, "texts": len(given.samples), "greedy": greedy.loops, "free": free.loops}
    if given.loops < MIN_SHARE:
        return CheckResult("loops", "shares", shares)
    if given.loops - free.loops >= CLEARLY_MORE:
        setting, value, wanted = most_restrictive_setting(options)
        values = {
            "setting": setting,
            "value": value,
            "wanted": wanted,
            "share": round(100 * given.loops),
            "free": round(100 * free.loops),
            "example": given.example,
        }
        blamed = Finding("GG-TXT-001", "warning", values, 0.9, ruled_out=("GG-TXT-006",))
        return CheckResult("loops", "shares", shares, (blamed,))
    if not is_trained:  # already reported, and a sufficient explanation
        return CheckResult("loops", "shares", shares)
    values = {"share": round(100 * given.loops), "free": round(100 * free.loops), "loss": validation_loss}
    found = Finding("GG-TXT-006", "warning", values, 0.8, ruled_out=("GG-TXT-001", "GG-TXT-002"))
    return CheckResult("loops", "shares", shares, (found,))


def most_restrictive_setting(options: GenerationOptions) -> tuple[str, float, float]:
    """Return the option that restricts the candidates most, its value, and a better value."""
    if options.top_k == 1:
        return "--top-k", 1, 50
    if options.temperature < 0.5:
        return "--temperature", options.temperature, 0.8
    if options.top_p < 0.5:
        return "--top-p", options.top_p, 0.95
    if 0 < options.top_k < 10:
        return "--top-k", options.top_k, 50
    if options.min_p > 0.3:
        return "--min-p", options.min_p, 0.05
    return "--temperature", options.temperature, 1.0


def check_improbable_text(
    given: GeneratedTexts, options: GenerationOptions, validation_loss: float, *, is_trained: bool
) -> CheckResult:
    """Check whether the model itself finds its text far less probable than human text."""
    costs = {"own": given.mean_surprisal, "human": validation_loss}
    if not given.mean_surprisal > validation_loss + IMPROBABLE_NATS:
        return CheckResult("improbable text", "costs", costs)
    setting, value, wanted = most_permissive_setting(options)
    values = {
        "setting": setting,
        "value": value,
        "wanted": wanted,
        "surprise": given.mean_surprisal,
        "loss": validation_loss,
    }
    others = ("GG-TXT-002",) if is_trained else ()
    return CheckResult(
        "improbable text", "costs", costs, (Finding("GG-TXT-003", "warning", values, 0.9, ruled_out=others),)
    )


def most_permissive_setting(options: GenerationOptions) -> tuple[str, float, float]:
    """Return the option that lets improbable tokens through, its value, and a better value."""
    penalties = (
        ("--repetition-penalty", options.repetition_penalty, 1.3, 1.1),
        ("--frequency-penalty", options.frequency_penalty, 1.0, 0.2),
        ("--presence-penalty", options.presence_penalty, 1.0, 0.2),
    )
    if options.temperature > 1:
        return "--temperature", options.temperature, 0.8
    for setting, value, most, wanted in penalties:
        if value > most:
            return setting, value, wanted
    return "--top-p", options.top_p, 0.9


def check_early_ends(
    given: GeneratedTexts, greedy: GeneratedTexts, free: GeneratedTexts, options: GenerationOptions
) -> CheckResult:
    """Check whether texts end after a few tokens, because of a stop string or token or because the model ends them."""
    shares = {"share": given.early, "tokens": EARLY_TOKENS, "greedy": greedy.early, "free": free.early}
    if given.early < MIN_SHARE:
        return CheckResult("early ends", "shares", shares)
    values = {"share": round(100 * given.early), "tokens": EARLY_TOKENS, "wanted": 4 * EARLY_TOKENS}
    stopped = [sample for sample in given.samples if sample.finish_reason == "stop"]
    if stopped and given.early - free.early >= CLEARLY_MORE:
        setting, value = (
            ("--stop", repr(list(options.stop))) if options.stop else ("--stop-token", str(options.stop_tokens))
        )
        more = {"setting": setting, "value": value, "free": round(100 * free.early)}
        blamed = Finding("GG-TXT-004", "warning", values | more, 0.95, ruled_out=("GG-TXT-005",))
        return CheckResult("early ends", "shares", shares, (blamed,))
    more = {"greedy": round(100 * greedy.early)}
    found = Finding("GG-TXT-005", "warning", values | more, 0.8, ruled_out=("GG-TXT-004",))
    return CheckResult("early ends", "shares", shares, (found,))
