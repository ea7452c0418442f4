"""Exercises of lesson 6 and what they are checked with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from glassgpt.learn.lesson import Case, Exercise, Mistake
from glassgpt.learn.lessons.lesson6 import mistakes, solutions, update_mistakes
from glassgpt.model.build import build_model
from glassgpt.model.config import ModelConfig

ADAMW_DEFAULT_DECAY = 0.01
"""Weight decay of `torch.optim.AdamW` for a group that names none."""


def _random(*shape: int, seed: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _tokens(*shape: int, seed: int, vocab_size: int) -> Tensor:
    return torch.randint(vocab_size, shape, generator=torch.Generator().manual_seed(seed))


def batch_cases() -> list[Case]:
    """Two batches from different places of a text."""
    text = _tokens(200, seed=1, vocab_size=50)
    return [Case(text, [2, 17, 100], 8), Case(text, [60], 3)]


def loss_cases() -> list[Case]:
    """Ordinary logits, then large ones."""
    return [
        Case(_random(2, 5, 7, seed=1, scale=2.0), _tokens(2, 5, seed=2, vocab_size=7)),
        Case(_random(3, 4, 9, seed=3), _tokens(3, 4, seed=4, vocab_size=9)),
        Case(_random(2, 3, 5, seed=5, scale=500.0), _tokens(2, 3, seed=6, vocab_size=5)),
    ]


def rate_cases() -> list[Case]:
    """Every step of three schedules."""
    schedules = ((20, 5, 0.1), (9, 0, 0.0), (12, 3, 0.2))
    return [
        Case(step, max_steps, warmup_steps, final_ratio)
        for max_steps, warmup_steps, final_ratio in schedules
        for step in range(max_steps)
    ]


def rate(function: Callable[..., Any], case: Case) -> float:
    """Return a rate as a float, whichever kind of number it is."""
    return float(function(*case.arguments))


def group_cases() -> list[Case]:
    """The smallest GPT-2, with two amounts of weight decay."""
    shape = ModelConfig(vocab_size=11, context_length=8, n_layer=1, n_head=2, n_embd=8)
    return [Case(build_model(shape), decay) for decay in (0.1, 0.25)]


def decays_by_name(function: Callable[..., Any], case: Case) -> dict[str, list[float]]:
    """Return for each parameter the weight decay of every group that it is in."""
    model, _ = case.arguments
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found: dict[str, list[float]] = {name: [] for name in names.values()}
    for group in function(*case.arguments):
        for parameter in group["params"]:
            found[names[id(parameter)]].append(float(group.get("weight_decay", ADAMW_DEFAULT_DECAY)))
    return found


def clip_cases() -> list[Case]:
    """Long and short gradients, with and without a loss scale."""
    shapes = ((3, 4), (5,), (2, 2))
    gradients = [_random(*shape, seed=10 + i) for i, shape in enumerate(shapes)]
    short = [0.05 * gradient for gradient in gradients]
    return [
        Case(gradients, 1.0, 1.0),
        Case([1024.0 * gradient for gradient in gradients], 1024.0, 2.0),
        Case([256.0 * gradient for gradient in short], 256.0, 1.0),
    ]


def adamw_cases() -> list[Case]:
    """The first step, and a later one with running means."""
    parameter, gradient = _random(2, 3, seed=20), _random(2, 3, seed=21)
    mean, square = _random(2, 3, seed=22, scale=0.5), _random(2, 3, seed=23).abs()
    zeros = torch.zeros(2, 3)
    settings: dict[str, float] = {"learning_rate": 0.1, "beta1": 0.9, "beta2": 0.95, "weight_decay": 0.5}
    return [
        Case(parameter, gradient, zeros, zeros.clone(), 1, **settings),
        Case(parameter, gradient, mean, square, 7, **{**settings, "learning_rate": 0.3, "beta2": 0.99}),
    ]


def step_cases() -> list[Case]:
    """Several micro-batches with and without clipping, then one."""
    return [Case(3, 4, 0.5, 100.0), Case(4, 2, 0.2, 0.05), Case(5, 1, 0.3, 100.0)]


def three_steps(function: Callable[..., Any], case: Case) -> dict[str, Any]:
    """Run three steps on a small model with plain gradient descent, whose update is in proportion to the gradient.

    Returns:
        The losses, and the weights at the end.
    """
    seed, n_micro_batches, learning_rate, max_norm = case.arguments
    model = nn.Sequential(nn.Embedding(11, 6), nn.Linear(6, 11))
    for i, parameter in enumerate(model.parameters()):
        parameter.data = _random(*parameter.shape, seed=100 * seed + i)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    losses: list[float] = []
    for step in range(3):
        text = _tokens(n_micro_batches, 2, 6, seed=1000 * seed + step, vocab_size=11)
        micro_batches = [(part[:, :-1], part[:, 1:]) for part in text]
        losses.append(float(function(model, optimizer, micro_batches, learning_rate / (step + 1), max_norm)))
    return {"loss": losses, "weights": [parameter.detach().clone() for parameter in model.parameters()]}


EXERCISES = (
    Exercise(
        "6.1",
        "make_batch",
        batch_cases,
        solutions.make_batch,
        (
            Mistake("targets-not-shifted", mistakes.batch_shifted_by(0)),
            Mistake("shifted-back", mistakes.batch_shifted_by(-1)),
            Mistake("shifted-by-two", mistakes.batch_shifted_by(2)),
            Mistake("next-window", mistakes.batch_next_window),
            Mistake("one-too-short", mistakes.batch_one_too_short),
        ),
    ),
    Exercise(
        "6.2",
        "cross_entropy",
        loss_cases,
        solutions.cross_entropy,
        (
            Mistake("softmax-over-positions", mistakes.loss_softmax_over_positions),
            Mistake("summed", mistakes.loss_summed),
            Mistake("averaged-twice", mistakes.loss_averaged_twice),
            Mistake("mean-over-batch-only", mistakes.loss_mean_over_batch_only),
            Mistake("without-softmax", mistakes.loss_without_softmax),
            Mistake("softmax-twice", mistakes.loss_softmax_twice),
            Mistake("in-bits", mistakes.loss_in_bits),
            Mistake("wrong-sign", mistakes.loss_wrong_sign),
            Mistake("mean-before-log", mistakes.loss_of_probabilities),
            Mistake("overflow", mistakes.loss_overflows),
            Mistake("log-of-zero", mistakes.loss_log_of_zero),
            Mistake(
                "positions-log-of-zero",
                mistakes.loss_log_of_zero_over_positions,
                ("softmax-over-positions", "log-of-zero"),
            ),
        ),
    ),
    Exercise(
        "6.3",
        "learning_rate_ratio",
        rate_cases,
        solutions.learning_rate_ratio,
        (
            Mistake("warmup-from-zero", mistakes.rate_warmup_from_zero),
            Mistake("warmup-ends-early", mistakes.rate_warmup_ends_early),
            Mistake("no-warmup", mistakes.rate_without_warmup),
            Mistake("jump-after-warmup", mistakes.rate_jumps_after_warmup),
            Mistake("decay-to-zero", mistakes.rate_decays_to_zero),
            Mistake("linear-decay", mistakes.rate_linear),
            Mistake("end-missed", mistakes.rate_misses_the_end),
            Mistake("zero-and-end", mistakes.rate_from_zero_misses_the_end, ("warmup-from-zero", "end-missed")),
            Mistake("whole-cosine", mistakes.rate_whole_cosine),
        ),
        adapt=rate,
        shows_call=True,
    ),
    Exercise(
        "6.4",
        "parameter_groups",
        group_cases,
        solutions.parameter_groups,
        (
            Mistake("all-decayed", mistakes.groups_all_decayed),
            Mistake("biases-decayed", mistakes.groups_biases_decayed),
            Mistake("gains-decayed", mistakes.groups_weights_by_name),
            Mistake("embeddings-decayed", mistakes.groups_embeddings_decayed),
            Mistake("all-but-biases", mistakes.groups_all_but_biases_decayed, ("gains-decayed", "embeddings-decayed")),
            Mistake("groups-swapped", mistakes.groups_swapped),
            Mistake("default-decay", mistakes.groups_default_decay),
            Mistake("parameters-lost", mistakes.groups_vectors_lost),
        ),
        adapt=decays_by_name,
        shows_call=True,
    ),
    Exercise(
        "6.5",
        "clip_gradients",
        clip_cases,
        solutions.clip_gradients,
        (
            Mistake("clip-before-unscaling", mistakes.clip_before_unscaling),
            Mistake("not-unscaled", mistakes.clip_without_unscaling),
            Mistake("each-tensor-alone", mistakes.clip_each_alone),
            Mistake("values-clipped", mistakes.clip_values),
            Mistake("always-scaled", mistakes.clip_always),
            Mistake("no-square-root", mistakes.clip_without_root),
            Mistake("norm-after-clipping", mistakes.clip_norm_after),
        ),
    ),
    Exercise(
        "6.6",
        "adamw_update",
        adamw_cases,
        solutions.adamw_update,
        (
            Mistake("no-bias-correction", update_mistakes.adamw_without_correction),
            Mistake("decay-in-gradient", update_mistakes.adamw_decay_in_gradient),
            Mistake("decay-without-rate", update_mistakes.adamw_decay_without_rate),
            Mistake("gradient-not-squared", update_mistakes.adamw_gradient_not_squared),
            Mistake("no-root", update_mistakes.adamw_without_root),
            Mistake("uphill", update_mistakes.adamw_uphill),
            Mistake("betas-swapped", update_mistakes.adamw_betas_swapped),
        ),
    ),
    Exercise(
        "6.7",
        "train_step",
        step_cases,
        solutions.train_step,
        (
            Mistake("losses-summed", update_mistakes.step_sums_losses),
            Mistake("loss-averaged-twice", update_mistakes.step_averages_twice),
            Mistake("gradients-kept", update_mistakes.step_keeps_gradients),
            Mistake("last-micro-batch-only", update_mistakes.step_last_micro_batch_only),
            Mistake("not-clipped", update_mistakes.step_without_clipping),
            Mistake("rate-ignored", update_mistakes.step_ignores_rate),
            Mistake("last-loss", update_mistakes.step_returns_last_loss),
        ),
        adapt=three_steps,
    ),
)
