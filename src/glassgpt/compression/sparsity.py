"""Set weights to zero where the outputs of a layer change least on real text: Wanda and SparseGPT.

`wanda` (Sun et al. 2023) compares the weights of a row by |weight| · ‖input‖, which is what zeroing one alone changes the
output by, and leaves the others as they are. `sparsegpt` (Frantar & Alistarh 2023) goes from left to right, as GPTQ does:
the columns to the right make up for each weight that becomes zero, and which weights those are is chosen with the changes
so far. `wanda_readable` and `sparsegpt_readable` are the same, one weight after the other.

Of a matrix a share becomes zero, or in each group of neighboring columns one half (2:4 sparsity is a group of 4).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from glassgpt.compression.layerwise import LAZY_COLUMNS, change_columns, damped, inverse_factor

Prune = Callable[[Tensor, Tensor, float, int], Tensor]
"""(weights (out, in), XᵀX / n (in, in) of their inputs, share, group) -> the weights with zeros.

`group` is the number of neighboring columns of which half become zero, or 0: then `share` of all become zero."""


def wanda(weight: Tensor, gram: Tensor, share: float, group: int) -> Tensor:
    """Zero the weights of each row that change its output least, each alone; see `Prune`."""
    scores = weight.abs() * gram.diagonal().sqrt()
    if group:
        mask = smallest(scores.unflatten(1, (-1, group)), group // 2).flatten(1)
    else:
        mask = smallest(scores, round(share * weight.size(1)))
    return weight.masked_fill(mask, 0.0)


def wanda_readable(weight: Tensor, gram: Tensor, share: float, group: int) -> Tensor:
    """Return what `wanda` does, weight by weight."""
    pruned = weight.clone()
    width = group or weight.size(1)
    count = group // 2 if group else round(share * width)
    for row in range(weight.size(0)):
        for start in range(0, weight.size(1), width):
            columns = range(start, start + width)
            scores = {
                column: abs(float(weight[row, column])) * float(gram[column, column]) ** 0.5 for column in columns
            }
            for column in sorted(columns, key=lambda column: scores[column])[:count]:
                pruned[row, column] = 0
    return pruned


def sparsegpt(weight: Tensor, gram: Tensor, share: float, group: int) -> Tensor:
    """Zero weights from left to right, while those to the right make up for it; see `Prune`.

    Without groups, the share is that of each `LAZY_COLUMNS` columns of all rows together, as in the paper.
    """
    work, factor = weight.detach().float().clone(), inverse_factor(gram)
    left = factor.diagonal().square()  # of an error of 1, once the columns to the right have made up for it: see there
    mask = torch.zeros_like(work, dtype=torch.bool)

    def choose(column: int, rest: Tensor) -> Tensor:
        if column % (group or LAZY_COLUMNS) == 0:
            width = group or rest.size(1)
            costs = rest[:, :width].square() / left[column : column + width]
            if group:
                mask[:, column : column + width] = smallest(costs, group // 2)
            else:
                mask[:, column : column + width] = smallest(costs.flatten(), round(share * costs.numel())).view_as(
                    costs
                )
        return rest[:, 0].masked_fill(mask[:, column], 0.0)

    change_columns(work, factor, choose)
    return work


def sparsegpt_readable(weight: Tensor, gram: Tensor, share: float, group: int) -> Tensor:
    """Return what `sparsegpt` does, weight by weight, with an explicit inverse for each column."""
    work, (n_rows, n_columns) = weight.double(), weight.shape
    inverses = [torch.linalg.inv(damped(gram).double()[column:, column:]) for column in range(n_columns)]
    pruned: set[tuple[int, int]] = set()
    for column, inverse in enumerate(inverses):
        if column % (group or LAZY_COLUMNS) == 0:
            columns = range(column, min(column + (group or LAZY_COLUMNS), n_columns))
            costs = {
                (row, each): float(work[row, each] ** 2 / inverses[each][0, 0])
                for row in range(n_rows)
                for each in columns
            }
            if group:
                for row in range(n_rows):
                    pruned |= set(sorted([(row, each) for each in columns], key=lambda at: costs[at])[: group // 2])
            else:
                pruned |= set(sorted(costs, key=lambda at: costs[at])[: round(share * len(costs))])
        for row in range(n_rows):
            if (row, column) in pruned:
                work[row, column:] -= work[row, column] / inverse[0, 0] * inverse[0]
                work[row, column] = 0
    return work.float()


def smallest(values: Tensor, count: int) -> Tensor:
    """Return a mask of the `count` smallest values along the last dimension; of equal ones, of those further left."""
    chosen = values.argsort(dim=-1, stable=True)[..., :count]
    return torch.zeros_like(values, dtype=torch.bool).scatter_(-1, chosen, True)


PRUNE: dict[str, Prune] = {"sparsegpt": sparsegpt, "wanda": wanda}
"""Methods by name."""
