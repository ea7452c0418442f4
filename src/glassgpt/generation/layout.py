"""How large matrices lie in memory while text is generated, and how a product with few vectors reads them.

Generating one text on a CPU reads every weight once a token and does little else, so the speed is that of
memory. Stored by rows, as PyTorch makes a matrix, its product with one vector is a scalar product for each
row, which the linear-algebra library does at half that speed; stored by columns, whole columns are added up
at full speed, though on one core. Cutting that sum into parts gives every core some. The figures are in
docs/log.md; from four texts at once on, rows are as fast.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glassgpt.model.transformer import LanguageModel

FEW_ROWS = 2
"""Texts at once up to which this is worth it."""
LARGE = 2**18
"""Numbers in a matrix from which it does not stay in a core's own cache: below, calls cost more than memory."""
PARTS = 4
"""Into how many parts a sum is cut, so that cores can share it."""


class DecodingLinear(nn.Linear):
    """`nn.Linear`, the same function and parameters, whose product with few vectors is shared by all cores."""

    def forward(self, input: Tensor) -> Tensor:
        """(…, in) -> (…, out)."""
        rows = input.numel() // self.in_features
        if rows > FEW_ROWS or torch.is_grad_enabled():
            return F.linear(input, self.weight, self.bias)
        sums = product_by_columns(input.reshape(rows, -1), self.weight, self.bias)
        return sums.view(*input.shape[:-1], self.out_features)


def product_by_columns(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`F.linear` for few rows (N, in) and a weight that `store_by_columns` turned: (N, out)."""
    n_parts = PARTS if x.size(1) % PARTS == 0 else 1
    parts = x.reshape(x.size(0), n_parts, -1).transpose(0, 1)  # (parts, N, in / parts)
    sums = torch.bmm(parts, weight.t().unflatten(0, (n_parts, -1))).sum(0)
    return sums if bias is None else sums.add_(bias)


def lay_out_for_decoding(model: LanguageModel) -> None:
    """Prepare a model's large matrices in place: values, shapes and names stay, and it can be trained on.

    Nothing happens where it has been done already. Only for models on the CPU.
    """
    for module in model.modules():
        if type(module) is nn.Linear and module.weight.numel() >= LARGE and module.in_features % PARTS == 0:
            module.__class__ = DecodingLinear
            store_by_columns(module.weight)
    for name, kind in model.parameter_kinds().items():
        weight = model.get_parameter(name)
        is_head = kind == "head" or (kind == "embedding" and weight.size(0) == model.config.vocab_size)
        if is_head and weight.numel() >= LARGE:
            store_by_columns(weight)


def store_by_columns(weight: Tensor) -> None:
    """Turn a matrix in memory; its values and shape stay."""
    weight.data = weight.data.t().contiguous().t()
