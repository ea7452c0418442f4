"""Shared by all kernels: the layout of the slots' state, and programmatic dependent launch."""

from __future__ import annotations

import triton
import triton.language as tl

# Activation of a `linear_kernel`.
NO_ACTIVATION: tl.constexpr = tl.constexpr(0)
TANH_GELU: tl.constexpr = tl.constexpr(1)
SQUARED_RELU: tl.constexpr = tl.constexpr(2)
SOFT_CAP: tl.constexpr = tl.constexpr(3)

# Rows of the slots' integer state.
TOKEN: tl.constexpr = tl.constexpr(0)
LENGTH: tl.constexpr = tl.constexpr(1)
POSITION: tl.constexpr = tl.constexpr(2)
NOISE_KEY: tl.constexpr = tl.constexpr(3)
TOP_K: tl.constexpr = tl.constexpr(4)
# Rows of the slots' float state.
TEMPERATURE: tl.constexpr = tl.constexpr(0)
TOP_P: tl.constexpr = tl.constexpr(1)
LOG_MIN_P: tl.constexpr = tl.constexpr(2)
REPETITION: tl.constexpr = tl.constexpr(3)
PRESENCE: tl.constexpr = tl.constexpr(4)
FREQUENCY: tl.constexpr = tl.constexpr(5)

NAN_TOKEN: tl.constexpr = tl.constexpr(-1)
"""Returned instead of a token where the logits contain NaN."""
NO_TOKEN: tl.constexpr = tl.constexpr(-2)
"""Fills the places of proposed tokens that were not accepted."""

IN_PROMPT: tl.constexpr = tl.constexpr(1 << 24)
"""Added to a token's count if it occurs in the prompt; the lower bits count its occurrences in the output."""


@triton.jit
def start_next_kernel(OVERLAP: tl.constexpr):
    """Allow the next kernel to start as soon as every program of this one has started.

    Programmatic dependent launch, since Hopper. What a kernel does before `wait_for_previous_kernel` overlaps with the
    kernel before it, so it may only read what no kernel writes: above all weights, which come from global memory.
    """
    if OVERLAP:
        tl.extra.cuda.gdc_launch_dependents()


@triton.jit
def wait_for_previous_kernel(OVERLAP: tl.constexpr):
    """Wait until the previous kernel, and all kernels before it, have ended."""
    if OVERLAP:
        tl.extra.cuda.gdc_wait()


@triton.jit
def load_optional(pointer, at, inside, HAS: tl.constexpr):
    """Load float32 values, or return zeros if the tensor does not exist."""
    if HAS:
        return tl.load(pointer + at, inside, 0.0).to(tl.float32)
    return tl.zeros(at.shape, tl.float32)


@triton.jit
def prefetch(
    matrix, first, rows,
    BLOCK_N: tl.constexpr, WIDTH: tl.constexpr, SHARE: tl.constexpr, LINES: tl.constexpr,
):  # fmt: skip
    """Prefetch a part of a matrix, whose rows are WIDTH elements apart, into the L2 cache.

    One cache line of 128 bytes at a time. This is a hint, not a load: values written meanwhile are not missed.
    """
    PER_LINE: tl.constexpr = 128 // (matrix.dtype.element_ty.primitive_bitwidth // 8)
    n = first + tl.arange(0, BLOCK_N)
    k = tl.arange(0, LINES) * PER_LINE
    inside = (n < rows)[:, None] & (k < SHARE)[None, :]
    at = tl.where(inside, n[:, None].to(tl.int64) * WIDTH + k[None, :], first.to(tl.int64) * WIDTH)
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l", [matrix + at], dtype=tl.int32, is_pure=False, pack=1
    )
