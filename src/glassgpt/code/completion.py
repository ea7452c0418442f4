"""Fill gaps: a prompt of fill-in-the-middle, several samples, cut to the block, and ranked by how well they fit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from glassgpt.code.gap import Extent, Gap, parses, within
from glassgpt.code.healing import beginning_with, heal
from glassgpt.code.ranking import joint_logprobs, token_logprobs
from glassgpt.data.code.sentinels import Sentinels, has_sentinels
from glassgpt.data.tokenizers import Tokenizer
from glassgpt.errors import GenerationError
from glassgpt.generation.engine.generate import stream_many
from glassgpt.generation.engine.output import Sample, SampleCollector
from glassgpt.generation.options import GenerationOptions
from glassgpt.model.transformer import LanguageModel

SUFFIX_SHARE = 0.25
"""Share of a full prompt that is kept for the text after the gap, as in llama.vim."""


@dataclass(frozen=True)
class CodeModel:
    """A model that fills gaps.

    Attributes:
        model: in evaluation mode; computes likelihoods.
        decoding_model: the same, prepared for generation.
        tokenizer: the model's.
    """

    model: LanguageModel
    decoding_model: LanguageModel
    tokenizer: Tokenizer


@dataclass(frozen=True)
class Candidate:
    """A text for a gap.

    Attributes:
        text: the text.
        logprob: mean log-probability in nats of its tokens, and of those of the white space that was cut off the prompt; minus
            infinity if there are none.
        parses: whether the file with it is valid Python; None if it is not Python.
        finish_reason: of the sample; see `FinishReason`.
        score: how well it fits between the texts around it, compared with other candidates for the gap; see `scored`.
    """

    text: str
    logprob: float
    parses: bool | None
    finish_reason: str
    score: float

    @property
    def rank(self) -> tuple[bool, bool, float]:
        """Sort key: candidates that parse and are not empty first, then those with a higher score."""
        return (self.parses is False, not self.text.strip(), -self.score)


def gap_prompt(tokenizer: Tokenizer, gap: Gap, most: int) -> list[int]:
    """Return the prompt that asks for a gap's text, of at most `most` tokens.

    If the text is longer, the ends nearest to the gap are kept. Without a text after the gap, or without the special
    tokens of fill-in-the-middle, the prompt is the text before the gap alone: where a window cuts a document, training
    has middles that nothing follows, and they end anywhere.

    Raises:
        GenerationError: the context leaves no space for a prompt.
    """
    fills = bool(gap.suffix) and has_sentinels(tokenizer)
    space = most - (4 if fills else 1)
    if space < 1:
        raise GenerationError(f"the context leaves {most} tokens for the prompt; ask for fewer new tokens")
    prefix, suffix = tokenizer.encode(gap.prefix), tokenizer.encode(gap.suffix) if fills else []
    kept = min(len(suffix), max(int(space * SUFFIX_SHARE), space - len(prefix)))
    is_whole = len(prefix) <= space - kept
    prefix, suffix = prefix[max(0, len(prefix) - (space - kept)) :], suffix[:kept]
    body = Sentinels.of(tokenizer).psm(prefix, suffix) if fills else prefix
    return [*([tokenizer.end_of_text] if is_whole else []), *body]


def fill_gap(
    code: CodeModel, gap: Gap, options: GenerationOptions, *, extent: Extent = "block", name: str = ""
) -> list[Candidate]:
    """Return different texts for a gap, the best first.

    Args:
        code: the model.
        gap: where text is missing.
        options: of the generation; `num_samples` texts are generated, of which equal ones are returned once.
        extent: what a text fills at most.
        name: of the file, which says whether it is Python.

    Raises:
        GenerationError: an option is invalid.
    """
    return fill_gaps(code, [gap], options, extent=extent, name=name)[0]


def fill_gaps(
    code: CodeModel, gaps: Sequence[Gap], options: GenerationOptions, *, extent: Extent = "block", name: str = ""
) -> list[list[Candidate]]:
    """Return different texts for each gap, the best first; see `fill_gap`."""
    generated = generate_for_gaps(code, gaps, options)
    return [
        ranked(code, gap, prompt, beginning, samples, extent=extent, name=name)
        for gap, (prompt, beginning, samples) in zip(gaps, generated, strict=True)
    ]


def ranked(
    code: CodeModel,
    gap: Gap,
    prompt: list[int],
    beginning: str,
    samples: Sequence[Sample],
    *,
    extent: Extent = "block",
    name: str = "",
) -> list[Candidate]:
    """Return the different texts of samples for a gap, the best first.

    Args:
        code: the model.
        gap: where text is missing.
        prompt: of the samples, as are `beginning` and `samples`; see `generate_for_gaps`.
        beginning: the white space that was cut off the prompt.
        samples: of the gap.
        extent: see `fill_gap`.
        name: of the file.
    """
    reasons = {within(gap, sample.text, extent): sample.finish_reason for sample in reversed(samples)}
    candidates = [
        Candidate(text, logprob, parses(gap.filled(text), name), reasons[text], score)
        for text, (logprob, score) in zip(reasons, scored(code, gap, prompt, beginning, list(reasons)), strict=True)
    ]
    return sorted(candidates, key=lambda each: each.rank)


def scored(
    code: CodeModel, gap: Gap, prompt: list[int], beginning: str, texts: Sequence[str]
) -> list[tuple[float, float]]:
    """Return the mean log-probability per token of each text, and its score.

    Where text follows the gap, the score is an estimate of log p(text | text around the gap) up to a constant: the mean of the one by
    the prompt of fill-in-the-middle, and the one by reading the text and what follows it from left to right (`ranking`); without the special
    tokens it is the latter. Where nothing follows, it is the mean log-probability.
    """
    fills = bool(gap.suffix) and has_sentinels(code.tokenizer)
    own = [code.tokenizer.encode(beginning + text) for text in texts]
    ends = [code.tokenizer.end_of_text] if fills else []
    logprobs = token_logprobs(code.model, prompt, [[*tokens, *ends] for tokens in own])
    means = [
        float(found[: len(tokens)].mean()) if tokens else float("-inf")
        for found, tokens in zip(logprobs, own, strict=True)
    ]
    if not gap.suffix:
        return list(zip(means, means, strict=True))
    before = gap.prefix.removesuffix(beginning)
    joint = joint_logprobs(code.model, code.tokenizer, before, [beginning + text for text in texts], gap.suffix)
    sums = [float(found.sum()) for found in logprobs]
    scores = [(one + other) / 2 for one, other in zip(sums, joint, strict=True)] if fills else joint
    return list(zip(means, scores, strict=True))


def generate_for_gaps(
    code: CodeModel,
    gaps: Sequence[Gap],
    options: GenerationOptions,
    advance: Callable[[int], None] = lambda n_tokens: None,
) -> list[tuple[list[int], str, list[Sample]]]:
    """Return for each gap its prompt, the white space that was cut off the prompt (see `healing`), and the samples after it.

    Args:
        code: the model.
        gaps: where text is missing.
        options: of the generation.
        advance: called with each number of new tokens.
    """
    most = code.model.config.context_length - options.max_tokens + 1
    healed = [heal(gap, options.stop, banned=options.ban, has_form=options.has_form) for gap in gaps]
    prompts = [gap_prompt(code.tokenizer, gap, most) for gap, _ in healed]
    found: dict[int, list[Sample]] = {}
    for beginning in dict.fromkeys(beginning for _, beginning in healed):
        chosen = [at for at, (_, own) in enumerate(healed) if own == beginning]
        own_options = beginning_with(options, code.tokenizer, beginning)
        for at, samples in zip(
            chosen, generate_ids(code, [prompts[at] for at in chosen], own_options, advance), strict=True
        ):
            found[at] = [dataclasses.replace(sample, text=sample.text[len(beginning) :]) for sample in samples]
    return [(prompt, healed[at][1], found[at]) for at, prompt in enumerate(prompts)]


def generate_ids(
    code: CodeModel,
    prompts: Sequence[list[int]],
    options: GenerationOptions,
    advance: Callable[[int], None] = lambda n_tokens: None,
) -> list[list[Sample]]:
    """Return the samples of prompts that are token ids. Special tokens of fill-in-the-middle end a text.

    Args:
        code: the model.
        prompts: token ids.
        options: of the generation.
        advance: called with each number of new tokens.
    """
    options = dataclasses.replace(options, stop_tokens=(*options.stop_tokens, *gap_stop_tokens(code.tokenizer)))
    collector = SampleCollector(len(prompts), options.num_samples)
    done: dict[int, list[Sample]] = {}
    for chunk in stream_many(code.decoding_model, code.tokenizer, prompts, options):
        advance(1)
        if (complete := collector.add(chunk)) is not None:
            done[complete[0]] = complete[1]
    return [done[index] for index in range(len(prompts))]


def gap_stop_tokens(tokenizer: Tokenizer) -> tuple[int, ...]:
    """Return the special tokens that end the text of a gap besides end-of-text, which ends every text."""
    return tuple(token for token in tokenizer.special_tokens.values() if token != tokenizer.end_of_text)
