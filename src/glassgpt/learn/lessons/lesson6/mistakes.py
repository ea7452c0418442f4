"""Typical mistakes in the exercises of lesson 6, each as an implementation that makes it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from glassgpt.learn.lessons.lesson6 import solutions

Batch = tuple[Tensor, Tensor]


def batch_shifted_by(shift: int) -> Callable[[Tensor, Sequence[int], int], Batch]:
    """Return a `make_batch` whose targets are `shift` tokens after the inputs."""

    def make_batch(tokens: Tensor, starts: Sequence[int], length: int) -> Batch:
        inputs = torch.stack([tokens[start : start + length] for start in starts])
        return inputs, torch.stack([tokens[start + shift : start + shift + length] for start in starts])

    return make_batch


def batch_next_window(tokens: Tensor, starts: Sequence[int], length: int) -> Batch:
    """Take the following window as targets."""
    return batch_shifted_by(length)(tokens, starts, length)


def batch_one_too_short(tokens: Tensor, starts: Sequence[int], length: int) -> Batch:
    """Cut a window of `length` tokens and shift within it, which loses one token."""
    windows = torch.stack([tokens[start : start + length] for start in starts])
    return windows[:, :-1], windows[:, 1:]


def _of_targets(log_probabilities: Tensor, targets: Tensor) -> Tensor:
    return -log_probabilities.gather(-1, targets[..., None])


def loss_softmax_over_positions(logits: Tensor, targets: Tensor) -> Tensor:
    """Normalize over the positions instead of the vocabulary."""
    return _of_targets(logits.log_softmax(dim=1), targets).mean()


def loss_summed(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum over the tokens."""
    return _of_targets(logits.log_softmax(dim=-1), targets).sum()


def loss_averaged_twice(logits: Tensor, targets: Tensor) -> Tensor:
    """Divide the mean by the number of tokens again."""
    return solutions.cross_entropy(logits, targets) / targets.numel()


def loss_mean_over_batch_only(logits: Tensor, targets: Tensor) -> Tensor:
    """Divide the sum by the number of sequences."""
    return solutions.cross_entropy(logits, targets) * targets.size(1)


def loss_without_softmax(logits: Tensor, targets: Tensor) -> Tensor:
    """Take the logits themselves as log-probabilities."""
    return _of_targets(logits, targets).mean()


def loss_softmax_twice(logits: Tensor, targets: Tensor) -> Tensor:
    """Normalize probabilities once more."""
    return _of_targets(logits.softmax(dim=-1).log_softmax(dim=-1), targets).mean()


def loss_in_bits(logits: Tensor, targets: Tensor) -> Tensor:
    """Take the logarithm to base 2."""
    return solutions.cross_entropy(logits, targets) / math.log(2)


def loss_overflows(logits: Tensor, targets: Tensor) -> Tensor:
    """Raise e to large logits, which float32 cannot hold."""
    powers = logits.exp()
    return _of_targets((powers / powers.sum(dim=-1, keepdim=True)).log(), targets).mean()


def loss_log_of_zero(logits: Tensor, targets: Tensor) -> Tensor:
    """Take the logarithm of probabilities that were rounded to 0."""
    return _of_targets(logits.softmax(dim=-1).log(), targets).mean()


def loss_log_of_zero_over_positions(logits: Tensor, targets: Tensor) -> Tensor:
    """Take the logarithm of shares of the positions, of which some were rounded to 0."""
    return _of_targets(logits.softmax(dim=1).log(), targets).mean()


def loss_wrong_sign(logits: Tensor, targets: Tensor) -> Tensor:
    """Leave out the minus sign."""
    return -solutions.cross_entropy(logits, targets)


def loss_of_probabilities(logits: Tensor, targets: Tensor) -> Tensor:
    """Average the probabilities before taking the logarithm."""
    return -logits.softmax(dim=-1).gather(-1, targets[..., None]).mean().log()


def rate_warmup_from_zero(step: int, max_steps: int, warmup_steps: int, final_ratio: float) -> float:
    """Begin the warmup at 0."""
    if step < warmup_steps:
        return step / warmup_steps
    return solutions.learning_rate_ratio(step, max_steps, warmup_steps, final_ratio)


def rate_warmup_ends_early(step: int, max_steps: int, warmup_steps: int, final_ratio: float) -> float:
    """Reach the peak in the last step of the warmup instead of after it."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return solutions.learning_rate_ratio(step, max_steps, warmup_steps, final_ratio)


def rate_without_warmup(step: int, max_steps: int, warmup_steps: int, final_ratio: float) -> float:
    """Decay from the first step on."""
    return solutions.learning_rate_ratio(step, max_steps, 0, final_ratio)


def rate_jumps_after_warmup(step: int, max_steps: int, warmup_steps: int, final_ratio: float) -> float:
    """Count the decay from step 0, so that the rate drops when the warmup ends."""
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    return solutions.learning_rate_ratio(step, max_steps, 0, final_ratio)


def rate_decays_to_zero(step: int, max_steps: int, warmup_steps: int, final_ratio: float) -> float:
    """Ignore the final ratio."""
    return solutions.learning_rate_ratio(step, max_steps, warmup_steps, 0.0)


def rate_linear(step: int, max_steps: int, warmup_steps: int, final_ratio: float) -> float:
    """Decay along a straight line."""
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = (step - warmup_steps) / max(1, max_steps - 1 - warmup_steps)
    return 1 - (1 - final_ratio) * progress


def rate_misses_the_end(step: int, max_steps: int, warmup_steps: int, final_ratio: float) -> float:
    """Divide by a number of steps that the progress never reaches."""
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = (step - warmup_steps) / (max_steps - warmup_steps)
    return final_ratio + (1 - final_ratio) * (1 + math.cos(math.pi * progress)) / 2


def rate_from_zero_misses_the_end(step: int, max_steps: int, warmup_steps: int, final_ratio: float) -> float:
    """Begin the warmup at 0, and never reach the final ratio."""
    if step < warmup_steps:
        return step / warmup_steps
    return rate_misses_the_end(step, max_steps, warmup_steps, final_ratio)


def rate_whole_cosine(step: int, max_steps: int, warmup_steps: int, final_ratio: float) -> float:
    """Run over a whole period of the cosine, which rises to the peak again."""
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = (step - warmup_steps) / max(1, max_steps - 1 - warmup_steps)
    return final_ratio + (1 - final_ratio) * (1 + math.cos(2 * math.pi * progress)) / 2


Groups = list[dict[str, Any]]


def _grouped(model: nn.Module, weight_decay: float, decays: Callable[[str, nn.Parameter], bool]) -> Groups:
    named = list(model.named_parameters())
    decayed = [parameter for name, parameter in named if decays(name, parameter)]
    others = [parameter for name, parameter in named if not decays(name, parameter)]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def groups_all_decayed(model: nn.Module, weight_decay: float) -> Groups:
    """Decay everything."""
    return _grouped(model, weight_decay, lambda name, parameter: True)


def groups_biases_decayed(model: nn.Module, weight_decay: float) -> Groups:
    """Decay everything but the embeddings."""
    return _grouped(model, weight_decay, lambda name, parameter: "embedding" not in name)


def groups_weights_by_name(model: nn.Module, weight_decay: float) -> Groups:
    """Decay everything that is not called bias, so the gains of the norms too."""
    return _grouped(model, weight_decay, lambda name, _: not name.endswith("bias") and "embedding" not in name)


def groups_all_but_biases_decayed(model: nn.Module, weight_decay: float) -> Groups:
    """Decay everything that is not called bias."""
    return _grouped(model, weight_decay, lambda name, _: not name.endswith("bias"))


def groups_embeddings_decayed(model: nn.Module, weight_decay: float) -> Groups:
    """Decay all matrices, embeddings included."""
    return _grouped(model, weight_decay, lambda name, parameter: parameter.ndim >= 2)


def groups_swapped(model: nn.Module, weight_decay: float) -> Groups:
    """Decay the vectors and embeddings instead of the matrices."""
    return _grouped(model, weight_decay, lambda name, parameter: parameter.ndim < 2 or "embedding" in name)


def groups_default_decay(model: nn.Module, weight_decay: float) -> Groups:
    """Leave the second group to the optimizer's default, which is not 0."""
    decayed, others = solutions.parameter_groups(model, weight_decay)
    return [decayed, {"params": others["params"]}]


def groups_vectors_lost(model: nn.Module, weight_decay: float) -> Groups:
    """Return only the decayed group."""
    return solutions.parameter_groups(model, weight_decay)[:1]


Clipped = tuple[list[Tensor], float]


def _norm(tensors: Sequence[Tensor]) -> float:
    return math.sqrt(sum(float((tensor**2).sum()) for tensor in tensors))


def clip_before_unscaling(gradients: Sequence[Tensor], loss_scale: float, max_norm: float) -> Clipped:
    """Clip the gradients while they still contain the loss scale."""
    norm = _norm(gradients)
    factor = min(1.0, max_norm / norm)
    return [gradient * factor / loss_scale for gradient in gradients], norm


def clip_without_unscaling(gradients: Sequence[Tensor], loss_scale: float, max_norm: float) -> Clipped:
    """Leave the loss scale in."""
    norm = _norm(gradients)
    factor = min(1.0, max_norm / norm)
    return [gradient * factor for gradient in gradients], norm


def clip_each_alone(gradients: Sequence[Tensor], loss_scale: float, max_norm: float) -> Clipped:
    """Clip each tensor by its own norm."""
    unscaled = [gradient / loss_scale for gradient in gradients]
    clipped = [gradient * min(1.0, max_norm / max(_norm([gradient]), 1e-30)) for gradient in unscaled]
    return clipped, _norm(unscaled)


def clip_values(gradients: Sequence[Tensor], loss_scale: float, max_norm: float) -> Clipped:
    """Clip each number."""
    unscaled = [gradient / loss_scale for gradient in gradients]
    return [gradient.clamp(-max_norm, max_norm) for gradient in unscaled], _norm(unscaled)


def clip_always(gradients: Sequence[Tensor], loss_scale: float, max_norm: float) -> Clipped:
    """Stretch short gradients to the largest norm as well."""
    unscaled = [gradient / loss_scale for gradient in gradients]
    norm = _norm(unscaled)
    return [gradient * max_norm / norm for gradient in unscaled], norm


def clip_without_root(gradients: Sequence[Tensor], loss_scale: float, max_norm: float) -> Clipped:
    """Forget the square root of the norm."""
    unscaled = [gradient / loss_scale for gradient in gradients]
    norm = _norm(unscaled) ** 2
    return [gradient * min(1.0, max_norm / norm) for gradient in unscaled], norm


def clip_norm_after(gradients: Sequence[Tensor], loss_scale: float, max_norm: float) -> Clipped:
    """Return the norm after clipping."""
    clipped, norm = solutions.clip_gradients(gradients, loss_scale, max_norm)
    return clipped, min(norm, max_norm)
