"""Soak `glassgpt serve`: mixed load with disconnects, malformed and huge requests, for minutes.

    python -m benchmarks.serve_soak RUN --minutes 30 --workers 8 [--out soak.json]

A good request must never fail, every tenth answer is asked for again and must be equal to the bit, and the server's memory must not
grow: the report has the slope of its resident size over the second half.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import os
import platform
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from cpu_parts.machine import cpu_model, package_version, usable_cores
from serve_parts.server import Server

PACKAGES = ("glassgpt", "torch", "starlette", "uvicorn", "msgspec", "uvloop", "httptools")
SLOTS = 8
BAD_BODIES = (
    b"{", b"[]", b'{"prompt": NaN}', b'{"prompt": "\\ud800"}', b'{"prompt": [-1]}', b'{"prompt": "a", "regex": "((("}',
    b"[" * 50_000, b'{"prompt": "' + b"a" * 100_000 + b'"}', b'{"prompt": "a", "n": 100000}',
)  # fmt: skip
HUGE_BYTES = 6 << 20


def good_body(random_source: random.Random) -> dict[str, Any]:
    """Return a seeded request."""
    return {
        "prompt": random_source.choice(["the ", "ROMEO:", "한국어", "x" * 40, [65, 66, 67], "\n"]),
        "max_tokens": random_source.choice([1, 8, 40, 100]),
        "seed": random_source.randrange(2**31),
        "temperature": random_source.choice([0, 0.7, 1.0]),
        "top_p": random_source.choice([0.9, 1.0]),
        "n": random_source.choice([1, 1, 3]),
        "logprobs": random_source.choice([None, 2]),
    }


async def send(port: int, body: bytes, leave_after: float | None = None) -> tuple[int, bytes] | None:
    """Return status and body of the reply, or None if this client left before."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 24)
    try:
        head = f"POST /v1/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
        writer.write(head.encode() + b"\r\nconnection: close\r\n\r\n" + body)
        if leave_after is not None:
            await asyncio.sleep(leave_after)
            return None
        received = await reader.read(-1)
    except (ConnectionResetError, BrokenPipeError):  # the server refused a huge body before it was sent
        return 413, b""
    finally:
        writer.close()
    head_bytes, _, content = received.partition(b"\r\n\r\n")
    if b"transfer-encoding: chunked" in head_bytes.lower():
        content = unchunked(content)
    return int(head_bytes[9:12] or 0), content


def unchunked(content: bytes) -> bytes:
    """Join the chunks of a body."""
    joined = b""
    while content:
        size, _, content = content.partition(b"\r\n")
        joined, content = joined + content[: int(size, 16)], content[int(size, 16) + 2 :]
    return joined


def choices(content: bytes, *, streamed: bool) -> Any:
    """Return the texts and log-probabilities of an answer, the same for both ways to send it."""
    if not streamed:
        parts = json.loads(content)["choices"]
    else:
        lines = [line[6:] for line in content.split(b"\n") if line.startswith(b"data: ") and line != b"data: [DONE]"]
        parts = [choice for line in lines for choice in json.loads(line)["choices"]]
    found: dict[int, list[Any]] = {}
    for part in parts:
        text, logprobs = found.setdefault(part["index"], ["", []])
        found[part["index"]] = [text + part["text"], logprobs + ((part["logprobs"] or {}).get("token_logprobs") or [])]
    return found


async def worker(port: int, end: float, seed: int, counts: Counter[str]) -> None:
    """Send requests until the time is over."""
    source = random.Random(seed)
    while time.monotonic() < end:
        kind = source.random()
        body = good_body(source)
        streamed = source.random() < 0.5
        encoded = json.dumps({**body, "stream": streamed}).encode()
        if kind < 0.2:
            await send(port, encoded, leave_after=source.random() * 0.2)
            counts["left"] += 1
        elif kind < 0.3:
            reply = await send(port, source.choice(BAD_BODIES))
            counts["malformed" if reply is not None and reply[0] == 400 else "malformed, but not refused"] += 1
        elif kind < 0.31:
            reply = await send(port, b'{"prompt": "' + b"a" * HUGE_BYTES + b'"}')
            counts["huge" if reply is not None and reply[0] == 413 else "huge, but not refused"] += 1
        else:
            reply = await send(port, encoded)
            if reply is None or reply[0] != 200:
                counts[f"failed with {reply and reply[0]}"] += 1
                continue
            counts["good"] += 1
            if counts["good"] % 10 == 0:
                again = await send(port, json.dumps({**body, "stream": not streamed}).encode())
                is_equal = again is not None and choices(again[1], streamed=not streamed) == choices(
                    reply[1], streamed=streamed
                )
                counts["replayed equal" if is_equal else "replayed different"] += 1


async def soak(port: int, pid: int, minutes: float, workers: int) -> tuple[Counter[str], list[tuple[float, float]]]:
    """Return the counts of all requests, and (minute, megabytes) of the server's resident memory."""
    counts: Counter[str] = Counter()
    begin = time.monotonic()
    end = begin + 60 * minutes
    running = [asyncio.create_task(worker(port, end, seed, counts)) for seed in range(workers)]
    memory: list[tuple[float, float]] = []
    while time.monotonic() < end:
        await asyncio.sleep(min(5.0, 3 * minutes))
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        memory.append(((time.monotonic() - begin) / 60, pages * 4096 / 1e6))
    await asyncio.gather(*running)
    return counts, memory


def slope(points: list[tuple[float, float]]) -> float:
    """Return the least-squares slope."""
    mean_x, mean_y = (sum(values) / len(points) for values in zip(*points, strict=True))
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0


def main() -> None:
    """Run the soak and print its report; exit with 1 if a good request failed or an answer differed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    server = Server(given.run, SLOTS, "auto").wait()
    try:
        counts, memory = asyncio.run(soak(server.port, server.pid, given.minutes, given.workers))
    finally:
        server.stop()
    second_half = memory[len(memory) // 2 :]
    report = {
        "what": "soak of glassgpt serve: requests by kind, and the server's resident memory (slope: of the second half)",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "hardware": {"cpu": cpu_model(), "cores": len(usable_cores()), "load_at_the_end": os.getloadavg()},
        "versions": {"python": platform.python_version(), **{name: package_version(name) for name in PACKAGES}},
        "minutes": given.minutes,
        "workers": given.workers,
        "requests": dict(counts),
        "memory_mb": {
            "first": memory[0][1],
            "largest": max(size for _, size in memory),
            "last": memory[-1][1],
            "slope_per_minute": slope(second_half),
        },
    }
    print(json.dumps(report, indent=1))
    if given.out:
        given.out.write_text(json.dumps(report, indent=1) + "\n")
    bad = [
        name for name in counts if name.startswith("failed") or "not refused" in name or name == "replayed different"
    ]
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
