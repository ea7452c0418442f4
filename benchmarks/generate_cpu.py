"""Decoding on the CPU compared with peers, in one run, as ratios.

GPT-2 124M with random weights, a prompt of 64 tokens, at several batch sizes, in every precision, beside transformers, ONNX
Runtime, llama.cpp and CTranslate2 (`cpu_parts.engines`). The figure is the time of one step: that of a long text less that of a
short one, over the steps between, so that reading the prompt does not count. Each system runs in a separate process, which
stays. On one thread the figure is its CPU time, which other programs on the machine hardly touch; on several it is the wall's.
The systems take turns; a ratio is formed within each round. The results are written after each batch size; when `--minutes`
are over, what is not yet measured is left out, and named.

With --only mixed: requests of mixed length, served by our engine, in which rows that end make space for waiting ones,
and by transformers in batches that run until their longest text ends. The figure counts what was asked for.

ONNX Runtime and CTranslate2 are in the extra `export`, llama.cpp in `llama-cpp`; what is missing is left out.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

from cpu_parts.engines import SYSTEMS, TRANSFORMERS, exported, installed
from cpu_parts.engines import measure as measure_system
from cpu_parts.generation import GREEDY_TOKENS, PROMPT_TOKENS, require_equal_texts
from cpu_parts.machine import usable_cores
from cpu_parts.measure import Row, Samples, Target, compare, interleave, rates
from cpu_parts.mixed import GREEDY, SAMPLED, Mixture, Request, continuous, static, useful_tokens
from cpu_parts.models import GPT2, matching_models
from cpu_parts.results import report, show, write_report
from cpu_parts.steps import SHORT, clock_for, settle
from glassgpt import console
from glassgpt.data.tokenizers import Tokenizer
from glassgpt.data.tokenizers.bpe import gpt2_tokenizer
from glassgpt.generation.bench import TOP_50
from glassgpt.generation.precision import prepare_for_decoding
from glassgpt.model.config import ModelConfig
from glassgpt.model.transformer import LanguageModel

FOLDER = Path(__file__).parent / "results"
RESULTS = {"steps": FOLDER / "generate-cpu.json", "mixed": FOLDER / "generate-cpu-mixed.json"}
WHAT = {
    "steps": "single steps, reading the prompt left out",
    "mixed": "requests of mixed length, tokens that were asked for over the whole time, prompts and all",
}
PACKAGES = ("glassgpt", "torch", "transformers", "onnxruntime", "cyllama", "ctranslate2", "numpy")
UNIT = "tokens/s"
TARGETS = {name: Target(">=", 2) for name in ("glassgpt float32", "glassgpt int8")}
TINY = ModelConfig(vocab_size=50257, context_length=256, n_layer=2, n_head=2, n_embd=64)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Size of the measurements.

    Attributes:
        config: of the model whose steps are measured.
        rounds: how often each system is measured.
        new_tokens: tokens of the long text.
        mixed_rounds: how often each system serves the requests of mixed length.
        mixture: those requests.
    """

    config: ModelConfig = GPT2
    rounds: int = 3
    new_tokens: int = SHORT + 40
    mixed_rounds: int = 2
    mixture: Mixture = dataclasses.field(default_factory=Mixture)


QUICK = Settings(
    config=TINY,
    rounds=1,
    new_tokens=SHORT + 2,
    mixed_rounds=1,
    mixture=Mixture(requests=4, prompts=(4, 20), outputs=(2, 12), at_once=2),
)

Serve = Callable[[Sequence[Request]], list[list[int]]]
"""Writes what is asked for."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """The place and the end of a measurement of single steps.

    Attributes:
        folder: of the exported models.
        until: on the clock of `time.monotonic`; then no further round begins.
    """

    folder: Path
    until: float

    def has_time(self) -> bool:
        """Return whether another round may begin."""
        return time.monotonic() < self.until


def measure_steps(
    threads: Sequence[int], batches: Sequence[int], settings: Settings, plan: Plan, save: Callable[[list[Row]], None]
) -> None:
    """Measure each number of threads and each batch size; `save` is given all rows so far after each."""
    rows: list[Row] = []
    for count in threads:
        context = multiprocessing.get_context("spawn")
        pools = {system.name: ProcessPoolExecutor(1, mp_context=context) for system in installed()}
        for batch in batches:
            if not plan.has_time():
                console.info(f"no time left: batch {batch} on {count} thread(s) is not measured")
                continue
            new = measure_decoding(count, batch, settings, plan, pools)
            rows += new
            show(new)
            save(rows)
        for pool in pools.values():
            pool.shutdown()


def measure_decoding(threads: int, batch: int, settings: Settings, plan: Plan, pools: Any) -> list[Row]:
    """Rows for one batch size: total tokens per second of all texts, after prefill."""
    config = settings.config
    timed = {
        system.name: functools.partial(
            lambda pool, *given: pool.submit(measure_system, *given).result(),
            pools[system.name], system, config, exported(system, config, plan.folder), batch, threads, settings.new_tokens,
        )
        for system in installed()
    }  # fmt: skip
    console.info(f"measuring: batch {batch}, {threads} thread(s) …")
    for run in timed.values():
        run()  # loads the model, and fills caches
    taken = interleave(timed, settings.rounds, plan.has_time)
    figures = {name: [batch / seconds for seconds in steps] for name, steps in taken.items()}
    part = f"decoding, batch {batch}, {_on(threads)}"
    return compare(part, UNIT, figures, TRANSFORMERS, TARGETS) + _beside_peers(part, figures)


def _beside_peers(part: str, figures: Samples) -> list[Row]:
    """Compare ours with each other system of as many bits, as a separate ratio."""
    rows: list[Row] = []
    for peer in SYSTEMS:
        if peer.ours and peer.name in figures and peer.ours in figures:
            both = {name: figures[name] for name in (peer.name, peer.ours)}
            rows += compare(f"{part}, {peer.name}", UNIT, both, peer.name, {peer.ours: Target(">=", 1)})
    return rows


def measure_mixed(threads: int, mixture: Mixture, rounds: int) -> list[Row]:
    """Rows for requests of mixed length: useful tokens per second over the whole time, prefill included."""
    console.info(f"measuring: requests of mixed length, {threads} thread(s) …")
    torch.set_num_threads(threads)
    ours, theirs = (model.eval() for model in matching_models())
    writer, tokenizer = prepare_for_decoding(ours, "float32", batch_size=mixture.at_once), gpt2_tokenizer()
    requests = mixture.draw()
    _require_same_greedy_texts(writer, theirs, tokenizer, requests[:2])
    systems = {
        f"{TRANSFORMERS}, static batches": static(theirs, mixture.at_once, SAMPLED),
        "glassgpt float32, continuous": continuous(writer, tokenizer, mixture.at_once, TOP_50),
    }
    brief = [Request(request.prompt, 2) for request in requests[: mixture.at_once]]
    for serve in systems.values():
        serve(brief)
    clock = clock_for(threads)
    taken = interleave({name: _timer(serve, requests, clock) for name, serve in systems.items()}, rounds)
    figures = rates(taken, useful_tokens(requests))
    part = f"{len(requests)} requests of mixed length, {mixture.at_once} at once, {_on(threads)}"
    return compare(part, UNIT, figures, next(iter(systems)))


def _timer(serve: Serve, requests: Sequence[Request], clock: Callable[[], float]) -> Callable[[], float]:
    def seconds() -> float:
        settle()
        start = clock()
        serve(requests)
        return clock() - start

    return seconds


def _require_same_greedy_texts(
    writer: LanguageModel, theirs: Any, tokenizer: Tokenizer, requests: Sequence[Request]
) -> None:
    """Check that prompts of different length, padded there but not here, have the same continuations."""
    few = [Request(request.prompt, GREEDY_TOKENS) for request in requests]
    own = continuous(writer, tokenizer, len(few), dataclasses.replace(TOP_50, temperature=0, top_k=0))(few)
    for mine, other in zip(own, static(theirs, len(few), GREEDY)(few), strict=True):
        require_equal_texts(mine, other)


def _on(threads: int) -> str:
    return f"{threads} thread{'s' * (threads > 1)}, {'CPU' if threads == 1 else 'wall'} time"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write the results."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(description="Decoding on this CPU beside peers, as ratios.")
    parser.add_argument("--only", choices=RESULTS, help="measure single steps, or requests of mixed length")
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, len(usable_cores())}))
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4, 8], help="of the single steps")
    parser.add_argument("--rounds", type=int, help="how often each system is measured")
    parser.add_argument("--minutes", type=float, default=30, help="after these no further round of single steps begins")
    parser.add_argument("--exports", type=Path, help="folder of the exported models, which are kept there")
    parser.add_argument("--quick", action="store_true", help="one short round: a smoke test, no measurement")
    parser.add_argument("--out", type=Path, help="where the JSON goes, with --only; with --quick, nowhere by default")
    chosen = parser.parse_args(given)
    if chosen.out and not chosen.only:
        parser.error("--out is one file; say with --only what it is for")
    settings = QUICK if chosen.quick else Settings()
    load = list(os.getloadavg())
    for part in RESULTS if chosen.only is None else (chosen.only,):
        out: Path | None = chosen.out or (None if chosen.quick else RESULTS[part])

        def save(rows: Sequence[Row], part: str = part, out: Path | None = out) -> None:
            if out is not None:
                write_report(out, _report(part, rows, settings, given, load))

        if part == "mixed":
            rounds = settings.mixed_rounds if chosen.rounds is None else chosen.rounds
            rows = [row for threads in chosen.threads for row in measure_mixed(threads, settings.mixture, rounds)]
            show(rows)
            save(rows)
        else:
            _steps(dataclasses.replace(settings, rounds=chosen.rounds or settings.rounds), chosen, save)


def _steps(settings: Settings, chosen: argparse.Namespace, save: Callable[[Sequence[Row]], None]) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.exports or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        plan = Plan(folder, time.monotonic() + 60 * chosen.minutes)
        measure_steps(chosen.threads, chosen.batch, settings, plan, save)


def _report(
    part: str, rows: Sequence[Row], settings: Settings, given: Sequence[str], load: list[float]
) -> dict[str, Any]:
    return report(
        f"GPT-2 124M (random weights) on a CPU beside peers; {WHAT[part]}",
        rows,
        command=("generate_cpu.py", *given),
        settings={**dataclasses.asdict(settings), "prompt_tokens": PROMPT_TOKENS},
        packages=PACKAGES,
        hardware={"capability": torch.backends.cpu.get_cpu_capability(), "load_before": load},
    )


if __name__ == "__main__":
    main()
