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
import asyncio
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from cpu_parts.measure import Row, Target, compare
from cpu_parts.results import report, show, write_report
from glassgpt import api, console
from glassgpt.api.runs import save_as_run
from glassgpt.config import load_config
from glassgpt.data.tokenizers.bpe import GPT2_PATTERN, BPETokenizer
from glassgpt.generation.bench import TOP_50, GenerationWorkload, measure_generation
from glassgpt.generation.options import GenerationOptions
from glassgpt.model.build import build_model

RESULTS = Path(__file__).parent / "results" / "serve.json"
PACKAGES = ("glassgpt", "torch", "starlette", "uvicorn", "msgspec", "uvloop", "httptools")
PROMPT_TOKENS, NEW_TOKENS = 64, 256
SHORT_SECONDS, SHORT_CLIENTS = 5.0, 16
PROBES_PER_SECOND = 10
ENGINE, SERVER, BARE = "the engine alone", "glassgpt serve", "Starlette + msgspec + the engine's step"


def synthetic_tokenizer(vocab_size: int) -> BPETokenizer:
    """Return a tokenizer of this size whose tokens are strings of one to three printable characters."""
    characters = [bytes([number]) for number in range(32, 127)]
    pieces = [bytes([number]) for number in range(256)]
    pieces += [a + b for a in characters for b in characters]
    pieces += [a + b + c for a in characters for b in characters for c in characters]
    return BPETokenizer("synthetic", GPT2_PATTERN, pieces[: vocab_size - 1])


def make_run(preset: str, folder: Path) -> Path:
    """Write a run of a preset's shape with random weights."""
    shape = load_config(preset, {}).model
    shape = shape if shape.vocab_size else load_config(preset, {"model.vocab_size": 4096}).model
    torch.manual_seed(0)
    save_as_run(build_model(shape).eval(), synthetic_tokenizer(shape.vocab_size), folder / "run")
    return folder / "run"


class Server:
    """A running `glassgpt serve`.

    Attributes:
        port: where it listens.
        seconds_to_ready: from the start of the process to the first 200 of /ready.
    """

    def __init__(self, run: Path, slots: int, precision: str) -> None:
        began = time.perf_counter()
        command = [sys.executable, "-m", "glassgpt", "serve", f"bench={run}", "--port", "0"]
        command += ["--slots", str(slots), "--precision", precision]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self._process.stderr is not None
        lines: list[str] = []
        for line in self._process.stderr:
            lines.append(line)
            found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
            if found:
                self.port = int(found[1])
                break
        else:
            raise RuntimeError("".join(lines))
        asyncio.run(_until_ok(self.port, "/ready"))
        self.seconds_to_ready = time.perf_counter() - began

    def stop(self) -> None:
        """End the server."""
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(60)


async def _until_ok(port: int, path: str) -> None:
    while True:
        status, _ = await _get(port, path)
        if status == 200:
            return
        await asyncio.sleep(0.005)


async def _get(port: int, path: str) -> tuple[int, bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    return int(answer.split(b" ", 2)[1]), answer


def _request(port: int, body: dict[str, Any]) -> bytes:
    data = json.dumps(body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(data)}\r\n\r\n".encode() + data


async def _stream(port: int, seed: int, prompt: list[int], new_tokens: int) -> tuple[float, float, int]:
    """Return (seconds to the first token, seconds to the last, tokens) of a stream."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    body = {
        "model": "bench", "prompt": prompt, "max_tokens": new_tokens, "temperature": 1.0, "top_k": 50, "seed": seed,
        "ignore_eos": True, "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip
    began = time.perf_counter()
    writer.write(_request(port, body))
    first, last_event = 0.0, b""
    async for line in reader:
        if line.startswith(b"data: {"):
            first = first or time.perf_counter() - began
            last_event = line
        elif line.startswith(b"data: [DONE]"):
            break
        elif line.startswith(b"HTTP/1.1") and b" 200 " not in line:
            raise RuntimeError(line.decode())
    seconds = time.perf_counter() - began
    writer.close()
    return first, seconds, json.loads(last_event[6:])["usage"]["completion_tokens"]


async def _probe(port: int, seconds: list[float], is_over: asyncio.Event) -> None:
    while not is_over.is_set():
        began = time.perf_counter()
        await _get(port, "/health")
        seconds.append(time.perf_counter() - began)
        await asyncio.sleep(1 / PROBES_PER_SECOND)


async def _streams(
    port: int, count: int, seed: int, vocab_size: int, prompt_tokens: int, new_tokens: int
) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    prompts = generator.integers(vocab_size - 1, size=(count, prompt_tokens)).tolist()
    probes: list[float] = []
    is_over = asyncio.Event()
    probing = asyncio.create_task(_probe(port, probes, is_over))
    began = time.perf_counter()
    streams = await asyncio.gather(
        *(_stream(port, seed + number, prompt, new_tokens) for number, prompt in enumerate(prompts))
    )
    seconds = time.perf_counter() - began
    is_over.set()
    await probing
    tokens = sum(each[2] for each in streams)
    if tokens != count * new_tokens:
        raise RuntimeError(f"{tokens} tokens instead of {count * new_tokens}")
    return {"rate": tokens / seconds, "first": [each[0] for each in streams], "probes": probes}


async def _short_requests(port: int, path: str, body: dict[str, Any]) -> float:
    """Return the requests per second of clients that send one after the other over connections that are kept."""
    data, ends = _request(port, body).replace(b"/v1/completions", path.encode()), time.perf_counter() + SHORT_SECONDS

    async def client() -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        count = 0
        while time.perf_counter() < ends:
            writer.write(data)
            head = await reader.readuntil(b"\r\n\r\n")
            if b" 200 " not in head.split(b"\r\n", 1)[0]:
                raise RuntimeError(head.decode())
            length = int(re.search(rb"content-length: (\d+)", head)[1])  # type: ignore[index]
            await reader.readexactly(length)
            count += 1
        writer.close()
        return count

    began = time.perf_counter()
    counts = await asyncio.gather(*(client() for _ in range(SHORT_CLIENTS)))
    return sum(counts) / (time.perf_counter() - began)


def in_other_process(work: Callable[..., Coroutine[Any, Any, Any]], *arguments: Any) -> Any:
    """Run a coroutine in a new process, so that clients and measurements do not share an interpreter."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_run, (work, arguments))


def _run(work: Callable[..., Coroutine[Any, Any, Any]], arguments: Sequence[Any]) -> Any:
    return asyncio.run(work(*arguments))


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
            bare_rate = in_other_process(_short_requests, port, "/complete", body)
            rates[BARE].append(1 / (1 / bare_rate + step))
            rates[SERVER].append(in_other_process(_short_requests, server.port, "/v1/completions", body))
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
    parser.add_argument("--new-tokens", type=int, default=NEW_TOKENS, help="tokens of each stream")
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
    """Measure everything, with the engine alone and the server in turns."""
    baseline = [import_and_read(run) for _ in range(3)]
    starts: list[float] = []
    for _ in range(2):
        server = Server(run, given.streams, given.precision)
        starts.append(server.seconds_to_ready)
        server.stop()
    server = Server(run, given.streams, given.precision)
    starts.append(server.seconds_to_ready)
    loaded = api.load(run)
    sizes = loaded.tokenizer.vocab_size, given.prompt_tokens
    rates: dict[str, list[float]] = {ENGINE: [], SERVER: []}
    firsts: dict[str, list[float]] = {ENGINE: [], SERVER: []}
    lags: list[float] = []
    try:
        for number in range(given.rounds + 1):
            served = in_other_process(_streams, server.port, given.streams, 1000 * number, *sizes, given.new_tokens)
            one = in_other_process(_streams, server.port, 1, 1000 * number + 500, *sizes, 8)
            alone = {
                streams: measure_generation(
                    loaded.model,
                    GenerationWorkload((streams,), given.prompt_tokens, tokens, 1, TOP_50),
                    precision=given.precision,
                )[0][0]
                for streams, tokens in ((given.streams, given.new_tokens), (1, 8))
            }
            if number == 0:
                continue
            rates[SERVER].append(served["rate"])
            rates[ENGINE].append(alone[given.streams].tokens_per_second)
            firsts[SERVER].append(1e3 * one["first"][0])
            firsts[ENGINE].append(alone[1].first_token_ms)
            lags.append(1e3 * float(np.percentile(served["probes"], 99)))
            console.info(f"round {number}: {rates[SERVER][-1]:,.0f} of {rates[ENGINE][-1]:,.0f} tokens/s")
        rows = compare(
            f"{given.streams} streams of {given.new_tokens} tokens", "tokens/s", rates, ENGINE,
            {SERVER: Target(">=", 0.9)},
        )  # fmt: skip
        rows += compare("time to first token, one stream", "ms", firsts, ENGINE, {})
        if given.short:
            rows += short_requests(run, server, given.rounds)
    finally:
        server.stop()
    rows += compare(
        "start to ready", "s", {"import torch and read the weights": baseline, SERVER: starts},
        "import torch and read the weights", {SERVER: Target("<=", 1.3)},
    )  # fmt: skip
    return rows + compare("GET /health under that load, 99th percentile, limit 20", "ms", {SERVER: lags}, SERVER)


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
