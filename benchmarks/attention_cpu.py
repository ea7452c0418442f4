"""Time full, windowed and linear attention over the context on a CPU: forward and backward of two blocks of width 256.

    OMP_NUM_THREADS=1 python benchmarks/attention_cpu.py --out benchmarks/results/attention-cpu.json

Every pass takes 16,384 tokens, as fewer or more sequences. The variants take turns. The processor time of this process
counts, so that other programs disturb little; embedding and blocks count, the head does not.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from cpu_parts.machine import cpu_model
from glassgpt.data.files import write_atomically
from glassgpt.model.build import build_model
from glassgpt.model.config import ModelConfig
from glassgpt.model.transformer import LanguageModel
from glassgpt.training.hardware import versions

TOKENS = 16_384
CONTEXTS = (1024, 2048, 4096, 8192, 16384)
FULL = ModelConfig(arch="modern", vocab_size=512, n_layer=2, n_head=4, n_embd=256, bias=False)
VARIANTS = {
    "full": FULL,
    "windows S": replace(FULL, window=512, window_pattern="S"),
    "gated deltanet": replace(FULL, arch="gated_deltanet"),
}


def seconds(model: LanguageModel, tokens: torch.Tensor) -> float:
    """Return the processor time of a forward and a backward pass.

    Args:
        model: its blocks are timed.
        tokens: (B, T).
    """
    started = time.process_time()
    model.features(tokens).square().mean().backward()
    taken = time.process_time() - started
    model.zero_grad()
    return taken


def measure(context: int, rounds: int, tokens: int) -> list[dict[str, Any]]:
    """Return a row per variant at a context; ratios are relative to the first variant, by round."""
    models = {name: build_model(replace(config, context_length=context)) for name, config in VARIANTS.items()}
    batch = torch.randint(0, FULL.vocab_size, (tokens // context, context), generator=torch.Generator().manual_seed(0))
    times: dict[str, list[float]] = {name: [] for name in models}
    for number in range(rounds + 1):
        for name, model in models.items():
            taken = seconds(model, batch)
            if number:  # the first pass touches new memory
                times[name].append(taken)
    first = next(iter(times.values()))
    rows = list[dict[str, Any]]()
    for name, own in times.items():
        ratios = [one / other for one, other in zip(own, first, strict=True)]
        rows.append({
            "variant": name, "context": context, "seconds": round(statistics.median(own), 3),
            "least_most": [round(min(own), 3), round(max(own), 3)], "ratio": round(statistics.median(ratios), 3),
            "ratio_least_most": [round(min(ratios), 3), round(max(ratios), 3)],
        })  # fmt: skip
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--contexts", type=int, nargs="*", default=CONTEXTS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=TOKENS, help="tokens per pass")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    rows = [row for context in arguments.contexts for row in measure(context, arguments.rounds, arguments.tokens)]
    found = {
        "what": (__doc__ or "").partition("\n")[0], "date": time.strftime("%Y-%m-%d"),
        "hardware": f"{torch.get_num_threads()} thread(s) of {cpu_model()}", "versions": versions(),
        "command": " ".join(["python", *sys.argv]), "settings": {"tokens": arguments.tokens, "rounds": arguments.rounds},
        "rows": rows,
    }  # fmt: skip
    write_atomically(arguments.out, json.dumps(found, indent=1).encode() + b"\n")


if __name__ == "__main__":
    main()
