"""Print generated text, probabilities and speed. Everything printed here is computed elsewhere."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from glassgpt import console
from glassgpt.data.tokenizers import Tokenizer
from glassgpt.data.tokenizers.printable import printable
from glassgpt.generation.decoding_trace import MIN_LOGPROB, DecodingStep, DecodingTrace, TokenCandidate
from glassgpt.generation.engine.acceptance import AcceptanceStats
from glassgpt.generation.engine.output import FinishReason, Sample, TokenChunk
from glassgpt.generation.prompt_list import PromptList
from glassgpt.generation.search.beam import ScoredSample

if TYPE_CHECKING:
    from glassgpt.generation.bench import GenerationSpeed

CHOSEN = "▶"

Results = Iterable[list[Sample]]
"""The samples of each prompt, in the order of the prompts."""
TracedResults = Iterable[list[tuple[Sample, DecodingTrace]]]
"""The same with traces, from `trace_samples`."""


def print_stream(prompt: str | None, chunks: Iterable[TokenChunk], max_tokens: int) -> bool:
    """Print a prompt and its single continuation as it is generated.

    Args:
        prompt: None prints nothing before the continuation.
        chunks: of one sample.
        max_tokens: of the generation.

    Returns:
        True if the text ended early because the context was full; see `print_context_full`.
    """
    remaining = iter(chunks)
    first = list(itertools.islice(remaining, 1))  # before the prompt is printed: invalid options are reported here
    console.output(prompt or "", end="")
    tokens, reason = 0, None
    try:
        for chunk in itertools.chain(first, remaining):
            console.output(_whole_characters(chunk.text, chunk.finish_reason), end="")
            tokens, reason = tokens + 1, chunk.finish_reason
    finally:  # an error message, also of Ctrl-C, starts on a new line
        console.output("")
    return _is_cut(tokens, reason, max_tokens)


def print_texts(prompts: PromptList, results: Results, max_tokens: int) -> bool:
    """Print each prompt with its continuations when they are complete; several texts get headings.

    Returns:
        True if any text ended early because the context was full; see `print_context_full`.
    """
    is_any_cut = False
    for number, samples in enumerate(results):
        for sample in samples:
            _print_text(prompts, number, sample, len(samples))
            is_any_cut |= _is_cut(len(sample.tokens), sample.finish_reason, max_tokens)
    return is_any_cut


def _is_cut(tokens: int, reason: FinishReason | None, max_tokens: int) -> bool:
    return reason == "length" and tokens < max_tokens


def print_context_full(context_length: int, *, can_continue: bool) -> None:
    """Print that a text ended early because the context was full, and what to do, to standard error.

    Args:
        context_length: of the model.
        can_continue: whether the decoding strategy supports `--overflow re-prefill`.
    """
    advice = "; to continue, add --overflow re-prefill, which drops the beginning" if can_continue else ""
    console.info(f"(the context of {context_length:,} tokens is full{advice})")


def _print_text(prompts: PromptList, number: int, sample: Sample, n_samples: int) -> None:
    if len(prompts.texts) > 1 or n_samples > 1:
        console.output(_heading(prompts, number, sample, n_samples))
    console.output((prompts.texts[number] or "") + _whole_characters(sample.text, sample.finish_reason))


def _whole_characters(text: str, reason: FinishReason | None) -> str:
    """Return a text without the character that `max_tokens` has cut in the middle of its bytes; JSON keeps its sign."""
    return text.removesuffix("\ufffd") if reason == "length" else text


def _heading(prompts: PromptList, number: int, sample: Sample, n_samples: int) -> str:
    which = [f"prompt {number + 1} of {len(prompts.texts)}"] * (len(prompts.texts) > 1)
    which += [f"line {prompts.lines[number]}"] if number in prompts.lines else []
    which += [f"sample {sample.index + 1} of {n_samples}"] * (n_samples > 1)
    which = [console.translated(each) for each in which]
    score = console.translated(f"score {sample.score:.4f}, ") if isinstance(sample, ScoredSample) else ""
    return f"── {', '.join(which)} ({score}{sample.finish_reason}) ──"


def with_progress(results: Results, n_prompts: int) -> Iterator[list[Sample]]:
    """Yield the results and show how many prompts are done, unless the texts themselves appear on the terminal."""
    if console.out.is_terminal or n_prompts == 1:
        yield from results
        return
    with console.progress("generating", n_prompts, unit="prompts") as meter:
        for samples in results:
            meter.advance(1)
            yield samples


def print_json(prompts: PromptList, results: Results) -> None:
    """Print one JSON object per sample, each on one line.

    `prompt` and `sample` are indices from 0, `prompt_text` is the prompt, `line` its line in the prompts file (from 1),
    `text` the continuation without the prompt, `tokens` its ids, then `finish_reason`; samples of beam search also have
    `score` and `log_probability`.
    """
    for number, samples in enumerate(results):
        for sample in samples:
            console.output_json(_sample_json(prompts, number, sample))


def print_json_with_logprobs(prompts: PromptList, results: TracedResults, tokenizer: Tokenizer) -> None:
    """Print the lines of `print_json` with `logprobs`: `raw` and `processed` of each token, and of the `top` tokens."""
    for number, samples in enumerate(results):
        for sample, trace in samples:
            logprobs = [_logprobs_json(step, tokenizer) for step in trace.steps]
            console.output_json(_sample_json(prompts, number, sample) | {"logprobs": logprobs})


def print_json_with_traces(prompts: PromptList, results: TracedResults, tokenizer: Tokenizer) -> None:
    """Print the lines of `print_json` with `stages` and `steps`: the log-probabilities at every stage."""
    for number, samples in enumerate(results):
        for sample, trace in samples:
            console.output_json(_sample_json(prompts, number, sample) | _trace_json(trace, tokenizer))


def print_traces(prompts: PromptList, results: TracedResults, tokenizer: Tokenizer) -> None:
    """Print each sample and a table per token: the candidates, with their probabilities at each stage."""
    for number, samples in enumerate(results):
        for sample, trace in samples:
            _print_text(prompts, number, sample, len(samples))
            for position, step in enumerate(trace.steps, start=1):
                _print_step(position, step, trace.stages, tokenizer)


def print_acceptance_stats(stats: AcceptanceStats) -> None:
    """Print how many proposed tokens were accepted, to standard error."""
    console.info(
        f"({stats.accepted:,} of {stats.proposed:,} draft tokens accepted, {stats.acceptance_rate:.0%}: "
        f"{stats.tokens_per_forward:.2f} tokens per forward pass)"
    )


def _print_step(number: int, step: DecodingStep, stages: tuple[str, ...], tokenizer: Tokenizer) -> None:
    """Print a table with a row per candidate and a column per stage; stages that changed no candidate are left out."""
    shown = [0, *(at for at in range(1, len(stages)) if any(_is_changed(each, at) for each in step.candidates))]
    rows = [
        [
            CHOSEN if each is step.chosen else "",
            format_token(tokenizer, each.token),
            str(each.token),
            *(format_probability(each.logprobs[at]) for at in shown),
        ]
        for each in step.candidates
    ]
    title = f"{number}. {format_token(tokenizer, step.chosen.token)}"
    console.table(title, ["", "token", "id", *(stages[at] for at in shown)], rows, numeric_from=2)


def _is_changed(candidate: TokenCandidate, at: int) -> bool:
    return format_probability(candidate.logprobs[at]) != format_probability(candidate.logprobs[at - 1])


def format_token(tokenizer: Tokenizer, token: int) -> str:
    """Return a token's text in quotes, so that spaces are visible; incomplete characters in hex."""
    raw = tokenizer.token_bytes(token)
    if token == tokenizer.end_of_text:
        return raw.decode()
    return f"“{printable(raw)}”"


def format_probability(logprob: float) -> str:
    """Return a log-probability as a percentage: `12.3 %`, `< 0.1 %`, or a dash if it is impossible."""
    if logprob <= MIN_LOGPROB:
        return "–"
    percent = 100 * math.exp(logprob)
    return f"{percent:.1f} %" if percent >= 0.05 else "< 0.1 %"


def _sample_json(prompts: PromptList, number: int, sample: Sample) -> dict[str, Any]:
    line: dict[str, Any] = {"prompt": number, "sample": sample.index, "prompt_text": prompts.texts[number]}
    line |= {"line": prompts.lines[number]} if number in prompts.lines else {}
    line |= {"text": sample.text, "tokens": sample.tokens, "finish_reason": sample.finish_reason}
    if isinstance(sample, ScoredSample):
        line |= {"score": sample.score, "log_probability": sample.log_probability}
    return line


def _token_json(token: int, tokenizer: Tokenizer) -> dict[str, Any]:
    """Return id, readable text and bytes; tokens that are parts of a character may differ in their bytes only."""
    raw = tokenizer.token_bytes(token)
    return {"token": token, "piece": printable(raw), "bytes": list(raw)}


def _logprobs_json(step: DecodingStep, tokenizer: Tokenizer) -> dict[str, Any]:
    def line(each: TokenCandidate) -> dict[str, Any]:
        return _token_json(each.token, tokenizer) | {"raw": each.raw, "processed": each.processed}

    return line(step.chosen) | {"top": [line(each) for each in step.candidates]}


def _trace_json(trace: DecodingTrace, tokenizer: Tokenizer) -> dict[str, Any]:
    steps = [
        {
            "token": step.chosen.token,
            "candidates": [
                _token_json(each.token, tokenizer) | {"logprobs": list(each.logprobs)} for each in step.candidates
            ],
        }
        for step in trace.steps
    ]
    return {"stages": list(trace.stages), "steps": steps}


def print_generation_speed(speeds: Sequence[GenerationSpeed], context: dict[str, Any]) -> None:
    """Print a table of speeds and, as the last line, everything as JSON.

    Args:
        speeds: one per batch size.
        context: what they hold for, as returned by `measure_generation`.
    """
    rows = [
        (
            f"{s.batch}", f"{s.first_token_ms:.1f}", f"{s.token_ms:.3f}", f"{s.tokens_per_second:,.0f}",
            f"{s.spread[0]:,.0f} to {s.spread[1]:,.0f}", f"{s.roofline:.0%}", f"{s.peak_memory_bytes / 1e9:.2f}",
        )
        for s in speeds
    ]  # fmt: skip
    load = context["load"]
    title = (
        f"{load['prompt_tokens']} prompt tokens, {load['new_tokens']} new tokens, {context['precision']} precision, "
        f"on {context['device']}; memory copies at {context['bandwidth_bytes_per_second'] / 1e9:,.0f} GB/s"
    )
    columns = (
        "batch size", "first token, ms", "per token, ms", "tokens/s", "min to max", "of bandwidth limit", "peak GB",
    )  # fmt: skip
    console.table(title, columns, rows, numeric_from=0)
    console.output_json({**context, "speeds": [dataclasses.asdict(speed) for speed in speeds]})
