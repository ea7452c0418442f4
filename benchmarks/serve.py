"""Speed of `glassgpt serve`, beside the engine alone and beside a bare web server, on this machine.

    python benchmarks/serve.py --model gpt2 --streams 64              # on a GPU
    python benchmarks/serve.py --model gpt2 --streams 8               # on a CPU
    python benchmarks/serve.py --model nano --streams 8 --short       # also requests of one token

The server runs in a separate process with random weights and a vocabulary of the model's size. The clients of a round start
together and stream over connections of their own, in another process. Rounds of the server and of the engine alone
are interleaved. `/health` is probed ten times a second meanwhile: how long it takes is an upper limit for the event loop's lag.
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
from statistics import median

import numpy as np
import torch

from cpu_parts.measure import Row, Target, compare
from cpu_parts.results import report, show, write_report
from glassgpt import api, console
from glassgpt.generation.bench import TOP_50, GenerationWorkload, measure_generation
from glassgpt.generation.options import GenerationOptions
from serve_parts.load import (
    SHORT_CLIENTS,
    StreamLoad,
    in_other_process,
    random_prompts,
    run_short_requests,
    run_streams,
)
from serve_parts.server import Server, make_run

RESULTS = Path(__file__).parent / "results" / "serve.json"
PACKAGES = ("glassgpt", "torch", "starlette", "uvicorn", "msgspec", "uvloop", "httptools")
PROMPT_TOKENS, NEW_TOKENS = 64, 256
ENGINE, SERVER, BARE = "the engine alone", "glassgpt serve", "Starlette + msgspec + the engine's step"


BARE_SERVER = """
import msgspec, uvicorn
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route
async def complete(request):
    body = msgspec.json.decode(await request.body())
    answer = {"id": "x", "object": "text_completion", "created": 0, "model": body["model"],
              "choices": [{"index": 0, "text": "a", "logprobs": None, "finish_reason": "length"}],
              "usage": {"prompt_tokens": 8, "completion_tokens": 1, "total_tokens": 9}}
    return Response(msgspec.json.encode(answer), media_type="application/json")
config = uvicorn.Config(Starlette(routes=[Route("/complete", complete, methods=["POST"])]), port=PORT, log_level="critical", access_log=False)
uvicorn.Server(config).run()
"""


def short_requests(run: Path, server: Server, rounds: int) -> list[Row]:
    """Requests per second of completions of one token, beside a bare server plus the engine's work for one."""
    port = server.port + 1
    bare = subprocess.Popen([sys.executable, "-c", BARE_SERVER.replace("PORT", str(port))])
    body = {"model": "bench", "prompt": list(range(40, 48)), "max_tokens": 1, "seed": 1}
    try:
        time.sleep(2)
        rates: dict[str, list[float]] = {BARE: [], SERVER: []}
        step = _engine_seconds(run)
        for _ in range(rounds):
            bare_rate = in_other_process(run_short_requests, port, "/complete", body)
            rates[BARE].append(1 / (1 / bare_rate + step))
            rates[SERVER].append(in_other_process(run_short_requests, server.port, "/v1/completions", body))
        return compare(
            f"completions of one token, {SHORT_CLIENTS} clients",
            "requests/s",
            rates,
            BARE,
            {SERVER: Target(">=", 1 / 1.5)},
        )
    finally:
        bare.kill()


def _engine_seconds(run: Path) -> float:
    """Return the seconds that the engine needs for a completion of one token, 16 at a time."""
    loaded = api.load(run)
    prompts = [[number] * 8 for number in range(40, 40 + SHORT_CLIENTS)]
    from glassgpt.serving.engine_thread import exact_engine

    engine = exact_engine(loaded.decoding_model, loaded.tokenizer, slots=SHORT_CLIENTS)
    options = GenerationOptions(max_tokens=1, seed=1)
    taken: list[float] = []
    for _ in range(12):
        began = time.perf_counter()
        for prompt in prompts:
            engine.submit(prompt, options)
        while not engine.is_idle:
            for _chunk in engine.step():
                pass
        taken.append((time.perf_counter() - began) / SHORT_CLIENTS)
    return median(taken[2:])


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
    parser.add_argument("--short", action="store_true", help="also measure requests of one token")
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
        if given.short:
            rows += short_requests(run, next(iter(servers.values())), given.rounds)
    finally:
        for server in servers.values():
            server.stop()
    return rows + compare(
        "start to ready", "s", {"import torch and read the weights": baseline, SERVER: [*starts, starts[-1]]},
        "import torch and read the weights", {SERVER: Target("<=", 1.3)},
    )  # fmt: skip


def _name(switch: float) -> str:
    return SERVER if switch == 0 else f"{SERVER}, switch interval {1e3 * switch:g} ms"


def streams(run: Path, servers: dict[str, Server], given: argparse.Namespace, new_tokens: int) -> list[Row]:
    """Streams that start together, on each server and on the engine alone."""
    loaded = api.load(run)
    vocab_size = loaded.tokenizer.vocab_size
    rates: dict[str, list[float]] = {ENGINE: [], **{name: [] for name in servers}}
    firsts: dict[str, list[float]] = {ENGINE: [], **{name: [] for name in servers}}
    lags: dict[str, list[float]] = {name: [] for name in servers}
    for number in range(given.rounds + 1):
        alone = {
            count: measure_generation(
                loaded.model,
                GenerationWorkload((count,), given.prompt_tokens, tokens, 1, TOP_50),
                precision=given.precision,
            )[0][0]
            for count, tokens in ((given.streams, new_tokens), (1, 8))
        }
        for name, server in servers.items():
            load = StreamLoad(
                server.port,
                random_prompts(vocab_size, given.streams, given.prompt_tokens, number),
                new_tokens,
                1000 * number,
            )
            served = in_other_process(run_streams, load)
            one = in_other_process(
                run_streams, dataclasses.replace(load, prompts=load.prompts[:1], new_tokens=8, seed=1000 * number + 500)
            )
            if number:
                rates[name].append(served.rate)
                firsts[name].append(1e3 * one.first[0])
                lags[name].append(1e3 * float(np.percentile(served.probes, 99)))
        if number:
            rates[ENGINE].append(alone[given.streams].tokens_per_second)
            firsts[ENGINE].append(alone[1].first_token_ms)
            shown = ", ".join(f"{values[-1]:,.0f}" for values in rates.values())
            console.info(f"{new_tokens} new tokens, round {number}: {shown} tokens/s")
    part = f"{given.streams} streams of {new_tokens} tokens"
    rows = compare(part, "tokens/s", rates, ENGINE, {name: Target(">=", 0.9) for name in servers})
    rows += compare(f"time to first token, one stream ({part})", "ms", firsts, ENGINE)
    return rows + compare(f"GET /health beside {part}, 99th percentile, limit 20", "ms", lags, next(iter(servers)))


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
