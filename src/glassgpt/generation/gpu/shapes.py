"""Shapes that CUDA graphs are captured for. Free of Triton, which exists only where PyTorch supports GPUs."""

from __future__ import annotations

BATCH_SIZES = (1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64)
"""Batch sizes of decoding steps; larger ones are multiples of the last."""
PROMPT_LENGTHS = (
    8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 640, 768, 896, 1024,
    1280, 1536, 1792, 2048, 2560, 3072, 3584, 4096, 5120, 6144, 7168, 8192,
)  # fmt: skip
"""Lengths that prompts are padded to. Longer prompts are processed one by one, in chunks of the last of these lengths."""


def graph_batch_size(n_sequences: int) -> int:
    """Return the smallest batch size of a graph that fits this many sequences."""
    for size in BATCH_SIZES:
        if n_sequences <= size:
            return size
    return -(-n_sequences // BATCH_SIZES[-1]) * BATCH_SIZES[-1]
