"""The cost and gain of a compression: perplexity, size and speed before and after, and the texts that differ most."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F

from glassgpt.data.shards import TokenDataset
from glassgpt.evaluation.held_out import Continuation, PromptOptions, human_continuations
from glassgpt.evaluation.loss import evaluate_dataset
from glassgpt.evaluation.observer import EvaluationObserver
from glassgpt.generation.bench import TOP_50, GenerationWorkload, measure_generation
from glassgpt.generation.options import GenerationOptions
from glassgpt.generation.precision import prepare_for_decoding
from glassgpt.generation.strategies import generate_samples
from glassgpt.model.quantized import still_quantized
from glassgpt.model.transformer import LanguageModel

SHOWN_PROMPTS = 10
COMPARED_PROMPTS = 64
"""Prompts whose next-token distributions are compared; the texts of the most different are shown."""
NEW_TOKENS = 32
GREEDY = GenerationOptions(temperature=0.0, max_tokens=NEW_TOKENS)
TIMED_TOKENS = 64
TIMED_ROUNDS = 2


@dataclass(frozen=True)
class Measurement:
    """One model, measured.

    Attributes:
        perplexity: on held-out text, with float32 inputs.
        n_bytes: of its stored weights.
        tokens_per_second: of generating one text.
    """

    perplexity: float
    n_bytes: int
    tokens_per_second: float


@dataclass(frozen=True)
class ChangedText:
    """A held-out prompt and how each model continues it, always with the most probable token.

    Attributes:
        prompt: the prompt.
        before: text of the original model.
        after: text of the compressed model.
        nats: mean Kullback-Leibler divergence from the original's next-token distributions, over the human continuation.
    """

    prompt: str
    before: str
    after: str
    nats: float


@dataclass(frozen=True)
class CompressionReport:
    """Cost and gain of a compression.

    Attributes:
        steps: what was done, in order.
        before: the original model.
        after: the compressed one.
        tokens: held-out tokens that the perplexities are of.
        device: where the speeds were measured.
        threads: CPU threads that they were measured with.
        texts: those that differ most, the most different first.
    """

    steps: tuple[str, ...]
    before: Measurement
    after: Measurement
    tokens: int
    device: str
    threads: int
    texts: tuple[ChangedText, ...]

    @property
    def increase(self) -> float:
        """Relative increase of the perplexity; negative if it fell."""
        return self.after.perplexity / self.before.perplexity - 1

    def to_json(self) -> dict[str, Any]:
        """Return the content of a run's `compression.json`."""
        return {**asdict(self), "perplexity_increase": self.increase}

    def to_bytes(self) -> bytes:
        """Return the file `compression.json`."""
        return json.dumps(self.to_json(), ensure_ascii=False, indent=1).encode()


def compare_models(
    before: LanguageModel,
    after: LanguageModel,
    dataset: TokenDataset,
    steps: Sequence[str],
    *,
    limit: int,
    observer: EvaluationObserver,
) -> CompressionReport:
    """Measure two models on the same held-out text, prompts and machine.

    Args:
        before: the original model, in evaluation mode.
        after: the compressed one.
        dataset: tokenized for both.
        steps: what was done, for the report.
        limit: held-out tokens to evaluate; 0 means all.
        observer: receives progress and notices.
    """
    losses = [evaluate_dataset(model, dataset, limit=limit, observer=observer) for model in (before, after)]
    texts = most_different_texts(before, after, dataset, observer)
    measured = [
        Measurement(loss.perplexity, stored_bytes(model), tokens_per_second(model))
        for model, loss in zip((before, after), losses, strict=True)
    ]
    device = next(before.parameters()).device.type
    return CompressionReport(
        tuple(steps), measured[0], measured[1], losses[0].tokens, device, torch.get_num_threads(), tuple(texts)
    )


def stored_bytes(model: LanguageModel) -> int:
    """Return the bytes of a model's weights as a checkpoint stores them."""
    weights = dict(model.named_parameters())
    quantized = still_quantized(weights, model.quantized)
    floats = [parameter for name, parameter in weights.items() if name not in quantized]
    return sum(tensor.nbytes for tensor in floats) + sum(matrix.n_bytes for matrix in quantized.values())


def tokens_per_second(model: LanguageModel) -> float:
    """Return the speed of generating one text at a time, prompt included."""
    quarter = max(1, model.config.context_length // 4)
    load = GenerationWorkload((1,), quarter, max(2, min(TIMED_TOKENS, 2 * quarter)), TIMED_ROUNDS, TOP_50)
    (speed,), _ = measure_generation(model, load)
    return speed.tokens_per_second


def most_different_texts(
    before: LanguageModel, after: LanguageModel, dataset: TokenDataset, observer: EvaluationObserver
) -> list[ChangedText]:
    """Return the held-out prompts on which the models' predictions differ most, with both continuations."""
    options = PromptOptions(COMPARED_PROMPTS, new_tokens=NEW_TOKENS).resolve(before.config.context_length)
    human = human_continuations(dataset, options, observer)
    ranked = sorted(((divergence(before, after, each), each) for each in human), key=lambda pair: -pair[0])
    chosen = ranked[:SHOWN_PROMPTS]
    prompts = [dataset.tokenizer.decode(list(each.prompt)) for _, each in chosen]
    pairs = zip(*(_greedy_texts(model, dataset, prompts) for model in (before, after)), strict=True)
    return [
        ChangedText(prompt, first, second, nats)
        for prompt, (first, second), (nats, _) in zip(prompts, pairs, chosen, strict=True)
    ]


@torch.inference_mode()
def divergence(before: LanguageModel, after: LanguageModel, text: Continuation) -> float:
    """Return the mean Kullback-Leibler divergence in nats of the second model's predictions of a continuation."""
    context = before.config.context_length
    ids = [*text.prompt, *text.tokens][: context + 1]
    tokens = torch.tensor([ids[:-1]], device=next(before.parameters()).device)
    expected, found = (
        model(tokens)[0, len(text.prompt) - 1 :].float().log_softmax(dim=-1) for model in (before, after)
    )
    return float(F.kl_div(found, expected, reduction="batchmean", log_target=True))


def _greedy_texts(model: LanguageModel, dataset: TokenDataset, prompts: Sequence[str]) -> list[str]:
    prepared = prepare_for_decoding(model, batch_size=len(prompts))
    return [samples[0].text for samples in generate_samples(prepared, dataset.tokenizer, prompts, GREEDY)]
