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


_E4M3_TO_BFLOAT16: tl.constexpr = tl.constexpr(
    """{
    .reg .b16 low, high, h0, h1, h2, h3;
    .reg .b32 first, second;
    .reg .f32 f0, f1, f2, f3;
    mov.b32 {low, high}, $2;
    cvt.rn.f16x2.e4m3x2 first, low;
    cvt.rn.f16x2.e4m3x2 second, high;
    mov.b32 {h0, h1}, first;
    mov.b32 {h2, h3}, second;
    cvt.f32.f16 f0, h0;
    cvt.f32.f16 f1, h1;
    cvt.f32.f16 f2, h2;
    cvt.f32.f16 f3, h3;
    cvt.rn.bf16x2.f32 $0, f1, f0;
    cvt.rn.bf16x2.f32 $1, f3, f2;
    }"""
)
"""Four numbers in a register, which become two registers of two."""


@triton.jit
def convert(x, like, IS_FP8: tl.constexpr):
    """Convert x to the type of `like`; E4M3 numbers (IS_FP8) to bfloat16, in the threads that loaded them.

    Otherwise the compiler would move E4M3 numbers to the threads that multiply them, and each thread would load a column of
    values byte by byte. It does not move anything across assembly that it must not repeat (`is_pure`).
    """
    if IS_FP8:
        y = tl.inline_asm_elementwise(
            _E4M3_TO_BFLOAT16, "=r,=r,r", [x.to(tl.uint8, bitcast=True)], tl.bfloat16, False, 4
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
