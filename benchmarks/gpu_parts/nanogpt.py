"""nanoGPT's train.py as a process that is stopped while others are timed."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

SETTINGS = {
    "dataset": "random", "batch_size": 64, "gradient_accumulation_steps": 1, "block_size": 1024, "dropout": 0.0,
    "bias": False, "log_interval": 1, "eval_interval": 1000000, "eval_iters": 1, "max_iters": 1000000,
    "out_dir": "out", "always_save_checkpoint": False,
}  # fmt: skip
SMALL = {"batch_size": 4, "block_size": 64, "n_layer": 1, "n_head": 2, "n_embd": 32, "device": "cpu", "compile": False}
STEP = re.compile(r"^iter \d+: .*time ([\d.]+)ms", re.MULTILINE)
PR_SET_PDEATHSIG = 1


class NanoGPT:
    """Trains GPT-2 124M on random tokens; starts at once.

    Args:
        sources: folder with train.py, model.py and configurator.py.
        work: folder for a copy, the data and the output.
        small: tiny sizes on a CPU.
    """

    def __init__(self, sources: Path, work: Path, small: bool) -> None:
        folder = work / "nanoGPT"
        data = folder / "data" / "random"
        shutil.copytree(sources, folder, dirs_exist_ok=True)
        data.mkdir(parents=True, exist_ok=True)
        for name in ("train", "val"):
            np.random.default_rng(0).integers(50257, size=4 << 20, dtype=np.uint16).tofile(data / f"{name}.bin")
        self._log = work / "nanogpt.log"
        settings = {**SETTINGS, **(SMALL if small else {})}
        with open(self._log, "w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "train.py", *(f"--{name}={value}" for name, value in settings.items())],
                cwd=folder, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, "PYTHONUNBUFFERED": "1"},
                preexec_fn=_end_with_parent,
            )  # fmt: skip

    def wait_until_compiled(self, seconds: float) -> None:
        """Wait for some steps, then stop the process."""
        self._wait_for(8, seconds)
        self._stop()

    def turn(self, steps: int, warm_up: int) -> list[float]:
        """Continue for some steps and return the milliseconds of each, as the process prints them.

        Args:
            steps: that are timed.
            warm_up: steps before them; the first contains the time in which the process was stopped.
        """
        begin = len(self._times()) + warm_up
        self._process.send_signal(signal.SIGCONT)
        try:
            self._wait_for(begin + steps, 120)
        finally:
            self._stop()
        return self._times()[begin : begin + steps]

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()

    def _stop(self) -> None:
        self._process.send_signal(signal.SIGSTOP)
        time.sleep(0.5)  # what it has queued still runs

    def _times(self) -> list[float]:
        return [float(ms) for ms in STEP.findall(self._log.read_text())]

    def _wait_for(self, count: int, seconds: float) -> None:
        end = time.monotonic() + seconds
        while len(self._times()) < count:
            if self._process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(
                    f"nanoGPT took {len(self._times())} of {count} steps: {self._log.read_text()[-600:]}"
                )
            time.sleep(0.1)


def _end_with_parent() -> None:
    """Have the kernel end this process if its parent is killed, even while it is stopped."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
