"""Weights that are 4-bit integers with a scale and an offset per 32 columns already, so that an export can keep them.

Those of `compress --int4` are, and those of models imported from GGUF files of type Q4_1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from glassgpt.compression.rounding import round_to_int4
from glassgpt.interchange.block_quantization import BLOCK_SIZE
from glassgpt.model.quantized import QuantizedMatrix


def exact_offset_grid(weight: Tensor, known: QuantizedMatrix | None = None) -> QuantizedMatrix | None:
    """Return the integers, scales and offsets that a matrix consists of, to the bit, or None if it does not.

    Args:
        weight: (out, in) float32.
        known: what it may have been computed from.
    """
    weight = weight.detach().cpu()
    if weight.size(1) % BLOCK_SIZE:
        return None
    nearest = round_to_int4(weight, BLOCK_SIZE)  # finds every grid whose lowest and highest integer occur in each block
    return next((grid for grid in (known, nearest) if grid is not None and _is_grid_of(grid, weight)), None)


def _is_grid_of(grid: QuantizedMatrix, weight: Tensor) -> bool:
    fits = grid.bits == 4 and grid.group_size == BLOCK_SIZE and grid.offsets is not None
    return fits and torch.equal(grid.dequantize(), weight)
