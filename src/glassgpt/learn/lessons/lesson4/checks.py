"""Lesson 4, the block: the cases of each exercise, and its typical mistakes as implementations."""

# pyright: reportUnknownLambdaType=false

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glassgpt.learn.lesson import Case, Exercise, Mistake
from glassgpt.learn.lessons.lesson4 import solutions
from glassgpt.model.attention import attend
from glassgpt.model.cache import KVCache
from glassgpt.model.config import ModelConfig
from glassgpt.model.gpt2 import MLP, CausalSelfAttention

CONFIG = ModelConfig(vocab_size=8, context_length=8, n_layer=1, n_head=2, n_embd=8)


def random_tensor(*shape: int, seed: int = 4) -> Tensor:
    """Return a tensor of normally distributed numbers that is the same at each call."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def filled(module: nn.Module, seed: int) -> nn.Module:
    """Fill a module's parameters with normally distributed numbers, the same at each call."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data = 0.5 * torch.randn(parameter.shape, generator=generator)
    return module.eval()


def norm_cases() -> Sequence[Case]:
    """Return tokens, gain and bias; in the second case the variance is as small as eps."""
    gain, bias = 1 + random_tensor(6, seed=1) / 2, random_tensor(6, seed=2)
    x = 2 + 3 * random_tensor(2, 4, 6)
    return Case(x, gain, bias), Case(0.003 * random_tensor(3, 5, 6), gain, bias)


def gelu_cases() -> Sequence[Case]:
    """Return numbers on both sides of zero."""
    return Case(torch.linspace(-4, 4, 17)), Case(random_tensor(2, 3, 4))


def attention_cases() -> Sequence[Case]:
    """Return tokens, the two layers, and a number of heads that differs from the number of tokens."""
    layers = filled(nn.Linear(12, 36), 1), filled(nn.Linear(12, 12), 2)
    return Case(random_tensor(2, 5, 12), *layers, 3), Case(random_tensor(1, 3, 12), *layers, 2)


def mlp_cases() -> Sequence[Case]:
    """Return tokens and the two layers."""
    return (Case(random_tensor(2, 5, 6), filled(nn.Linear(6, 24), 1), filled(nn.Linear(24, 6), 2)),)


def block_cases() -> Sequence[Case]:
    """Return the parts of a block and tokens, without and with a cache."""

    def parts() -> list[nn.Module]:
        attention = CausalSelfAttention(CONFIG, 0, attend)
        modules = nn.LayerNorm(8), attention, nn.LayerNorm(8), MLP(CONFIG)
        return [filled(module, seed) for seed, module in enumerate(modules)]

    return Case(*parts(), random_tensor(2, 4, 8), None), Case(*parts(), random_tensor(2, 5, 8), KVCache(CONFIG, 2))


def run_block(block_class: Callable[..., nn.Module], case: Case) -> list[Tensor]:
    """Build a block and run it: on all tokens at once, or with a cache on two and then on the others."""
    *parts, x, cache = case.arguments
    block = block_class(*parts)
    if cache is None:
        return [block(x)]
    outputs: list[Tensor] = []
    for tokens in x.split([2, x.size(1) - 2], dim=1):
        cache.begin(tokens.size(1))
        outputs.append(block(tokens, cache))
        cache.commit()
    return outputs


def normed(x: Tensor, gain: Tensor, bias: Tensor, **how: Any) -> Tensor:
    """Normalize along the axes `dim`, by torch's variance with `correction`."""
    dim, correction = how.get("dim", -1), how.get("correction", 0)
    variance = x.var(dim=dim, correction=correction, keepdim=True)
    return (x - x.mean(dim=dim, keepdim=True)) / (variance + 1e-5).sqrt() * gain + bias


def eps_outside(correction: int) -> Callable[..., Tensor]:
    """Return a norm that adds eps to the standard deviation."""

    def norm(x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
        deviation = x.std(dim=-1, correction=correction, keepdim=True)
        return (x - x.mean(dim=-1, keepdim=True)) / (deviation + 1e-5) * gain + bias

    return norm


def no_mean(x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
    """Divide by the root of the mean square, without subtracting the mean."""
    return x / (x.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt() * gain + bias


def no_root(x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
    """Divide by the variance."""
    return (x - x.mean(dim=-1, keepdim=True)) / (x.var(dim=-1, correction=0, keepdim=True) + 1e-5) * gain + bias


def tanh_gelu(x: Tensor, cube: float = 0.044715, factor: float = math.sqrt(2 / math.pi)) -> Tensor:
    """Return the tanh form of the GELU with other constants."""
    return x / 2 * (1 + torch.tanh(factor * (x + cube * x**3)))


def heads_of(part: Tensor, n_head: int) -> Tensor:
    """Return (B, T, C) as (B, heads, T, C / heads)."""
    return part.unflatten(-1, (n_head, -1)).transpose(1, 2)


def attention_with(
    *,
    order: str = "qkv",
    split: Callable[[Tensor, int], Sequence[Tensor]] | None = None,
    merges: bool = True,
    projects: bool = True,
    causal: bool = True,
) -> Callable[..., Tensor]:
    """Return self-attention in which one part differs from the solution."""

    def attention(x: Tensor, qkv: nn.Linear, out: nn.Linear, n_head: int) -> Tensor:
        made = qkv(x)
        parts = split(made, n_head) if split else [heads_of(part, n_head) for part in made.chunk(3, dim=-1)]
        named = dict(zip(order, parts, strict=True))
        y = F.scaled_dot_product_attention(named["q"], named["k"], named["v"], is_causal=causal)
        y = y.transpose(1, 2).reshape(x.shape) if merges else y.reshape(x.shape)
        return out(y) if projects else y

    return attention


def interleaved(made: Tensor, n_head: int) -> Sequence[Tensor]:
    """Give channel c to head c modulo n_head."""
    return [part.unflatten(-1, (-1, n_head)).permute(0, 3, 1, 2) for part in made.chunk(3, dim=-1)]


def per_head(made: Tensor, n_head: int) -> Sequence[Tensor]:
    """Take the layer's channels as query, key and value of head 0, then those of head 1, and so on."""
    return heads_of(made, n_head).chunk(3, dim=-1)


def not_moved(made: Tensor, n_head: int) -> Sequence[Tensor]:
    """View (B, T, C) as (B, heads, T, C / heads) without moving a number."""
    b, t, c = made.shape
    return [part.reshape(b, n_head, t, c // 3 // n_head) for part in made.chunk(3, dim=-1)]


def block_with(forward: Callable[[solutions.Block, Tensor, object], Tensor]) -> type[solutions.Block]:
    """Return a block class with another forward pass."""
    return type("FaultyBlock", (solutions.Block,), {"forward": lambda self, x, cache=None: forward(self, x, cache)})


def post_norm(block: solutions.Block, x: Tensor, cache: object) -> Tensor:
    """Normalize after each residual sum."""
    x = block.norm1(x + block.attention(x, cache))
    return block.norm2(x + block.mlp(x))


def residual_of_normed(block: solutions.Block, x: Tensor, cache: object) -> Tensor:
    """Add the sublayers to the normalized stream."""
    x = block.norm1(x)
    x = block.norm2(x + block.attention(x, cache))
    return x + block.mlp(x)


def one_norm(block: solutions.Block, x: Tensor, cache: object) -> Tensor:
    """Use the first norm twice."""
    x = x + block.attention(block.norm1(x), cache)
    return x + block.mlp(block.norm1(x))


def parallel(block: solutions.Block, x: Tensor, cache: object) -> Tensor:
    """Let both sublayers work on the same input."""
    return x + block.attention(block.norm1(x), cache) + block.mlp(block.norm2(x))


def no_residual(block: solutions.Block, x: Tensor, cache: object) -> Tensor:
    """Replace the stream by what each sublayer returns."""
    return block.mlp(block.norm2(block.attention(block.norm1(x), cache)))


def no_second_residual(block: solutions.Block, x: Tensor, cache: object) -> Tensor:
    """Add what attention returns, but not what the MLP returns."""
    return block.mlp(block.norm2(x + block.attention(block.norm1(x), cache)))


def no_cache(block: solutions.Block, x: Tensor, cache: object) -> Tensor:
    """Leave out the cache."""
    x = x + block.attention(block.norm1(x))
    return x + block.mlp(block.norm2(x))


EXERCISES = (
    Exercise(
        "4.1", "layer_norm", norm_cases, solutions.layer_norm,
        (
            Mistake("unbiased", lambda *given: normed(*given, correction=1)),
            Mistake("wrong-axis", lambda *given: normed(*given, dim=-2)),
            Mistake("all-tokens", lambda *given: normed(*given, dim=(-2, -1)), ("wrong-axis",)),
            Mistake("eps-outside", eps_outside(0)),
            Mistake("unbiased-eps-outside", eps_outside(1), ("unbiased", "eps-outside")),
            Mistake("no-mean", no_mean),
            Mistake("no-root", no_root),
            Mistake("no-gain", lambda x, gain, bias: F.layer_norm(x, (x.size(-1),))),
        ),
    ),
    Exercise(
        "4.2", "gelu", gelu_cases, solutions.gelu,
        (
            Mistake("exact", F.gelu),
            Mistake("sigmoid", lambda x: x * torch.sigmoid(1.702 * x)),
            Mistake("no-cube", lambda x: tanh_gelu(x, cube=0.0)),
            Mistake("no-factor", lambda x: tanh_gelu(x, factor=1.0)),
            Mistake("no-half", lambda x: 2 * tanh_gelu(x)),
        ),
    ),
    Exercise(
        "4.3", "self_attention", attention_cases, solutions.self_attention,
        (
            Mistake("interleaved", attention_with(split=interleaved)),
            Mistake("per-head", attention_with(split=per_head)),
            Mistake("not-moved", attention_with(split=not_moved)),
            Mistake("not-moved-both", attention_with(split=not_moved, merges=False), ("not-moved", "not-merged")),
            Mistake("not-merged", attention_with(merges=False)),
            Mistake("per-head-not-merged", attention_with(split=per_head, merges=False), ("per-head", "not-merged")),
            Mistake("swapped", attention_with(order="kqv")),
            Mistake("no-projection", attention_with(projects=False)),
            Mistake("future-leak", attention_with(causal=False)),
        ),
    ),
    Exercise(
        "4.4", "mlp", mlp_cases, solutions.mlp,
        (
            Mistake("no-activation", lambda x, up, down: down(up(x))),
            Mistake("activation-last", lambda x, up, down: solutions.gelu(down(up(x)))),
            Mistake("exact-gelu", lambda x, up, down: down(F.gelu(up(x)))),
            Mistake("residual-inside", lambda x, up, down: x + solutions.mlp(x, up, down)),
        ),
    ),
    Exercise(
        "4.5", "Block", block_cases, solutions.Block,
        (
            Mistake("no-residual", block_with(no_residual)),
            Mistake("no-second-residual", block_with(no_second_residual), ("no-residual",)),
            Mistake("norm-after", block_with(post_norm)),
            Mistake("normed-stream", block_with(residual_of_normed)),
            Mistake("one-norm", block_with(one_norm)),
            Mistake("parallel", block_with(parallel)),
            Mistake("no-cache", block_with(no_cache)),
        ),
        adapt=run_block,
    ),
)  # fmt: skip
