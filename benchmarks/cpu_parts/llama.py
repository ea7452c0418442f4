"""llama.cpp as a peer: its own benchmark program, one process per measurement.

Environment variables give the paths, so that result files contain none: LLAMA_BATCHED_BENCH is its
`llama-batched-bench`; LLAMA_MODEL is a model of the same shape in its format, created from `glassgpt export` with its
`convert_hf_to_gguf.py` and `llama-quantize`. Unlike the other systems it does not sample.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

PROGRAM, MODEL = "LLAMA_BATCHED_BENCH", "LLAMA_MODEL"


def llama(prompt_tokens: int, batch: int, threads: int) -> Callable[[int], None]:
    """Return a function that generates a number of tokens after a prompt, in every sequence of the batch.

    Raises:
        SystemExit: the program or model is missing, or the program fails.
    """
    program, model = (_file(name) for name in (PROGRAM, MODEL))

    def write(new_tokens: int) -> None:
        context = batch * (prompt_tokens + new_tokens)
        size = {"-c": context, "-npp": prompt_tokens, "-ntg": new_tokens, "-npl": batch, "-t": threads, "-tb": threads}
        command = [program, "-m", model, *(str(word) for pair in size.items() for word in pair)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        printed = done.stdout.replace(" ", "")
        if done.returncode != 0 or f"\n|{prompt_tokens}|{new_tokens}|{batch}|" not in printed:
            raise SystemExit(f"llama.cpp did not generate {new_tokens} tokens: {done.stderr.strip()[-200:]}")

    return write


def _file(name: str) -> str:
    path = os.environ.get(name)
    if path is None or not Path(path).is_file():
        raise SystemExit(f"--llama needs the environment variable {name} to be a file; it is {path or 'not set'}")
    return path
