"""Change the linear layers of a model one after the other so that their outputs change as little as possible on real text.

For inputs X the outputs of a layer change by the sum over rows of e H eᵀ, with H = XᵀX and e the change of a row. If the
columns of a matrix are changed from left to right, those to the right can make up for as much of each change as H allows:
by the optimal brain surgeon's update (Hassibi & Stork 1993), which GPTQ and SparseGPT share.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from glassgpt.compression.methods.base import Progress
from glassgpt.model.transformer import LanguageModel

DAMPING = 0.01
"""Added to the diagonal of H, as a fraction of its mean: rarely used inputs would make H singular."""
LAZY_COLUMNS = 128
"""Columns after which the rest of the matrix is updated at once, which is faster than one by one."""

Rewrite = Callable[[str, Tensor, Tensor], Tensor]
"""(name of the parameter, its weights (out, in), H / n (in, in)) -> the weights to put in their place."""
Choose = Callable[[int, Tensor], Tensor]
"""(a column, the weights (out, …) from it to the end of its batch of columns) -> what the column becomes, (out,)."""


@torch.no_grad()
def rewrite_blocks(model: LanguageModel, text: Tensor, rewrite: Rewrite, progress: Progress, label: str) -> None:
    """Call a function for all linear layers of all blocks in order, each on the outputs of those already changed.

    Beside the model, only one block and the text's residual stream are in memory; what should stay, `rewrite` keeps.

    Args:
        model: in evaluation mode; it is not changed.
        text: (N, T) tokens of calibration text.
        rewrite: returns the new weights of a layer.
        progress: shows progress, in blocks.
        label: of the progress.
    """
    device = next(model.parameters()).device
    positions = torch.arange(text.size(1), device=device)[None]
    states = [model.embed(window[None].to(device), positions) for window in text]  # each (1, T, C)
    with progress(label, len(model.blocks), "blocks") as advance:
        for index, original in enumerate(model.blocks):
            block = copy.deepcopy(original)
            for name, gram in input_grams(block, states).items():
                linear = block.get_submodule(name)
                assert isinstance(linear, nn.Linear)
                linear.weight.copy_(rewrite(f"blocks.{index}.{name}.weight", linear.weight, gram))
            for at, state in enumerate(states):
                states[at] = block(state)
            advance(1)


def input_grams(block: nn.Module, states: Sequence[Tensor]) -> dict[str, Tensor]:
    """Return XᵀX / n of the inputs X (n, in) of each linear layer in a block, by module name."""
    grams: dict[str, Tensor] = {}
    seen = sum(state.size(1) for state in states)

    def adds_to(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def add(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].flatten(0, -2).float()
            gram = x.T @ x / seen
            grams[name] = grams[name].add_(gram) if name in grams else gram

        return add

    handles = [
        module.register_forward_pre_hook(adds_to(name))
        for name, module in block.named_modules()
        if isinstance(module, nn.Linear)
    ]
    try:
        for state in states:
            block(state)
    finally:
        for handle in handles:
            handle.remove()
    return grams


def damped(gram: Tensor) -> Tensor:
    """Return a copy of H (in, in) that has an inverse: inputs that are never used count as independent of all others."""
    gram = gram.clone()
    gram.diagonal()[gram.diagonal() == 0] = 1.0
    gram.diagonal().add_(DAMPING * gram.diagonal().mean())
    return gram


def inverse_factor(gram: Tensor) -> Tensor:
    """Return the upper Cholesky factor of the inverse of damped H (in, in).

    Row i, divided by its diagonal, says how the columns after i make up for an error in column i, and the square of its
    diagonal is what is left of an error of 1: it equals the first entry of the inverse of H without the columns before i.
    """
    return torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(damped(gram))), upper=True)


def change_columns(weight: Tensor, factor: Tensor, choose: Choose) -> None:
    """Change the columns of a matrix in place, from left to right; those to the right make up for each change.

    Args:
        weight: (out, in) in float32.
        factor: see `inverse_factor`.
        choose: returns what a column becomes, once those before it are done.
    """
    for start in range(0, weight.size(1), LAZY_COLUMNS):
        stop = min(start + LAZY_COLUMNS, weight.size(1))
        batch, errors = weight[:, start:stop], torch.empty_like(weight[:, start:stop])
        for at in range(stop - start):
            row = factor[start + at, start + at : stop]
            chosen = choose(start + at, batch[:, at:])
            errors[:, at] = (batch[:, at] - chosen) / row[0]
            batch[:, at:] -= errors[:, at : at + 1] * row
            batch[:, at] = chosen
        weight[:, stop:] -= errors @ factor[start:stop, stop:]
