"""Generations before the first request, so that no request waits for a kernel or a CUDA graph."""

from __future__ import annotations

from collections.abc import Iterator

from glassgpt.generation.gpu.shapes import BATCH_SIZES, PROMPT_LENGTHS
from glassgpt.generation.options import GenerationOptions
from glassgpt.model.transformer import LanguageModel

NEW_TOKENS = 12
"""More than the steps of a CUDA graph."""
OPTIONS = (
    {"temperature": 1.0},
    {"temperature": 0.0},
    {"temperature": 0.8, "top_k": 40},
    {"temperature": 0.8, "top_p": 0.95},
)
"""Settings with kernels of their own."""
WarmUpRequest = tuple[list[int], int, GenerationOptions, int | None]
"""A prompt, how often it is submitted at once, its options, and the candidates per token to report."""


def warm_up_requests(model: LanguageModel, slots: int) -> Iterator[WarmUpRequest]:
    """Yield the requests: on a GPU, those of every shape that a graph is captured for.

    Args:
        model: that generates.
        slots: most sequences decoded at once.
    """
    on_gpu = next(model.parameters()).device.type == "cuda"
    sizes = sorted({1, slots, *(size for size in BATCH_SIZES if on_gpu and size < slots)})
    for settings in OPTIONS:
        for size in sizes:
            yield [0], size, _options(NEW_TOKENS, **settings), None
    if on_gpu:
        for size in sizes:  # logits that are processed on the host
            yield [0], size, _options(1, temperature=1.0), 1
        for length in PROMPT_LENGTHS:
            if length < model.config.context_length:
                for _ in range(2):  # a graph is captured when a shape occurs for the second time
                    yield [0] * (length + 1), 1, _options(1, temperature=0.0), None


def _options(max_tokens: int, **settings: float) -> GenerationOptions:
    options = GenerationOptions(**settings, max_tokens=max_tokens, seed=0)  # pyright: ignore[reportArgumentType]
    options.check()
    return options
