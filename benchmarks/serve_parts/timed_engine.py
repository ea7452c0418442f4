"""Limit of the HTTP side: `glassgpt serve` on an engine that only keeps time. Needs no GPU.

    python benchmarks/serve_parts/timed_engine.py                     # 64 streams at 120,000 tokens/s

`TimedDecoder` behaves like the decoder of a GPU: launches of eight steps that take as long as on an H100, tokens that are read while the
next launch runs, calls that release the interpreter's lock. Everything else is the server's own code.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import torch

from glassgpt import console
from glassgpt.data.tokenizers.bpe import BPETokenizer
from glassgpt.generation.engine.engine import Engine
from glassgpt.generation.engine.sequence import SequenceState
from glassgpt.generation.options import GenerationOptions
from glassgpt.model.build import build_model
from glassgpt.model.cache import KVCache
from glassgpt.model.config import ModelConfig
from glassgpt.model.transformer import LanguageModel
from serve_parts.load import StreamLoad, in_other_process, random_prompts, run_streams, until_ok
from serve_parts.server import synthetic_tokenizer

STEPS, CALLS_PER_LAUNCH = 8, 6
PREFILL_SECONDS, STEP_SECONDS = 0.0015, 64 / 120_000
VOCAB_SIZE = 50_257


class _TimedPrefill:
    def __init__(self, cache: KVCache) -> None:
        self.cache = cache

    def step(self) -> bool:
        time.sleep(PREFILL_SECONDS)
        return True


class TimedDecoder:
    """Returns pseudo-random tokens as late as a GPU would; see `Decoder`."""

    max_prefills = 4

    def __init__(self, model: LanguageModel, vocab_size: int, slots: int, capacity: int) -> None:
        self.slots, self.capacity, self._vocab_size = slots, capacity, vocab_size
        self._cache = KVCache(model.config, 1, 1)
        self._pending: tuple[dict[SequenceState, int], float] | None = None
        self._free_at = 0.0
        self._small = torch.zeros(4)
        self._tokens = np.random.default_rng(0).integers(256, vocab_size - 1, size=1 << 16).tolist()

    def prefill(self, prompts: Sequence[Sequence[int]], adapters: Sequence[str]) -> _TimedPrefill:
        """See `Decoder`."""
        return _TimedPrefill(self._cache)

    def insert(self, slot: int, sequence: SequenceState, source: KVCache, source_slot: int) -> None:
        """See `Decoder`."""

    def move(self, source: int, target: int) -> None:
        """See `Decoder`."""

    def decode(self, sequences: Sequence[SequenceState]) -> Iterable[tuple[SequenceState, int]]:
        """See `Decoder`."""
        pending, self._pending = self._pending, None
        if any(
            len(s.output_ids) + (STEPS if pending and pending[0].get(s) == s.n_evictions else 0)
            < s.request.max_new_tokens
            for s in sequences
        ):
            for _ in range(CALLS_PER_LAUNCH):
                self._small.clone()  # releases the interpreter's lock, as every call of PyTorch does
            self._free_at = max(self._free_at, time.perf_counter()) + STEPS * STEP_SECONDS
            self._pending = {s: s.n_evictions for s in sequences}, self._free_at
        return self._read(*pending) if pending else ()

    def free_memory(self) -> None:
        """See `Decoder`."""

    def _read(self, sequences: dict[SequenceState, int], ready: float) -> Iterable[tuple[SequenceState, int]]:
        time.sleep(max(0.0, ready - time.perf_counter()))
        for _ in range(STEPS):
            for sequence, n_evictions in sequences.items():
                if not sequence.is_finished and sequence.n_evictions == n_evictions:
                    at = sequence.request.seed * 7919 + len(sequence.output_ids)
                    yield sequence, self._tokens[at % len(self._tokens)]


def timed_model() -> LanguageModel:
    """Return the smallest model with GPT-2's vocabulary and context."""
    return build_model(ModelConfig(vocab_size=VOCAB_SIZE, context_length=1024, n_layer=1, n_head=1, n_embd=8)).eval()


def serve_timed(slots: int, switch_seconds: float | None) -> None:
    """Serve until a signal comes."""
    from glassgpt.data.chat.chat_template import TRANSCRIPT
    from glassgpt.serving import engine_thread, run
    from glassgpt.serving.served_model import Weights

    def timed_engine(
        model: LanguageModel, tokenizer: BPETokenizer, *, slots: int, capacity: int | None, decoder: object
    ) -> Engine:
        return Engine(model, tokenizer, slots=slots, capacity=capacity, decoder=TimedDecoder, max_prefill_tokens=4096)

    engine_thread.exact_engine = timed_engine  # pyright: ignore
    if switch_seconds is not None:
        run.SWITCH_SECONDS = switch_seconds  # pyright: ignore
    model, tokenizer = timed_model(), synthetic_tokenizer(VOCAB_SIZE)
    source = run.ModelSource("bench", lambda: Weights(model, tokenizer, 0, {}), TRANSCRIPT)
    run.serve([source], run.ServerSettings(port=0, slots=slots), console.info)


def engine_alone(count: int, new_tokens: int) -> tuple[float, float]:
    """Return tokens per second of the engine without a server, and its CPU seconds per thousand tokens."""
    engine = Engine(
        timed_model(), synthetic_tokenizer(VOCAB_SIZE), slots=count, decoder=TimedDecoder, max_prefill_tokens=4096
    )
    began, cpu = time.perf_counter(), time.process_time()
    for number, prompt in enumerate(random_prompts(VOCAB_SIZE, count, 64, 0)):
        engine.submit(prompt, GenerationOptions(max_tokens=new_tokens, seed=number))
    tokens = sum(1 for _ in _chunks(engine))
    return tokens / (time.perf_counter() - began), 1e3 * (time.process_time() - cpu) / tokens


def _chunks(engine: Engine) -> Iterable[object]:
    while not engine.is_idle:
        yield from engine.step()


def thread_seconds(pid: int) -> tuple[float, float]:
    """Return the CPU seconds of a process' main thread, the event loop, and those of all its others."""
    hertz = os.sysconf("SC_CLK_TCK")
    main = others = 0.0
    for task in Path(f"/proc/{pid}/task").iterdir():
        schedstat = (task / "schedstat").read_text().split()
        seconds = int(schedstat[0]) / 1e9 if int(schedstat[0]) else 0.0
        if not seconds:
            fields = (task / "stat").read_text().rsplit(")", 1)[1].split()
            seconds = (int(fields[11]) + int(fields[12])) / hertz
        main, others = (main + seconds, others) if task.name == str(pid) else (main, others + seconds)
    return main, others


def measure(count: int, new_tokens: int, rounds: int, switch_seconds: float | None) -> dict[str, float]:
    """Return the speed of `count` streams, CPU seconds per thread, and the time of probes."""
    command = [sys.executable, __file__, "--serve", "--streams", str(count)]
    command += [] if switch_seconds is None else ["--switch", str(switch_seconds)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            port = int(server.stderr.readline().split("127.0.0.1:")[1].split("/")[0])
            threading.Thread(target=server.stderr.read, daemon=True).start()  # a full pipe would stop the server
            asyncio.run(until_ok(port, "/ready"))
            rates, probes, shares, firsts = [], list[float](), [], list[float]()
            for number in range(rounds + 1):
                prompts = random_prompts(VOCAB_SIZE, count, 64, number)
                before = thread_seconds(server.pid)
                times = in_other_process(run_streams, StreamLoad(port, prompts, new_tokens, 1000 * number))
                after = thread_seconds(server.pid)
                if number:
                    tokens = count * new_tokens / 1e3
                    rates.append(times.rate)
                    probes += times.probes
                    firsts += times.first
                    shares.append([(b - a) / tokens for a, b in zip(before, after, strict=True)])
        finally:
            server.terminate()
    loop, engine = (median(values) for values in zip(*shares, strict=True))
    return {
        "tokens_per_second": median(rates), "least": min(rates), "most": max(rates),
        "event_loop_cpu_ms_per_1000_tokens": 1e3 * loop, "engine_cpu_ms_per_1000_tokens": 1e3 * engine,
        "event_loop_cores_at_120k": 120 * loop, "health_p99_ms": 1e3 * float(np.percentile(probes, 99)),
        "first_token_median_ms": 1e3 * median(firsts), "first_token_last_ms": 1e3 * max(firsts),
    }  # fmt: skip


def main() -> None:
    """Print the results as JSON."""
    parser = argparse.ArgumentParser(description="The HTTP side of glassgpt serve on an engine that only keeps time.")
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--switch", type=float, help="seconds after which a thread gives up the interpreter's lock")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve_timed(given.streams, given.switch)
        return
    rate, cpu = engine_alone(given.streams, given.new_tokens)
    result = measure(given.streams, given.new_tokens, given.rounds, given.switch)
    alone = {"engine_alone_tokens_per_second": rate, "engine_alone_cpu_ms_per_1000_tokens": 1e3 * cpu}
    print(json.dumps({**result, **alone, "ratio": result["tokens_per_second"] / rate}, indent=1))


if __name__ == "__main__":
    main()
