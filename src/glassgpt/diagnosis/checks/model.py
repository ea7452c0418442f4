"""Checks of a model before its first step: does it begin right, see only the past, learn, and all of it.

None of them changes the model or a random generator.
"""

from __future__ import annotations

import copy
import math
import time
from collections import Counter
from dataclasses import replace

import torch
from torch import Tensor, nn

from glassgpt.diagnosis.findings import CheckResult, Finding
from glassgpt.model.attention import AttentionFunction, attend_readable
from glassgpt.model.transformer import LanguageModel
from glassgpt.training.config import OptimizerConfig
from glassgpt.training.hardware import Hardware
from glassgpt.training.loss import cross_entropy
from glassgpt.training.optimizers import build_optimizers, set_learning_rate

INITIAL_NATS = 0.3
HOT_SIGMA = 1.5
"""Spread of the logits from which a fresh model is sure of things it cannot know."""
WIDER, DEVIATIONS = 1.2, 6.0
"""Times the standard deviation that is due, from which on a weight is drawn otherwise; small ones also scatter by chance,
by a share of 1/sqrt(2N), of which so many times are allowed."""
LEAK = 1e-5
"""Share of the movement after the changed token that may show before it; computed in float64."""
NOTHING = 1e-12
"""Share of the logits up to which a movement is the rounding of float64."""
STIRRED_STD = 0.02
LEARNED_NATS = 0.1
BATCH_STEPS = 200
BATCH_TOKENS = 64
SHOULD_FALL_TO = 0.5
"""Share of the first loss that a batch read 200 times must be below."""
SHOULD_FALL_A_STEP = 0.001
"""Share of the loss that a step must take off where time ends the test early."""


def check_initial_loss(
    model: LanguageModel, inputs: Tensor, targets: Tensor, hardware: Hardware, *, is_fresh: bool
) -> CheckResult:
    """The first loss against ln V + σ²/2, which it is when logits and targets have nothing to do with each other.

    With logits N(0, σ²), E[log Σ e^z] = ln V + σ²/2, and the target's own logit is 0 on average.

    Args:
        model: on the hardware's device.
        inputs: (B, T) on the device.
        targets: (B, T) on the device.
        hardware: its precision is used.
        is_fresh: whether the weights are untrained.
    """
    with torch.no_grad(), _evaluating(model), hardware.autocast():
        logits = model(inputs).float()
    loss, sigma = cross_entropy(logits, targets).item(), logits.std(dim=-1).square().mean().sqrt().item()
    guessing = math.log(logits.size(-1))
    expected = guessing + sigma**2 / 2
    if not math.isfinite(loss):
        where = first_non_finite_module(model, inputs, hardware)
        seen = {"what": "loss", "module": where, "precision": hardware.precision}
        return CheckResult("initial loss", "not finite", {"loss": loss}, (Finding("GG-NAN-001", "fatal", seen),))
    seen = {"loss": loss, "expected": expected, "sigma": sigma, "vocab_size": logits.size(-1), "guessing": guessing}
    findings: tuple[Finding, ...] = ()
    if is_fresh and loss < guessing - INITIAL_NATS:
        findings = (Finding("GG-INI-002", "fatal", seen, confidence=0.8, ruled_out=("GG-INI-001",)),)
    elif is_fresh and (loss > expected + INITIAL_NATS or sigma > HOT_SIGMA):
        findings = (Finding("GG-INI-001", "warning", seen, confidence=0.9, ruled_out=("GG-INI-002",)),)
    elif not is_fresh and loss > guessing - INITIAL_NATS:
        findings = (Finding("GG-INI-003", "fatal", seen, confidence=0.8),)
    return CheckResult("initial loss", "fresh" if is_fresh else "loaded", seen, findings)


class _evaluating:  # noqa: N801 - a context, used like a function
    """Dropout off, and the mode as it was afterwards."""

    def __init__(self, model: nn.Module) -> None:
        self._model, self._was_training = model, model.training

    def __enter__(self) -> None:
        self._model.eval()

    def __exit__(self, *_: object) -> None:
        self._model.train(self._was_training)


@torch.no_grad()
def first_non_finite_module(model: nn.Module, inputs: Tensor, hardware: Hardware) -> str:
    """Name of the first module, in the order of their ends, whose output is not finite; empty where all are."""
    names = {module: name or "the model" for name, module in model.named_modules()}
    found: list[str] = []

    def look(module: nn.Module, _: object, output: object) -> None:
        if isinstance(output, Tensor) and not output.isfinite().all():
            found.append(names[module])

    hooks = [module.register_forward_hook(look) for module in names]
    try:
        with _evaluating(model), hardware.autocast():
            model(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else ""


def randomize_zero_matrices(model: LanguageModel) -> LanguageModel:
    """A copy whose matrices that are all zero are random: what begins as the identity hides what is behind it."""
    twin = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    for parameter in twin.parameters():
        if parameter.ndim > 1 and not parameter.detach().any():
            noise = torch.randn(parameter.shape, generator=generator) * STIRRED_STD
            parameter.data.copy_(noise)
    return twin


def check_initial_weights(model: LanguageModel) -> CheckResult:
    """The standard deviation of each fresh matrix against what the initialisation should give it.

    Projections into the residual stream that are not scaled down with the depth are seen nowhere else: the first loss
    is as it should be, because a normalisation hides how large the stream has become.

    Args:
        model: with untrained weights.
    """
    matrices = {name: p.detach() for name, p in model.named_parameters() if p.ndim > 1}
    found = {name: matrix.float().std(correction=0).item() for name, matrix in matrices.items()}
    off = [name for name, std in found.items() if _is_off(std, model.initial_std(name), matrices[name].numel())]
    findings: tuple[Finding, ...] = ()
    if off:
        worst = max(off, key=lambda name: _ratio(found[name], model.initial_std(name)))
        std, due = found[worst], model.initial_std(worst)
        seen = {"count": len(off), "parameter": worst, "std": std, "due": due, "layers": model.config.n_layer}
        findings = (Finding("GG-INI-005", "warning", seen, confidence=0.8),)
    return CheckResult("initial weights", "spread", {"fine": len(found) - len(off), "all": len(found)}, findings)


def _is_off(std: float, due: float, count: int) -> bool:
    return _ratio(std, due) > max(WIDER, math.exp(DEVIATIONS / math.sqrt(2 * count)))


def _ratio(std: float, due: float) -> float:
    """How far apart two deviations are, whichever is the larger; 1 where they are the same."""
    if std == due:
        return 1.0
    return max(std, due) / min(std, due) if min(std, due) > 0 else math.inf


def check_causality(model: LanguageModel, tokens: Tensor) -> CheckResult:
    """Change the future: nothing before may move. Change the past: what follows must move.

    In float64 on the CPU, with the attention function that the model has, so that what moves does not drown.

    Args:
        model: anywhere.
        tokens: (1, T) to start from, T at least 2.
    """
    twin = randomize_zero_matrices(model).cpu().double().eval()
    tokens = tokens[:1].cpu()
    position = tokens.size(1) // 2
    other = (tokens + 1) % twin.config.vocab_size
    later, earlier = tokens.clone(), tokens.clone()
    later[:, position:], earlier[:, :position] = other[:, position:], other[:, :position]
    with torch.no_grad():
        logits = twin(tokens)
        by_future, by_past = (twin(later) - logits).abs(), (twin(earlier) - logits).abs()
    moved, scale = by_future[:, :position].max().item(), by_future[:, position:].max().item()
    felt = by_past[:, position:].max().item()
    if max(scale, felt) <= NOTHING * logits.abs().max().item():
        return CheckResult("causality", "constant logits", findings=(Finding("GG-INI-004", "fatal"),))
    findings: list[Finding] = []
    if moved > LEAK * scale:
        findings.append(Finding("GG-CAU-001", "fatal", {"position": position, "moved": moved}))
    if felt <= LEAK**2 * scale:
        findings.append(Finding("GG-CAU-002", "fatal"))
    return CheckResult("causality", "moved", {"moved": moved, "felt": felt}, tuple(findings))


def check_attention_kernel(attend: AttentionFunction, hardware: Hardware) -> CheckResult:
    """The attention kernel against the formula, on this device in this precision."""
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[hardware.precision]
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 2, 48, 16, generator=generator).to(hardware.device, dtype) for _ in range(3))
    with torch.no_grad(), hardware.kernels():
        fast = attend(q, k, v, None, 0.0).float()
    formula = attend_readable(q.double().cpu(), k.double().cpu(), v.double().cpu(), None, 0.0)
    difference = (fast.cpu().double() - formula).abs().max().item()
    # The largest value is about 4; a result rounded to the precision is off by half of its last bit, and sums add up.
    allowed = 64 * torch.finfo(dtype).eps
    # TF32 rounds the factors of float32 products to 10 bits.
    allowed = max(allowed, 2e-2 if hardware.device.type == "cuda" and dtype == torch.float32 else 0.0)
    seen = {"difference": difference, "allowed": allowed}
    findings = () if difference <= allowed else (Finding("GG-KER-001", "fatal", seen),)
    return CheckResult("attention kernel", "deviation", seen, findings)


def check_gradients(model: LanguageModel, inputs: Tensor, targets: Tensor, hardware: Hardware) -> CheckResult:
    """Whether a gradient reaches every parameter, and each is finite; looked at in a randomize_zero_matrices copy."""
    twin = randomize_zero_matrices(model).eval()
    with hardware.autocast():
        loss = cross_entropy(twin(inputs), targets)
    loss.backward()
    named = dict(twin.named_parameters())
    frozen = [name for name, p in named.items() if not p.requires_grad]
    empty = [name for name, p in named.items() if p.requires_grad and (p.grad is None or not p.grad.any())]
    broken = [name for name, p in named.items() if p.grad is not None and not p.grad.isfinite().all()]
    findings: list[Finding] = []
    if broken:
        seen = {"what": "gradient", "module": broken[0], "precision": hardware.precision}
        findings.append(Finding("GG-NAN-001", "fatal", seen))
    if empty:
        findings.append(Finding("GG-GRD-001", "fatal", {"count": len(empty), "parameter": empty[0]}))
    if frozen:
        findings.append(Finding("GG-GRD-002", "warning", {"count": len(frozen), "parameter": frozen[0]}))
    reached = len(named) - len(empty) - len(frozen)
    return CheckResult("gradients", "coverage", {"reached": reached, "all": len(named)}, tuple(findings))


def check_parameter_groups(model: LanguageModel, optimizers: list[torch.optim.Optimizer]) -> CheckResult:
    """Whether the optimizers hold every parameter once, and decay none that decay harms."""
    names = {id(p): name for name, p in model.named_parameters()}
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
        seen = {"decay": decay, "count": len(decayed), "parameter": name}
        findings.append(Finding("GG-GRD-004", "warning", seen))
    groups = sum(len(optimizer.param_groups) for optimizer in optimizers)
    return CheckResult("optimizer", "groups", {"parameters": len(held), "groups": groups}, tuple(findings))


def check_one_batch(
    model: LanguageModel,
    inputs: Tensor,
    targets: Tensor,
    optimizer: OptimizerConfig,
    learning_rate: float,
    *,
    seconds: float = 20.0,
) -> CheckResult:
    """Whether a copy of the model learns one small batch by heart, dropout off, in 200 steps or so many seconds."""
    twin = copy.deepcopy(model).eval()
    optimizers = build_optimizers(twin, replace(optimizer, weight_decay=0.0, head_weight_decay=0.0))
    inputs, targets = inputs[:4, :BATCH_TOKENS], targets[:4, :BATCH_TOKENS]
    losses: list[float] = []
    end = time.monotonic() + seconds
    while len(losses) < BATCH_STEPS and (len(losses) < 2 or time.monotonic() < end):
        # A short warmup: without one AdamW's first steps may throw a sound model off.
        set_learning_rate(optimizers, learning_rate * min(1.0, (len(losses) + 1) / 10))
        losses.append(_learn(twin, inputs, targets, optimizers))
        if losses[-1] < LEARNED_NATS or not math.isfinite(losses[-1]):
            break
    first, last = losses[0], losses[-1]
    wanted = first * max(SHOULD_FALL_TO, 1 - SHOULD_FALL_A_STEP * len(losses))
    seen = {"first": first, "last": last, "steps": len(losses), "rate": learning_rate}
    is_learned = last < max(wanted, LEARNED_NATS)
    findings = () if is_learned else (Finding("GG-BAT-001", "fatal", seen, confidence=0.9),)
    return CheckResult("one batch", "fitted", seen, findings)


def _learn(model: LanguageModel, inputs: Tensor, targets: Tensor, optimizers: list[torch.optim.Optimizer]) -> float:
    loss = cross_entropy(model(inputs), targets)
    loss.backward()
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return loss.item()
