"""Measure the speed of generation and compare it with the limit of the memory bandwidth (`glassgpt bench generate`)."""

from __future__ import annotations

import dataclasses
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch

from glassgpt.data.tokenizers import Tokenizer
from glassgpt.errors import UsageError
from glassgpt.generation.cpu.packing import is_packed, multiplies_stored_integers
from glassgpt.generation.engine.engine import Engine
from glassgpt.generation.options import GenerationOptions
from glassgpt.generation.precision import Precision, prepare_for_decoding
from glassgpt.model.config import ModelConfig
from glassgpt.model.transformer import LanguageModel
from glassgpt.training.hardware import versions

WARM_UPS = 2
"""Untimed rounds: the first compiles kernels, the second captures CUDA graphs of prompts."""
COPIED_BYTES = {"cuda": 2**30, "cpu": 2**28}
COPIES = 5
TOP_50 = GenerationOptions(temperature=1.0, top_k=50, top_p=1.0)


@dataclass(frozen=True)
class GenerationWorkload:
    """The texts to generate.

    Attributes:
        batches: batch sizes to measure.
        prompt_tokens: tokens of each prompt; all prompts differ.
        new_tokens: new tokens of each text.
        rounds: number of timed rounds.
        options: how tokens are sampled.
    """

    batches: tuple[int, ...] = (1, 8, 64)
    prompt_tokens: int = 64
    new_tokens: int = 256
    rounds: int = 5
    options: GenerationOptions = TOP_50

    @property
    def total_tokens(self) -> int:
        """The tokens that are generated in all rounds of all batches, untimed ones included."""
        return sum(self.batches) * self.new_tokens * (WARM_UPS + self.rounds)

    def check(self, config: ModelConfig) -> None:
        """Validate the workload for a model.

        Raises:
            UsageError: a size is out of range.
        """
        limit = config.context_length + 1
        if min(self.batches, default=0) < 1:
            sizes = ",".join(map(str, self.batches))
            raise UsageError(f"--batch is {sizes}; it must be integers of at least 1 separated by commas, like 1,8,64")
        if self.rounds < 1:
            raise UsageError(f"--rounds is {self.rounds}; it must be at least 1")
        if self.prompt_tokens < 1 or self.new_tokens < 2 or self.prompt_tokens + self.new_tokens > limit:
            raise UsageError(
                f"--prompt-tokens is {self.prompt_tokens} and --new-tokens {self.new_tokens}; they must be at least 1 "
                f"and 2, and together at most {limit:,} for this model"
            )


@dataclass(frozen=True)
class GenerationSpeed:
    """Results for one batch size, medians over the rounds.

    Attributes:
        batch: the batch size.
        first_token_ms: milliseconds until the first token of any text, prefill included.
        token_ms: milliseconds between consecutive tokens of a text.
        tokens_per_second: new tokens of all texts divided by the whole time, prefill included.
        spread: minimum and maximum of `tokens_per_second`.
        roofline: achieved fraction of the speed that the memory bandwidth allows if a step reads every weight once and
            every sequence's keys and values.
        peak_memory_bytes: peak memory allocated on a GPU; otherwise of the process.
    """

    batch: int
    first_token_ms: float
    token_ms: float
    tokens_per_second: float
    spread: tuple[float, float]
    roofline: float
    peak_memory_bytes: int


def measure_generation(
    model: LanguageModel,
    load: GenerationWorkload,
    *,
    precision: Precision = "auto",
    on_batch: Callable[[int], None] = lambda size: None,
    on_tokens: Callable[[int], None] = lambda count: None,
) -> tuple[list[GenerationSpeed], dict[str, Any]]:
    """Time the generation of texts from random prompts.

    Args:
        model: in evaluation mode.
        load: the texts to generate.
        precision: see `prepare_for_decoding`.
        on_batch: called with each batch size before it is measured.
        on_tokens: called with the number of tokens after each step; it should return fast.

    Returns:
        The results per batch size, and what they hold for: device, precision, bandwidth, versions.

    Raises:
        UsageError: the workload does not fit the model.
        GenerationError: the precision is not available.
    """
    load.check(model.config)
    device = next(model.parameters()).device
    bandwidth = memory_bandwidth(device)
    speeds: list[GenerationSpeed] = []
    bytes_per_weight = 4.0
    for batch in load.batches:
        on_batch(batch)
        decoding_model = prepare_for_decoding(model, precision, batch_size=batch)
        bytes_per_weight = _bytes_per_weight(model, decoding_model, precision)
        least_seconds = _step_bytes(model, decoding_model, batch, load, bytes_per_weight) / bandwidth
        speeds.append(_measure(decoding_model, batch, load, least_seconds, on_tokens))
    context = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "precision": precision,
        "bytes_per_weight": bytes_per_weight,
        "bandwidth_bytes_per_second": bandwidth,
        "versions": versions(),
        "load": {**dataclasses.asdict(load), "options": _sampling_options(load.options)},
    }
    return speeds, context


def _sampling_options(options: GenerationOptions) -> dict[str, Any]:
    names = ("temperature", "top_k", "top_p")
    return {name: getattr(options, name) for name in names}


def _measure(
    model: LanguageModel,
    batch: int,
    load: GenerationWorkload,
    least_seconds: float,
    on_tokens: Callable[[int], None],
) -> GenerationSpeed:
    device = next(model.parameters()).device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    engine = Engine(
        model,
        endless_tokenizer(model),
        slots=batch,
        capacity=min(load.prompt_tokens + load.new_tokens, model.config.context_length),
    )
    seeds = range(WARM_UPS + load.rounds)
    rounds = [time_round(engine, model.config.vocab_size, batch, load, seed, on_tokens) for seed in seeds]
    first, last = zip(*rounds[WARM_UPS:], strict=True)
    rates = [batch * load.new_tokens / seconds for seconds in last]
    token = statistics.median((b - a) / (load.new_tokens - 1) for a, b in zip(first, last, strict=True))
    return GenerationSpeed(
        batch,
        1e3 * statistics.median(first),
        1e3 * token,
        statistics.median(rates),
        (min(rates), max(rates)),
        least_seconds / token,
        _peak_memory(device),
    )


def time_round(
    engine: Engine,
    vocab_size: int,
    batch: int,
    load: GenerationWorkload,
    seed: int,
    on_tokens: Callable[[int], None],
) -> tuple[float, float]:
    """Return seconds until the first and until the last token."""
    generator = torch.Generator().manual_seed(seed)
    prompts = torch.randint(vocab_size, (batch, load.prompt_tokens), generator=generator).tolist()
    options = dataclasses.replace(load.options, max_tokens=load.new_tokens, seed=seed)
    start = time.perf_counter()
    for prompt in prompts:
        engine.submit(prompt, options)
    first, count = 0.0, 0
    while not engine.is_idle:
        before = count
        for _ in engine.step():
            first = first or time.perf_counter() - start
            count += 1
        on_tokens(count - before)
    last = time.perf_counter() - start
    if count != batch * load.new_tokens:
        raise RuntimeError(f"{count} tokens were generated instead of {batch * load.new_tokens}")
    return first, last


class _EndlessTokenizer:
    """A tokenizer without an end-of-text token that a model can generate, so that all texts get the same length."""

    end_of_text = -1

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size

    def token_bytes(self, token: int) -> bytes:
        """Return text of a typical length."""
        return b" word"


def endless_tokenizer(model: LanguageModel) -> Tokenizer:
    """Return a substitute for the tokenizer of a model, for measuring its speed."""
    return cast(Tokenizer, _EndlessTokenizer(model.config.vocab_size))


def _step_bytes(
    model: LanguageModel, decoding_model: LanguageModel, batch: int, load: GenerationWorkload, bytes_per_weight: float
) -> float:
    """Return the bytes that a step must read: every matrix once, and each sequence's keys and values at half length."""
    config = model.config
    weights = sum(module.weight.numel() for module in model.modules() if isinstance(module, torch.nn.Linear))
    head_is_counted = any(isinstance(module, torch.nn.Linear) for module in model.children())
    if not head_is_counted:  # the head shares the embedding's weights
        weights += config.vocab_size * config.n_embd
    cached_tokens = batch * (load.prompt_tokens + load.new_tokens / 2)
    bytes_per_number = next(decoding_model.parameters()).element_size()
    if decoding_model.fp8_cache:
        bytes_per_number = 1 + 1 / config.head_width  # the exponent
    bytes_per_token = 2 * config.n_layer * config.kv_heads * config.head_width * bytes_per_number
    return weights * bytes_per_weight + cached_tokens * bytes_per_token


def _bytes_per_weight(model: LanguageModel, decoding_model: LanguageModel, precision: Precision) -> float:
    if is_packed(decoding_model):
        if precision in ("auto", "int8") and multiplies_stored_integers(model):
            matrices = model.quantized.values()
            return sum(matrix.n_bytes for matrix in matrices) / sum(matrix.integers.numel() for matrix in matrices)
        return {"int8": 1.0, "bfloat16": 2.0}.get(precision, 4.0)
    return 1.0 if decoding_model.fp8_weights else float(next(decoding_model.parameters()).element_size())


def memory_bandwidth(device: torch.device) -> float:
    """Return the memory bandwidth in bytes per second, read and written: the best of several large copies."""
    n_bytes = COPIED_BYTES.get(device.type, COPIED_BYTES["cpu"])
    source = torch.ones(n_bytes, dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    return 2 * n_bytes / min(_seconds_of_copy(target, source) for _ in range(COPIES))


def _seconds_of_copy(target: torch.Tensor, source: torch.Tensor) -> float:
    _synchronize(source.device)
    start = time.perf_counter()
    target.copy_(source)
    _synchronize(source.device)
    return time.perf_counter() - start


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # macOS counts bytes, Linux KiB
