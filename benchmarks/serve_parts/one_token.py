"""Completions of one token: the server's own cost per request, beside a bare server plus the engine's work."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from cpu_parts.measure import Row, Target, compare
from glassgpt import api
from glassgpt.generation.options import GenerationOptions
from glassgpt.serving.engine_thread import exact_engine
from serve_parts.load import SHORT_CLIENTS, in_other_process, run_short_requests
from serve_parts.server import Server, make_run

SERVER, BARE = "glassgpt serve", "Starlette + msgspec + the engine's step"
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
    body = {"model": "bench", "prompt": list(range(40, 48)), "max_tokens": 1, "seed": 1}
    try:
        assert bare.stdout is not None
        port = int(bare.stdout.readline())  # it listens
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
        server.stop()


def _engine_seconds(run: Path) -> float:
    """Return the seconds that the engine needs for a completion of one token, 16 at a time."""
    loaded = api.load(run)
    prompts = [[number] * 8 for number in range(40, 40 + SHORT_CLIENTS)]
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
