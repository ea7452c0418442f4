"""Long prompts on a GPU by glassgpt and transformers, in one run: time to first token, and tokens per second after it.

A Llama of GPT-2's size (12 layers of 12 heads of 64, tied head) with a context of 8,192 and random weights in bfloat16; transformers
loads the same weights, as the package exports them. Prompts are random, all different, and 256 tokens follow, greedily. In every
round the systems take turns; calls that compile or capture graphs do not count.

First token: seconds from the call until every sequence has one (transformers: a call for one token). Tokens after it: those that
arrive later than the first tokens of all sequences, until the first sequence ends, divided by the seconds between
(transformers: the difference between calls for 256 tokens and one). Memory is what a system allocates beside the weights.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers

from cpu_parts.measure import compare
from glassgpt.data import load_tokenizer
from glassgpt.data.files import write_atomically
from glassgpt.generation.bench import endless_tokenizer
from glassgpt.generation.engine.engine import Engine
from glassgpt.generation.precision import Precision, prepare_for_decoding
from glassgpt.interchange.huggingface import export_model
from glassgpt.model.build import build_model
from glassgpt.model.config import GPT2_VOCAB_SIZE, ModelConfig
from glassgpt.model.transformer import LanguageModel
from gpu_parts.long_contexts import GREEDY, KERNELS, differing_texts, logprob_errors, random_prompts
from gpu_parts.moments import later_rate

RESULTS = Path(__file__).parent / "results" / "contexts-gpu.json"
OURS, DEFAULT, STATIC = KERNELS, "transformers", "transformers, static cache, compiled"
MEASURED, ERRORS = "llama", "logprobs, largest difference from float32"
PYTORCH = "the model in bfloat16 by PyTorch"


@dataclass(frozen=True)
class Sizes:
    """Choices of what is measured.

    Attributes:
        model: the model's shape.
        prompts: tokens of the prompts.
        compiled: those with which compiled transformers is measured; it compiles for each.
        batches: batch sizes.
        new_tokens: tokens that follow.
        rounds: timed rounds.
        checked: tokens of the prompts that other shapes are checked with.
        together: those of a batch whose texts are compared with the same texts alone.
        compared: tokens of these texts.
    """

    model: ModelConfig
    prompts: tuple[int, ...]
    compiled: tuple[int, ...]
    batches: tuple[int, ...]
    new_tokens: int
    rounds: int
    checked: tuple[int, ...]
    together: tuple[int, ...]
    compared: int


LLAMA = ModelConfig(
    arch="llama", vocab_size=GPT2_VOCAB_SIZE, context_length=8192, n_layer=12, n_head=12, n_embd=768, n_inner=2048, bias=False
)  # fmt: skip
FULL = Sizes(
    LLAMA, (512, 1024, 2048, 4096, 8192 - 256), (1024, 8192 - 256), (1, 8), 256, 3,
    (1100, 5000), (4096, 1500, 300, 4097, 3000, 64, 2048, 6000), 64,
)  # fmt: skip
SMALL = Sizes(
    replace(LLAMA, context_length=96, n_layer=2, n_head=2, n_embd=16, n_inner=32), (8, 70), (8,), (1, 2), 9, 1,
    (40,), (30, 8), 9,
)  # fmt: skip
LARGEST_ERROR, FROM_TOKENS = 0.2, 1024
"""Errors of log-probabilities that are too large, and the shortest prompt for which they count, in tokens."""


@dataclass(frozen=True)
class Call:
    """One timed call: seconds to the first token, tokens per second after it, seconds of the whole call, bytes of memory."""

    first: float
    later_rate: float
    whole: float
    memory: int


class Ours:
    """An engine that is kept, so that graphs are captured once.

    Args:
        model: decodes.
        batch: sequences at once.
        capacity: tokens of a slot.
        new_tokens: tokens of each text.

    Attributes:
        warm_ups: calls that do not count: a graph of a prompt's shape is captured when the shape occurs for the second time.
    """

    warm_ups = 3

    def __init__(self, model: LanguageModel, batch: int, capacity: int, new_tokens: int) -> None:
        self._allocated_before = allocated()
        self._engine = Engine(model, endless_tokenizer(model), slots=batch, capacity=capacity)
        self._options = replace(GREEDY, max_tokens=new_tokens, seed=0)

    def __call__(self, prompts: torch.Tensor) -> Call:
        """Generate, and time it."""
        synchronize(reset_peak=True)
        start = time.perf_counter()
        arrived: dict[int, list[float]] = {
            self._engine.submit(prompt, self._options): [] for prompt in prompts.tolist()
        }
        while not self._engine.is_idle:
            for chunk in self._engine.step():
                arrived[chunk.request].append(time.perf_counter() - start)
        whole = time.perf_counter() - start
        times = list(arrived.values())
        return Call(max(each[0] for each in times), later_rate(times), whole, peak() - self._allocated_before)


class Theirs:
    """transformers' `generate`.

    Args:
        model: the same weights.
        new_tokens: tokens of each text.
        how: arguments of `generate`.

    Attributes:
        warm_ups: calls that do not count.
    """

    warm_ups = 1

    def __init__(self, model: Any, new_tokens: int, **how: Any) -> None:
        self._model, self._new_tokens, self._how = model, new_tokens, how

    def __call__(self, prompts: torch.Tensor) -> Call:
        """Generate one token, then all of them."""
        prompts, before = prompts.to(self._model.device), allocated()
        first, whole = (timed(lambda n=n: self._generate(prompts, n)) for n in (1, self._new_tokens))
        return Call(first, prompts.size(0) * (self._new_tokens - 1) / (whole - first), whole, peak() - before)

    def _generate(self, prompts: torch.Tensor, new_tokens: int) -> None:
        texts = self._model.generate(
            prompts, attention_mask=torch.ones_like(prompts), do_sample=False, max_new_tokens=new_tokens,
            min_new_tokens=new_tokens, pad_token_id=0, **self._how,
        )  # fmt: skip
        if texts.size(1) != prompts.size(1) + new_tokens:
            raise SystemExit(f"transformers wrote {texts.size(1) - prompts.size(1)} tokens instead of {new_tokens}")


def synchronize(*, reset_peak: bool = False) -> None:
    """Wait for what is under way on the GPU."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        if reset_peak:
            torch.cuda.reset_peak_memory_stats()


def allocated() -> int:
    """Return the bytes of memory in use on the GPU."""
    return torch.cuda.memory_allocated() if torch.cuda.is_available() else 0


def peak() -> int:
    """Return the most bytes in use on the GPU since the last reset."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0


def timed(work: Callable[[], None]) -> float:
    """Return the seconds of some work, to the end of what is under way on the GPU."""
    synchronize(reset_peak=True)
    start = time.perf_counter()
    work()
    synchronize()
    return time.perf_counter() - start


def peer_of(model: LanguageModel) -> Any:
    """Return transformers' model with the weights of ours, in the type and on the device of ours."""
    parameter = next(model.parameters())
    with tempfile.TemporaryDirectory() as folder:
        export_model(model, load_tokenizer("gpt2"), Path(folder) / "exported")
        peer: Any = transformers.AutoModelForCausalLM.from_pretrained(
            Path(folder) / "exported", dtype=parameter.dtype, attn_implementation="sdpa"
        )
    peer.generation_config.eos_token_id = None
    return peer.eval().to(parameter.device)


def measure(systems: dict[str, Ours | Theirs], batch: int, length: int, rounds: int) -> Iterator[Any]:
    """Yield the rows of one batch size and prompt length."""
    for system in systems.values():
        for number in range(system.warm_ups):
            system(random_prompts(batch, length, rounds + number))
    kept: dict[str, list[Call]] = {name: [] for name in systems}
    for number in range(rounds):
        for name, system in systems.items():
            kept[name].append(system(random_prompts(batch, length, number)))
    part, peaks = f"batch {batch}, prompt of {length:,}", {name: each[-1].memory for name, each in kept.items()}
    figures = {
        "time to first token": ("ms", {name: [1e3 * call.first for call in each] for name, each in kept.items()}),
        "tokens after it": ("tokens/s", {name: [call.later_rate for call in each] for name, each in kept.items()}),
        "whole call": ("s", {name: [call.whole for call in each] for name, each in kept.items()}),
    }
    for what, (unit, values) in figures.items():
        print(part, what, unit, {name: round(statistics.median(each), 2) for name, each in values.items()}, flush=True)
        yield from ({**asdict(row), "memory_bytes": peaks[row.system]}
                    for row in compare(f"{part}, {what}", unit, values, DEFAULT))  # fmt: skip


def about(sizes: Sizes) -> dict[str, Any]:
    """Return the conditions of the measurement."""
    is_gpu = torch.cuda.is_available()
    return {
        "what": __doc__,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": shlex.join(["python", "benchmarks/gpu_contexts.py", *sys.argv[1:]]),
        "hardware": {
            "gpu": torch.cuda.get_device_name() if is_gpu else "none", "cpu_cores": len(os.sched_getaffinity(0)),
        },
        "versions": {
            "python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__,
        },
        "settings": asdict(sizes),
    }  # fmt: skip


def other_shapes(llama: ModelConfig) -> dict[str, ModelConfig]:
    """Return the shapes that are checked beside the one that is measured."""
    return {
        "llama, two queries per key": replace(llama, n_kv_head=llama.n_head // 2),
        "modern, windows": replace(llama, arch="modern", n_inner=0, window=llama.context_length // 8),
        "gpt2": replace(llama, arch="gpt2", bias=True, n_inner=0),
    }


def random_model(config: ModelConfig) -> LanguageModel:
    """Return a model with random weights in float32, on the GPU if there is one."""
    torch.manual_seed(0)
    model = build_model(config).eval()
    for parameter in model.parameters():
        if not parameter.any():  # Modern's zero-initialized projections would hide errors
            torch.nn.init.normal_(parameter, std=0.02)
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def prepared(model: LanguageModel, precision: Precision = "auto") -> LanguageModel:
    """Return the model as it decodes on a GPU, or as it is without one, for trying the script."""
    return prepare_for_decoding(model, precision) if torch.cuda.is_available() else model


def check(name: str, exact: LanguageModel, sizes: Sizes, peer: Any = None) -> Iterator[dict[str, Any]]:
    """Yield the checks of one shape: differences from float32, and texts that differ alone and in a batch.

    Args:
        name: the shape.
        exact: the model in float32.
        sizes: lengths of prompts.
        peer: transformers' model; without it, the package's own in PyTorch is the other code.
    """
    model = prepared(exact)
    by, logits = (DEFAULT, _logits_of(peer)) if peer else (PYTORCH, model)
    for length in sizes.prompts if peer else sizes.checked:
        errors = logprob_errors(exact, model, by, logits, length)
        is_wrong = length >= FROM_TOKENS and errors[KERNELS] >= LARGEST_ERROR
        yield {"shape": name, "prompt": length, ERRORS: errors, "broken": is_wrong}
    for precision in ("auto", "fp8-kv") if peer else ("auto",):
        different = differing_texts(prepared(exact, precision), sizes.together, sizes.compared)
        yield {
            "shape": name, "precision": precision, "prompts": sizes.together, "differ alone and in a batch": different,
            "broken": any(different[each] for each in ("texts", "log-probabilities")),
        }  # fmt: skip


def _logits_of(peer: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda tokens: peer(tokens).logits


def checks(exact: LanguageModel, sizes: Sizes, peer: Any) -> Iterator[dict[str, Any]]:
    """Yield the checks of all shapes; one that fails does not cost the others."""
    for name, config in {MEASURED: None, **other_shapes(sizes.model)}.items():
        try:
            yield from check(name, random_model(config) if config else exact, sizes, None if config else peer)
        except Exception as error:  # noqa: BLE001 - it is a result
            yield {"shape": name, "failed": f"{type(error).__name__}: {str(error)[:300]}", "broken": True}


def points(sizes: Sizes, *, usual: bool, compiled: bool) -> Iterator[tuple[int, int, tuple[str, ...]]]:
    """Yield batch size, tokens of the prompts, and systems beside the usual two."""
    if usual:
        yield from ((batch, length, ()) for batch in sizes.batches for length in sizes.prompts)
    if compiled:
        yield from ((1, length, (STATIC,)) for length in sizes.compiled)


def main() -> None:
    """Measure, and write the file after each part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--small", action="store_true", help="tiny sizes, to try the script")
    parser.add_argument("--no-compile", action="store_true", help="leave out compiled transformers")
    parser.add_argument(
        "--only-compile", action="store_true", help="measure only beside compiled transformers, without checks"
    )
    parser.add_argument("--no-checks", action="store_true", help="leave out the checks of correctness")
    parser.add_argument("--batches", type=int, nargs="+", help="batch sizes to measure")
    chosen = parser.parse_args()
    sizes = SMALL if chosen.small else FULL
    sizes = replace(sizes, batches=tuple(chosen.batches or sizes.batches))
    result: dict[str, Any] = {**about(sizes), ERRORS: {}, "checks": [], "rows": []}

    def save() -> None:
        write_atomically(chosen.out, (json.dumps(result, indent=2) + "\n").encode())

    exact = random_model(sizes.model)
    model = prepared(exact)
    peer = peer_of(model)
    for found in () if chosen.only_compile or chosen.no_checks else checks(exact, sizes, peer):
        if found["shape"] == MEASURED and ERRORS in found:
            result[ERRORS][str(found["prompt"])] = found[ERRORS]
        result["checks"].append(found)
        print(found, flush=True)
        save()
    for batch, length, more in points(sizes, usual=not chosen.only_compile, compiled=not chosen.no_compile):
        systems: dict[str, Ours | Theirs] = {
            DEFAULT: Theirs(peer, sizes.new_tokens),
            OURS: Ours(model, batch, length + sizes.new_tokens, sizes.new_tokens),
        }
        systems |= {name: Theirs(peer, sizes.new_tokens, cache_implementation="static") for name in more}
        rows = list(measure(systems, batch, length, sizes.rounds))
        result["rows"] += rows if not more else [{**row, "part": f"{row['part']}, compiled"} for row in rows]
        save()
    if any(found["broken"] for found in result["checks"]):
        raise SystemExit("a check failed: see `checks` in the result")


if __name__ == "__main__":
    main()
