"""Vectors in 8 bits: E4M3 numbers (4 bits of exponent, 3 of mantissa, up to 448) that share a power of two.

The power of two is stored as its biased exponent in one byte (E8M0, as in the OCP Microscaling formats). Since it only
shifts exponents, a rounded value is exact in bfloat16 and float32, and a product with it can be scaled after its sum without
another rounding: kernels that read bytes compute what PyTorch computes with the dequantized values.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

E4M3 = torch.float8_e4m3fn
LARGEST_EXPONENT = 8
"""Exponent of the largest number, 448 = 1.75 · 2**8."""
BIAS = 127
CARRY = 0x1FFFFF
"""Added to the bits of a float32, this carries into the exponent exactly if the mantissa exceeds 1.75."""


class Fp8Vectors(NamedTuple):
    """Vectors in 8 bits.

    Attributes:
        values: (..., D) E4M3.
        exponents: (...) uint8, E8M0; a vector is its values times 2**(exponent - 127).
    """

    values: Tensor
    exponents: Tensor

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the vectors (..., D), exactly."""
        return (self.values.float() * power_of_two(self.exponents)[..., None]).to(dtype)


def power_of_two(exponents: Tensor) -> Tensor:
    """Return 2**(exponent - 127) in float32; of 0, 0."""
    return (exponents.int() << 23).view(torch.float32)


def to_e4m3(vectors: Tensor) -> Fp8Vectors:
    """Round vectors (..., D) to the nearest E4M3 numbers, with the smallest power of two in whose range they fit.

    NaN stays NaN, so that it is noticed later.
    """
    vectors = vectors.detach().float()
    largest = vectors.abs().amax(-1)
    exponents = (((largest.view(torch.int32) + CARRY) >> 23) - LARGEST_EXPONENT).clamp(1, 253)
    scaled = vectors * power_of_two(2 * BIAS - exponents)[..., None]
    return Fp8Vectors(scaled.to(E4M3), exponents.to(torch.uint8))


def round_to_e4m3(vectors: Tensor) -> Tensor:
    """Return vectors (..., D) as 8 bits would keep them, in their own type."""
    return to_e4m3(vectors).dequantize(vectors.dtype)
