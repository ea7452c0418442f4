"""Completions of one token: the server's own cost per request, beside a bare server plus the engine's work.

Each client has a prompt of its own: equal prompts that wait together share a prefill, so that one request in sixteen would
pay for it. The engine is that of the server (weights, kernel, decoder, slots) in a process that does nothing else.
"""

from __future__ import annotations

import functools
import multiprocessing
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median

from cpu_parts.measure import Row, Target, compare
from glassgpt.api.serving import load_weights
from glassgpt.generation.engine.engine import Engine
from glassgpt.generation.options import GenerationOptions
from glassgpt.serving.engine_thread import exact_engine
from serve_parts.load import SHORT_CLIENTS, in_other_process, run_short_requests
from serve_parts.server import Server, make_run

SERVER, BARE = "glassgpt serve", "Starlette + msgspec + the engine's step"
PROMPTS = [list(range(first, first + 8)) for first in range(40, 40 + 8 * SHORT_CLIENTS, 8)]
ROUNDS = 50
BARE_SERVER = """
import socket
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
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
config = uvicorn.Config(Starlette(routes=[Route("/complete", complete, methods=["POST"])]), log_level="critical", access_log=False)
uvicorn.Server(config).run([listener])
"""


def one_token_requests(folder: Path, rounds: int) -> list[Row]:
    """Return requests per second of completions of one token by the smallest preset, beside a bare server."""
    run = make_run("nano", folder)
    server = Server(run, SHORT_CLIENTS, "auto").wait()
    bare = subprocess.Popen([sys.executable, "-c", BARE_SERVER], stdout=subprocess.PIPE, text=True)
    bodies = [{"model": "bench", "prompt": prompt, "max_tokens": 1, "seed": 1} for prompt in PROMPTS]
    try:
        assert bare.stdout is not None
        port = int(bare.stdout.readline())  # it listens
        rates: dict[str, list[float]] = {BARE: [], SERVER: []}
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            for _ in range(rounds):
                step = pool.submit(engine_seconds, run).result()
                bare_rate = in_other_process(run_short_requests, port, "/complete", bodies)
                rates[BARE].append(1 / (1 / bare_rate + step))
                rates[SERVER].append(in_other_process(run_short_requests, server.port, "/v1/completions", bodies))
        return compare(
            f"completions of one token, {SHORT_CLIENTS} clients",
            "requests/s",
            rates,
            BARE,
            {SERVER: Target(">=", 1 / 1.5)},
        )
    finally:
        bare.kill()
        server.stop()


def engine_seconds(run: Path) -> float:
    """Return the seconds that the engine needs for a completion of one token, 16 at a time."""
    engine, options = _engine(run), GenerationOptions(max_tokens=1, seed=1)
    taken: list[float] = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for prompt in PROMPTS:
            engine.submit(prompt, options)
        while not engine.is_idle:
            for _chunk in engine.step():
                pass
        taken.append((time.perf_counter() - began) / len(PROMPTS))
    return median(taken[ROUNDS // 5 :])


@functools.cache
def _engine(run: Path) -> Engine:
    weights = load_weights(run, "best", "cpu", "auto", SHORT_CLIENTS)
    return exact_engine(weights.model, weights.tokenizer, slots=SHORT_CLIENTS)
