"""Decoding on the CPU compared with peers, in one run, as ratios.

GPT-2 124M with random weights, a prompt of 64 tokens, tokens drawn among the 50 most probable, at several batch
sizes. The figure is the time of one step: that of a long text less that of a short one, over the steps between, so
that reading the prompt does not count. Peers with their own threads run in separate processes. On one thread it is the CPU time of the process and of those it starts, which
other programs on the machine hardly touch; on several it is the wall's. The systems take turns; a ratio is formed within each round.

With --only mixed: requests of mixed length, served by our engine, in which rows that end make space for waiting ones,
and by transformers in batches that run until their longest text ends. The figure counts what was asked for.

transformers is always there; CTranslate2 where it is installed (pip install ctranslate2); llama.cpp with --llama COMMIT,
see `cpu_parts.llama`.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib.util
import multiprocessing
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

from cpu_parts.ctranslate import converted, measure_step
from cpu_parts.generation import (
    GREEDY_TOKENS,
    PROMPT_TOKENS,
    TOP_K,
    our_tokens,
    prompt_of,
    require_equal_texts,
    their_tokens,
)
from cpu_parts.llama import llama
from cpu_parts.machine import usable_cores
from cpu_parts.measure import Row, Samples, Target, compare, interleave, rates
from cpu_parts.mixed import GREEDY, SAMPLED, Mixture, Request, continuous, static, useful_tokens
from cpu_parts.models import matching_models
from cpu_parts.results import report, show, write_report
from cpu_parts.steps import SHORT, Write, clock_for, require_token_counts, settle, step_seconds
from glassgpt import console
from glassgpt.data.tokenizers import Tokenizer
from glassgpt.data.tokenizers.bpe import gpt2_tokenizer
from glassgpt.generation.bench import TOP_50
from glassgpt.generation.engine.generate import generate
from glassgpt.generation.options import GenerationOptions
from glassgpt.generation.precision import Precision, prepare_for_decoding
from glassgpt.model.transformer import LanguageModel

FOLDER = Path(__file__).parent / "results"
RESULTS = {"steps": FOLDER / "generate-cpu.json", "mixed": FOLDER / "generate-cpu-mixed.json"}
WHAT = {
    "steps": "single steps, reading the prompt of 64 tokens left out",
    "mixed": "requests of mixed length, tokens that were asked for over the whole time, prompts and all",
}
REFERENCE = "transformers float32"
PACKAGES = ("glassgpt", "torch", "transformers", "ctranslate2", "numpy")
OURS: tuple[Precision, ...] = ("float32", "bfloat16", "int8")
THEIRS = ("float32", "int8")
LLAMA = "llama.cpp q8_0"
PEERS = {"CTranslate2 int8": 1, LLAMA: 4}
"""Systems in 8 bits, and the batch from which ours shall not be slower."""
UNIT = "tokens/s"
TARGETS = {"glassgpt float32": Target(">=", 2), "glassgpt int8": Target(">=", 2)}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Size of the measurements.

    Attributes:
        rounds: texts written by each system.
        new_tokens: tokens of the long text.
        mixed_rounds: how often each system serves the requests of mixed length.
        mixture: those requests.
        llama: the commit of llama.cpp that is measured too; empty for none.
    """

    rounds: int = 3
    new_tokens: int = SHORT + 128
    mixed_rounds: int = 2
    mixture: Mixture = dataclasses.field(default_factory=Mixture)
    llama: str = ""


QUICK = Settings(
    rounds=1,
    new_tokens=SHORT + 8,
    mixed_rounds=1,
    mixture=Mixture(requests=4, prompts=(4, 20), outputs=(2, 12), at_once=2),
)

Serve = Callable[[Sequence[Request]], list[list[int]]]
"""Writes what is asked for."""


def measure_decoding(threads: int, batch: int, settings: Settings, folder: Path) -> list[Row]:
    """Rows for one batch size: total tokens per second of all texts, after prefill."""
    console.info(f"measuring: batch {batch}, {threads} thread(s) …")
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as apart:
        timed = _systems(threads, batch, settings, folder, apart)
        taken = interleave(timed, settings.rounds)
    figures = {name: [batch / seconds for seconds in steps] for name, steps in taken.items()}
    part = f"decoding, batch {batch}, {_on(threads)}"
    return compare(part, UNIT, figures, REFERENCE, TARGETS) + _beside_peers(part, figures, batch)


def _beside_peers(part: str, figures: Samples, batch: int) -> list[Row]:
    """Compare our int8 with each other system in 8 bits, as a separate ratio."""
    rows: list[Row] = []
    for peer in (name for name in PEERS if name in figures):
        both = {name: figures[name] for name in (peer, "glassgpt int8")}
        targets = {"glassgpt int8": Target(">=", 1)} if batch >= PEERS[peer] else {}
        rows += compare(f"{part}, {peer}", UNIT, both, peer, targets)
    return rows


def _systems(
    threads: int, batch: int, settings: Settings, folder: Path, apart: ProcessPoolExecutor
) -> dict[str, Callable[[], float]]:
    """Return a function for each system that measures its step."""
    torch.set_num_threads(threads)
    ours, theirs = (model.eval() for model in matching_models())
    tokenizer = gpt2_tokenizer()
    prompt = prompt_of(PROMPT_TOKENS, tokenizer)
    ids = tokenizer.encode(prompt)
    require_equal_texts(
        our_tokens(ours, tokenizer, prompt, GREEDY_TOKENS, temperature=0.0),
        their_tokens(theirs, ids, GREEDY_TOKENS, do_sample=False),
    )
    here: dict[str, Write] = {REFERENCE: _transformers(theirs, ids, batch)}
    here |= {f"glassgpt {precision}": _glassgpt(ours, precision, tokenizer, prompt, batch) for precision in OURS}
    if settings.llama:
        here[LLAMA] = llama(PROMPT_TOKENS, batch, threads)
    clock = clock_for(threads)
    timed: dict[str, Callable[[], float]] = {}
    for name, write in here.items():
        write(2)
        timed[name] = functools.partial(step_seconds, write, settings.new_tokens, clock)
    for precision in THEIRS if importlib.util.find_spec("ctranslate2") else ():
        given = (converted(ours, precision, folder), precision, tuple(ids), batch, threads, settings.new_tokens)
        timed[f"CTranslate2 {precision}"] = lambda given=given: apart.submit(measure_step, *given).result()
    return timed


def _transformers(model: Any, prompt: list[int], batch: int) -> Write:
    def write(new_tokens: int) -> None:
        their_tokens(
            model, prompt, new_tokens, do_sample=True, top_k=TOP_K, temperature=1.0, num_return_sequences=batch
        )

    return write


def _glassgpt(model: LanguageModel, precision: Precision, tokenizer: Tokenizer, prompt: str, batch: int) -> Write:
    writer = prepare_for_decoding(model, precision, batch_size=batch)

    def write(new_tokens: int) -> None:
        options = GenerationOptions(
            max_tokens=new_tokens, temperature=1.0, top_k=TOP_K, top_p=1.0, seed=1, num_samples=batch
        )
        texts = generate(writer, tokenizer, prompt, options)
        require_token_counts([text.tokens for text in texts], new_tokens)

    return write


def measure_mixed(threads: int, mixture: Mixture, rounds: int) -> list[Row]:
    """Rows for requests of mixed length: useful tokens per second over the whole time, prefill included."""
    console.info(f"measuring: requests of mixed length, {threads} thread(s) …")
    torch.set_num_threads(threads)
    ours, theirs = (model.eval() for model in matching_models())
    writer, tokenizer = prepare_for_decoding(ours, "float32", batch_size=mixture.at_once), gpt2_tokenizer()
    requests = mixture.draw()
    _require_same_greedy_texts(writer, theirs, tokenizer, requests[:2])
    systems = {
        f"{REFERENCE}, static batches": static(theirs, mixture.at_once, SAMPLED),
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
    parser.add_argument("--llama", default="", metavar="COMMIT", help="llama.cpp too, built from this commit")
    parser.add_argument("--rounds", type=int, help="how often each system is measured")
    parser.add_argument("--quick", action="store_true", help="one short round: a smoke test, no measurement")
    parser.add_argument("--out", type=Path, help="where the JSON goes, with --only; with --quick, nowhere by default")
    chosen = parser.parse_args(given)
    if chosen.out and not chosen.only:
        parser.error("--out is one file; say with --only what it is for")
    settings = dataclasses.replace(QUICK if chosen.quick else Settings(), llama=chosen.llama)
    for part in RESULTS if chosen.only is None else (chosen.only,):
        rows = measure(part, settings, chosen)
        show(rows)
        out: Path | None = chosen.out or (None if chosen.quick else RESULTS[part])
        if out is not None:
            write_report(out, _report(part, rows, settings, given))


def measure(part: str, settings: Settings, chosen: argparse.Namespace) -> list[Row]:
    """Measure one part."""
    if part == "mixed":
        rounds = settings.mixed_rounds if chosen.rounds is None else chosen.rounds
        return [row for threads in chosen.threads for row in measure_mixed(threads, settings.mixture, rounds)]
    settings = settings if chosen.rounds is None else dataclasses.replace(settings, rounds=chosen.rounds)
    with tempfile.TemporaryDirectory() as folder:
        pairs = [(threads, batch) for threads in chosen.threads for batch in chosen.batch]
        return [row for threads, batch in pairs for row in measure_decoding(threads, batch, settings, Path(folder))]


def _report(part: str, rows: Sequence[Row], settings: Settings, given: Sequence[str]) -> dict[str, Any]:
    return report(
        f"GPT-2 124M (random weights) on a CPU beside peers; {WHAT[part]}",
        rows,
        command=("generate_cpu.py", *given),
        settings=dataclasses.asdict(settings),
        packages=PACKAGES,
        hardware={"capability": torch.backends.cpu.get_cpu_capability()},
    )


if __name__ == "__main__":
    main()
