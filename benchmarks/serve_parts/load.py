"""Clients of a server: streams that start together, requests of one token, probes of its health.

They run in a separate process, so that they do not share an interpreter with what is measured.
"""

from __future__ import annotations

import asyncio
import functools
import json
import multiprocessing
import re
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import uvloop

SHORT_SECONDS, SHORT_CLIENTS = 5.0, 16
LAST_BYTES = 64
"""More than the end of a stream has."""
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True)
class StreamLoad:
    """Streams that start together, each over a connection that is open already.

    Attributes:
        port: the server's.
        prompts: of each stream, as token ids or text.
        new_tokens: of each stream.
        seed: of the first stream.
        path: of the endpoint.
        extras: further fields of the requests, in turns; None leaves a field out.
        is_exact: every stream must have all of its tokens.
        probes_per_second: how often /health is requested meanwhile; 0 never requests it.
    """

    port: int
    prompts: Sequence[list[int] | str]
    new_tokens: int
    seed: int
    path: str = "/v1/completions"
    extras: Sequence[dict[str, Any]] = ({},)
    is_exact: bool = True
    probes_per_second: int = 100


@dataclass(frozen=True)
class StreamTimes:
    """Times that the clients measured.

    Attributes:
        rate: tokens per second of all streams, from the first request to the last token.
        first: seconds until each stream's first token.
        probes: seconds that each request of /health took meanwhile.
        answers: text and log-probabilities of each stream.
    """

    rate: float
    first: list[float]
    probes: list[float]
    answers: list[tuple[str, list[float]]]


def random_prompts(vocab_size: int, count: int, length: int, seed: int) -> list[list[int]]:
    """Return prompts of random tokens, all different."""
    return np.random.default_rng(seed).integers(vocab_size - 1, size=(count, length)).tolist()


def in_other_process(work: Callable[..., Coroutine[Any, Any, Any]], *arguments: Any) -> Any:
    """Run a coroutine in another process, the same for all of them, and return its result."""
    return _process().submit(_run, work, arguments).result()


@functools.cache
def _process() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))


def _run(work: Callable[..., Coroutine[Any, Any, Any]], arguments: Sequence[Any]) -> Any:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # half of the time of asyncio's own
        return runner.run(work(*arguments))


async def until_ok(port: int, path: str) -> None:
    """Wait until a path is answered with 200."""
    while (await get(port, path))[0] != 200:
        await asyncio.sleep(0.005)


async def get(port: int, path: str) -> tuple[int, bytes]:
    """Return status and body of a GET request."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    return int(answer.split(b" ", 2)[1]), answer.partition(b"\r\n\r\n")[2]


def post(port: int, path: str, body: dict[str, Any]) -> bytes:
    """Return the bytes of a POST request."""
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(data)}\r\n\r\n".encode() + data


async def run_streams(load: StreamLoad) -> StreamTimes:
    """Send all requests at once and read every stream to its end."""
    bodies = [post(load.port, load.path, _fields(load, number)) for number in range(len(load.prompts))]
    connections = [await asyncio.open_connection("127.0.0.1", load.port, limit=1 << 20) for _ in bodies]
    probes: list[float] = []
    is_over = asyncio.Event()
    probing = asyncio.create_task(_probe(load, probes, is_over))
    began = time.perf_counter()
    for (_, writer), body in zip(connections, bodies, strict=True):
        writer.write(body)
    streams = await asyncio.gather(*(_read_stream(connection, began) for connection in connections))
    seconds = time.perf_counter() - began
    is_over.set()
    await probing
    lines = [[json.loads(line[6:]) for line in stream if line.startswith(b"data: {")] for _, stream in streams]
    tokens = sum(events[-1]["usage"]["completion_tokens"] for events in lines)
    if load.is_exact and tokens != len(load.prompts) * load.new_tokens:
        raise RuntimeError(f"{tokens} tokens instead of {len(load.prompts) * load.new_tokens}")
    return StreamTimes(tokens / seconds, [first for first, _ in streams], probes, [_answer(events) for events in lines])


def _answer(events: list[dict[str, Any]]) -> tuple[str, list[float]]:
    choices = [choice for event in events for choice in event["choices"]]
    logprobs = [each for choice in choices for each in (choice.get("logprobs") or {}).get("token_logprobs", [])]
    return "".join(choice["text"] for choice in choices), logprobs


def _fields(load: StreamLoad, number: int) -> dict[str, Any]:
    """Return the fields of the request of one stream, without those that are None."""
    fields = {
        "model": "bench", "prompt": load.prompts[number], "max_tokens": load.new_tokens, "temperature": 1.0, "top_k": 50,
        "seed": load.seed + number, "ignore_eos": True, "stream": True, "stream_options": {"include_usage": True},
        **load.extras[number % len(load.extras)],
    }  # fmt: skip
    return {name: value for name, value in fields.items() if value is not None}


async def _read_stream(connection: Connection, began: float) -> tuple[float, list[bytes]]:
    """Return the seconds to the first event and all lines, which are taken apart once the time is taken."""
    reader, writer = connection
    first, received = 0.0, bytearray()
    while part := await reader.read(1 << 16):
        received += part
        if not received.startswith(b"HTTP/1.1 200 "[: len(received)]):
            raise RuntimeError((bytes(received) + await reader.read(4096)).decode())
        if not first and b"data: {" in received:
            first = time.perf_counter() - began
        if b"data: [DONE]" in received[-LAST_BYTES:] or received.endswith(b"\r\n0\r\n\r\n"):
            break
    writer.close()
    return first, bytes(received).splitlines()


async def _probe(load: StreamLoad, seconds: list[float], is_over: asyncio.Event) -> None:
    while load.probes_per_second and not is_over.is_set():
        began = time.perf_counter()
        await get(load.port, "/health")
        seconds.append(time.perf_counter() - began)
        await asyncio.sleep(1 / load.probes_per_second)


async def run_short_requests(port: int, path: str, bodies: Sequence[dict[str, Any]]) -> float:
    """Return the requests per second of clients that send one after the other over connections that are kept.

    Args:
        port: of the server.
        path: of the endpoint.
        bodies: the body that each client sends.
    """
    ends = time.perf_counter() + SHORT_SECONDS

    async def client(body: dict[str, Any]) -> int:
        data = post(port, path, body)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        count = 0
        while time.perf_counter() < ends:
            writer.write(data)
            head = await reader.readuntil(b"\r\n\r\n")
            if b" 200 " not in head.split(b"\r\n", 1)[0]:
                raise RuntimeError(head.decode())
            found = re.search(rb"content-length: (\d+)", head)
            assert found is not None
            await reader.readexactly(int(found[1]))
            count += 1
        writer.close()
        return count

    began = time.perf_counter()
    counts = await asyncio.gather(*map(client, bodies))
    return sum(counts) / (time.perf_counter() - began)
