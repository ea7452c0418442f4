"""Gated DeltaNet (Yang et al. 2024): linear attention, with a memory of constant size instead of all earlier tokens.

A block mixes positions by the gated delta rule (`delta_rule.py`): queries, keys and values as in attention, but instead of
comparing a query with every earlier key, each head keeps one matrix that maps keys to values. What the paper adds to make
it work: a short convolution over the last four tokens, keys and queries of length 1, how fast the memory fades and how much
a token writes into it, both computed from the token, and a gate on the output. There are no positions: order is in the memory.

Everything around it is `Modern`'s recipe, so that the two differ in what mixes positions alone. The readable reference of
the rule is `delta_rule_by_token`; the tests compare with flash-linear-attention's own.
"""

from __future__ import annotations

import math
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glassgpt.model.activations import block_activations, captured, captured_heads
from glassgpt.model.attention import AttentionFunction, attend
from glassgpt.model.cache import KVCache
from glassgpt.model.config import ModelConfig
from glassgpt.model.delta_rule import delta_rule, triton_without_gradients
from glassgpt.model.hook_points import Activation
from glassgpt.model.modern import ModernRecipe, RMSNorm
from glassgpt.model.recurrent_cache import CONVOLVED, RecurrentCache
from glassgpt.model.transformer import ParameterKind

FASTEST_FADING = 16.0
STEPS = (0.001, 0.1)
"""Initial range of the step by which a token lets the memory fade, times a rate from 1 to `FASTEST_FADING`; the paper's."""


class GatedDeltaRule(nn.Module):
    """Mixes positions by the gated delta rule."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.n_head, self.head_dim = config.n_head, config.head_width
        width, inner = config.n_embd, config.attention_width
        self.q = nn.Linear(width, inner, bias=False)
        self.k = nn.Linear(width, inner, bias=False)
        self.v = nn.Linear(width, inner, bias=False)
        self.convolution = nn.Parameter(torch.empty(3 * inner, CONVOLVED))
        self.fading = nn.Linear(width, self.n_head, bias=False)
        self.rate = nn.Parameter(torch.empty(self.n_head))
        self.step = nn.Parameter(torch.empty(self.n_head))
        self.writing = nn.Linear(width, self.n_head, bias=False)
        self.gate = nn.Linear(width, inner, bias=False)
        self.norm = RMSNorm()
        self.out = nn.Linear(inner, width, bias=False)
        self.out_dropout = nn.Dropout(config.dropout)
        self.kernel_has_gradients = not triton_without_gradients()

    def forward(self, x: Tensor, cache: KVCache | None = None) -> Tensor:
        """Mix information between positions, (B, T, C) -> (B, T, C)."""
        before = None if cache is None else RecurrentCache.of(cache).read(self.layer)
        projected = torch.cat((self.q(x), self.k(x), self.v(x)), dim=-1)  # (B, T, 3·H·D)
        inputs = _behind(projected, None if before is None else before.inputs)
        mixed = short_convolution(inputs, self.convolution.to(inputs.dtype))
        q, k, v = (part.unflatten(-1, (self.n_head, self.head_dim)) for part in mixed.chunk(3, dim=-1))  # (B, T, H, D)
        q, k = F.normalize(q, dim=-1, eps=1e-6).type_as(v), F.normalize(k, dim=-1, eps=1e-6).type_as(v)
        decay = -self.rate.float().exp() * F.softplus(self.fading(x).float() + self.step)  # (B, T, H)
        beta = self.writing(x).float().sigmoid()  # (B, T, H)
        if before is not None and before.is_real is not None:  # padding leaves the memory as it is
            decay, beta = decay * before.is_real[..., None], beta * before.is_real[..., None]
        memory = None if before is None else before.state
        y, state = delta_rule(q, k, v, decay, beta.type_as(v), memory, self.kernel_has_gradients)
        if cache is not None:
            RecurrentCache.of(cache).write(self.layer, inputs, state)
        y = self.norm(y).flatten(2).type_as(x) * F.silu(self.gate(x))
        return self.out_dropout(self.out(y))


def short_convolution(inputs: Tensor, weight: Tensor) -> Tensor:
    """Combine each channel's last few positions, then apply SiLU.

    Args:
        inputs: (B, W - 1 + T, C), the W - 1 positions before the first new one in front.
        weight: (C, W).

    Returns:
        (B, T, C).
    """
    width = weight.size(1)
    n_new = inputs.size(1) - width + 1
    return F.silu(reduce(torch.add, (inputs[:, at : at + n_new] * weight[:, at] for at in range(width))))


def _behind(projected: Tensor, earlier: Tensor | None) -> Tensor:
    """Put the positions before the first new one in front; zeros at the start of a text."""
    return F.pad(projected, (0, 0, CONVOLVED - 1, 0)) if earlier is None else torch.cat((earlier, projected), dim=1)


class GatedDeltaNet(ModernRecipe):
    """A GPT whose blocks mix positions by the gated delta rule.

    Args:
        config: the shape; vocab_size must be set.
        attend: not used; there is no attention.
    """

    def __init__(self, config: ModelConfig, attend: AttentionFunction = attend) -> None:
        super().__init__(config, lambda layer: GatedDeltaRule(config, layer))

    def initialize(self) -> None:
        """See `LanguageModel.initialize`; the memory fades at different speeds, as in the paper."""
        super().initialize()
        for module in self.modules():
            if isinstance(module, GatedDeltaRule):
                nn.init.uniform_(module.rate, 0.0, math.log(FASTEST_FADING))
                nn.init.uniform_(
                    module.step, math.log(STEPS[0]), math.log(STEPS[1])
                )  # softplus(log x) is x, for a small x

    def initial_std(self, name: str) -> float:
        """See `LanguageModel.initial_std`."""
        return 0.5 / math.sqrt(CONVOLVED) if name.endswith(".convolution") else super().initial_std(name)

    def parameter_kinds(self) -> dict[str, ParameterKind]:
        """Return the kind of each parameter; a convolution is a vector per position, not a matrix to orthogonalize."""
        kinds = super().parameter_kinds()
        return {name: "vector" if name.endswith(".convolution") else kind for name, kind in kinds.items()}

    def layer_activations(self, layer: int) -> dict[str, Activation]:
        """See `ModernRecipe.layer_activations`."""
        at, source, width = f"blocks.{layer}.attention", GatedDeltaRule.forward, self.config.head_width
        projected = {
            f"{at}.{name}.projected": captured_heads(f"{at}.{name}", f"norm1 · W{name}ᵀ", source, width)
            for name in ("q", "k", "v")
        }
        rates = {
            f"{at}.{name}": captured(f"{at}.{name}", f"norm1 · W{name}ᵀ", source, channels="head")
            for name in ("fading", "writing")
        }
        gate = {f"{at}.gate": captured_heads(f"{at}.gate", "norm1 · Wgateᵀ", source, width)}
        formula = "S · q / √D, normalized, · silu(gate)"
        mixed = {f"{at}.mixed": captured_heads(f"{at}.out", formula, delta_rule, width, side="input")}
        return block_activations(self, layer, {**projected, **rates, **gate}, "relu(mlp.up)²", mixing=mixed)

    def new_cache(self, slots: int, capacity: int | None = None) -> RecurrentCache:
        """See `LanguageModel.new_cache`: a memory of constant size, however many tokens."""
        weights = self.token_embedding.weight
        return RecurrentCache(self.config, slots, capacity, dtype=weights.dtype, device=weights.device)
