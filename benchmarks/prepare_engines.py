"""Megabytes per second and memory of `prepare` with processes and with Ray, beside tiktoken in one thread.

    python benchmarks/prepare_engines.py --text textbooks.jsonl --gigabytes 1

Repeats a text with some words changed, so that no document is a duplicate, until it is as large as asked. Each engine
prepares it in a new process; the datasets must be equal, byte for byte. A figure of an engine includes its start, reading,
finding duplicates, the split and the shards; tiktoken's is of encoding alone, without loading.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import itertools
import json
import lzma
import os
import platform
import random
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from multiprocessing import Pool
from pathlib import Path
from typing import Any

from cpu_parts.machine import cpu_model, package_version, usable_cores
from cpu_parts.measure import Spread
from glassgpt import console
from glassgpt.data.tokenizers.bpe import GPT2_PATTERN, gpt2_tokenizer

RESULTS = Path(__file__).parent / "results" / "prepare-engines.json"
CHANGED_SHARE = 0.25
TIKTOKEN_BYTES = 60_000_000


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description="prepare with several engines.")
    parser.add_argument(
        "--text",
        type=Path,
        required=True,
        help="documents as JSON lines, perhaps .xz; large enough, it is taken as it is",
    )
    parser.add_argument("--gigabytes", type=float, default=1.0, help="size of the text that is made of them")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each engine")
    parser.add_argument(
        "--workers", type=int, nargs="+", default=[len(usable_cores())], help="numbers of tasks at once"
    )
    parser.add_argument(
        "--engines", nargs="*", default=["pool", "ray"], choices=["pool", "ray"], help="engines to measure"
    )
    parser.add_argument("--overlaps", action="store_true", help="also with near-duplicates and contamination")
    parser.add_argument("--folder", type=Path, help="folder for the text and the datasets; a temporary one by default")
    parser.add_argument("--append", action="store_true", help="keep the rows of the result file")
    parser.add_argument("--out", type=Path, default=RESULTS, help="result file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        text, wanted = options.text, int(options.gigabytes * 1e9)
        if text.suffix == ".xz" or text.stat().st_size < wanted:
            text = folder / "text.jsonl"
            make_text(options.text, text, wanted)
        size = text.stat().st_size
        console.info(f"text: {size / 1e6:,.0f} MB")
        rows: list[dict[str, Any]] = json.loads(options.out.read_text())["rows"] if options.append else []
        rows += [] if rows else [{"system": "tiktoken, one thread", **tiktoken_figures(text)}]
        settings = [(engine, workers, ()) for workers in options.workers for engine in options.engines]
        if options.overlaps:
            more = ("--near-duplicates", "0.8", "--contamination", "remove")
            settings += [(engine, max(options.workers), more) for engine in options.engines]
        write(options.out, size, rows)
        for engine, workers, more in settings:
            rows.append(engine_figures(text, folder, engine, workers, more, options.rounds))
            write(options.out, size, rows)
    for kind in (False, True):
        digests = {row["dataset_sha256"] for row in rows if "workers" in row and bool(row["options"]) == kind}
        console.result(f"{'with' if kind else 'without'} overlaps removed: {len(digests)} different datasets")
    columns = ("system", "workers", "MB/s", "driver MB", "worker MB", "workers in all MB")
    names = ("workers", "megabytes_per_second", "driver_peak_mb", "worker_peak_mb", "workers_peak_mb")
    cells = [[row["system"], *(_cell(row.get(name, "")) for name in names)] for row in rows]
    console.table("preparing text", columns, cells)


def _cell(value: Any) -> str:
    return f"{value['median']:.1f}" if isinstance(value, dict) else str(value)


def write(out: Path, size: int, rows: list[dict[str, Any]]) -> None:
    """Write what has been measured so far."""
    document = {
        "command": shlex.join(["python", "benchmarks/prepare_engines.py", *sys.argv[1:]]),
        "taken": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
        "machine": {"cpu": cpu_model(), "cores": usable_cores(), "system": platform.platform()},
        "versions": {name: package_version(name) for name in ("glassgpt", "ray", "tiktoken", "fastokens", "rensa")},
        "python": platform.python_version(),
        "text_bytes": size,
        "rows": rows,
    }
    out.write_text(json.dumps(document, indent=2) + "\n")


def make_text(source: Path, target: Path, size: int) -> None:
    """Write JSON lines of at least `size` bytes: the documents, then copies of them with changed words."""
    with (lzma.open if source.suffix == ".xz" else open)(source, "rt", encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line in file]
    jobs = ((texts[at], copy) for copy in itertools.count() for at in range(len(texts)))
    with target.open("w", encoding="utf-8") as file, Pool(len(usable_cores())) as pool:
        while file.tell() < size:
            for row in pool.imap(changed_row, itertools.islice(jobs, len(texts)), 16):
                file.write(row)


def changed_row(job: tuple[str, int]) -> str:
    """Return a row of a document with some words reversed, others in each copy; the first copy is as it was."""
    text, copy = job
    choose = random.Random(f"{copy} {text[:200]}")
    words = text.split(" ")
    if copy:
        words = [word[::-1] if choose.random() < CHANGED_SHARE else word for word in words]
    return json.dumps({"text": " ".join(words)}, ensure_ascii=False) + "\n"


def tiktoken_figures(path: Path) -> dict[str, Any]:
    """Encode the first documents in one thread with tiktoken."""
    import tiktoken

    tokenizer = gpt2_tokenizer()
    ranks = {tokenizer.token_bytes(token): token for token in range(tokenizer.end_of_text)}
    encoding = tiktoken.Encoding("gpt2", pat_str=GPT2_PATTERN, mergeable_ranks=ranks, special_tokens={})
    texts: list[str] = []
    size = 0
    with path.open(encoding="utf-8") as file:
        for line in file:
            texts.append(json.loads(line)["text"])
            size += len(line.encode())
            if size > TIKTOKEN_BYTES:
                break
    start = time.perf_counter()
    for text in texts:
        encoding.encode_ordinary(text)
    speed = size / 1e6 / (time.perf_counter() - start)
    return {"megabytes_per_second": vars(Spread.of([speed])), "encoded_bytes": size}


def engine_figures(
    text: Path, folder: Path, engine: str, workers: int, more: tuple[str, ...], rounds: int
) -> dict[str, Any]:
    """Prepare the text several times with one engine."""
    speeds: list[float] = []
    memory: list[Memory] = []
    out, digest = folder / "dataset", ""
    for number in range(rounds):
        shutil.rmtree(out, ignore_errors=True)
        command = [
            sys.executable, "-m", "glassgpt", "prepare", str(text), "--out", str(out), "--engine", engine, "--workers", str(workers), *more,
        ]  # fmt: skip
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        memory.append(Memory(process))
        if process.wait():
            raise SystemExit(f"failed: {shlex.join(command)}")
        speeds.append(text.stat().st_size / 1e6 / (time.perf_counter() - start))
        memory[-1].thread.join()
        digest = folder_digest(out)
        console.info(f"{engine}, {workers} workers, round {number + 1}: {speeds[-1]:.1f} MB/s")
    return {
        "system": engine,
        "workers": workers,
        "options": shlex.join(more),
        "megabytes_per_second": vars(Spread.of(speeds)),
        "driver_peak_mb": max(each.driver for each in memory),
        "worker_peak_mb": max(each.largest for each in memory),
        "workers_peak_mb": max(each.together for each in memory),
        "dataset_sha256": digest,
    }


class Memory:
    """Watches the resident memory of a process and of what it starts, in MB, until it ends."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.driver = self.largest = self.together = 0
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    def _watch(self) -> None:
        while self._process.poll() is None:
            others = [resident_mb(pid) for pid in descendants(self._process.pid)]
            self.driver = max(self.driver, resident_mb(self._process.pid))
            self.largest = max([self.largest, *others])
            self.together = max(self.together, sum(others))
            time.sleep(0.25)


def descendants(root: int) -> Iterator[int]:
    """Yield the processes that a process started, directly or not."""
    parents: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                parents[int(name)] = int(Path("/proc", name, "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError, ValueError):
                continue
    for pid in parents:
        above = pid
        while above in parents and above != root:
            above = parents[above]
        if above == root and pid != root:
            yield pid


def resident_mb(pid: int) -> int:
    """Return the resident memory of a process that is not shared with files, in MB; 0 if it has ended."""
    try:
        lines = Path("/proc", str(pid), "status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) // 1024


def folder_digest(folder: Path) -> str:
    """Return a SHA-256 over the names and contents of all files of a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


if __name__ == "__main__":
    main()
