"""`explain`: for each token of an answer the candidates before and after each logits processor."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from glassgpt.data.tokenizers import Tokenizer
from glassgpt.generation.decoding_trace import DecodingTrace, TokenCandidate, trace_decoding
from glassgpt.generation.engine.output import Sample
from glassgpt.generation.options import GenerationOptions
from glassgpt.model.transformer import LanguageModel
from glassgpt.multimodal.media import BEGIN_TOKENS
from glassgpt.serving.errors import APIError
from glassgpt.serving.formatting import token_text
from glassgpt.serving.generation_call import GenerationCall, PromptResult, as_sample
from glassgpt.serving.jobs import Inbox, Job, TaskDone

MAX_EXPLAINED_TOKENS = 400
"""Most generated tokens of a request with `explain`: each brings several candidates."""


class _Tracing:
    """The trace of one sample, as a task for the engine's thread; see `ModelTask`."""

    def __init__(
        self,
        model: LanguageModel,
        tokenizer: Tokenizer,
        prompt: Sequence[int],
        sample: Sample,
        options: GenerationOptions,
        top: int,
    ) -> None:
        self._model, self._tokenizer, self._prompt = model, tokenizer, prompt
        self._sample, self._options, self._top = sample, options, top
        self.result: DecodingTrace | None = None

    def step(self) -> bool:
        self.result = trace_decoding(
            self._model, self._tokenizer, self._prompt, self._sample, self._options, top=self._top
        )
        return True


async def explain(
    generation: GenerationCall, results: Sequence[PromptResult], choices: Sequence[dict[str, Any]], top: int
) -> None:
    """Add the field `explanation` to the choices of an answer.

    Args:
        generation: that led to the results.
        results: one per prompt, in the order of the choices.
        choices: modified.
        top: number of the most probable tokens, before and after the processors, to report.

    Raises:
        APIError: there are too many tokens.
    """
    samples = [(result, burst) for result in results for burst in result.samples]
    if (count := sum(len(burst.tokens) for _, burst in samples)) > MAX_EXPLAINED_TOKENS:
        raise APIError(f"the answer has {count} tokens; explain is limited to {MAX_EXPLAINED_TOKENS}", param="explain")
    weights, options = generation.version.weights, generation.options
    inbox = Inbox()
    jobs = [
        Job(
            inbox,
            key,
            task=_Tracing(
                weights.model,
                weights.tokenizer,
                result.plan.tokens,
                as_sample(burst, weights.tokenizer.end_of_text),
                options,
                top,
            ),
        )
        for key, (result, burst) in enumerate(samples)
    ]
    async with generation.model.run(generation.version, jobs, inbox) as arriving:
        async for arrived in arriving():
            for job, event in arrived:
                if isinstance(event, TaskDone):
                    result, _ = samples[job.key]
                    choices[job.key]["explanation"] = {
                        **_trace_json(event.result, weights.tokenizer),
                        "inspect": _inspect_command(generation, result.plan.tokens),
                    }


def _trace_json(trace: DecodingTrace, tokenizer: Tokenizer) -> dict[str, Any]:
    def candidate(each: TokenCandidate) -> dict[str, Any]:
        return {"token": each.token, "text": token_text(tokenizer, each.token), "logprobs": list(each.logprobs)}

    steps = [
        {"chosen": candidate(step.chosen), "candidates": [candidate(each) for each in step.candidates]}
        for step in trace.steps
    ]
    return {"stages": list(trace.stages), "steps": steps}


def _inspect_command(generation: GenerationCall, prompt: Sequence[int]) -> str:
    """Return the command that shows what the model computes on the prompt. It names no file of a picture or sound."""
    weights = generation.version.weights
    words = ["glassgpt", "inspect", weights.run or generation.model.name]
    words += ["--checkpoint", weights.checkpoint] if weights.checkpoint else []
    if generation.has_media:
        special = {weights.tokenizer.end_of_text, *weights.tokenizer.special_tokens.values()}
        names = {weights.tokenizer.special_tokens.get(name): f"--{kind}" for kind, name in BEGIN_TOKENS.items()}
        words += [word for token in prompt if token in names for word in (names[token], "FILE")]
        prompt = [token for token in prompt if token < weights.tokenizer.vocab_size and token not in special]
    return shlex.join([*words, "--prompt", weights.tokenizer.decode(prompt)])
