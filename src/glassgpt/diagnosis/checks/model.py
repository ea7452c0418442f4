"""Checks of a model before its first step: initialization, causality, attention kernel, gradients, one batch.

None of them changes the model or a random generator.
"""

from __future__ import annotations

import copy
import math
import time
from collections import Counter
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glassgpt.diagnosis.checks.first_batch import cut, logits_and_targets, without_dropout
from glassgpt.diagnosis.findings import CheckResult, Finding, Severity
from glassgpt.model.attention import AttentionFunction, attend_readable
from glassgpt.model.lora import adapter_of, trainable_parameters
from glassgpt.model.transformer import LanguageModel
from glassgpt.model.vectors import ENCODERS, ModelWithEncoders
from glassgpt.model.width import initial_scale
from glassgpt.training.config import OptimizerConfig
from glassgpt.training.hardware import Hardware
from glassgpt.training.loss import TrainingLoss
from glassgpt.training.optimizers import build_optimizers, set_learning_rate
from glassgpt.training.preference import PreferenceLoss

INITIAL_NATS, DEVIATIONS_OF_A_MEAN = 0.3, 3.0
"""Tolerance of the initial loss; more if few tokens are learned, whose mean varies by chance."""
MAX_INITIAL_SIGMA = 1.5
"""Standard deviation of the logits above which an untrained model is confident without reason."""
MAX_STD_RATIO, DEVIATIONS = 1.2, 6.0
"""A matrix passes if its standard deviation is within a factor of 1.2 of the expected one. The standard deviation of
few values varies by chance, by a relative 1/sqrt(2N); six times that is allowed."""
MAX_LEAK = 1e-5
"""Largest change before the changed token, relative to the change after it; computed in float64."""
ROUNDING = 1e-12
"""Change relative to the logits that float64 rounding can explain."""
RANDOMIZED_STD = 0.02
FITTED_NATS = 0.1
ONE_BATCH_STEPS = 200
ONE_BATCH_TOKENS = 64
FITTED_SHARE, ADAPTED_SHARE = 0.5, 0.8
"""Share of its first loss that a batch must fall below in 200 steps; if only an adapter is trained."""
MIN_FALL_PER_STEP = 0.001
"""Relative fall of the loss required per step if the time limit ends the check early."""
MIN_FALL_OF_FEW_PER_STEP = 5e-5
"""The same, 1 % in 200 steps, of preferences, whose rates are low, and of encoders of a frozen model, which may know little."""


def check_initial_loss(
    loss: TrainingLoss,
    inputs: Tensor,
    targets: Tensor,
    hardware: Hardware,
    *,
    is_fresh: bool,
    known_loss: float | None = None,
) -> CheckResult:
    """Compare the initial loss with ln V + σ²/2, the loss of logits that are unrelated to the targets.

    For logits from N(0, σ²), E[log Σ e^z] = ln V + σ²/2, and the target's own logit is 0 on average. Only what is learned
    counts; of preferences, that is both replies, each as a text.

    Args:
        loss: of the model, which is on the hardware's device.
        inputs: of a batch of training, on the same device.
        targets: likewise.
        hardware: its precision is used.
        is_fresh: True for untrained weights.
        known_loss: lowest validation loss in nats that loaded weights had in their own run; None if unknown.
    """
    with torch.no_grad(), _evaluating(loss.model), hardware.autocast():
        logits, learned = logits_and_targets(loss, inputs, targets)  # (N, V), (N,)
    nats, sigma = F.cross_entropy(logits, learned).item(), logits.std(dim=-1).square().mean().sqrt().item()
    guessing = math.log(logits.size(-1))
    expected = guessing + sigma**2 / 2
    if not math.isfinite(nats):
        where = first_non_finite_module(loss, inputs, targets, hardware)
        values = {"what": "loss", "module": where, "precision": hardware.precision}
        return CheckResult("initial loss", "not finite", {"loss": nats}, (Finding("GG-NAN-001", "fatal", values),))
    values = {"loss": nats, "expected": expected, "sigma": sigma, "vocab_size": logits.size(-1), "guessing": guessing}
    findings: tuple[Finding, ...] = ()
    tolerance = max(INITIAL_NATS, DEVIATIONS_OF_A_MEAN * sigma / math.sqrt(len(learned)))
    if is_fresh and nats < guessing - tolerance:
        findings = (Finding("GG-INI-002", "fatal", values, confidence=0.8, ruled_out=("GG-INI-001",)),)
    elif is_fresh and (nats > expected + tolerance or sigma > MAX_INITIAL_SIGMA):
        findings = (Finding("GG-INI-001", "warning", values, confidence=0.9, ruled_out=("GG-INI-002",)),)
    elif not is_fresh and nats > guessing - INITIAL_NATS:
        severity, confidence = _severity_of_loaded(known_loss, guessing)
        findings = (Finding("GG-INI-003", severity, values, confidence),)
    return CheckResult("initial loss", "fresh" if is_fresh else "loaded", values, findings)


def _severity_of_loaded(known_loss: float | None, guessing: float) -> tuple[Severity, float]:
    """Return the severity for loaded weights that are no better than a uniform guess on the new text.

    Training works from such weights: those of another domain soon fit the new text, untrained ones learn as new ones
    do. Only a run of ours that remembers that it never learned anything is a start that nobody wants.
    """
    if known_loss is not None and known_loss >= guessing - INITIAL_NATS:
        return "warning", 0.8
    return "note", 0.5 if known_loss is None else 0.9


class _evaluating:  # noqa: N801 - a context, used like a function
    """Evaluation mode for the duration of a `with` block."""

    def __init__(self, model: nn.Module) -> None:
        self._model, self._was_training = model, model.training

    def __enter__(self) -> None:
        self._model.eval()

    def __exit__(self, *_: object) -> None:
        self._model.train(self._was_training)


@torch.no_grad()
def first_non_finite_module(loss: TrainingLoss, inputs: Tensor, targets: Tensor, hardware: Hardware) -> str:
    """Return the name of the first module, in the order of execution, whose output is not finite; else that of the model."""
    names = {module: name for name, module in loss.model.named_modules() if name}
    found: list[str] = []

    def look(module: nn.Module, _: object, output: object) -> None:
        if isinstance(output, Tensor) and not output.isfinite().all():
            found.append(names[module])

    hooks = [module.register_forward_hook(look) for module in names]
    try:
        with _evaluating(loss.model), hardware.autocast():
            logits_and_targets(loss, inputs, targets)
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else "the model"


def randomize_zero_matrices(model: LanguageModel) -> LanguageModel:
    """Return a copy of the model in which matrices of zeros are random.

    A block whose output projection is zero acts as the identity and would hide what is inside it.
    """
    copied = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    for parameter in copied.parameters():
        if parameter.ndim > 1 and not parameter.detach().any():
            noise = torch.randn(parameter.shape, generator=generator) * RANDOMIZED_STD
            parameter.data.copy_(noise)
    return copied


def check_initial_weights(model: LanguageModel) -> CheckResult:
    """Compare the standard deviation of each matrix with that of its initialization.

    Nothing else reveals residual projections that are not scaled down with depth: the initial loss is normal, because
    normalization hides the size of the residual stream.

    Args:
        model: with untrained weights.
    """
    # Encoders draw their weights themselves, and a model knows nothing of them.
    named = ((name, p) for name, p in model.named_parameters() if not name.startswith(ENCODERS))
    matrices = {name: p.detach() for name, p in named if p.ndim > 1}
    found = {name: matrix.float().std(correction=0).item() for name, matrix in matrices.items()}
    due_std = {name: model.initial_std(name) * initial_scale(model, name) for name in matrices}
    off = [name for name, std in found.items() if _is_off(std, due_std[name], matrices[name].numel())]
    findings: tuple[Finding, ...] = ()
    if off:
        worst = max(off, key=lambda name: _ratio(found[name], due_std[name]))
        std, due = found[worst], due_std[worst]
        values = {"count": len(off), "parameter": worst, "std": std, "due": due, "layers": model.config.n_layer}
        findings = (Finding("GG-INI-005", "warning", values, confidence=0.8),)
    return CheckResult("initial weights", "spread", {"fine": len(found) - len(off), "all": len(found)}, findings)


def _is_off(std: float, due: float, count: int) -> bool:
    return _ratio(std, due) > max(MAX_STD_RATIO, math.exp(DEVIATIONS / math.sqrt(2 * count)))


def _ratio(std: float, due: float) -> float:
    """Return the larger standard deviation divided by the smaller one."""
    if std == due:
        return 1.0
    return max(std, due) / min(std, due) if min(std, due) > 0 else math.inf


def check_causality(model: LanguageModel, tokens: Tensor) -> CheckResult:
    """Check that changing later tokens moves no earlier logit, and that changing earlier tokens moves later logits.

    Computed in float64 on the CPU, so that small leaks stand out from rounding, with the model's own attention function.

    Args:
        model: on any device.
        tokens: shape (B, T); only the first sequence is used. With T of 1 there is no other position to look at.
    """
    if tokens.size(1) < 2:
        return CheckResult("causality", "too short")
    copied = randomize_zero_matrices(model).cpu().double().eval()
    tokens = tokens[:1].cpu()
    position = tokens.size(1) // 2
    other = (tokens + 1) % copied.config.vocab_size
    later, earlier = tokens.clone(), tokens.clone()
    later[:, position:], earlier[:, :position] = other[:, position:], other[:, :position]
    with torch.no_grad():
        logits = copied(tokens)
        by_future, by_past = (copied(later) - logits).abs(), (copied(earlier) - logits).abs()
    moved, scale = by_future[:, :position].max().item(), by_future[:, position:].max().item()
    felt = by_past[:, position:].max().item()
    if max(scale, felt) <= ROUNDING * logits.abs().max().item():
        return CheckResult("causality", "constant logits", findings=(Finding("GG-INI-004", "fatal"),))
    findings: list[Finding] = []
    if moved > MAX_LEAK * scale:
        findings.append(Finding("GG-CAU-001", "fatal", {"position": position, "moved": moved}))
    if felt <= MAX_LEAK**2 * scale:
        findings.append(Finding("GG-CAU-002", "fatal"))
    return CheckResult("causality", "moved", {"moved": moved, "felt": felt}, tuple(findings))


def check_attention_kernel(attend: AttentionFunction, hardware: Hardware) -> CheckResult:
    """Compare an attention kernel with the reference implementation, on this device in this precision."""
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[hardware.precision]
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 2, 48, 16, generator=generator).to(hardware.device, dtype) for _ in range(3))
    with torch.no_grad(), hardware.kernels():
        fast = attend(q, k, v, None, 0.0).float()
    formula = attend_readable(q.double().cpu(), k.double().cpu(), v.double().cpu(), None, 0.0)
    difference = (fast.cpu().double() - formula).abs().max().item()
    # Values reach about 4. Rounding is off by half of the last bit, and errors add up in sums.
    allowed = 64 * torch.finfo(dtype).eps
    # TF32 rounds the factors of float32 products to 10 bits.
    allowed = max(allowed, 2e-2 if hardware.device.type == "cuda" and dtype == torch.float32 else 0.0)
    values = {"difference": difference, "allowed": allowed}
    findings = () if difference <= allowed else (Finding("GG-KER-001", "fatal", values),)
    return CheckResult("attention kernel", "deviation", values, findings)


def check_gradients(loss: TrainingLoss, inputs: Tensor, targets: Tensor, hardware: Hardware) -> CheckResult:
    """Check that every parameter that is trained receives a finite gradient, in a copy from `randomize_zero_matrices`."""
    copied = randomize_zero_matrices(loss.model)
    with hardware.autocast():
        value = without_dropout(loss, copied, targets)(inputs, targets)
    value.backward()
    named = trainable_parameters(copied)
    frozen = [name for name, p in named.items() if not p.requires_grad]
    empty = [name for name, p in named.items() if p.requires_grad and (p.grad is None or not p.grad.any())]
    broken = [name for name, p in named.items() if p.grad is not None and not p.grad.isfinite().all()]
    findings: list[Finding] = []
    if broken:
        values = {"what": "gradient", "module": broken[0], "precision": hardware.precision}
        findings.append(Finding("GG-NAN-001", "fatal", values))
    if empty:
        findings.append(Finding("GG-GRD-001", "fatal", {"count": len(empty), "parameter": empty[0]}))
    if frozen:
        findings.append(Finding("GG-GRD-002", "warning", {"count": len(frozen), "parameter": frozen[0]}))
    reached = len(named) - len(empty) - len(frozen)
    return CheckResult("gradients", "coverage", {"reached": reached, "all": len(named)}, tuple(findings))


def check_parameter_groups(model: LanguageModel, optimizers: list[torch.optim.Optimizer]) -> CheckResult:
    """Check that each trained parameter is in exactly one optimizer group, and that no vector or embedding is decayed."""
    names = {id(p): name for name, p in trainable_parameters(model).items()}
    held = Counter(id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"])
    kinds = model.parameter_kinds()
    decayed = {
        names[id(p)]: group["weight_decay"]
        for optimizer in optimizers
        for group in optimizer.param_groups
        for p in group["params"]
        if group["weight_decay"] and id(p) in names and kinds[names[id(p)]] in ("vector", "embedding")
    }
    findings = [
        Finding("GG-GRD-003", "fatal", {"parameter": name, "times": held[key]})
        for key, name in names.items()
        if held[key] != 1
    ][:1]
    if decayed:
        name, decay = next(iter(decayed.items()))
        values = {"decay": decay, "count": len(decayed), "parameter": name}
        findings.append(Finding("GG-GRD-004", "warning", values))
    groups = sum(len(optimizer.param_groups) for optimizer in optimizers)
    return CheckResult("optimizer", "groups", {"parameters": len(held), "groups": groups}, tuple(findings))


def check_one_batch(
    loss: TrainingLoss,
    inputs: Tensor,
    targets: Tensor,
    optimizer: OptimizerConfig,
    learning_rate: float,
    *,
    seconds: float = 20.0,
) -> CheckResult:
    """Check that a copy of the model memorizes one small batch, without dropout, in 200 steps or the given time."""
    inputs, targets = cut(inputs[:4], targets[:4], ONE_BATCH_TOKENS)
    copied = without_dropout(loss, copy.deepcopy(loss.model), targets)
    optimizers = build_optimizers(copied.model, replace(optimizer, weight_decay=0.0, head_weight_decay=0.0))
    losses: list[float] = []
    end = time.monotonic() + seconds
    while len(losses) < ONE_BATCH_STEPS and (len(losses) < 2 or time.monotonic() < end):
        # A short warmup: without one, AdamW's first steps can derail a healthy model.
        set_learning_rate(optimizers, learning_rate * min(1.0, (len(losses) + 1) / 10))
        losses.append(train_once(copied, inputs, targets, optimizers))
        if losses[-1] < FITTED_NATS or not math.isfinite(losses[-1]):
            break
    first, last = losses[0], losses[-1]
    values = {"first": first, "last": last, "steps": len(losses), "rate": learning_rate}
    is_fitted = last < max(first * _fitted_share(copied, len(losses)), FITTED_NATS)
    findings = () if is_fitted else (Finding("GG-BAT-001", "fatal", values, confidence=0.9),)
    return CheckResult("one batch", "fitted", values, findings)


def _fitted_share(loss: TrainingLoss, steps: int) -> float:
    """Return the share of its first loss that a batch must fall below in this many steps."""
    model, has_adapter = loss.model, adapter_of(loss.model) is not None
    is_frozen = isinstance(model, ModelWithEncoders) and model.is_frozen and not has_adapter
    if is_frozen or isinstance(loss, PreferenceLoss):
        return 1 - MIN_FALL_OF_FEW_PER_STEP * steps
    return max(ADAPTED_SHARE if has_adapter else FITTED_SHARE, 1 - MIN_FALL_PER_STEP * steps)


def train_once(loss: TrainingLoss, inputs: Tensor, targets: Tensor, optimizers: list[torch.optim.Optimizer]) -> float:
    """Run one step on a batch and return the loss before it, in nats; rates must have been set."""
    value = loss(inputs, targets)
    value.backward()
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return value.item()
