"""Train a tokenizer in a separate process: `python -m glassgpt.data.tokenizers.worker SPEC PATTERN TEXTS OUT`.

The libraries do not react to signals while they train, which can take minutes; a process can be ended.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from glassgpt.data.tokenizers.base import ERROR_CHARACTERS, Tokenizer
from glassgpt.data.tokenizers.bpe import DEFAULT_PATTERN
from glassgpt.data.tokenizers.load import tokenizer_from_json, train_tokenizer
from glassgpt.errors import GlassGPTError, TokenizerError

IN_PROCESS_CHARACTERS = 200_000
"""Up to this much text training takes about a second, less than starting a process is worth."""
PR_SET_PDEATHSIG = 1


def train_interruptibly(spec: str, texts: Iterable[str], scratch: Path, pattern: str = DEFAULT_PATTERN) -> Tokenizer:
    """Train a tokenizer so that an exception raised by a signal handler stops it at once.

    Args:
        spec: see `train_tokenizer`.
        texts: the training text.
        scratch: a folder for the text and the result.
        pattern: see `train_tokenizer`.

    Raises:
        See `train_tokenizer`.
    """
    source, result = scratch / "training-text.jsonl", scratch / "trained-tokenizer.json"
    characters = 0
    with source.open("w", encoding="utf-8") as file:
        for text in texts:
            file.write(json.dumps(text) + "\n")
            characters += len(text)
    if characters <= IN_PROCESS_CHARACTERS:
        return train_tokenizer(spec, _read_texts(source), pattern)
    _run_worker(spec, pattern, source, result)
    return tokenizer_from_json(result.read_text(encoding="utf-8"))


def _run_worker(spec: str, pattern: str, source: Path, result: Path) -> None:
    command = [sys.executable, "-m", __name__, spec, pattern, str(source), str(result)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    # In a separate session, Ctrl-C reaches only this process, which then ends the other.
    process = subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )
    try:
        _, messages = process.communicate()
    finally:
        process.kill()
        process.wait()
    if process.returncode == -signal.SIGKILL:
        raise TokenizerError(
            f"the training of the tokenizer {spec} was killed, probably because memory ran out; use less text"
        )
    if process.returncode:
        lines = messages.decode(errors="replace").strip().splitlines() or [f"exit code {process.returncode}"]
        raise TokenizerError(lines[-1][: 2 * ERROR_CHARACTERS])


def _read_texts(source: Path) -> Iterator[str]:
    with source.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def end_with_parent() -> None:
    """Let this process not outlive a parent that was killed, on Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _main(spec: str, pattern: str, source: str, result: str) -> None:
    end_with_parent()
    try:
        train_tokenizer(spec, _read_texts(Path(source)), pattern).save(Path(result))
    except GlassGPTError as error:
        sys.exit(str(error))
    except BaseException as error:  # noqa: BLE001 - panics of the libraries are no `Exception`
        sys.exit(f"cannot train the tokenizer {spec}: {type(error).__name__}: {error}")


if __name__ == "__main__":
    _main(*sys.argv[1:])
