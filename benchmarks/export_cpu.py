"""Decoding of exported models on the CPU: ONNX Runtime, llama.cpp and CTranslate2 beside our engine, in 8 and 4 bits.

GPT-2 124M with random weights, a prompt of 64 tokens, one step of the whole batch. The figure is the time of one step:
that of a long text less that of a short one, over the steps between. On one thread it is the CPU time of the process,
on several the wall's. Each system runs in a separate process, which stays, and the systems take turns. The results are
written after each batch size; when `--minutes` are over, what is not yet measured is left out, and named. Ours and ONNX
Runtime take the most probable token, CTranslate2 draws among the 50 most probable ones; llama.cpp decodes a given
token, as its own benchmark does, because cyllama hands out logits as a list.

ONNX Runtime and CTranslate2 are in the extra `export`, llama.cpp in `llama-cpp`; what is missing is left out.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib.util
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cpu_parts.ctranslate import measure_step as measure_ctranslate
from cpu_parts.generation import PROMPT_TOKENS, prompt_of
from cpu_parts.machine import usable_cores
from cpu_parts.measure import Row, Target, compare, interleave
from cpu_parts.models import GPT2, our_model
from cpu_parts.results import report, show, write_report
from cpu_parts.steps import SHORT, Write, clock_for, require_token_counts, step_seconds
from glassgpt import console
from glassgpt.compression.methods.int4 import Int4
from glassgpt.data.tokenizers.bpe import gpt2_tokenizer
from glassgpt.evaluation.observer import SILENT
from glassgpt.generation.engine.generate import generate
from glassgpt.generation.options import GenerationOptions
from glassgpt.generation.precision import prepare_for_decoding
from glassgpt.interchange.formats.base import ExportOptions
from glassgpt.interchange.formats.registry import FORMATS
from glassgpt.model.config import ModelConfig
from glassgpt.model.transformer import LanguageModel

RESULTS = Path(__file__).parent / "results" / "export-cpu.json"
PACKAGES = ("glassgpt", "torch", "onnxruntime", "cyllama", "ctranslate2", "numpy")
UNIT = "tokens/s"
TINY = ModelConfig(vocab_size=50257, context_length=256, n_layer=2, n_head=2, n_embd=64)


@dataclasses.dataclass(frozen=True)
class System:
    """A program and the weights that it reads.

    Attributes:
        name: as printed.
        bits: of a weight.
        format: export format; empty for our own engine.
        weights: of the format, or of our engine.
        package: that must be installed.
    """

    name: str
    bits: int
    format: str
    weights: str
    package: str = "glassgpt"


SYSTEMS = (
    System("onnxruntime int8", 8, "onnx", "int8", "onnxruntime"),
    System("llama.cpp q8_0", 8, "gguf", "q8_0", "cyllama"),
    System("CTranslate2 int8", 8, "ct2", "int8", "ctranslate2"),
    System("glassgpt int8", 8, "", "int8"),
    System("onnxruntime int4", 4, "onnx", "int4", "onnxruntime"),
    System("llama.cpp q4_0", 4, "gguf", "q4_0", "cyllama"),
    System("glassgpt int4", 4, "", "int4"),
)
"""The first of each number of bits is the reference of the ratios."""
TARGETS = {"glassgpt int8": Target(">=", 1), "glassgpt int4": Target(">=", 1)}


def installed() -> list[System]:
    """Return the systems that can run here."""
    return [each for each in SYSTEMS if importlib.util.find_spec(each.package)]


def exported(system: System, config: ModelConfig, folder: Path) -> Path:
    """Return the folder of a model in the system's format, written on the first call."""
    shape = f"{config.n_layer}x{config.n_embd}"  # the models of --quick are others
    path = folder / (f"{system.name.replace(' ', '-')}-{shape}" if system.format else "none")
    if system.format and not path.exists():
        console.info(f"exporting: {system.name} …")
        unfinished = path.with_name(f"{path.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        model, options = our_model(config).eval(), ExportOptions(system.weights)
        FORMATS[system.format].write(model, gpt2_tokenizer(), unfinished, options)
        unfinished.rename(path)
    return path


def measure(system: System, config: ModelConfig, path: Path, batch: int, threads: int, new_tokens: int) -> float:
    """Return the seconds per step; runs in the system's own process, where the first call loads the model."""
    torch.set_num_threads(threads)
    if system.format == "ct2":
        tokens = tuple(_prompt())
        return measure_ctranslate(path, "int8", tokens, batch, threads, new_tokens)
    write = _writer(system, config, path, batch, threads)
    write(2)
    return step_seconds(write, new_tokens, clock_for(threads))


def _writer(system: System, config: ModelConfig, path: Path, batch: int, threads: int) -> Write:
    writers = {"": _glassgpt, "onnx": _onnxruntime, "gguf": _llama_cpp}
    return writers[system.format](system, config, path, batch, threads)


def _prompt() -> list[int]:
    tokenizer = gpt2_tokenizer()
    return tokenizer.encode(prompt_of(PROMPT_TOKENS, tokenizer))


@functools.cache
def _decoder(system: System, config: ModelConfig) -> LanguageModel:
    model = our_model(config).eval()
    if system.weights == "int8":
        return prepare_for_decoding(model, "int8")
    return prepare_for_decoding(Int4("nearest").apply(model, None, SILENT.progress).eval())  # the speed is that of GPTQ


@functools.cache
def _glassgpt(system: System, config: ModelConfig, path: Path, batch: int, threads: int) -> Write:
    model, tokenizer = _decoder(system, config), gpt2_tokenizer()
    prompt = prompt_of(PROMPT_TOKENS, tokenizer)

    def write(new_tokens: int) -> None:
        options = GenerationOptions(max_tokens=new_tokens, temperature=0.0, num_samples=batch)
        require_token_counts([text.tokens for text in generate(model, tokenizer, prompt, options)], new_tokens)

    return write


@functools.cache
def _session(path: Path, threads: int) -> Any:
    import onnxruntime

    settings: Any = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path / "model.onnx"), settings, providers=["CPUExecutionProvider"])


@functools.cache
def _onnxruntime(system: System, config: ModelConfig, path: Path, batch: int, threads: int) -> Write:
    import onnxruntime

    session = _session(path, threads)
    inputs = [each.name for each in session.get_inputs()]
    outputs = [each.name for each in session.get_outputs()]
    value = onnxruntime.OrtValue.ortvalue_from_numpy
    prompt = np.array([_prompt()] * batch)

    def write(new_tokens: int) -> None:
        tokens, length = prompt, 0
        past = [value(np.zeros((batch, config.n_head, 0, config.head_dim), np.float32))] * (len(inputs) - 3)
        for _ in range(new_tokens):
            start, length = length, length + tokens.shape[1]
            positions = np.tile(np.arange(start, length), (batch, 1))
            given = [value(tokens), value(np.ones((batch, length), np.int64)), value(positions), *past]
            logits, *past = session.run_with_ort_values(outputs, dict(zip(inputs, given, strict=True)))
            tokens = logits.numpy()[:, -1].argmax(-1)[:, None]

    return write


@functools.cache
def _llama_cpp(system: System, config: ModelConfig, path: Path, batch: int, threads: int) -> Write:
    from glassgpt.interchange.llama_cpp import LlamaCpp

    engine = LlamaCpp(path / "model.gguf", 512, threads=threads, sequences=batch, cache_type="f16")
    prompt = _prompt()

    def write(new_tokens: int) -> None:
        engine.clear()
        for sequence in range(batch):
            engine.decode({sequence: prompt}, 0)
        for step in range(new_tokens - 1):
            engine.decode({sequence: [prompt[step % len(prompt)]] for sequence in range(batch)}, len(prompt) + step)

    return write


@dataclasses.dataclass(frozen=True)
class Plan:
    """The extent of the measurement.

    Attributes:
        config: of the model.
        rounds: how often each system is measured.
        new_tokens: of the long text.
        folder: of the exported models.
        until: on the clock of `time.monotonic`; then no further round begins.
    """

    config: ModelConfig
    rounds: int
    new_tokens: int
    folder: Path
    until: float

    def has_time(self) -> bool:
        """Return whether another round may begin."""
        return time.monotonic() < self.until


def measure_decoding(plan: Plan, threads: int, batch: int, pools: Any) -> list[Row]:
    """Return the rows of one batch size, for 8 and for 4 bits."""
    timed = {
        system.name: functools.partial(
            lambda pool, *given: pool.submit(measure, *given).result(),
            pools[system.name], system, plan.config, exported(system, plan.config, plan.folder), batch, threads,
            plan.new_tokens,
        )
        for system in installed()
    }  # fmt: skip
    console.info(f"measuring: batch {batch}, {threads} thread(s) …")
    for run in timed.values():
        run()  # loads the model, and fills caches
    taken = interleave(timed, plan.rounds, plan.has_time)
    rows: list[Row] = []
    for bits in (8, 4):
        names = [system.name for system in installed() if system.bits == bits]
        figures = {name: [batch / seconds for seconds in taken[name]] for name in names}
        part = f"{bits} bits, batch {batch}, {threads} thread{'s' * (threads > 1)}"
        rows += compare(part, UNIT, figures, names[0], TARGETS if len(names) > 1 else None) if names else []
    return rows


def measure_all(plan: Plan, threads: Sequence[int], batches: Sequence[int], save: Callable[[list[Row]], None]) -> None:
    """Measure each number of threads and each batch size; `save` is given all rows so far after each."""
    rows: list[Row] = []
    for count in threads:
        context = multiprocessing.get_context("spawn")
        pools = {system.name: ProcessPoolExecutor(1, mp_context=context) for system in installed()}
        for batch in batches:
            if not plan.has_time():
                console.info(f"no time left: batch {batch} on {count} thread(s) is not measured")
                continue
            new = measure_decoding(plan, count, batch, pools)
            rows += new
            show(new)
            save(rows)
        for pool in pools.values():
            pool.shutdown()


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write the results."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(description="Decoding of exported models on this CPU, as ratios.")
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, len(usable_cores())}))
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--rounds", type=int, default=3, help="how often each system is measured")
    parser.add_argument("--new-tokens", type=int, default=SHORT + 24, help="tokens of the long text")
    parser.add_argument("--minutes", type=float, default=13, help="after these no further round begins")
    parser.add_argument("--exports", type=Path, help="folder of the exported models, which are kept there")
    parser.add_argument(
        "--quick", action="store_true", help="one short round of a tiny model: a smoke test, no measurement"
    )
    parser.add_argument("--out", type=Path, help="where the JSON goes; with --quick, nowhere by default")
    chosen = parser.parse_args(given)
    rounds, new_tokens = (1, SHORT + 2) if chosen.quick else (chosen.rounds, chosen.new_tokens)
    out: Path | None = chosen.out or (None if chosen.quick else RESULTS)
    load = list(os.getloadavg())

    def save(rows: list[Row]) -> None:
        if out is None:
            return
        sizes = {"rounds": rounds, "new_tokens": new_tokens, "prompt_tokens": PROMPT_TOKENS}
        what = "GPT-2 124M (random weights), exported, on a CPU; single steps, reading the prompt left out"
        hardware = {"capability": torch.backends.cpu.get_cpu_capability(), "load_before": load}
        command = ("export_cpu.py", *given)
        write_report(out, report(what, rows, command=command, settings=sizes, packages=PACKAGES, hardware=hardware))

    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.exports or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        until = time.monotonic() + 60 * chosen.minutes
        plan = Plan(TINY if chosen.quick else GPT2, rounds, new_tokens, folder, until)
        measure_all(plan, chosen.threads, chosen.batch, save)


if __name__ == "__main__":
    main()
