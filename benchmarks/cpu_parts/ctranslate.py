"""CTranslate2 as a peer, in a separate process: its threads would slow PyTorch's in the same process from then on."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from cpu_parts.generation import TOP_K
from cpu_parts.steps import Write, clock_for, require_token_counts, step_seconds


def measure_step(
    path: Path, precision: str, prompt: tuple[int, ...], batch: int, threads: int, new_tokens: int
) -> float:
    """Return the seconds per decoding step; the first call loads and warms up the model."""
    return step_seconds(_writer(path, precision, prompt, batch, threads), new_tokens, clock_for(threads))


@functools.cache
def _writer(path: Path, precision: str, prompt: tuple[int, ...], batch: int, threads: int) -> Write:
    import ctranslate2  # pyright: ignore[reportMissingImports] - optional

    names = json.loads((path / "vocabulary.json").read_text(encoding="utf-8"))
    prompts = [[names[token] for token in prompt]] * batch
    generator: Any = ctranslate2.Generator(str(path), compute_type=precision, inter_threads=1, intra_threads=threads)  # pyright: ignore

    def write(new_tokens: int) -> None:
        texts = generator.generate_batch(
            prompts, max_length=new_tokens, sampling_topk=TOP_K, include_prompt_in_result=False, end_token=[]
        )
        require_token_counts([text.sequences_ids[0] for text in texts], new_tokens)

    write(2)
    return write
