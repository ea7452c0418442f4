"""Memory and time of the cache that keeps only windows, beside the one that keeps everything: a 124M model on a CPU.

    OMP_NUM_THREADS=1 python benchmarks/window_cache.py --out benchmarks/results/window-cache.json

Both caches hold the same keys and values at random, up to 32 tokens before the context is full. A token is then decoded
for one sequence, and for two of different length, in turn with either cache; the processor time of this process counts,
so that other programs disturb little. Memory is that of the tensors.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from glassgpt.data.files import write_atomically
from glassgpt.model.build import build_model
from glassgpt.model.cache import KVCache
from glassgpt.model.config import ModelConfig
from glassgpt.model.transformer import LanguageModel
from glassgpt.model.window_cache import decoding_cache
from glassgpt.training.hardware import versions

CONTEXTS = (4096, 16384)
FULL = ModelConfig(arch="modern", vocab_size=50304, n_layer=12, n_head=6, n_embd=768, bias=False)
VARIANTS = {
    "SSSL": replace(FULL, window=512),
    "S, 4 sinks": replace(FULL, window=512, window_pattern="S", sinks=4),
}
ROUNDS = 9
LEFT = 32
"""Tokens that still fit when decoding begins."""


def filled(model: LanguageModel, lengths: Sequence[int]) -> tuple[KVCache, KVCache]:
    """Return both caches with the same content at random: the full one first."""
    full = model.new_cache(len(lengths))
    for tensor in (full.keys, full.values):
        tensor.normal_()
    full._lengths.copy_(torch.tensor(list(lengths)))  # as if these tokens had been processed
    recent = decoding_cache(model, len(lengths), model.config.context_length)
    for slot in range(len(lengths)):
        recent.copy_slot(slot, full, slot)
    return full, recent


def milliseconds(model: LanguageModel, caches: Sequence[KVCache]) -> list[list[float]]:
    """Return the processor time of decoding a token with each cache, in turn."""
    taken: list[list[float]] = [[] for _ in caches]
    for step in range(ROUNDS + 1):
        tokens = torch.full((len(caches[0].lengths), 1), step)
        logits = []
        for cache, times in zip(caches, taken, strict=True):
            before = time.process_time()
            logits.append(model(tokens, cache))
            if step:  # the first pass touches new memory
                times.append(1000 * (time.process_time() - before))
        torch.testing.assert_close(logits[0], logits[1], rtol=1e-3, atol=1e-3)
    return taken


@torch.inference_mode()
def rows(contexts: Sequence[int], variants: dict[str, ModelConfig]) -> list[dict[str, Any]]:
    """Return one row per variant, context and batch."""
    found: list[dict[str, Any]] = []
    for name, config in variants.items():
        for context in contexts:
            model = build_model(replace(config, context_length=context)).eval()
            for lengths in ((context - LEFT,), (context - LEFT, context // 2)):
                caches = filled(model, lengths)
                taken = milliseconds(model, caches)
                row: dict[str, Any] = {"variant": name, "context": context, "sequences": len(lengths)}
                for kind, cache, times in zip(("full", "windows"), caches, taken, strict=True):
                    row[kind] = {
                        "mib": cache.n_bytes / 2**20,
                        "ms": statistics.median(times),
                        "ms_range": [min(times), max(times)],
                    }
                found.append(row)
                print(row, flush=True)
                del caches
    return found


def main() -> None:
    """Measure, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    about = {"what": "float32, processor time of one token of all sequences", "versions": versions()}
    found = {**about, "threads": torch.get_num_threads(), "rows": rows(CONTEXTS, VARIANTS)}
    write_atomically(arguments.out, json.dumps(found, indent=1).encode() + b"\n")


if __name__ == "__main__":
    main()
