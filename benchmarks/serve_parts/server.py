"""Runs to serve, and `glassgpt serve` in a separate process."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from glassgpt.api.runs import save_as_run
from glassgpt.config import load_config
from glassgpt.data.tokenizers.bpe import GPT2_PATTERN, BPETokenizer
from glassgpt.model.build import build_model
from serve_parts.load import until_ok

LAUNCHER = """
import sys, torch
from glassgpt.serving import run
if {switch}: run.SWITCH_SECONDS = {switch}
if {memory}: torch.cuda.set_per_process_memory_fraction({memory})
{prelude}
from glassgpt.cli import main
main(sys.argv[1:])
"""
"""Starts the command line with another setting of the interpreter or of PyTorch."""


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

    Args:
        run: folder of the run, which is served as `bench`.
        slots: see `glassgpt serve`, as is `precision`.
        switch_seconds: see `glassgpt.serving.run.SWITCH_SECONDS`; 0 keeps it.
        memory_fraction: share of the GPU's memory that it may use; 0 means all of it.
        prelude: code that runs before the command.
        arguments: further arguments of the command.

    Attributes:
        port: where it listens.
        pid: of its process.
        seconds_to_ready: from the start of the process to the first 200 of /ready.
        lines: what it has written to the standard error.
    """

    def __init__(
        self,
        run: Path,
        slots: int,
        precision: str,
        *,
        switch_seconds: float = 0,
        memory_fraction: float = 0,
        prelude: str = "",
        arguments: Sequence[str] = (),
    ) -> None:
        self._began = time.perf_counter()
        command = [sys.executable, "-m", "glassgpt"]
        if switch_seconds or memory_fraction or prelude:
            code = LAUNCHER.format(switch=switch_seconds, memory=memory_fraction, prelude=prelude)
            command = [sys.executable, "-c", code]
        command += ["serve", f"bench={run}", "--port", "0", "--slots", str(slots), "--precision", precision, *arguments]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.pid = self._process.pid
        self.lines: list[str] = []
        self._is_listening = threading.Event()
        self._reader = threading.Thread(target=self._read_lines, daemon=True)  # else a full pipe would stop the server
        self._reader.start()

    def _read_lines(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.lines.append(line)
            found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
            if found:
                self.port = int(found[1])
                self._is_listening.set()
        self._is_listening.set()  # or has ended

    def wait(self) -> Server:
        """Wait until it is ready.

        Raises:
            RuntimeError: it ended instead.
        """
        self._is_listening.wait()
        if not hasattr(self, "port"):
            raise RuntimeError("".join(self.lines))
        asyncio.run(until_ok(self.port, "/ready"))
        self.seconds_to_ready = time.perf_counter() - self._began
        return self

    def stop(self) -> None:
        """End the server and read the rest of what it wrote."""
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(timeout=60)
        self._reader.join()
