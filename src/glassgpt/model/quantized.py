"""Matrices stored as small integers with scales, and how they are written to a checkpoint.

A weight is `integer · scale + offset`. With 8 bits the integers lie between -127 and 127, each row has a scale, and there
are no offsets. With 4 bits the integers lie between 0 and 15, and each group of neighboring columns in a row has a scale
and an offset, both float16.

A checkpoint holds `NAME.int8` or `NAME.int4` (two columns per byte, the first in the low half) instead of the parameter
`NAME`, with `NAME.scales` and, for 4 bits, `NAME.offsets`. Whoever loads it gets ordinary float32 parameters, so that
everything works with a quantized model; `LanguageModel.quantized` keeps the integers for kernels that multiply by them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from glassgpt.errors import CheckpointError

Bits = Literal[4, 8]
SCALES, OFFSETS = ".scales", ".offsets"
INTEGERS: dict[str, Bits] = {".int8": 8, ".int4": 4}
"""Suffixes of stored integers, and their number of bits."""


@dataclass(frozen=True)
class QuantizedMatrix:
    """A matrix of integers with scales.

    Attributes:
        bits: 8 or 4.
        integers: (out, in), int8 for 8 bits, uint8 below 16 for 4 bits.
        scales: (out, groups) float32 or float16; each group has in / groups columns.
        offsets: (out, groups), or None without offsets.
    """

    bits: Bits
    integers: Tensor
    scales: Tensor
    offsets: Tensor | None = None

    @property
    def group_size(self) -> int:
        """Columns that share a scale."""
        return self.integers.size(1) // self.scales.size(1)

    @property
    def n_bytes(self) -> int:
        """Bytes of the matrix as a checkpoint stores it."""
        return sum(tensor.nbytes for tensor in self.tensors("").values())

    def dequantize(self) -> Tensor:
        """Return the weights (out, in) in float32."""
        grouped = self.integers.float().unflatten(1, (-1, self.group_size)) * self.scales.float()[:, :, None]
        if self.offsets is not None:
            grouped += self.offsets.float()[:, :, None]
        return grouped.flatten(1)

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Return the tensors to store for a parameter, by name."""
        packed = self.integers if self.bits == 8 else self.integers[:, 0::2] | self.integers[:, 1::2] << 4
        stored = {f"{name}.int{self.bits}": packed.contiguous(), f"{name}{SCALES}": self.scales}
        return stored if self.offsets is None else {**stored, f"{name}{OFFSETS}": self.offsets}

    @classmethod
    def from_tensors(cls, name: str, bits: Bits, stored: Mapping[str, Tensor]) -> QuantizedMatrix:
        """Return the matrix that `tensors` stored.

        Raises:
            CheckpointError: the tensors do not fit together.
        """
        packed, offsets = stored[f"{name}.int{bits}"], stored.get(f"{name}{OFFSETS}")
        scales = stored.get(f"{name}{SCALES}", torch.empty(0))
        if bits == 4:
            packed = torch.stack([packed & 15, packed >> 4], dim=-1).flatten(1)
        fits = packed.dtype == (torch.int8 if bits == 8 else torch.uint8)
        if not fits or not _are_groups(packed, scales) or (offsets is not None and offsets.shape != scales.shape):
            raise CheckpointError(f"the stored tensors of {name} do not fit together")
        return cls(bits, packed, scales, offsets)


def _are_groups(integers: Tensor, scales: Tensor) -> bool:
    shapes = integers.ndim == scales.ndim == 2 and integers.size(0) == scales.size(0) and scales.size(1) > 0
    return shapes and scales.is_floating_point() and integers.size(1) % scales.size(1) == 0


def split_quantized(stored: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, QuantizedMatrix]]:
    """Split the tensors of a checkpoint into float parameters and quantized matrices, by parameter name.

    Raises:
        CheckpointError: the tensors of a quantized matrix do not fit together.
    """
    quantized: dict[str, QuantizedMatrix] = {}
    used: set[str] = set()
    for key in stored:
        name, bits = quantized_name(key)
        if bits is not None:
            quantized[name] = QuantizedMatrix.from_tensors(name, bits, stored)
            used |= {key, f"{name}{SCALES}", f"{name}{OFFSETS}"}
    return {key: tensor for key, tensor in stored.items() if key not in used}, quantized


def quantized_name(key: str) -> tuple[str, Bits | None]:
    """Return the parameter whose integers a stored tensor holds, and their bits; None if it holds none."""
    for suffix, bits in INTEGERS.items():
        if key.endswith(suffix):
            return key.removesuffix(suffix), bits
    return key, None


def weight_count(key: str, elements: int) -> int:
    """Return how many weights of the model a stored tensor holds: 0 for scales and offsets."""
    if key.endswith((SCALES, OFFSETS)):
        return 0
    return elements * 2 if quantized_name(key)[1] == 4 else elements


def still_quantized(
    parameters: Mapping[str, Tensor], quantized: Mapping[str, QuantizedMatrix]
) -> dict[str, QuantizedMatrix]:
    """Return the quantized matrices that are still what the model computes with: others have been changed since."""
    return {
        name: matrix
        for name, matrix in quantized.items()
        if name in parameters and torch.equal(matrix.dequantize(), parameters[name].detach().cpu())
    }
