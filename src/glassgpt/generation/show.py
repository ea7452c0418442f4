"""What `glassgpt generate` prints."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from glassgpt import console
from glassgpt.data.tokenizers import Tokenizer
from glassgpt.data.tokenizers.printable import printable
from glassgpt.errors import GenerationError
from glassgpt.generation.decoding_trace import MIN_LOGPROB, DecodingStep, DecodingTrace, TokenCandidate, trace
from glassgpt.generation.engine.generate import stream
from glassgpt.generation.engine.output import FinishReason, Sample
from glassgpt.generation.engine.prompt import encode_prompt
from glassgpt.generation.engine.speculative import AcceptanceStats, SpeculativeDecoding
from glassgpt.generation.options import GenerationOptions
from glassgpt.generation.search.beam import ScoredSample
from glassgpt.generation.strategies import DecodingStrategy, write
from glassgpt.model.transformer import LanguageModel

EXPLAINED_TOKENS = 20
"""Tokens that `--explain` writes unless told otherwise."""
MOST_EXPLAINED = 200
"""More tables than that nobody reads."""
EXPLAINED_CANDIDATES = 5
DRAWN = "▶"


Prompts = Sequence[str | None]
Results = Iterable[list[Sample]]
"""The samples of each prompt, in the prompts' order."""


def print_generation(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompts: Prompts,
    options: GenerationOptions,
    method: DecodingStrategy | None,
    *,
    as_json: bool,
    explain: bool,
) -> None:
    """Write, and print it as asked for: see the other functions here.

    Raises:
        GenerationError: a prompt or a setting cannot be used.
    """
    speculation = method if isinstance(method, SpeculativeDecoding) else None
    results = with_progress(write(model, tokenizer, prompts, options, method), len(prompts))
    if explain:
        print_explained(model, tokenizer, prompts, options, results, as_json=as_json)
    elif as_json:
        print_json(model, tokenizer, prompts, options, results)
    else:
        is_drawn = method is None or speculation is not None
        if len(prompts) == options.num_samples == 1 and is_drawn:
            cut = print_stream(model, tokenizer, prompts[0], options, speculation)
        else:
            cut = print_texts(prompts, options, results)
        if cut:
            say_full_context(model.config.context_length, goes_on=is_drawn)
    if speculation is not None:
        print_acceptance_stats(speculation.stats)


def print_json(
    model: LanguageModel, tokenizer: Tokenizer, prompts: Prompts, options: GenerationOptions, results: Results
) -> None:
    """One JSON object a sample, on a line of its own.

    `prompt` is the prompt's number, from 0 in the order given, `sample` the sample's; `text` (the continuation alone),
    `tokens` (its ids), `finish_reason`; of what a search found, also `score` and `log_probability`. With `logprobs`
    also a list of that name, an object for each token (end-of-text included) with its `raw` and `processed`
    log-probability, and `top`, the candidates of which `trace` tells.
    """
    for number, sample in _each(prompts, results):
        line = _sample_json(number, sample)
        if options.logprobs:
            prompt_tokens = encode_prompt(model, tokenizer, prompts[number], options)
            told = trace(model, tokenizer, prompt_tokens, sample, options, top=options.logprobs)
            line["logprobs"] = [_logprobs_json(step, tokenizer) for step in told.steps]
        console.output(json.dumps(line, ensure_ascii=False))


def print_stream(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompt: str | None,
    options: GenerationOptions,
    speculation: SpeculativeDecoding | None = None,
) -> bool:
    """The prompt and its one continuation as it comes; whether it broke off, see `say_full_context`."""
    pieces = stream(model, tokenizer, prompt, options, speculation)
    console.output(prompt or "", end="")
    tokens, reason = 0, None
    try:
        for piece in pieces:
            console.output(piece.text, end="")
            tokens, reason = tokens + 1, piece.finish_reason
    finally:  # an error, or Ctrl-C, is told of on a line of its own
        console.output("")
    return _is_cut(tokens, reason, options)


def print_texts(prompts: Prompts, options: GenerationOptions, results: Results) -> bool:
    """Each prompt with its continuation, several under headings, when they are complete; whether any broke off."""
    any_cut = False
    for number, samples in enumerate(results):
        for sample in samples:
            _print_text(prompts, number, sample, len(samples))
            any_cut |= _is_cut(len(sample.tokens), sample.finish_reason, options)
    return any_cut


def _is_cut(tokens: int, reason: FinishReason | None, options: GenerationOptions) -> bool:
    """Whether a text of so many tokens broke off because the model sees no more."""
    return reason == "length" and tokens < options.max_tokens


def say_full_context(context_length: int, *, goes_on: bool) -> None:
    """Say that a text broke off because the model sees no more tokens, and what to do.

    Args:
        context_length: tokens that the model sees.
        goes_on: whether this way of writing can forget the beginning and go on.
    """
    way_out = "; --overflow re-prefill forgets the beginning and goes on" if goes_on else ""
    console.info(f"(the context is full: the model sees {context_length:,} tokens{way_out})")


def _print_text(prompts: Prompts, number: int, sample: Sample, samples: int) -> None:
    if len(prompts) > 1 or samples > 1:
        console.output(_heading(number, len(prompts), sample, samples))
    console.output((prompts[number] or "") + sample.text)


def _heading(number: int, prompts: int, sample: Sample, samples: int) -> str:
    which = [f"prompt {number + 1} of {prompts}"] * (prompts > 1)
    which += [f"sample {sample.index + 1} of {samples}"] * (samples > 1)
    score = f"score {sample.score:.4f}, " if isinstance(sample, ScoredSample) else ""
    return f"── {', '.join(which)} ({score}{sample.finish_reason}) ──"


def with_progress(results: Results, prompts: int) -> Iterator[list[Sample]]:
    """The results, and how many prompts are done; where they are not seen on the terminal as they come."""
    if console.out.is_terminal or prompts == 1:
        yield from results
        return
    with console.progress("writing", prompts, unit="prompts") as meter:
        for samples in results:
            meter.advance(1)
            yield samples


def _each(prompts: Prompts, results: Results) -> Iterator[tuple[int, Sample]]:
    for number, samples in zip(range(len(prompts)), results, strict=True):
        for sample in samples:
            yield number, sample


def print_explained(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompts: Prompts,
    options: GenerationOptions,
    results: Results,
    *,
    as_json: bool,
) -> None:
    """Each sample, and token by token what it was chosen from: probabilities before and after each processor.

    Raises:
        GenerationError: more tokens are asked for than can be looked at.
    """
    if options.max_tokens > MOST_EXPLAINED:
        raise GenerationError(
            f"max_tokens is {options.max_tokens}; allowed with --explain is 1 to {MOST_EXPLAINED}, a table a token"
        )
    for number, sample in _each(prompts, results):
        prompt_tokens = encode_prompt(model, tokenizer, prompts[number], options)
        told = trace(model, tokenizer, prompt_tokens, sample, options, top=options.logprobs or EXPLAINED_CANDIDATES)
        if as_json:
            console.output(json.dumps(_sample_json(number, sample) | _trace_json(told, tokenizer), ensure_ascii=False))
        else:
            _print_text(prompts, number, sample, options.num_samples)
            for position, step in enumerate(told.steps, start=1):
                _print_step(position, step, told.stages, tokenizer)


def print_acceptance_stats(stats: AcceptanceStats) -> None:
    """How well guesses did, on standard error."""
    console.info(
        f"({stats.accepted:,} of {stats.proposed:,} guesses were right, {stats.acceptance_rate:.0%}: "
        f"{stats.tokens_per_forward:.2f} tokens a pass)"
    )


def _print_step(number: int, step: DecodingStep, stages: tuple[str, ...], tokenizer: Tokenizer) -> None:
    """A table: candidates down, stages across; a processor that changed none of them is left out."""
    shown = [0, *(at for at in range(1, len(stages)) if any(_differs(one, at) for one in step.candidates))]
    rows = [
        [
            DRAWN if one is step.drawn else "",
            format_token(tokenizer, one.token),
            str(one.token),
            *(format_probability(one.logprobs[at]) for at in shown),
        ]
        for one in step.candidates
    ]
    title = f"{number}. {format_token(tokenizer, step.drawn.token)}"
    console.table(title, ["", "piece", "id", *(stages[at] for at in shown)], rows, numeric_from=2)


def _differs(candidate: TokenCandidate, at: int) -> bool:
    return format_probability(candidate.logprobs[at]) != format_probability(candidate.logprobs[at - 1])


def format_token(tokenizer: Tokenizer, token: int) -> str:
    """A token's text in quotes, so that blanks are seen; by its bytes where it is no whole character."""
    raw = tokenizer.token_bytes(token)
    if token == tokenizer.end_of_text:
        return raw.decode()
    return f"“{printable(raw)}”"


def format_probability(logprob: float) -> str:
    """A probability to be read: `12.3 %`, `< 0.1 %`, and a dash for the impossible."""
    if logprob <= MIN_LOGPROB:
        return "–"
    share = 100 * math.exp(logprob)
    return f"{share:.1f} %" if share >= 0.05 else "< 0.1 %"


def _sample_json(number: int, sample: Sample) -> dict[str, Any]:
    line: dict[str, Any] = {"prompt": number, "sample": sample.index}
    line |= {"text": sample.text, "tokens": sample.tokens, "finish_reason": sample.finish_reason}
    if isinstance(sample, ScoredSample):
        line |= {"score": sample.score, "log_probability": sample.log_probability}
    return line


def _token_json(token: int, tokenizer: Tokenizer) -> dict[str, Any]:
    """Id, text for the eye and bytes: different tokens that are no whole character have different bytes only."""
    raw = tokenizer.token_bytes(token)
    return {"token": token, "piece": printable(raw), "bytes": list(raw)}


def _logprobs_json(step: DecodingStep, tokenizer: Tokenizer) -> dict[str, Any]:
    def shown(one: TokenCandidate) -> dict[str, Any]:
        return _token_json(one.token, tokenizer) | {"raw": one.raw, "processed": one.processed}

    return shown(step.drawn) | {"top": [shown(one) for one in step.candidates]}


def _trace_json(told: DecodingTrace, tokenizer: Tokenizer) -> dict[str, Any]:
    steps = [
        {
            "token": step.drawn.token,
            "candidates": [
                _token_json(one.token, tokenizer) | {"logprobs": list(one.logprobs)} for one in step.candidates
            ],
        }
        for step in told.steps
    ]
    return {"stages": list(told.stages), "steps": steps}
