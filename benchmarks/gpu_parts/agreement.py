"""Whether what the GPU's decoder writes is right: its kernels beside float32, processors and noise in PyTorch.

The tests hold the kernels against these in Triton's interpreter; here they are compiled, and of the real size.
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
from glassgpt.generation.gpu.sampler import FusedSampler, SamplingLimits
from glassgpt.generation.gpu.slots import SlotState
from glassgpt.generation.gpu.step import FusedStep
from glassgpt.generation.options import GenerationOptions
from glassgpt.generation.precision import to_bfloat16
from glassgpt.generation.processors.pipeline import build_processors
from glassgpt.model.cache import KVCache
from glassgpt.model.transformer import LanguageModel

DRAWS: tuple[dict[str, Any], ...] = (
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
"""Of logits in float32."""
SIZES = (1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64)
TOKENS = 5
"""That rows are fed before their logits are compared to the bit."""


def agreement(model: LanguageModel, *, tokens: int = 48, rows: int = 192, mixture: Mixture) -> dict[str, Any]:
    """All of it, as it is written down.

    Args:
        model: in float32 and evaluation mode, where it is to be measured.
        tokens: positions whose logits are compared.
        rows: drawn with each of `DRAWS`.
        mixture: requests that are written all at once and one at a time.

    Raises:
        SystemExit: something that is promised is not so.
    """
    twin = to_bfloat16(model)
    apart = logits_apart(model, twin, tokens)
    promises = {
        "logits as near to float32 as PyTorch's": apart[KERNELS] <= apart[PYTORCH] + ROUNDING,
        "the same bits when run twice": is_the_same_twice(twin),
        "a row's logits bit-equal in batches of 1 to 64": does_not_depend_on_the_batch(twin),
        "a request's text the same among others and alone": is_the_same_alone(twin, mixture),
        "logits that are no numbers (NaN) are named": names_nan(twin, mixture),
    }
    broken = [name for name, holds in promises.items() if not holds]
    if broken:
        raise SystemExit(f"not so: {'; '.join(broken)}")
    return {
        "logits, largest difference from float32": apart,
        **promises,
        f"draws that differ from processors and noise in PyTorch, of {rows}": {
            str(settings): draws_apart(twin, settings, rows) for settings in DRAWS
        },
    }


class Stepping:
    """The kernels, a step at a time.

    Args:
        model: in bfloat16.
        slots: rows.
    """

    def __init__(self, model: LanguageModel, slots: int) -> None:
        self._cache = _cache(model, slots)
        self._state = SlotState(slots, model.config.vocab_size, self._cache.keys.device)
        self._step = FusedStep(model, self._cache, self._state, model.config.vocab_size)

    def feed(self, tokens: Tensor, position: int) -> Tensor:
        """Logits (M, V) of what comes after tokens (M,) that all stand at one position."""
        self._state.append(tokens.tolist())
        self._state.ints[LENGTH.value] = position
        self._step.logits.fill_(torch.nan)  # what nobody writes is seen
        self._step.feed(tokens.size(0))
        return self._step.logits[: tokens.size(0)].clone()

    def logits(self, texts: Tensor) -> Tensor:
        """Logits (M, V) of what comes after texts (M, T)."""
        return [self.feed(texts[:, position], position) for position in range(texts.size(1))][-1]


def _cache(model: LanguageModel, rows: int) -> KVCache:
    parameter = next(model.parameters())
    return KVCache(model.config, rows, model.config.context_length, dtype=parameter.dtype, device=parameter.device)


def _tokens(model: LanguageModel, rows: int, tokens: int) -> Tensor:
    return torch.randint(model.config.vocab_size, (rows, tokens), generator=torch.Generator().manual_seed(5))


@torch.inference_mode()
def logits_apart(model: LanguageModel, twin: LanguageModel, tokens: int, rows: int = 8) -> dict[str, float]:
    """Of the kernels, and of PyTorch in bfloat16."""
    text = _tokens(model, rows, tokens)
    device = next(model.parameters()).device
    exact, plain = _cache(model, rows), _cache(twin, rows)
    stepping = Stepping(twin, rows)
    apart = {KERNELS: 0.0, PYTORCH: 0.0}
    for position in range(tokens):
        here = text[:, position : position + 1]
        wanted = model(here.to(device), exact)[:, 0]
        found = stepping.feed(here[:, 0], position), twin(here.to(device), plain)[:, 0].float()
        for name, logits in zip(apart, found, strict=True):
            apart[name] = max(apart[name], (logits - wanted).abs().max().item())
    return apart


@torch.inference_mode()
def is_the_same_twice(twin: LanguageModel) -> bool:
    """Whether a step gives the same bits again."""
    text = _tokens(twin, SIZES[-1], TOKENS)
    stepping = Stepping(twin, SIZES[-1])
    return torch.equal(stepping.logits(text), stepping.logits(text))


@torch.inference_mode()
def does_not_depend_on_the_batch(twin: LanguageModel) -> bool:
    """Whether rows have the same logits, to the bit, however many there are."""
    text = _tokens(twin, SIZES[-1], TOKENS)
    stepping = Stepping(twin, SIZES[-1])
    alone = torch.cat([stepping.logits(row[None]) for row in text])
    return all(torch.equal(stepping.logits(text[:size]), alone[:size]) for size in SIZES)


def is_the_same_alone(twin: LanguageModel, mixture: Mixture) -> bool:
    """Whether every tenth request has the text that it has among all others."""
    requests = mixture.draw()
    options = replace(TOP_50, seed=3)
    together = continuous(twin, endless_tokenizer(twin), mixture.at_once, options)(requests)
    alone = continuous(twin, endless_tokenizer(twin), 1, options)
    return all(alone([requests[i]]) == [together[i]] for i in range(0, len(requests), 10))


def names_nan(twin: LanguageModel, mixture: Mixture) -> bool:
    """Whether a spoilt model is called one."""
    spoilt = to_bfloat16(twin)
    next(spoilt.parameters()).data.fill_(torch.nan)
    try:
        continuous(spoilt, endless_tokenizer(spoilt), 4, TOP_50)(mixture.draw()[:4])
    except GenerationError as error:
        return "NaN" in str(error)
    return False


@torch.inference_mode()
def draws_apart(model: LanguageModel, settings: dict[str, Any], rows: int) -> int:
    """Draws of the kernels that processors and noise in PyTorch would not have made."""
    device, vocabulary = next(model.parameters()).device, model.config.vocab_size
    tokenizer = endless_tokenizer(model)
    texts = _tokens(model, rows, 6).tolist()
    made = [_row(i, text, settings, tokenizer) for i, text in enumerate(texts)]
    logits = torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(6)) * 3
    state = SlotState(rows, vocabulary, device)
    state.insert(range(rows), made)
    drawn = torch.full((rows,), -1, dtype=torch.int32, device=device)
    FusedSampler(state, vocabulary, logits.to(device, copy=True))(rows, drawn, SamplingLimits.of(made, vocabulary))
    return sum(a != b for a, b in zip(drawn.tolist(), sample_tokens(logits, made), strict=True))


def _row(number: int, text: Sequence[int], settings: dict[str, Any], tokenizer: Any) -> SequenceState:
    options = GenerationOptions(**{"temperature": 1.0, "top_p": 1.0, "seed": 7 + number, **settings})
    options.check()
    request = Request(number, tuple(text[:4]), options, tuple(build_processors(options, tokenizer)), 7 + number, 9)
    return SequenceState(request, 0, output_ids=list(text[4:]))
