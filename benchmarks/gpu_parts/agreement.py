"""Verify the GPU decoder: compare its kernels with float32, and with logits processors and noise in PyTorch.

The tests do the same in Triton's interpreter; here the kernels are compiled and have their real size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from cpu_parts.mixed import Mixture, continuous
from glassgpt.errors import GenerationError
from glassgpt.generation.bench import TOP_50, endless_tokenizer
from glassgpt.generation.engine.decoding import sample_tokens
from glassgpt.generation.engine.sequence import Request, SequenceState
from glassgpt.generation.gpu.kernels.common import LENGTH
from glassgpt.generation.gpu.prompt_graphs import PromptGraphs
from glassgpt.generation.gpu.sampler import FusedSampler, SamplingLimits
from glassgpt.generation.gpu.slots import SlotState
from glassgpt.generation.gpu.step import FusedStep
from glassgpt.generation.options import GenerationOptions
from glassgpt.generation.precision import to_bfloat16
from glassgpt.generation.processors.pipeline import build_processors
from glassgpt.model.cache import KVCache
from glassgpt.model.fp8_cache import Fp8Storage
from glassgpt.model.transformer import LanguageModel

SAMPLING_SETTINGS: tuple[dict[str, Any], ...] = (
    {"temperature": 0.0},
    {},
    {"top_k": 50},
    {"top_k": 200, "top_p": 0.9},
    {"top_p": 0.95, "temperature": 0.8},
    {"top_p": 0.999, "temperature": 1.7},
    {"min_p": 0.05},
    {"repetition_penalty": 1.3, "presence_penalty": 0.5, "frequency_penalty": 0.2},
    {"top_k": 3000, "top_p": 0.7},
)
KERNELS, PYTORCH = "the kernels in bfloat16", "the model in bfloat16 by PyTorch"
ROUNDING = 1e-6
"""Tolerance for logits in float32."""
SIZES = (1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64)
TOKENS = 5
"""Tokens to feed before logits are compared bit for bit."""


def agreement(model: LanguageModel, *, tokens: int = 48, rows: int = 192, mixture: Mixture) -> dict[str, Any]:
    """Run all checks and return their results.

    Args:
        model: in float32 and evaluation mode, on the device to check.
        tokens: number of positions whose logits are compared.
        rows: number of samples for each of `SAMPLING_SETTINGS`.
        mixture: requests that are generated all at once and one at a time.

    Raises:
        SystemExit: a guarantee is broken.
    """
    low_precision = to_bfloat16(model)
    differences = logits_differences(model, low_precision, tokens)
    guarantees = {
        "logits as close to float32 as PyTorch's": differences[KERNELS] <= differences[PYTORCH] + ROUNDING,
        "the same bits when run twice": is_deterministic(low_precision),
        "a row's logits bit-equal in batches of 1 to 64": is_batch_invariant(low_precision),
        "a prompt's keys and values bit-equal among others and alone": prefill_is_batch_invariant(low_precision),
        "a request's text is the same among others and alone": is_independent_of_other_requests(low_precision, mixture),
        "NaN logits are reported": reports_nan(low_precision, mixture),
    }
    broken = [name for name, holds in guarantees.items() if not holds]
    if broken:
        raise SystemExit(f"broken guarantees: {'; '.join(broken)}")
    return {
        "logits, largest difference from float32": differences,
        **guarantees,
        f"samples that differ from processors and noise in PyTorch, of {rows}": {
            str(settings): differing_samples(low_precision, settings, rows) for settings in SAMPLING_SETTINGS
        },
    }


class Stepping:
    """Runs the kernels one step at a time.

    Args:
        model: in bfloat16.
        slots: number of sequences.
    """

    def __init__(self, model: LanguageModel, slots: int) -> None:
        device = next(model.parameters()).device
        self._cache = (
            Fp8Storage(model.config, slots, model.config.context_length, device=device)
            if model.fp8_cache
            else _cache(model, slots)
        )
        self._state = SlotState(slots, model.config.vocab_size, device)
        self._step = FusedStep(model, self._cache, self._state, model.config.vocab_size)

    def feed(self, tokens: Tensor, position: int) -> Tensor:
        """Return the logits (M, V) that follow tokens (M,), all at the same position."""
        self._state.append(tokens.tolist())
        self._state.ints[LENGTH.value] = position
        self._step.logits.fill_(torch.nan)  # exposes values that no kernel writes
        self._step.feed(tokens.size(0))
        return self._step.logits[: tokens.size(0)].clone()

    def logits(self, texts: Tensor) -> Tensor:
        """Return the logits (M, V) that follow texts (M, T)."""
        return [self.feed(texts[:, position], position) for position in range(texts.size(1))][-1]


def _cache(model: LanguageModel, rows: int) -> KVCache:
    return model.new_cache(rows)


def _tokens(model: LanguageModel, rows: int, tokens: int) -> Tensor:
    return torch.randint(model.config.vocab_size, (rows, tokens), generator=torch.Generator().manual_seed(5))


@torch.inference_mode()
def logits_differences(
    model: LanguageModel, low_precision: LanguageModel, tokens: int, rows: int = 8
) -> dict[str, float]:
    """Return the largest differences from float32, of the kernels and of PyTorch in bfloat16."""
    text = _tokens(model, rows, tokens)
    device = next(model.parameters()).device
    exact, plain = _cache(model, rows), _cache(low_precision, rows)
    stepping = Stepping(low_precision, rows)
    differences = {KERNELS: 0.0, PYTORCH: 0.0}
    for position in range(tokens):
        here = text[:, position : position + 1]
        wanted = model(here.to(device), exact)[:, 0]
        found = stepping.feed(here[:, 0], position), low_precision(here.to(device), plain)[:, 0].float()
        for name, logits in zip(differences, found, strict=True):
            differences[name] = max(differences[name], (logits - wanted).abs().max().item())
    return differences


@torch.inference_mode()
def is_deterministic(low_precision: LanguageModel) -> bool:
    """Return whether repeating a step gives the same bits."""
    text = _tokens(low_precision, SIZES[-1], TOKENS)
    stepping = Stepping(low_precision, SIZES[-1])
    return torch.equal(stepping.logits(text), stepping.logits(text))


@torch.inference_mode()
def is_batch_invariant(low_precision: LanguageModel) -> bool:
    """Return whether a sequence's logits are bit-equal for every batch size."""
    text = _tokens(low_precision, SIZES[-1], TOKENS)
    stepping = Stepping(low_precision, SIZES[-1])
    alone = torch.cat([stepping.logits(row[None]) for row in text])
    return all(torch.equal(stepping.logits(text[:size]), alone[:size]) for size in SIZES)


@torch.inference_mode()
def prefill_is_batch_invariant(low_precision: LanguageModel, rounds: int = 3) -> bool:
    """Return whether the keys and values of prompts of many lengths are bit-equal alone and among others.

    Several rounds, because graphs are captured when a shape occurs again.
    """
    graphs = PromptGraphs(low_precision)
    lengths = [length for length in (1, 5, 8, 20, 31, 60, 64, 100, 250, 300, 511, 600, 900) for _ in range(3)]
    limit = low_precision.config.context_length
    prompts = [
        text[: min(n, limit)].tolist()
        for n, text in zip(lengths, _tokens(low_precision, len(lengths), limit), strict=True)
    ]
    for number in range(rounds):
        together = _prefilled(graphs, prompts[number:] + prompts[:number])
        for slot, prompt in enumerate(prompts[number:] + prompts[:number]):
            alone = _prefilled(graphs, [prompt])
            for one, many in ((alone.keys, together.keys), (alone.values, together.values)):
                if not torch.equal(one[:, 0, :, : len(prompt)], many[:, slot, :, : len(prompt)]):
                    return False
    return True


def _prefilled(graphs: PromptGraphs, prompts: Sequence[Sequence[int]]) -> KVCache:
    prefill = graphs.prefill(prompts)
    while not prefill.step():
        pass
    return prefill.cache


def is_independent_of_other_requests(low_precision: LanguageModel, mixture: Mixture) -> bool:
    """Return whether every tenth request gives the same text alone as among all others."""
    requests = mixture.draw()
    options = replace(TOP_50, seed=3)
    together = continuous(low_precision, endless_tokenizer(low_precision), mixture.at_once, options)(requests)
    alone = continuous(low_precision, endless_tokenizer(low_precision), 1, options)
    return all(alone([requests[i]]) == [together[i]] for i in range(0, len(requests), 10))


def reports_nan(low_precision: LanguageModel, mixture: Mixture) -> bool:
    """Return whether NaN weights lead to an error that says so."""
    broken_model = to_bfloat16(low_precision)
    next(broken_model.parameters()).data.fill_(torch.nan)
    try:
        continuous(broken_model, endless_tokenizer(broken_model), 4, TOP_50)(mixture.draw()[:4])
    except GenerationError as error:
        return "NaN" in str(error)
    return False


@torch.inference_mode()
def differing_samples(model: LanguageModel, settings: dict[str, Any], rows: int) -> int:
    """Return the number of samples that differ from those with processors and noise in PyTorch."""
    device, vocabulary = next(model.parameters()).device, model.config.vocab_size
    tokenizer = endless_tokenizer(model)
    texts = _tokens(model, rows, 6).tolist()
    made = [_row(i, text, settings, tokenizer) for i, text in enumerate(texts)]
    logits = torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(6)) * 3
    state = SlotState(rows, vocabulary, device)
    state.insert(range(rows), made)
    sampled = torch.full((rows,), -1, dtype=torch.int32, device=device)
    FusedSampler(state, vocabulary, logits.to(device, copy=True))(rows, sampled, SamplingLimits.of(made, vocabulary))
    return sum(a != b for a, b in zip(sampled.tolist(), sample_tokens(logits, made), strict=True))


def _row(number: int, text: Sequence[int], settings: dict[str, Any], tokenizer: Any) -> SequenceState:
    options = GenerationOptions(**{"temperature": 1.0, "top_p": 1.0, "seed": 7 + number, **settings})
    options.check()
    request = Request(number, tuple(text[:4]), options, tuple(build_processors(options, tokenizer)), 7 + number, 9)
    return SequenceState(request, 0, output_ids=list(text[4:]))
