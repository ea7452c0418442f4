"""Speed of `glassgpt serve`, beside the engine alone and beside a bare web server, on this machine.

    python benchmarks/serve.py --model gpt2 --streams 64 --new-tokens 256 896       # on a GPU
    python benchmarks/serve.py --model gpt2 --streams 8 --precision int8 --new-tokens 64 --rounds 3 --one-token \
        --transformers .venv-clients/bin/python                                     # on a CPU: about six minutes

The server runs in a separate process with random weights and a vocabulary of the model's size. The clients of a round start
together and stream over connections of their own, in another process. Rounds of the server and of the engine alone
are interleaved. `/health` is probed a hundred times a second meanwhile (on a CPU, which the engine needs itself, twenty times): how long it
takes is an upper limit for the event loop's lag. First tokens are timed without probes, one request after the other, on the
server and on an engine with the same kernel, decoder and slots.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from cpu_parts.measure import Row, Target, compare
from cpu_parts.results import report, show, write_report
from glassgpt import api, console
from glassgpt.generation.bench import TOP_50, GenerationWorkload, measure_generation
from glassgpt.generation.engine.engine import Engine
from glassgpt.generation.precision import prepare_for_decoding
from glassgpt.openmp import WAITING, set_openmp_defaults
from glassgpt.serving.engine_thread import exact_engine
from serve_parts.load import StreamLoad, in_other_process, random_prompts, run_streams
from serve_parts.one_token import one_token_requests
from serve_parts.server import Server, make_run
from serve_parts.transformers_server import NAME as TRANSFORMERS
from serve_parts.transformers_server import TransformersServer

RESULTS = Path(__file__).parent / "results" / "serve.json"
PACKAGES = ("glassgpt", "torch", "starlette", "uvicorn", "msgspec", "uvloop", "httptools")
PROMPT_TOKENS, NEW_TOKENS = 64, 256
FIRST_TOKENS = 5
"""Requests of each round whose first token is timed."""
ENGINE, SERVER = "the engine alone", "glassgpt serve"


def import_and_read(run: Path) -> float:
    """Return the seconds that a new process needs to import torch and read the weights."""
    code = f"import torch, pathlib; from safetensors.torch import load_file; load_file(next(pathlib.Path({str(run)!r}).rglob('model.safetensors')))"
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - began


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description="Speed of glassgpt serve.")
    parser.add_argument("--model", default="gpt2", help="preset whose shape is served, with random weights")
    parser.add_argument("--streams", type=int, default=64, help="streams at once")
    parser.add_argument("--prompt-tokens", type=int, default=PROMPT_TOKENS, help="tokens of each prompt")
    parser.add_argument("--new-tokens", type=int, nargs="+", default=[NEW_TOKENS], help="tokens of each stream")
    parser.add_argument(
        "--switch",
        type=float,
        nargs="+",
        default=[0],
        help="switch intervals in seconds to compare; 0: the server's own",
    )
    parser.add_argument("--precision", default="auto", help="of the weights")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that are timed, after one that is not")
    parser.add_argument("--one-token", action="store_true", help="also measure requests of one token")
    parser.add_argument(
        "--transformers", type=Path, help="Python with transformers[serving]'s libraries: its server too"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="result file")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(given.model, Path(folder))
        rows = measure(run, given)
    content = report(
        "speed of glassgpt serve", rows, command=[Path(__file__).name, *sys.argv[1:]], packages=PACKAGES,
        settings={"prompt_tokens": given.prompt_tokens, "new_tokens": given.new_tokens, "rounds": given.rounds},
        hardware={"gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None},
    )  # fmt: skip
    show(rows)
    write_report(given.out, content)


def measure(run: Path, given: argparse.Namespace) -> list[Row]:
    """Measure everything, with the engine alone and the servers in turns."""
    baseline = [import_and_read(run) for _ in range(3)]
    starts: list[float] = []
    for _ in range(2):
        server = Server(run, given.streams, given.precision).wait()
        starts.append(server.seconds_to_ready)
        server.stop()
    started = {
        _name(switch): Server(run, given.streams, given.precision, switch_seconds=switch) for switch in given.switch
    }
    servers = {name: server.wait() for name, server in started.items()}
    try:
        rows = [row for new_tokens in given.new_tokens for row in streams(run, servers, given, new_tokens)]
        if given.transformers is not None:
            rows += beside_transformers(run, next(iter(servers.values())), given)
    finally:
        for server in servers.values():
            server.stop()
    rows += one_token_requests(run.parent / "nano", given.rounds) if given.one_token else []
    return rows + compare(
        "start to ready", "s", {"import torch and read the weights": baseline, SERVER: [*starts, starts[-1]]},
        "import torch and read the weights", {SERVER: Target("<=", 1.3)},
    )  # fmt: skip


def _name(switch: float) -> str:
    return SERVER if switch == 0 else f"{SERVER}, switch interval {1e3 * switch:g} ms"


def streams(run: Path, servers: dict[str, Server], given: argparse.Namespace, new_tokens: int) -> list[Row]:
    """Streams that start together, on each server and on the engine alone, and the first tokens of single ones."""
    loaded = api.load(run)
    # With the kernel of the server, whose times are remembered.
    model = prepare_for_decoding(loaded.model, given.precision, batch_size=given.streams, remembers=True)
    engine = exact_engine(model, loaded.tokenizer, slots=given.streams)
    rates: dict[str, list[float]] = {ENGINE: [], **{name: [] for name in servers}}
    firsts: dict[str, list[float]] = {ENGINE: [], **{name: [] for name in servers}}
    beyond: dict[str, list[float]] = {name: [] for name in servers}
    lags: dict[str, list[float]] = {name: [] for name in servers}
    for number in range(given.rounds + 1):
        workload = GenerationWorkload((given.streams,), given.prompt_tokens, new_tokens, 1, TOP_50)
        rate = measure_generation(model, workload, precision=given.precision)[0][0].tokens_per_second
        all_alone: list[float] = []
        for name, server in servers.items():
            load = StreamLoad(
                server.port,
                random_prompts(loaded.tokenizer.vocab_size, given.streams, given.prompt_tokens, number),
                new_tokens,
                1000 * number,
                probes_per_second=100 if torch.cuda.is_available() else 20,
            )
            served = in_other_process(run_streams, load)
            alone, first = first_tokens(engine, load)
            all_alone += alone
            if number:
                rates[name].append(served.rate)
                firsts[name].append(float(np.median(first)))
                beyond[name].append(float(np.median(first) - np.median(alone)))
                lags[name].append(1e3 * float(np.percentile(served.probes, 99)))
        if number:
            rates[ENGINE].append(rate)
            firsts[ENGINE].append(float(np.median(all_alone)))
            shown = ", ".join(f"{values[-1]:,.0f}" for values in rates.values())
            console.info(f"{new_tokens} new tokens, round {number}: {shown} tokens/s")
    part = f"{given.streams} streams of {new_tokens} tokens"
    rows = compare(part, "tokens/s", rates, ENGINE, {name: Target(">=", 0.9) for name in servers})
    rows += compare("time to first token, one stream", "ms", firsts, ENGINE)
    rows += _within("time to first token beyond the engine's own", 5, beyond)
    return rows + _within(f"GET /health beside {part}, 99th percentile", 20, lags)


def first_tokens(engine: Engine, load: StreamLoad) -> tuple[list[float], list[float]]:
    """Return the milliseconds to the first token of the same requests, on the engine and on the server, in turns."""
    alone: list[float] = []
    served: list[float] = []
    for number in range(FIRST_TOKENS):
        prompt = load.prompts[number % len(load.prompts)]
        one = dataclasses.replace(load, prompts=[prompt], new_tokens=8, seed=load.seed + number, probes_per_second=0)
        served.append(1e3 * in_other_process(run_streams, one).first[0])
        options = dataclasses.replace(TOP_50, max_tokens=8, seed=load.seed + number)
        began, first = time.perf_counter(), 0.0
        assert not isinstance(prompt, str)
        engine.add(engine.prepare(prompt, options, ignore_end=True))
        while not engine.is_idle:
            for _ in engine.step():
                first = first or time.perf_counter() - began
        alone.append(1e3 * first)
    return alone, served


def _within(part: str, limit: float, milliseconds: dict[str, list[float]]) -> list[Row]:
    """Return rows that compare with a limit."""
    limits = {"limit": [limit] * len(next(iter(milliseconds.values())))}
    return compare(part, "ms", limits | milliseconds, "limit", {name: Target("<=", 1) for name in milliseconds})


def beside_transformers(run: Path, server: Server, given: argparse.Namespace) -> list[Row]:
    """Return tokens per second of the same requests to `transformers serve`, one server after the other in each round."""
    loaded = api.load(run)
    other = TransformersServer(run, run.parent, given.transformers, server.port + 1).wait()
    rates: dict[str, list[float]] = {TRANSFORMERS: [], SERVER: []}
    try:
        for number in range(given.rounds + 1):
            prompts = random_prompts(loaded.tokenizer.vocab_size, given.streams, given.prompt_tokens, number)
            texts = [loaded.tokenizer.decode(prompt) for prompt in prompts]
            for name, port, extra in ((TRANSFORMERS, other.port, other.fields), (SERVER, server.port, {})):
                load = StreamLoad(
                    port, texts, given.new_tokens[0], 1000 * number, extras=(extra,), is_exact=name == SERVER
                )
                rate = in_other_process(run_streams, load).rate
                if number:
                    rates[name].append(rate)
            console.info(f"beside transformers serve, round {number}")
    finally:
        other.stop()
    part = f"{given.streams} streams of {given.new_tokens[0]} tokens, the same texts"
    return compare(part, "tokens/s", rates, TRANSFORMERS, {SERVER: Target(">=", 2)})


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not any(name in os.environ for name in WAITING):
        set_openmp_defaults()  # the engine alone waits for threads as the server does; OpenMP reads it when torch is loaded
        os.execv(sys.executable, sys.orig_argv)
    main()
