"""What `glassgpt bench train` prints."""

from __future__ import annotations

import json
from pathlib import Path

from glassgpt import console
from glassgpt.data.files import write_atomically
from glassgpt.errors import UsageError
from glassgpt.training.bench import TrainingSpeed


def show_speed(batch_tokens: int, speed: TrainingSpeed, file: Path | None) -> None:
    """Print the figures of a measurement, and write them to a file where one is named.

    Raises:
        UsageError: the file cannot be written.
    """
    least, most = speed.step_ms_spread
    console.output(f"on {speed.hardware}, attention by {speed.attention}, {speed.processes} process(es)")
    rows = [(phase, f"{ms:.2f}", f"{ms / sum(speed.phase_ms.values()):.1%}") for phase, ms in speed.phase_ms.items()]
    console.table("where a step's time goes, waiting after each phase", ("phase", "ms", "share"), rows)
    console.output(f"step: {speed.step_ms:.2f} ms ({least:.2f} to {most:.2f}) for {batch_tokens:,} tokens")
    console.output(f"speed: {speed.tokens_per_second:,.0f} tokens per second")
    if speed.mfu is not None:
        flops = console.format_amount(speed.flops_per_token)
        console.output(f"MFU: {speed.mfu:.1%} = tokens per second x {flops}FLOP per token / peak FLOP per second")
    if speed.peak_memory_bytes is not None:
        console.output(f"peak memory: {speed.peak_memory_bytes / 1e9:.2f} GB")
    console.output(f"first step, with compiling: {speed.first_step_seconds:.1f} s")
    if file is not None:
        try:
            write_atomically(file, (json.dumps(speed.as_json(), indent=2) + "\n").encode())
        except OSError as error:
            raise UsageError(f"{file} cannot be written: {error.strerror}") from error
