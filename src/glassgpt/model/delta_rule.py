"""The gated delta rule (Yang et al. 2024): linear attention whose memory is one matrix per head, however long the text.

The state S (D, D) maps keys to values. Each token lets it fade by a factor of at most 1, then corrects the value that S
returns for the token's key towards the token's own value, by a share beta:

    S ← exp(decay) · S
    S ← S + kᵀ · beta · (v - k · S)
    output = q · S / √D

`delta_rule_by_token` is these three lines in a loop. `delta_rule_by_chunk` computes the same with matrix products, 64 tokens at
a time. `delta_rule` picks the fastest for its tensors: on a GPU the kernels of flash-linear-attention (extra: linear).

Shapes: B sequences, T tokens, H heads, D channels per head.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from glassgpt.model.chunk_states import chunk_states

CHUNK = 64
"""Tokens that are computed at once: the products within a chunk cost T · CHUNK, those with the state T · D."""
HAS_KERNEL = find_spec("fla") is not None
"""True if flash-linear-attention is installed."""
HOPPER = 9
"""Major compute capability of the H100 and the H200."""


def delta_rule_by_token(
    q: Tensor, k: Tensor, v: Tensor, decay: Tensor, beta: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Apply the gated delta rule token by token: the readable reference implementation of `delta_rule`.

    Args:
        q: (B, T, H, D) queries.
        k: (B, T, H, D) keys of length 1.
        v: (B, T, H, D) values.
        decay: (B, T, H) logarithm of the factor of the state, at most 0.
        beta: (B, T, H) share of the correction, from 0 to 1.
        state: (B, H, D, D) float32 of the tokens before.

    Returns:
        The outputs (B, T, H, D), and the state after the last token.
    """
    outputs: list[Tensor] = []
    for t in range(q.size(1)):
        query, key, value = (x[:, t].float().unsqueeze(-2) for x in (q, k, v))  # (B, H, 1, D)
        state = decay[:, t].float().exp()[..., None, None] * state
        state = state + key.mT @ (beta[:, t].float()[..., None, None] * (value - key @ state))
        outputs.append((query @ state).squeeze(-2) / q.size(-1) ** 0.5)
    return torch.stack(outputs, dim=1).type_as(v), state


def delta_rule_by_chunk(
    q: Tensor, k: Tensor, v: Tensor, decay: Tensor, beta: Tensor, state: Tensor, chunk: int = CHUNK
) -> tuple[Tensor, Tensor]:
    """Apply the gated delta rule chunk by chunk; see `delta_rule_by_token`.

    Within a chunk that begins with the state S₀, let c be the sum of the decays so far. Then token t finds the state
    exp(c_t) S₀ + Σ_(i≤t) exp(c_t - c_i) k_iᵀ u_i, where u_i are the corrections. Put into the rule, this is a triangular
    system of equations, (1 + L) U = beta (V - exp(c) K S₀) with L_ti = beta_t exp(c_t - c_i) k_t · k_i for i < t. It is solved
    for all chunks at once, as U = U_v - U_k S₀. Only the states S₀ follow from each other: the next one is a matrix times this
    one plus another matrix, and `chunk_states` computes them one after the other.
    """
    n_tokens, width = q.size(1), q.size(-1)
    with torch.autocast(q.device.type, enabled=False):
        q, k, v, decay, beta = (_in_chunks(x, chunk) for x in (q, k, v, decay[..., None], beta[..., None]))
        lower = torch.ones(chunk, chunk, dtype=torch.bool, device=q.device).tril()
        total = (decay.mT * lower).sum(
            dim=-1, keepdim=True
        )  # c, (B, H, N, chunk, 1); CUDA's cumsum is not deterministic
        last = total[..., -1:, :]
        # Before the exponential: above the diagonal it would overflow.
        faded = (total - total.mT).masked_fill(~lower, -torch.inf).exp()
        system = (beta * (k @ k.mT) * faded).tril(-1)
        one = torch.eye(chunk, device=q.device).expand_as(system)
        inverse = torch.linalg.solve_triangular(system, one, upper=False, unitriangular=True)
        from_values, from_keys = inverse @ (beta * v), inverse @ (beta * total.exp() * k)
        writes = ((last - total).exp() * k).mT  # (B, H, N, D, chunk)
        keep = last.exp() * torch.eye(width, device=q.device) - writes @ from_keys
        states, state = chunk_states(keep, writes @ from_values, state)
        corrections = from_values - from_keys @ states
        outputs = (total.exp() * q) @ states + (q @ k.mT * faded) @ corrections
        mixed = outputs.flatten(2, 3)[:, :, :n_tokens].transpose(1, 2)
    return mixed / width**0.5, state


def _in_chunks(x: Tensor, chunk: int) -> Tensor:
    """(B, T, H, D) -> (B, H, N, chunk, D) float32; the last chunk is filled with zeros, which leave the state as it is."""
    x = torch.nn.functional.pad(x.float(), (0, 0, 0, 0, 0, -x.size(1) % chunk))
    return x.transpose(1, 2).unflatten(2, (-1, chunk))


def delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    decay: Tensor,
    beta: Tensor,
    state: Tensor | None,
    kernel_has_gradients: bool = True,
) -> tuple[Tensor, Tensor]:
    """Apply the gated delta rule by the fastest implementation for these tensors; see `delta_rule_by_token`.

    Args:
        q, k, v, decay, beta: see `delta_rule_by_token`.
        state: of the tokens before; None if there are none.
        kernel_has_gradients: False if `triton_without_gradients` names a version; asked in advance, as a compiler cannot.
    """
    inputs = (q, k, v, decay, beta)
    fits = HAS_KERNEL and q.is_cuda and q.size(1) > 1 and q.dtype != torch.float32
    if fits and (kernel_has_gradients or not any(x.requires_grad for x in inputs)):
        return _delta_rule_by_kernel(*inputs, state)
    return _delta_rule_in_torch(*inputs, state)


def _delta_rule_in_torch(
    q: Tensor, k: Tensor, v: Tensor, decay: Tensor, beta: Tensor, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    if state is None:
        state = torch.zeros(q.size(0), q.size(2), q.size(3), v.size(3), device=q.device)
    function = delta_rule_by_token if q.size(1) == 1 else delta_rule_by_chunk
    mixed, after = function(q, k, v, decay, beta, state)
    return mixed.type_as(v), after


def _call_kernel(
    q: Tensor, k: Tensor, v: Tensor, decay: Tensor, beta: Tensor, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    from fla.ops.gated_delta_rule import chunk_gated_delta_rule  # pyright: ignore

    return chunk_gated_delta_rule(q, k, v, g=decay.float(), beta=beta, initial_state=state, output_final_state=True)  # pyright: ignore


# Its kernels are compiled already. Where there are none, the compiler is not loaded, which takes a second.
_delta_rule_by_kernel: Any = torch.compiler.disable(_call_kernel) if HAS_KERNEL else _call_kernel


def training_kernel(device: torch.device, is_16_bit: bool) -> str:
    """Return what computes the rule while training: `flash-linear-attention` or `chunks`."""
    fits = HAS_KERNEL and device.type == "cuda" and is_16_bit and not triton_without_gradients()
    return "flash-linear-attention" if fits else "chunks"


@cache
def triton_without_gradients() -> str:
    """Return the version of Triton if flash-linear-attention cannot compute gradients with it on this GPU, else "".

    On Hopper with Triton 3.4.0 to 3.7.0 they may be wrong, and flash-linear-attention refuses its backward pass (its issue 640).
    """
    if not HAS_KERNEL or not torch.cuda.is_available() or torch.cuda.get_device_capability()[0] != HOPPER:
        return ""
    version = _triton_version()
    release = tuple(int(number) for number in re.findall(r"\d+", version)[:3])
    return version if (3, 4) <= release < (3, 7, 1) else ""


def _triton_version() -> str:
    import triton  # pyright: ignore

    return triton.__version__  # pyright: ignore
