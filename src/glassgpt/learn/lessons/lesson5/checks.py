"""Lesson 5, the whole model: the cases of each exercise, and its typical mistakes as implementations."""

# pyright: reportUnknownLambdaType=false

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from glassgpt.learn.lesson import Case, Exercise, Mistake
from glassgpt.learn.lessons.lesson5 import solutions
from glassgpt.model.cache import KVCache
from glassgpt.model.config import ModelConfig
from glassgpt.model.gpt2 import GPT2

CONFIG = ModelConfig(vocab_size=13, context_length=12, n_layer=3, n_head=2, n_embd=8)


def random_tensor(*shape: int, seed: int = 5) -> Tensor:
    """Return a tensor of normally distributed numbers that is the same at each call."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def random_tokens(*shape: int) -> Tensor:
    """Return tokens that are the same at each call; positions and tokens differ."""
    return torch.randint(CONFIG.vocab_size - 1, shape, generator=torch.Generator().manual_seed(5))


def embed_cases() -> Sequence[Case]:
    """Return tokens, both tables, and a first position: 0, and behind cached tokens."""
    tables = random_tensor(13, 4, seed=1), random_tensor(12, 4, seed=2)
    return Case(random_tokens(2, 5), *tables), Case(random_tokens(3, 2), *tables, 6)


def count_cases() -> Sequence[Case]:
    """Return shapes: a tiny one, the smallest GPT-2, and one between."""
    return Case(5, 7, 2, 3), Case(50257, 1024, 12, 768), Case(1024, 128, 4, 128)


def std_cases() -> Sequence[Case]:
    """Return the name of each kind of matrix, with a number of blocks and a standard deviation."""
    names = ("attention.qkv", "attention.out", "mlp.up", "mlp.down")
    blocks = [Case(f"blocks.{i}.{name}.weight", 8, 0.05) for i, name in enumerate(names)]
    return [*blocks, Case("token_embedding.weight", 2), Case("blocks.11.mlp.down.weight", 12)]


def random_weights() -> dict[str, Tensor]:
    """Return weights for a model of `CONFIG` with which each part matters."""
    shapes = {name: p.shape for name, p in GPT2(CONFIG).named_parameters()}
    return {name: 0.4 * random_tensor(*shape, seed=i) for i, (name, shape) in enumerate(shapes.items())}


def published(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights by the names of the published GPT-2, in its form."""
    theirs = {ours: name for name, ours in solutions.NAMES.items()}
    result: dict[str, Tensor] = {}
    for name, weight in weights.items():
        module, _, kind = name.rpartition(".")
        block, module = module.split(".", 2)[1:] if module.startswith("blocks.") else ("", module)
        new = f"h.{block}.{theirs[module]}.{kind}" if block else f"{theirs[module]}.{kind}"
        result[new] = weight.T.contiguous() if "c_" in new and weight.ndim == 2 else weight
    return result


def weight_cases() -> Sequence[Case]:
    """Return weights of a model with three blocks, as they are published."""
    return (Case(published(random_weights())),)


def with_matrices(change: Callable[[str, Tensor], Tensor]) -> Callable[..., dict[str, Tensor]]:
    """Return a renaming that changes each tensor in its own way, by its published name."""

    def convert(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        # The solution transposes some of the tensors; undo that, so that `change` alone decides.
        renamed = solutions.from_published(weights)
        return {new: change(old, weights[old]) for old, new in zip(weights, renamed, strict=True)}

    return convert


def replaced_anywhere(weights: dict[str, Tensor], *, transposes: bool = True) -> dict[str, Tensor]:
    """Replace each published name wherever its letters stand, so that the h of "weight" becomes "blocks"."""
    result: dict[str, Tensor] = {}
    for old, weight in weights.items():
        new = old
        for name, ours in solutions.NAMES.items():
            new = new.replace(name, ours)
        result[new] = weight.T if transposes and "c_" in old and weight.ndim == 2 else weight
    return result


def model_cases() -> Sequence[Case]:
    """Return weights and tokens."""
    return (Case(random_weights(), random_tokens(2, 9)),)


def run_model(model_class: Any, case: Case) -> list[Tensor]:
    """Load the weights into a model; return the logits of all tokens, and with a cache, of the tokens in three parts."""
    weights, tokens = case.arguments
    # Exercise 5.3 may be unsolved, and the weights at the start do not matter here.
    model = type("CheckedGPT", (model_class,), {"initial_std": lambda self, name: 0.02})(CONFIG).eval()
    model.load_state_dict(weights)
    cache = KVCache(CONFIG, 2)
    with torch.no_grad():
        return [model(tokens), *(model(part, cache) for part in tokens.tensor_split([4, 5], dim=1))]


def model_with(
    *,
    features: Callable[[solutions.GPT, Tensor, Any], Tensor] | None = None,
    embed: Callable[[solutions.GPT, Tensor, Tensor], Tensor] | None = None,
) -> type[solutions.GPT]:
    """Return a model class with another method."""
    changed = {"features": features, "embed": embed}
    return type("FaultyGPT", (solutions.GPT,), {name: method for name, method in changed.items() if method})


def positions_of(model: solutions.GPT, tokens: Tensor, cache: Any, *, restart: bool = False) -> Tensor:
    """Return the positions of tokens, which begin a pass with the cache."""
    plain = torch.arange(tokens.size(1))[None]
    if cache is None:
        return plain
    cache.begin(tokens.size(1))
    return plain if restart else cache.positions()


def features_with(
    *,
    restart: bool = False,
    passes_cache: bool = True,
    commits: bool = True,
    normalizes: bool = True,
    first_block_only: bool = False,
    norm_each: bool = False,
) -> Callable[[solutions.GPT, Tensor, Any], Tensor]:
    """Return the method `features` in which one thing differs from the solution."""

    def features(model: solutions.GPT, tokens: Tensor, cache: Any = None) -> Tensor:
        x = model.embed(tokens, positions_of(model, tokens, cache, restart=restart))
        for block in model.blocks:
            x = (model.blocks[0] if first_block_only else block)(x, cache if passes_cache else None)
            x = model.norm(x) if norm_each else x
        if cache is not None and commits:
            cache.commit()
        return model.norm(x) if normalizes and not norm_each else x

    return features


def token_embedding_only(model: solutions.GPT, x: Tensor) -> Tensor:
    """Return the token embedding alone."""
    return nn.functional.embedding(x, model.token_embedding.weight)


def count_with(**left_out: int) -> Callable[..., int]:
    """Return a count from which parts are left out, in multiples of C: `layer` of each block, `once` of the whole."""

    def count(vocab_size: int, context_length: int, n_layer: int, n_embd: int) -> int:
        layer, once = left_out.get("layer", 0), left_out.get("once", 0)
        return (
            solutions.count_parameters(vocab_size, context_length, n_layer, n_embd) - (layer * n_layer + once) * n_embd
        )

    return count


def std_with(factor: Callable[[int], float], *endings: str) -> Callable[..., float]:
    """Return initial standard deviations in which matrices with some endings have another factor."""

    def std_of(name: str, n_layer: int, std: float = 0.02) -> float:
        return std * factor(n_layer) if name.endswith(endings) else std

    return std_of


INTO_STREAM = (".out.weight", ".down.weight")

EXERCISES = (
    Exercise(
        "5.1", "embed", embed_cases, solutions.embed,
        (
            Mistake("no-positions", lambda tokens, table, positions, start=0: table[tokens]),
            Mistake("start-ignored", lambda tokens, table, positions, start=0: solutions.embed(tokens, table, positions)),
            Mistake("from-one", lambda tokens, table, positions, start=0: solutions.embed(tokens, table, positions, start + 1)),
            Mistake("by-token", lambda tokens, table, positions, start=0: table[tokens] + positions[tokens]),
            Mistake("side-by-side", lambda tokens, table, positions, start=0: torch.cat(
                [table[tokens], positions[start : start + tokens.size(1)].expand(*tokens.shape, -1)], dim=-1)),
        ),
    ),
    Exercise(
        "5.2", "count_parameters", count_cases, solutions.count_parameters,
        (
            Mistake("head-counted", lambda v, t, n, c: solutions.count_parameters(v, t, n, c) + v * c),
            Mistake("no-biases", count_with(layer=9)),
            Mistake("no-norms", count_with(layer=4, once=2)),
            Mistake("no-final-norm", count_with(once=2)),
            Mistake("no-positions", lambda v, t, n, c: solutions.count_parameters(v, 0, n, c)),
            Mistake("matrices-only", count_with(layer=13, once=2), ("no-biases", "no-norms")),
        ),
    ),
    Exercise(
        "5.3", "initial_std", std_cases, solutions.initial_std,
        (
            Mistake("not-scaled", std_with(lambda n: 1.0)),
            Mistake("no-two", std_with(lambda n: 1 / math.sqrt(n), *INTO_STREAM)),
            Mistake("no-root", std_with(lambda n: 1 / (2 * n), *INTO_STREAM)),
            Mistake("all-matrices", std_with(lambda n: 1 / math.sqrt(2 * n), ".weight")),
            Mistake("all-of-blocks", std_with(
                lambda n: 1 / math.sqrt(2 * n), *INTO_STREAM, ".qkv.weight", ".up.weight"), ("all-matrices",)),
            Mistake("attention-only", std_with(lambda n: 1 / math.sqrt(2 * n), ".out.weight")),
            Mistake("mlp-only", std_with(lambda n: 1 / math.sqrt(2 * n), ".down.weight"), ("attention-only",)),
        ),
        tolerance=1e-7,
    ),
    Exercise(
        "5.4", "from_published", weight_cases, solutions.from_published,
        (
            Mistake("not-transposed", with_matrices(lambda name, weight: weight)),
            Mistake("embeddings-too", with_matrices(lambda name, weight: weight.T if weight.ndim == 2 else weight)),
            Mistake("square-missed", with_matrices(
                lambda name, weight: weight.T if "c_" in name and weight.size(0) != weight.size(-1) else weight)),
            Mistake("reshaped", with_matrices(
                lambda name, weight: weight.reshape(weight.shape[::-1]) if "c_" in name else weight)),
            Mistake("replaced-anywhere", replaced_anywhere),
            Mistake("replaced-not-transposed", lambda weights: replaced_anywhere(weights, transposes=False),
                    ("replaced-anywhere", "not-transposed")),
        ),
    ),
    Exercise(
        "5.5", "GPT", model_cases, solutions.GPT,
        (
            Mistake("no-positions", model_with(embed=lambda model, tokens, positions: token_embedding_only(model, tokens))),
            Mistake("no-final-norm", model_with(features=features_with(normalizes=False))),
            Mistake("norm-each-block", model_with(features=features_with(norm_each=True))),
            Mistake("first-block-only", model_with(features=features_with(first_block_only=True))),
            Mistake("positions-restart", model_with(features=features_with(restart=True))),
            Mistake("no-cache", model_with(features=features_with(passes_cache=False))),
            Mistake("not-committed", model_with(features=features_with(commits=False))),
        ),
        adapt=run_model,
    ),
)  # fmt: skip
