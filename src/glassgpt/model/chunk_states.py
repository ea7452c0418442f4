"""The states at the start of each chunk of a linear recurrence, as one operation that compilers do not look into.

`delta_rule_by_chunk` needs S_(n+1) = K_n · S_n + A_n for chunk after chunk. As a loop in Python, torch.compile would write every
turn into its graph: twelve blocks of 16,384 tokens have 3,072 of them, and compiling takes many minutes. As an operation
of its own the loop is one node of the graph, however long the text, and its gradient is the same operation backwards.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def chunk_states_readable(keep: Tensor, add: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the recurrence by its formula: the reference implementation of `chunk_states`."""
    before: list[Tensor] = []
    for n in range(keep.size(2)):
        before.append(state)
        state = keep[:, :, n] @ state + add[:, :, n]
    return torch.stack(before, dim=2), state


def chunk_states(keep: Tensor, add: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Compute S_(n+1) = keep_n · S_n + add_n from S_0 = state, differentiably.

    Args:
        keep: (B, H, N, D, D) float32 of N chunks.
        add: (B, H, N, D, E).
        state: (B, H, D, E) before the first chunk.

    Returns:
        The states before each chunk, S_0 to S_(N-1) as (B, H, N, D, E), and S_N, (B, H, D, E).
    """
    call: Any = _states  # type checkers take the operation's arguments from its gradient
    return call(keep, add, state, False)


@torch.library.custom_op("glassgpt::chunk_states", mutates_args=())
def _states(keep: Tensor, add: Tensor, state: Tensor, backwards: bool) -> tuple[Tensor, Tensor]:
    # N + 1 states: each product is written where the next one reads it.
    shape = (keep.size(0) * keep.size(1), keep.size(2), *add.shape[-2:])  # (B·H, N, D, E)
    keep, add = keep.reshape(*shape[:2], *keep.shape[-2:]), add.reshape(shape)
    states = add.new_empty(shape[1] + 1, shape[0], *shape[2:])  # (N + 1, B·H, D, E)
    states[0] = state.flatten(0, 1)
    for turn in range(shape[1]):
        n = shape[1] - 1 - turn if backwards else turn
        torch.baddbmm(add[:, n], keep[:, n], states[turn], out=states[turn + 1])
    before = states[:-1].flip(0) if backwards else states[:-1]
    return before.transpose(0, 1).reshape(*state.shape[:2], *shape[1:]).contiguous(), states[-1].view_as(state).clone()


@_states.register_fake
def _(keep: Tensor, add: Tensor, state: Tensor, backwards: bool) -> tuple[Tensor, Tensor]:
    return torch.empty_like(add, memory_format=torch.contiguous_format), torch.empty_like(
        state, memory_format=torch.contiguous_format
    )


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(inputs[0], output[0])


def _differentiate(ctx: Any, before_grad: Tensor, last_grad: Tensor) -> tuple[Tensor | None, ...]:
    # The gradient G_n of S_n obeys G_n = keep_nᵀ · G_(n+1) + (the gradient of S_n as an output): the same recurrence, from
    # the last chunk to the first. That of add_n is G_(n+1), the gradient "before" the turn in this direction.
    keep, before = ctx.saved_tensors
    call: Any = _states
    add_grad, state_grad = call(keep.mT, before_grad, last_grad, True)
    return add_grad @ before.mT, add_grad, state_grad, None


_states.register_autograd(_differentiate, setup_context=_save)
