"""Generations before the first request, so that no request waits for a kernel or a CUDA graph."""

from __future__ import annotations

from collections.abc import Iterator

from glassgpt.generation.gpu.prompt_graphs import LANE_TOKENS, LANES, MIN_TOKENS
from glassgpt.generation.gpu.shapes import BATCH_SIZES, PROMPT_LENGTHS
from glassgpt.generation.options import GenerationOptions
from glassgpt.model.transformer import LanguageModel

NEW_TOKENS = 12
"""More than the steps of a CUDA graph."""
SAMPLING: tuple[dict[str, float], ...] = (
    {"top_k": 0, "top_p": 1.0},
    {"top_k": 40, "top_p": 1.0},
    {"top_k": 0, "top_p": 0.95},
    {"top_k": 40, "top_p": 0.95},
)
"""Settings with graphs of their own. Batches that mix them have others, which are captured when they first occur."""
WarmUpRequests = tuple[list[list[int]], GenerationOptions, int | None]
"""Prompts that are submitted at once, their options, and the candidates per token to report."""


def warm_up_requests(model: LanguageModel, slots: int) -> Iterator[WarmUpRequests]:
    """Yield the requests: on a GPU, those of every shape and of the usual settings, which graphs are captured for.

    Args:
        model: that generates.
        slots: most sequences decoded at once.
    """
    if next(model.parameters()).device.type != "cuda":
        for size in sorted({1, slots}):
            yield [[0]] * size, _options(2, temperature=1.0), None
        return
    sizes = sorted({1, slots, *(size for size in BATCH_SIZES if size < slots)})
    for settings in SAMPLING:
        for size in sizes:
            yield [[0]] * size, _options(NEW_TOKENS, **settings), None
        # Compiles the kernels of penalties; their graphs of other batch sizes are captured when they first occur.
        yield [[0]], _options(NEW_TOKENS, repetition_penalty=1.1, **settings), None
    for size in sizes:  # logits that are processed on the host
        yield [[0]] * size, _options(1, temperature=1.0), 1
    for length in sorted({min(length, model.config.context_length) for length in PROMPT_LENGTHS}):
        for _ in range(2):  # a graph is captured when a shape occurs for the second time
            yield _prompts(length, slots, model.config.vocab_size), _options(1, temperature=0.0), None


def _prompts(length: int, slots: int, vocab_size: int) -> list[list[int]]:
    """Return prompts of a length that occupy every lane, or all slots; equal prompts would be prefilled once.

    One token less of each is prefilled, so that those of all lanes are together no more than `MAX_PREFILL_TOKENS`.
    """
    count = LANES * max(1, MIN_TOKENS // length) if length <= LANE_TOKENS else 1
    digits = [(number % vocab_size, number // vocab_size % vocab_size) for number in range(min(count, slots))]
    return [[*pair, *[0] * length][:length] for pair in digits]


def _options(max_tokens: int, **settings: float) -> GenerationOptions:
    options = GenerationOptions(**settings, max_tokens=max_tokens, seed=0)  # pyright: ignore[reportArgumentType]
    options.check()
    return options
