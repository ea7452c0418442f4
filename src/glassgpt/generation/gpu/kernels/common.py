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
def power_of_two(exponents):
    """Return 2**(exponent - 127) in float32 for bytes: `model.e4m3.power_of_two`."""
    return (exponents.to(tl.int32) << 23).to(tl.float32, bitcast=True)


E4M3_TO_BFLOAT16: tl.constexpr = tl.constexpr(
    """{
    .reg .b32 a, b, c, d, scale;
    mov.b32 scale, 0x7b807b80;
    prmt.b32 a, $2, 0, 0x1404;
    prmt.b32 b, $2, 0, 0x3424;
    shr.b32 c, a, 4;
    shr.b32 d, b, 4;
    and.b32 c, c, 0x07f007f0;
    and.b32 d, d, 0x07f007f0;
    lop3.b32 a, a, 0x80008000, c, 0xea;
    lop3.b32 b, b, 0x80008000, d, 0xea;
    mul.rn.bf16x2 $0, a, scale;
    mul.rn.bf16x2 $1, b, scale;
    }"""
)
"""Four E4M3 numbers in a register, which become two registers of two numbers.

The last 7 bits of each are moved to where bfloat16 has 4 of its 8 bits of exponent, and 3 of mantissa. That is the number times
2**-120, subnormal numbers included. NaN becomes 480, which hides none: prompts are processed with the matrices in bfloat16,
and a new token attends to its own NaN. The compiler's conversion (Triton 3.6) takes one `F2F.BF16.F16` for each number, and
products with it were slower than in bfloat16 (docs/log.md).
"""


@triton.jit
def convert(x, like, BY_ASSEMBLY: tl.constexpr, IS_MOVABLE: tl.constexpr):
    """Convert x to the type of `like`; E4M3 numbers to bfloat16 by assembly, where that exists.

    Unless IS_MOVABLE, they are converted in the threads that loaded them. Otherwise the compiler moves E4M3 numbers to the threads
    that multiply them, which suits matrices, but of values in the cache each thread would load a column byte by byte. It
    does not move anything across assembly that it must not repeat (`is_pure`).
    """
    if BY_ASSEMBLY:
        y = tl.inline_asm_elementwise(
            E4M3_TO_BFLOAT16, "=r,=r,r", [x.to(tl.uint8, bitcast=True)], tl.bfloat16, IS_MOVABLE, 4
        )
    else:
        y = x.to(like.dtype)
    return y


@triton.jit
def round_vectors(first, second):
    """Return the E4M3 numbers of vectors (N, D) whose halves these are, in float32, and their exponents (N,): `to_e4m3`."""
    largest = tl.maximum(tl.max(tl.abs(first), 1), tl.max(tl.abs(second), 1))
    exponents = ((largest.to(tl.int32, bitcast=True) + 0x1FFFFF) >> 23) - 8
    exponents = tl.minimum(tl.maximum(exponents, 1), 253)
    scales = power_of_two(254 - exponents)[:, None]
    return _to_e4m3(first * scales), _to_e4m3(second * scales), exponents


@triton.jit
def _to_e4m3(x):
    # Rounded here, so that the conversion is exact: that of Triton's interpreter does not carry into the exponent.
    bits = x.to(tl.int32, bitcast=True)
    nearest = ((bits + 0x7FFFF + ((bits >> 20) & 1)) & -0x100000).to(tl.float32, bitcast=True)
    subnormal = (x + 24576.0) - 24576.0  # whose last bit is E4M3's smallest number, 2**-9
    return tl.where(tl.abs(x) < 0.015625, subnormal, nearest).to(tl.float8e4nv)


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
