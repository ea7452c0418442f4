"""Measure preparation from text to a dataset from a cold start: every repetition is a new process."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from cpu_parts.corpus import write_corpus, write_documents
from cpu_parts.measure import Row, Samples, Target, compare, interleave, rates
from glassgpt.data.tokenizers.bpe import GPT2_PATTERN, gpt2_tokenizer

HERE = Path(__file__).parent
REFERENCE = "tiktoken, one thread"
FAST = "glassgpt with fastokens"
PLAIN = "glassgpt without fastokens"
TARGETS = {FAST: Target(">=", 3.0), PLAIN: Target(">=", 0.9)}
WARM_UP_MEGABYTES = 0.1

BLOCK_FASTOKENS = "import sys; sys.modules['fastokens'] = None; "
"""Makes `import fastokens` fail in the new process, as if it were not installed."""

ENCODE_ONLY = f"import sys; sys.path.insert(0, {str(HERE.parent)!r}); from cpu_parts.encode_only import main; main()"


def measure_preparing(rounds: int, megabytes: float, text: Path | None) -> list[Row]:
    """Return rows for preparation from a cold start and for encoding alone."""
    with tempfile.TemporaryDirectory() as folder:
        bench = _Preparing(Path(folder), megabytes, text)
        return [*bench.from_cold(rounds), *bench.encoding(rounds)]


class _Preparing:
    def __init__(self, folder: Path, megabytes: float, text: Path | None) -> None:
        self._out = folder / "out"
        self._ranks = folder / "gpt2.tiktoken"
        self._corpus, self._small = folder / "corpus.jsonl", folder / "small.jsonl"
        if text is None:
            write_corpus(self._corpus, megabytes)
        else:
            write_documents(text, self._corpus)
        write_corpus(self._small, WARM_UP_MEGABYTES)
        _write_ranks(self._ranks)

    def from_cold(self, rounds: int) -> list[Row]:
        systems = {REFERENCE: self._tiktoken, FAST: self._fast, PLAIN: self._plain}
        for work in systems.values():
            work(self._small)  # warm up: read libraries from disk and compile bytecode
        counts: dict[str, int] = {}

        def timed(name: str) -> Callable[[], float]:
            def run() -> float:
                seconds, counts[name] = systems[name](self._corpus)
                return seconds

            return run

        samples = interleave({name: timed(name) for name in systems}, rounds)
        return _rows("preparing from cold", samples, counts)

    def encoding(self, rounds: int) -> list[Row]:
        starts = {
            REFERENCE: ("tiktoken", ""),
            FAST: ("glassgpt", ""),
            PLAIN: ("glassgpt", BLOCK_FASTOKENS),
        }
        counts: dict[str, int] = {}

        def timed(name: str) -> Callable[[], float]:
            def run() -> float:
                who, before = starts[name]
                code = before + ENCODE_ONLY
                seconds, tokens = _python("-c", code, who, str(self._corpus)).split()
                counts[name] = int(tokens)
                return float(seconds)

            return run

        samples = interleave({name: timed(name) for name in starts}, rounds)
        return _rows("encoding alone", samples, counts, targets={})

    def _tiktoken(self, corpus: Path) -> tuple[float, int]:
        start = time.perf_counter()
        printed = _python(
            str(HERE / "tiktoken_reference.py"), str(self._ranks), GPT2_PATTERN, str(corpus), str(self._out)
        )
        seconds = time.perf_counter() - start
        self._out.unlink()
        return seconds, int(printed)

    def _fast(self, corpus: Path) -> tuple[float, int]:
        return self._glassgpt(corpus, before="")

    def _plain(self, corpus: Path) -> tuple[float, int]:
        return self._glassgpt(corpus, before=BLOCK_FASTOKENS)

    def _glassgpt(self, corpus: Path, before: str) -> tuple[float, int]:
        code = f"{before}from glassgpt.cli import main; main()"
        start = time.perf_counter()
        _python("-c", code, "prepare", str(corpus), "--out", str(self._out))
        seconds = time.perf_counter() - start
        summary = json.loads((self._out / "dataset.json").read_text())
        shutil.rmtree(self._out)
        return seconds, summary["train"]["tokens"] + summary["validation"]["tokens"]


def _rows(part: str, samples: Samples, counts: dict[str, int], targets: dict[str, Target] = TARGETS) -> list[Row]:
    if len(set(counts.values())) != 1:
        raise SystemExit(f"{part}: the systems produced different numbers of tokens: {counts}")
    tokens = counts[REFERENCE]
    return compare(f"{part}, {tokens / 1e6:.1f} M tokens", "tokens/s", rates(samples, tokens), REFERENCE, targets)


def _write_ranks(path: Path) -> None:
    """Write GPT-2's vocabulary in tiktoken's file format."""
    tokenizer = gpt2_tokenizer()
    pieces = (tokenizer.token_bytes(token) for token in range(tokenizer.end_of_text))
    path.write_bytes(b"".join(b"%s %d\n" % (base64.b64encode(piece), i) for i, piece in enumerate(pieces)))


def _python(*arguments: str) -> str:
    """Run a new interpreter and return its standard output; exit with its standard error if it fails."""
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"a measured program failed:\n{done.stderr.strip()}")
    return done.stdout
