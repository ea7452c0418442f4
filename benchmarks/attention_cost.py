"""Compute what full, windowed and linear attention cost over the context, and draw it: operations and memory of a 124M model.

    python benchmarks/attention_cost.py --out benchmarks/results/attention-cost.json --picture docs/images/attention-cost.png

Nothing is timed: operations are those of `glassgpt.model.accounting`, cache sizes those of the caches that the models
make. The figures are the same on every machine.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from glassgpt.data.files import write_atomically
from glassgpt.model.accounting import cache_bytes, count_parameters, flops_per_token
from glassgpt.model.config import ModelConfig

CONTEXTS = (1024, 2048, 4096, 8192, 16384, 32768)
FULL = ModelConfig(arch="modern", vocab_size=50304, n_layer=12, n_head=6, n_embd=768, bias=False)
VARIANTS = {
    "full": FULL,
    "windows SSSL": replace(FULL, window=512),
    "windows S": replace(FULL, window=512, window_pattern="S"),
    "gated deltanet": replace(FULL, arch="gated_deltanet"),
}
BF16_BYTES = 2


def rows() -> list[dict[str, Any]]:
    """Return one row per variant and context."""
    return [
        {
            "variant": name,
            "context": context,
            "parameters": count_parameters(config),
            "training_flops_per_token": flops_per_token(replace(config, context_length=context)),
            "cache_bytes_per_sequence": cache_bytes(config, context, BF16_BYTES),
        }
        for name, config in VARIANTS.items()
        for context in CONTEXTS
    ]


def draw(found: list[dict[str, Any]], path: Path) -> None:
    """Draw both figures side by side over the context."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (operations, memory) = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for name in VARIANTS:
        own = [row for row in found if row["variant"] == name]
        contexts = [row["context"] for row in own]
        operations.plot(contexts, [row["training_flops_per_token"] / 1e9 for row in own], marker="o", label=name)
        memory.plot(contexts, [row["cache_bytes_per_sequence"] / 2**20 for row in own], marker="o", label=name)
    operations.set(title="GFLOP per token of training", xlabel="context T in tokens", xscale="log", ylim=0)
    memory.set(title="MiB of cache per sequence", xlabel="context T in tokens", xscale="log", yscale="log")
    for axes in (operations, memory):
        axes.set_xticks(CONTEXTS, [f"{context // 1024}k" for context in CONTEXTS], minor=False)
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    operations.legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Write the file and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--picture", type=Path)
    arguments = parser.parse_args()
    found = rows()
    about = {"what": "computed, not timed: operations per token of training and bytes of the cache, 124M models"}
    write_atomically(arguments.out, json.dumps({**about, "rows": found}, indent=1).encode() + b"\n")
    if arguments.picture:
        draw(found, arguments.picture)


if __name__ == "__main__":
    main()
