"""What `glassgpt generate` prints."""

from __future__ import annotations

import json
import math
from typing import Any

from glassgpt import console
from glassgpt.data.show import visible
from glassgpt.data.tokenizers import Tokenizer
from glassgpt.errors import GenerationError
from glassgpt.generation.engine import Sample, encode_prompt, generate, stream
from glassgpt.generation.options import GenerationOptions
from glassgpt.generation.trace import LEAST_LOGPROB, Candidate, Step, Trace, trace
from glassgpt.model.transformer import LanguageModel

EXPLAINED_TOKENS = 20
"""Tokens that `--explain` writes unless told otherwise."""
MOST_EXPLAINED = 200
"""More tables than that nobody reads."""
EXPLAINED_CANDIDATES = 5
DRAWN = "▶"


def print_json(model: LanguageModel, tokenizer: Tokenizer, prompt: str | None, options: GenerationOptions) -> None:
    """One JSON object a sample: `text` (the continuation alone), `tokens` (its ids), `finish_reason`.

    With `logprobs` also a list of that name, an object for each token (end-of-text included) with its `raw` and
    `processed` log-probability, and `top`, the candidates of which `trace` tells.
    """
    for sample in generate(model, tokenizer, prompt, options):
        line = _sample_json(sample)
        if options.logprobs:
            prompt_tokens = encode_prompt(model, tokenizer, prompt, options)
            told = trace(model, tokenizer, prompt_tokens, sample, options, top=options.logprobs)
            line["logprobs"] = [_logprobs_json(step, tokenizer) for step in told.steps]
        console.result(json.dumps(line, ensure_ascii=False))


def print_stream(model: LanguageModel, tokenizer: Tokenizer, prompt: str | None, options: GenerationOptions) -> None:
    """The prompt and its continuation as it comes; several samples each when it is complete, with a heading."""
    if options.num_samples > 1:
        for sample in generate(model, tokenizer, prompt, options):
            _print_sample(sample, prompt, options.num_samples)
        return
    pieces = stream(model, tokenizer, prompt, options)
    console.result(prompt or "", end="")
    for piece in pieces:
        console.result(piece.text, end="")
    console.result("")


def _print_sample(sample: Sample, prompt: str | None, count: int) -> None:
    console.result(f"── sample {sample.index + 1} of {count} ({sample.finish_reason}) ──")
    console.result((prompt or "") + sample.text)


def print_explained(
    model: LanguageModel, tokenizer: Tokenizer, prompt: str | None, options: GenerationOptions, *, as_json: bool
) -> None:
    """Each sample, and token by token what it was chosen from: probabilities before and after each processor.

    Raises:
        GenerationError: more tokens are asked for than can be looked at.
    """
    if options.max_tokens > MOST_EXPLAINED:
        raise GenerationError(
            f"max_tokens is {options.max_tokens}; allowed with --explain is 1 to {MOST_EXPLAINED}, a table a token"
        )
    prompt_tokens = encode_prompt(model, tokenizer, prompt, options)
    for sample in generate(model, tokenizer, prompt, options):
        told = trace(model, tokenizer, prompt_tokens, sample, options, top=options.logprobs or EXPLAINED_CANDIDATES)
        if as_json:
            console.result(json.dumps(_sample_json(sample) | _trace_json(told, tokenizer), ensure_ascii=False))
        else:
            _print_sample(sample, prompt, options.num_samples)
            for number, step in enumerate(told.steps, start=1):
                _print_step(number, step, told.stages, tokenizer)


def _print_step(number: int, step: Step, stages: tuple[str, ...], tokenizer: Tokenizer) -> None:
    """A table: candidates down, stages across; a processor that changed none of them is left out."""
    shown = [0, *(at for at in range(1, len(stages)) if any(_differs(one, at) for one in step.candidates))]
    rows = [
        [
            DRAWN if one is step.drawn else "",
            quoted(tokenizer, one.token),
            str(one.token),
            *(percent(one.logprobs[at]) for at in shown),
        ]
        for one in step.candidates
    ]
    title = f"{number}. {quoted(tokenizer, step.drawn.token)}"
    console.table(title, ["", "piece", "id", *(stages[at] for at in shown)], rows, numeric_from=2)


def _differs(candidate: Candidate, at: int) -> bool:
    return percent(candidate.logprobs[at]) != percent(candidate.logprobs[at - 1])


def quoted(tokenizer: Tokenizer, token: int) -> str:
    """A token's text in quotes, so that blanks are seen; by its bytes where it is no whole character."""
    raw = tokenizer.token_bytes(token)
    if token == tokenizer.end_of_text:
        return raw.decode()
    return f"“{visible(raw)}”"


def percent(logprob: float) -> str:
    """A probability to be read: `12.3 %`, `< 0.1 %`, and a dash for the impossible."""
    if logprob <= LEAST_LOGPROB:
        return "–"
    share = 100 * math.exp(logprob)
    return f"{share:.1f} %" if share >= 0.05 else "< 0.1 %"


def _sample_json(sample: Sample) -> dict[str, Any]:
    return {"text": sample.text, "tokens": sample.tokens, "finish_reason": sample.finish_reason}


def _token_json(token: int, tokenizer: Tokenizer) -> dict[str, Any]:
    """Id, text for the eye and bytes: different tokens that are no whole character have different bytes only."""
    raw = tokenizer.token_bytes(token)
    return {"token": token, "piece": visible(raw), "bytes": list(raw)}


def _logprobs_json(step: Step, tokenizer: Tokenizer) -> dict[str, Any]:
    def shown(one: Candidate) -> dict[str, Any]:
        return _token_json(one.token, tokenizer) | {"raw": one.raw, "processed": one.processed}

    return shown(step.drawn) | {"top": [shown(one) for one in step.candidates]}


def _trace_json(told: Trace, tokenizer: Tokenizer) -> dict[str, Any]:
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
