"""The states at the start of each chunk of a linear recurrence, as one operation that compilers do not look into.

`delta_rule_by_chunk` needs S_(n+1) = K_n · S_n + A_n for chunk after chunk. As a loop in Python, torch.compile would write every
turn into its graph: twelve blocks of 16,384 tokens have 3,072 of them, and compiling takes many minutes. As an operation
of its own the loop is one node of the graph, however long the text, and its gradient is the same operation backwards.
"""

from __future__ import annotations

import math
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
    if backwards:
        keep, add = keep.flip(2), add.flip(2)
    # A GPU waits for the host at every turn of a loop over small matrices; a processor only computes.
    before, after = states_by_group(keep, add, state) if keep.is_cuda else states_one_by_one(keep, add, state)
    return (before.flip(2) if backwards else before), after


def states_one_by_one(keep: Tensor, add: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Compute `chunk_states` by N products after each other."""
    n_chunks, (width, values) = keep.size(2), add.shape[-2:]
    keep, add = keep.flatten(0, 1), add.flatten(0, 1)
    states = add.new_empty(n_chunks + 1, len(add), width, values)  # each product is written where the next one reads it
    states[0] = state.flatten(0, 1)
    for n in range(n_chunks):
        torch.baddbmm(add[:, n], keep[:, n], states[n], out=states[n + 1])
    return states[:-1].transpose(0, 1).unflatten(0, state.shape[:2]).contiguous(), states[-1].view_as(state).clone()


def states_by_group(keep: Tensor, add: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Compute `chunk_states` by about 2·√N products after each other, of many matrices each.

    Within a group of chunks, S_n = P · S + A for the state S that the group begins with. P and A of all groups are computed
    side by side, then the states between groups one after the other, and then all states at once.
    """
    n_chunks, (width, values) = keep.size(2), add.shape[-2:]
    size = math.isqrt(n_chunks - 1) + 1  # of a group; what is missing in the last one keeps the state as it is
    one = torch.eye(width, dtype=keep.dtype, device=keep.device)
    if missing := -n_chunks % size:
        keep = torch.cat((keep, one.expand(*keep.shape[:2], missing, -1, -1)), dim=2)
        add = torch.nn.functional.pad(add, (0, 0, 0, 0, 0, missing))
    keep, add = (x.unflatten(2, (-1, size)).flatten(0, 2) for x in (keep, add))  # (B·H·groups, size, D, D or E)
    within = keep.new_empty(size + 1, len(keep), width, width + values)  # P and A before each chunk, and behind all
    within[0] = torch.eye(width, width + values, dtype=keep.dtype, device=keep.device)
    for n in range(size):
        torch.bmm(keep[:, n], within[n], out=within[n + 1])
        within[n + 1, ..., width:] += add[:, n]
    products, sums = within.split((width, values), dim=-1)
    after = state.flatten(0, 1)
    begin = keep.new_empty(len(after), len(keep) // len(after), width, values)
    last_products, last_sums = (x[-1].unflatten(0, begin.shape[:2]) for x in (products, sums))
    for n in range(begin.size(1)):
        begin[:, n] = after
        after = torch.baddbmm(last_sums[:, n], last_products[:, n], after)
    before = keep.new_empty(len(keep), size, width, values)
    for n in range(size):
        torch.baddbmm(sums[n], products[n], begin.flatten(0, 1), out=before[:, n])
    before = before.view(*state.shape[:2], -1, width, values)[:, :, :n_chunks]
    return before.contiguous(), after.view_as(state).clone()


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
