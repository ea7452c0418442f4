"""Checks of lesson 1: the solutions, and the mistakes that are recognized."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import log

import torch
from torch import Tensor
from torch.nn import functional as F

from glassgpt.learn.lesson import Case, Exercise, Mistake
from glassgpt.learn.lessons.lesson1 import solutions

Model = Callable[[Tensor], Tensor]


def _window_cases() -> Sequence[Case]:
    text = torch.randperm(100, generator=torch.Generator().manual_seed(1))
    return [Case(text[:20], 4), Case(text[:30], 7), Case(torch.arange(10, 21), 5)]


def _not_shifted(tokens: Tensor, context_length: int) -> tuple[Tensor, Tensor]:
    inputs, _ = solutions.windows(tokens, context_length)
    return inputs, inputs


def _shifted_back(tokens: Tensor, context_length: int) -> tuple[Tensor, Tensor]:
    inputs, targets = solutions.windows(tokens, context_length)
    return targets, inputs


def _shifted_by_two(tokens: Tensor, context_length: int) -> tuple[Tensor, Tensor]:
    inputs, _ = solutions.windows(tokens, context_length)
    used = min(inputs.numel(), (len(tokens) - 2) // context_length * context_length)
    rows = used // context_length
    return inputs[:rows], tokens[2 : used + 2].view(rows, context_length)


def _rolled(tokens: Tensor, context_length: int) -> tuple[Tensor, Tensor]:
    inputs, _ = solutions.windows(tokens, context_length)
    return inputs, inputs.roll(-1, dims=1)


def _too_many_windows(tokens: Tensor, context_length: int) -> tuple[Tensor, Tensor]:
    n_windows = len(tokens) // context_length
    used = n_windows * context_length
    return tokens[:used].view(n_windows, context_length), tokens[1 : used + 1].view(n_windows, context_length)


def _overlapping(tokens: Tensor, context_length: int) -> tuple[Tensor, Tensor]:
    return tokens[:-1].unfold(0, context_length, 1), tokens[1:].unfold(0, context_length, 1)


def _one_target(tokens: Tensor, context_length: int) -> tuple[Tensor, Tensor]:
    inputs, targets = solutions.windows(tokens, context_length)
    return inputs, targets[:, -1]


def _scores(*shape: int, scale: float = 2.0, seed: int = 0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _softmax_cases() -> Sequence[Case]:
    return [Case(_scores(3, 5)), Case(_scores(4, 4, seed=1)), Case(_scores(2, 6, scale=500.0, seed=2))]


def _wrong_axis(logits: Tensor) -> Tensor:
    return logits.softmax(0)


def _overflow(logits: Tensor) -> Tensor:
    return logits.exp() / logits.exp().sum(-1, keepdim=True)


def _overflow_and_wrong_axis(logits: Tensor) -> Tensor:
    return logits.exp() / logits.exp().sum(0)


def _no_exponential(logits: Tensor) -> Tensor:
    return logits / logits.sum(-1, keepdim=True)


def _not_normalized(logits: Tensor) -> Tensor:
    return logits.exp()


def _stable_not_normalized(logits: Tensor) -> Tensor:
    return (logits - logits.amax(-1, keepdim=True)).exp()


def _whole_tensor(logits: Tensor) -> Tensor:
    return logits.flatten().softmax(0).view_as(logits)


def _overflow_and_whole_tensor(logits: Tensor) -> Tensor:
    return logits.exp() / logits.exp().sum()


def _loss_cases() -> Sequence[Case]:
    draw = torch.Generator().manual_seed(3)
    return [
        Case(_scores(6, 5, seed=seed), torch.randint(5, (6,), generator=draw)) for seed in (4, 5)
    ] + [Case(_scores(9, 12, seed=6), torch.randint(12, (9,), generator=draw))]  # fmt: skip


def _loss_with_gradient(function: Callable[[Tensor, Tensor], object], case: Case) -> dict[str, object]:
    """Return the loss, and whether it can be differentiated: the lesson calls `backward` on it."""
    logits, targets = case.arguments
    loss = function(logits.detach().requires_grad_(), targets)
    return {"loss": loss, "differentiable": isinstance(loss, Tensor) and loss.requires_grad}


def _no_gradient(logits: Tensor, targets: Tensor) -> float:
    return float(solutions.average_loss(logits.detach(), targets))


def _every_target(logits: Tensor, targets: Tensor) -> Tensor:
    return -logits.log_softmax(-1)[:, targets].mean()


def _all_tokens(logits: Tensor, targets: Tensor) -> Tensor:
    return -logits.log_softmax(-1).mean()


def _target_probabilities(logits: Tensor, targets: Tensor) -> Tensor:
    return logits.softmax(-1)[torch.arange(len(targets)), targets]


def _sum(logits: Tensor, targets: Tensor) -> Tensor:
    return solutions.average_loss(logits, targets) * len(targets)


def _no_logarithm(logits: Tensor, targets: Tensor) -> Tensor:
    return -_target_probabilities(logits, targets).mean()


def _log_of_mean(logits: Tensor, targets: Tensor) -> Tensor:
    return -_target_probabilities(logits, targets).mean().log()


def _no_softmax(logits: Tensor, targets: Tensor) -> Tensor:
    return -logits[torch.arange(len(targets)), targets].mean()


def _loss_of_wrong_axis(logits: Tensor, targets: Tensor) -> Tensor:
    return -logits.softmax(0)[torch.arange(len(targets)), targets].log().mean()


def _most_probable(logits: Tensor, targets: Tensor) -> Tensor:
    return -logits.log_softmax(-1).amax(-1).mean()


def _averaged_twice(logits: Tensor, targets: Tensor) -> Tensor:
    return solutions.average_loss(logits, targets) / len(targets)


def _over_vocabulary(logits: Tensor, targets: Tensor) -> Tensor:
    return solutions.average_loss(logits, targets) / logits.size(-1)


def _softmax_twice(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.softmax(-1), targets)


def _bits(logits: Tensor, targets: Tensor) -> Tensor:
    return solutions.average_loss(logits, targets) / log(2)


def _sign(logits: Tensor, targets: Tensor) -> Tensor:
    return -solutions.gradient(logits, targets)


def _not_averaged(logits: Tensor, targets: Tensor) -> Tensor:
    return solutions.gradient(logits, targets) * len(targets)


def _no_target(logits: Tensor, targets: Tensor) -> Tensor:
    return logits.softmax(-1) / len(targets)


def _target_only(logits: Tensor, targets: Tensor) -> Tensor:
    return solutions.gradient(logits, targets) * F.one_hot(targets, logits.size(-1))


def _gradient_of_wrong_axis(logits: Tensor, targets: Tensor) -> Tensor:
    return (logits.softmax(0) - F.one_hot(targets, logits.size(-1))) / len(targets)


def _raw_scores(logits: Tensor, targets: Tensor) -> Tensor:
    return (logits - F.one_hot(targets, logits.size(-1))) / len(targets)


CONTEXT, SIZE = 4, 11


def _toy_model(ids: Tensor) -> Tensor:
    """Score tokens by a rule that depends on every token before, and on how many there are."""
    if ids.ndim != 2:
        raise ValueError(f"the model takes ids of shape (1, T), not {tuple(ids.shape)}")
    if ids.size(1) > CONTEXT:
        raise IndexError(f"{ids.size(1)} tokens exceed the context of {CONTEXT}")
    weights = torch.arange(1, ids.size(1) + 1)
    best = ((ids * weights).cumsum(1) + weights) % SIZE  # (1, T)
    return F.one_hot(best, SIZE).float() + 0.01 * torch.arange(SIZE)


def _text_cases() -> Sequence[Case]:
    return [
        Case(_toy_model, [3, 1], 6, CONTEXT),
        Case(_toy_model, [5], 4, CONTEXT),
        Case(_toy_model, [2, 7, 1, 8, 2, 8], 5, CONTEXT),
    ]


def _generate(
    model: Model, tokens: list[int], count: int, seen: Callable[[list[int]], list[int]], position: int = -1
) -> list[int]:
    text = list(tokens)
    for _ in range(count):
        text.append(int(model(torch.tensor([seen(text)]))[0, position].argmax()))
    return text


def _first_position(model: Model, tokens: list[int], count: int, context_length: int) -> list[int]:
    return _generate(model, tokens, count, lambda text: text[-context_length:], position=0)


def _beginning(model: Model, tokens: list[int], count: int, context_length: int) -> list[int]:
    return _generate(model, tokens, count, lambda text: text[:context_length])


def _last_token(model: Model, tokens: list[int], count: int, context_length: int) -> list[int]:
    return _generate(model, tokens, count, lambda text: text[-1:])


def _not_cropped(model: Model, tokens: list[int], count: int, context_length: int) -> list[int]:
    return _generate(model, tokens, count, lambda text: text)


def _not_fed_back(model: Model, tokens: list[int], count: int, context_length: int) -> list[int]:
    return _generate(model, tokens, count, lambda text: tokens[-context_length:])


def _new_only(model: Model, tokens: list[int], count: int, context_length: int) -> list[int]:
    return solutions.continue_text(model, tokens, count, context_length)[len(tokens) :]


EXERCISES = (
    Exercise(
        "1.1",
        "windows",
        _window_cases,
        solutions.windows,
        (
            Mistake("not-shifted", _not_shifted),
            Mistake("shifted-back", _shifted_back),
            Mistake("shifted-by-two", _shifted_by_two),
            Mistake("rolled", _rolled),
            Mistake("one-target", _one_target),
            Mistake("overlapping", _overlapping),
            Mistake("too-many-windows", _too_many_windows),
        ),
    ),
    Exercise(
        "1.2",
        "softmax",
        _softmax_cases,
        solutions.softmax,
        (
            Mistake("wrong-axis", _wrong_axis),
            Mistake("overflow", _overflow),
            Mistake("no-exponential", _no_exponential),
            Mistake("not-normalized", _not_normalized),
            Mistake("whole-tensor", _whole_tensor),
            Mistake("overflow-and-wrong-axis", _overflow_and_wrong_axis, parts=("wrong-axis", "overflow")),
            Mistake("overflow-and-whole-tensor", _overflow_and_whole_tensor, parts=("whole-tensor", "overflow")),
            Mistake("stable-not-normalized", _stable_not_normalized, parts=("not-normalized",)),
        ),
    ),
    Exercise(
        "1.3",
        "average_loss",
        _loss_cases,
        solutions.average_loss,
        (
            Mistake("no-gradient", _no_gradient),
            Mistake("every-target", _every_target),
            Mistake("all-tokens", _all_tokens),
            Mistake("sum", _sum),
            Mistake("no-logarithm", _no_logarithm),
            Mistake("log-of-mean", _log_of_mean),
            Mistake("no-softmax", _no_softmax),
            Mistake("softmax-twice", _softmax_twice),
            Mistake("most-probable", _most_probable),
            Mistake("averaged-twice", _averaged_twice),
            Mistake("over-vocabulary", _over_vocabulary),
            Mistake("bits", _bits),
            Mistake("wrong-axis", _loss_of_wrong_axis),
        ),
        adapt=_loss_with_gradient,
        shows_call=True,
    ),
    Exercise(
        "1.4",
        "gradient",
        _loss_cases,
        solutions.gradient,
        (
            Mistake("sign", _sign),
            Mistake("not-averaged", _not_averaged),
            Mistake("no-target", _no_target),
            Mistake("target-only", _target_only),
            Mistake("raw-scores", _raw_scores),
            Mistake("wrong-axis", _gradient_of_wrong_axis),
        ),
    ),
    Exercise(
        "1.5",
        "continue_text",
        _text_cases,
        solutions.continue_text,
        (
            Mistake("first-position", _first_position),
            Mistake("beginning", _beginning),
            Mistake("last-token", _last_token),
            Mistake("not-cropped", _not_cropped),
            Mistake("not-fed-back", _not_fed_back),
            Mistake("new-only", _new_only),
        ),
    ),
)
