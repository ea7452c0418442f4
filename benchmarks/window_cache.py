"""Memory and time of the cache that keeps only windows, beside the one that keeps everything: a 124M model.

    OMP_NUM_THREADS=1 python benchmarks/window_cache.py --out benchmarks/results/window-cache.json
    python benchmarks/window_cache.py --device cuda --sequences 1 8 --out benchmarks/results/window-cache-gpu.json

Both caches hold the same keys and values at random, up to 32 tokens before the context is full. A token is then decoded
for one sequence, and for several, the others half as long, in turn with either cache. On a CPU the processor time of this
process counts, so that other programs disturb little; on a GPU, in bfloat16, the time until it is done. Memory is that of
the tensors.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
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
SMALL = {"n_layer": 4, "n_head": 2, "n_embd": 32, "vocab_size": 512}
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
        tokens = torch.full((len(caches[0].lengths), 1), step, device=caches[0].keys.device)
        logits = []
        for cache, times in zip(caches, taken, strict=True):
            before = _seconds(tokens.device)
            logits.append(model(tokens, cache))
            if step:  # the first pass touches new memory
                times.append(1000 * (_seconds(tokens.device) - before))
        limit = 1e-3 if logits[0].dtype == torch.float32 else 0.05  # of the length, in 16 bits
        assert (logits[0] - logits[1]).norm() <= limit * logits[0].norm(), "the caches give different logits"
    return taken


def _seconds(device: torch.device) -> float:
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


@torch.inference_mode()
def rows(
    contexts: Sequence[int], variants: dict[str, ModelConfig], device: str, sequences: Sequence[int]
) -> Iterator[dict[str, Any]]:
    """Yield one row per variant, context and batch."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    for name, config in variants.items():
        for context in contexts:
            model = build_model(replace(config, context_length=context)).eval().to(device, dtype)
            for count in sequences:
                lengths = (context - LEFT, *[context // 2] * (count - 1))
                caches = filled(model, lengths)
                taken = milliseconds(model, caches)
                row: dict[str, Any] = {"variant": name, "context": context, "sequences": count}
                for kind, cache, times in zip(("full", "windows"), caches, taken, strict=True):
                    row[kind] = {
                        "mib": cache.n_bytes / 2**20,
                        "ms": statistics.median(times),
                        "ms_range": [min(times), max(times)],
                    }
                yield row
                del caches


def main() -> None:
    """Measure, and write the file after each row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--sequences", type=int, nargs="+", default=[1, 2], help="how many are decoded at once")
    parser.add_argument("--contexts", type=int, nargs="+", default=list(CONTEXTS))
    parser.add_argument("--small", action="store_true", help="tiny models, to try the program")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    on_gpu = arguments.device == "cuda"
    variants = {name: replace(config, **(SMALL if arguments.small else {})) for name, config in VARIANTS.items()}
    found: dict[str, Any] = {
        "what": "bfloat16, time of one token of all sequences, by calls of the model without CUDA graphs"
        if on_gpu
        else "float32, processor time of one token of all sequences",
        "hardware": torch.cuda.get_device_name() if on_gpu else platform.machine(),
        "versions": versions(),
        "command": " ".join(["python benchmarks/window_cache.py", *sys.argv[1:]]),
        "threads": torch.get_num_threads(),
        "rows": [],
    }
    for row in rows(arguments.contexts, variants, arguments.device, arguments.sequences):
        found["rows"].append(row)
        write_atomically(arguments.out, json.dumps(found, indent=1).encode() + b"\n")
        print(row, flush=True)


if __name__ == "__main__":
    main()
