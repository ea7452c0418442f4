"""Rotary positions against multiplication by complex numbers, which is what they are."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from glassgpt.model.modern import BackwardRotary
from glassgpt.model.rotary import RotaryEmbedding

FREQUENCIES = 100.0 ** (-torch.arange(0, 8, 2) / 8)


def rotated(x: Tensor, positions: Tensor, direction: int) -> Tensor:
    """Multiply the pairs of x (B, H, T, D) by e^(±i · position · frequency), in double precision."""
    first, second = x.double().chunk(2, dim=-1)
    angles = direction * positions.double()[:, None, :, None] * FREQUENCIES.double()
    product = torch.complex(first, second) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat((product.real, product.imag), dim=-1)


@pytest.mark.parametrize(("rotary", "direction"), [(RotaryEmbedding, 1), (BackwardRotary, -1)])
def test_rotary_positions_are_products_of_complex_numbers(rotary: type[RotaryEmbedding], direction: int):
    x = torch.randn(2, 3, 5, 8, generator=torch.Generator().manual_seed(0))
    embedding = rotary(16, FREQUENCIES)
    positions = torch.tensor([[0, 1, 2, 3, 4], [7, 3, 15, 0, 9]])
    torch.testing.assert_close(embedding(x, positions).double(), rotated(x, positions, direction), rtol=0, atol=1e-5)
    in_order = torch.arange(5).expand(2, 5)
    torch.testing.assert_close(embedding(x, None).double(), rotated(x, in_order, direction), rtol=0, atol=1e-5)


def test_rotation_rounds_once():
    """In 16 bits the products and their sum are of float32, so that only the result is rounded."""
    x = torch.randn(1, 2, 12, 8, generator=torch.Generator().manual_seed(1)).bfloat16()
    embedding = RotaryEmbedding(16, FREQUENCIES)
    assert torch.equal(embedding(x, None), embedding(x.float(), None).bfloat16())
