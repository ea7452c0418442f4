"""llama.cpp as a peer: its own benchmark program, a process for each measurement.

Where it lies is said by the environment, so that results name no folder: LLAMA_BATCHED_BENCH is its `llama-batched-bench`,
LLAMA_MODEL a model of the same shape in its format, as its `convert_hf_to_gguf.py` and `llama-quantize` make it of
`glassgpt export`. It draws no tokens, the others do.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

PROGRAM, MODEL = "LLAMA_BATCHED_BENCH", "LLAMA_MODEL"


def llama(prompt_tokens: int, batch: int, threads: int) -> Callable[[int], None]:
    """What has so many tokens written after a prompt, in every row of the batch.

    Raises:
        SystemExit: it is not there, or fails.
    """
    program, model = (_file(name) for name in (PROGRAM, MODEL))

    def write(new_tokens: int) -> None:
        room = batch * (prompt_tokens + new_tokens)
        size = {"-c": room, "-npp": prompt_tokens, "-ntg": new_tokens, "-npl": batch, "-t": threads, "-tb": threads}
        command = [program, "-m", model, *(str(word) for pair in size.items() for word in pair)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        told = done.stdout.replace(" ", "")
        if done.returncode != 0 or f"\n|{prompt_tokens}|{new_tokens}|{batch}|" not in told:
            raise SystemExit(f"llama.cpp did not write {new_tokens} tokens: {done.stderr.strip()[-200:]}")

    return write


def _file(name: str) -> str:
    path = os.environ.get(name)
    if path is None or not Path(path).is_file():
        raise SystemExit(f"--llama needs {name} in the environment, a file: {path or 'not set'}")
    return path
