"""How fast a model writes on this machine, beside what its memory allows: `glassgpt bench generate`."""

from __future__ import annotations

import dataclasses
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch

from glassgpt import console
from glassgpt.data.tokenizers import Tokenizer
from glassgpt.errors import UsageError
from glassgpt.generation.cpu.packing import is_packed
from glassgpt.generation.engine.engine import Engine
from glassgpt.generation.options import GenerationOptions
from glassgpt.generation.precision import Precision, prepare_for_decoding
from glassgpt.model.config import ModelConfig
from glassgpt.model.transformer import LanguageModel
from glassgpt.training.hardware import versions

WARM_UPS = 2
"""Rounds that do not count: kernels are compiled in the first, and graphs of prompts are captured in the second."""
COPIED_BYTES = {"cuda": 2**30, "cpu": 2**28}
COPIES = 5
TOP_50 = GenerationOptions(temperature=1.0, top_k=50, top_p=1.0)


@dataclass(frozen=True)
class GenerationWorkload:
    """What is asked of the engine.

    Attributes:
        batches: numbers of texts written at once.
        prompt_tokens: of each prompt; all prompts differ.
        new_tokens: of each text.
        rounds: that are timed.
        options: settings of the draw.
    """

    batches: tuple[int, ...] = (1, 8, 64)
    prompt_tokens: int = 64
    new_tokens: int = 256
    rounds: int = 5
    options: GenerationOptions = TOP_50

    def check(self, config: ModelConfig) -> None:
        """Refuse what cannot be measured.

        Raises:
            UsageError: says what is allowed.
        """
        room = config.context_length
        if min(self.batches, default=0) < 1:
            raise UsageError(
                f"--batch is {','.join(map(str, self.batches))}; allowed are numbers from 1 on, like 1,8,64"
            )
        if self.rounds < 1:
            raise UsageError(f"--rounds is {self.rounds}; allowed is at least 1")
        if self.prompt_tokens < 1 or self.new_tokens < 2 or self.prompt_tokens + self.new_tokens > room + 1:
            raise UsageError(
                f"--prompt-tokens is {self.prompt_tokens} and --new-tokens {self.new_tokens}; allowed are at least 1 "
                f"and 2, together at most {room + 1:,} for this model"
            )


@dataclass(frozen=True)
class GenerationSpeed:
    """Figures of one batch size, medians over the rounds.

    Attributes:
        batch: texts at once.
        first_token_ms: until the first token of any text is there, prompts read.
        token_ms: between one token of a text and its next.
        tokens_per_second: of all texts together, over the whole time, prompts and all.
        spread: its least and most.
        roofline: share of the most that memory allows: weights once a step, and each row's keys and values.
        peak_memory_bytes: on a GPU of what was allocated there, else of the process.
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
    say: Callable[[str], None] = console.info,
) -> tuple[list[GenerationSpeed], dict[str, Any]]:
    """Write texts of random prompts, and time it.

    Args:
        model: in evaluation mode.
        load: how much.
        precision: see `prepare_for_decoding`.
        say: told which batch size is under way.

    Returns:
        The figures, and what they hold for: device, precision, bandwidth, versions.

    Raises:
        UsageError: the load does not fit the model.
        GenerationError: the precision is not possible here.
    """
    load.check(model.config)
    device = next(model.parameters()).device
    bandwidth = memory_bandwidth(device)
    speeds: list[GenerationSpeed] = []
    bytes_per_weight = 4.0
    for batch in load.batches:
        say(f"measuring {batch} at once …")
        writer = prepare_for_decoding(model, precision, batch_size=batch)
        bytes_per_weight = _bytes_per_weight(writer, precision)
        speeds.append(
            _measure(writer, batch, load, _step_bytes(model, writer, batch, load, bytes_per_weight) / bandwidth)
        )
    about = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "precision": precision,
        "bytes_per_weight": bytes_per_weight,
        "bandwidth_bytes_per_second": bandwidth,
        "versions": versions(),
        "load": {**dataclasses.asdict(load), "options": _changed(load.options)},
    }
    return speeds, about


def _changed(options: GenerationOptions) -> dict[str, Any]:
    names = ("temperature", "top_k", "top_p")
    return {name: getattr(options, name) for name in names}


def _measure(model: LanguageModel, batch: int, load: GenerationWorkload, floor: float) -> GenerationSpeed:
    device = next(model.parameters()).device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    engine = Engine(
        model,
        endless_tokenizer(model),
        slots=batch,
        capacity=min(load.prompt_tokens + load.new_tokens, model.config.context_length),
    )
    rounds = [_round(engine, model.config.vocab_size, batch, load, seed) for seed in range(WARM_UPS + load.rounds)]
    first, last = zip(*rounds[WARM_UPS:], strict=True)
    rates = [batch * load.new_tokens / seconds for seconds in last]
    token = statistics.median((b - a) / (load.new_tokens - 1) for a, b in zip(first, last, strict=True))
    return GenerationSpeed(
        batch,
        1e3 * statistics.median(first),
        1e3 * token,
        statistics.median(rates),
        (min(rates), max(rates)),
        floor / token,
        _peak_memory(device),
    )


def _round(engine: Engine, vocab_size: int, batch: int, load: GenerationWorkload, seed: int) -> tuple[float, float]:
    """Seconds until the first token, and until the last."""
    generator = torch.Generator().manual_seed(seed)
    prompts = torch.randint(vocab_size, (batch, load.prompt_tokens), generator=generator).tolist()
    options = dataclasses.replace(load.options, max_tokens=load.new_tokens, seed=seed)
    start = time.perf_counter()
    for prompt in prompts:
        engine.submit(prompt, options)
    first, count = 0.0, 0
    while not engine.is_idle:
        for _ in engine.step():
            first = first or time.perf_counter() - start
            count += 1
    last = time.perf_counter() - start
    if count != batch * load.new_tokens:
        raise RuntimeError(f"{count} tokens were written, and {batch * load.new_tokens} asked for")
    return first, last


class _Endless:
    """A tokenizer whose texts never end by themselves, so that all are of the length asked for."""

    end_of_text = -1

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size

    def token_bytes(self, token: int) -> bytes:
        """Something as long as a token mostly is."""
        return b" word"


def endless_tokenizer(model: LanguageModel) -> Tokenizer:
    """A stand-in for the tokenizer of a model whose speed is measured."""
    return cast(Tokenizer, _Endless(model.config.vocab_size))


def _step_bytes(
    model: LanguageModel, writer: LanguageModel, batch: int, load: GenerationWorkload, bytes_per_weight: float
) -> float:
    """What a step has to read at least: every matrix once, and the keys and values of each row, half grown."""
    config = model.config
    weights = sum(module.weight.numel() for module in model.modules() if isinstance(module, torch.nn.Linear))
    head_is_counted = any(isinstance(module, torch.nn.Linear) for module in model.children())
    if not head_is_counted:  # it is the embedding
        weights += config.vocab_size * config.n_embd
    held = batch * (load.prompt_tokens + load.new_tokens / 2)
    cached = 2 * config.n_layer * config.kv_heads * config.head_dim * next(writer.parameters()).element_size()
    return weights * bytes_per_weight + held * cached


def _bytes_per_weight(writer: LanguageModel, precision: Precision) -> float:
    if is_packed(writer):
        return {"int8": 1.0, "bfloat16": 2.0}.get(precision, 4.0)
    return float(next(writer.parameters()).element_size())


def memory_bandwidth(device: torch.device) -> float:
    """Bytes per second that a large copy reads and writes: the best of a few."""
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
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


def print_generation_speed(speeds: Sequence[GenerationSpeed], about: dict[str, Any]) -> None:
    """A table, and a last line of JSON with all of it."""
    rows = [
        (
            f"{s.batch}", f"{s.first_token_ms:.1f}", f"{s.token_ms:.3f}", f"{s.tokens_per_second:,.0f}",
            f"{s.spread[0]:,.0f} to {s.spread[1]:,.0f}", f"{s.roofline:.0%}", f"{s.peak_memory_bytes / 1e9:.2f}",
        )
        for s in speeds
    ]  # fmt: skip
    load = about["load"]
    title = (
        f"{load['prompt_tokens']} prompt tokens, {load['new_tokens']} new ones, {about['precision']} precision, "
        f"on {about['device']}; memory copies {about['bandwidth_bytes_per_second'] / 1e9:,.0f} GB/s"
    )
    columns = (
        "texts at once",
        "first token, ms",
        "each token, ms",
        "tokens/s",
        "spread",
        "of memory's limit",
        "peak GB",
    )
    console.table(title, columns, rows, numeric_from=0)
    console.output(json.dumps({**about, "speeds": [dataclasses.asdict(speed) for speed in speeds]}))
