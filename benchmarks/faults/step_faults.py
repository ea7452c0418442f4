"""Faults of the program that leave a run looking healthy: wrong rates, gradients, updates, losses, modules, batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fault_helpers import at_step
from glassgpt.data.batches import Batches
from glassgpt.model.transformer import LanguageModel
from glassgpt.training.loop import Trainer

from . import datasets
from .case import Fault
from .data_faults import batches_from
from .model_faults import _see_all, later
from .training_faults import MUON, gradient

Inject = Callable[[Trainer], None]
LossFunction = Callable[[Tensor, Tensor], Tensor]


def scheduled(change: Callable[[Trainer, int, Callable[[int], float]], float]) -> Inject:
    """Replace the learning rate after n steps by change(trainer, n, schedule)."""

    def inject(trainer: Trainer) -> None:
        original = trainer.learning_rate
        trainer.learning_rate = lambda step: change(trainer, step, original)  # type: ignore[method-assign]

    return inject


def groups_changed(change: Callable[[Trainer, dict[str, Any]], None]) -> Inject:
    """Change every optimizer group once."""

    def inject(trainer: Trainer) -> None:
        for optimizer in trainer.train_step.optimizers:
            for group in optimizer.param_groups:
                change(trainer, group)

    return inject


def has_embedding(trainer: Trainer, group: dict[str, Any]) -> bool:
    """Return whether a group holds the token embedding."""
    embedding = trainer.model.get_parameter("token_embedding.weight")
    return any(parameter is embedding for parameter in group["params"])


def losses(change: Callable[[int, LossFunction, Tensor, Tensor], Tensor], trainer: Trainer) -> None:
    """Replace the loss of each micro-batch by change(number of the micro-batch, loss function, inputs, targets)."""
    original, micro_steps = (
        trainer.train_step.loss.train,
        trainer.train_step.batch_size // trainer.train_step.micro_batch_size,
    )
    calls = 0

    def train(inputs: Tensor, targets: Tensor) -> Tensor:
        nonlocal calls
        number = calls % micro_steps
        calls += 1
        return change(number, original, inputs, targets)

    trainer.train_step.loss.train = train  # type: ignore[method-assign]


def with_loss(change: Callable[[int, LossFunction, Tensor, Tensor], Tensor]) -> Inject:
    """Return an injection of `losses`."""
    return lambda trainer: losses(change, trainer)


def opposite(loss: Tensor) -> Tensor:
    """Return a loss with the same value and the opposite gradient."""
    return 2 * loss.detach() - loss


def model_loss(change: Callable[[Tensor, Tensor], Tensor]) -> Inject:
    """Replace the loss by a function of logits (N, V) and targets (N,)."""

    def inject(trainer: Trainer) -> None:
        losses(lambda n, f, inputs, targets: change(trainer.model(inputs).flatten(0, 1), targets.flatten()), trainer)

    return inject


def after_each_step(change: Callable[[Trainer], None], *, within: bool = False, since: int = 0) -> Inject:
    """Act after each step; `within` acts right after the optimizer, inside of the step."""

    def inject(trainer: Trainer) -> None:
        @torch.no_grad()
        def act(*_: Any) -> None:
            if trainer.state.step + 1 >= since:
                change(trainer)

        if within:
            trainer.train_step.optimizers[-1].register_step_post_hook(act)
            return
        original = trainer.train_step.run

        def run(*arguments: Any, **more: Any) -> Any:
            outcome = original(*arguments, **more)
            act()
            return outcome

        trainer.train_step.run = run  # type: ignore[method-assign]

    return inject


def before_each_update(change: Callable[[Trainer], None]) -> Inject:
    """Act on the gradients after they were clipped."""

    def inject(trainer: Trainer) -> None:
        original = trainer.train_step._clip_gradients

        def clip() -> Tensor:
            norm = original()
            with torch.no_grad():
                change(trainer)
            return norm

        trainer.train_step._clip_gradients = clip  # type: ignore[method-assign]

    return inject


def each_weight(act: Callable[[Tensor], object], part: str = "") -> Callable[[Trainer], None]:
    """Return a function that applies `act` to the weights whose names contain `part`."""
    return lambda trainer: [act(p) for name, p in trainer.model.named_parameters() if part in name] and None  # type: ignore[return-value]


def each_gradient(act: Callable[[Tensor], object], part: str = "") -> Callable[[Trainer], None]:
    """Return a function that applies `act` to the gradients of parameters whose names contain `part`."""

    def change(trainer: Trainer) -> None:
        for name, parameter in trainer.model.named_parameters():
            if part in name and parameter.grad is not None:
                act(parameter.grad)

    return change


def _round(weights: Tensor) -> None:
    weights.copy_(weights.bfloat16().float())


def _held(part: str) -> Inject:
    """Put the weights whose names contain `part` back after each step."""

    def inject(trainer: Trainer) -> None:
        kept = {name: p.detach().clone() for name, p in trainer.model.named_parameters() if part in name}
        after_each_step(
            lambda t: [t.model.get_parameter(name).copy_(kept[name]) for name in kept] and None, within=True
        )(trainer)

    return inject


class _ShiftedIds(Batches):
    def read(self, starts: Any) -> tuple[Tensor, Tensor]:
        inputs, targets = super().read(starts)
        return (inputs + 1) % 256, (targets + 1) % 256


class _Late(Batches):
    def read(self, starts: Any) -> tuple[Tensor, Tensor]:
        return super().read((starts + 5).clip(max=len(self.tokens) - self.context_length - 1))


def _batches_changed(change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Inject:
    """Change each batch on its way from the loader."""

    def inject(trainer: Trainer) -> None:
        original = trainer.train_step.loader.next
        trainer.train_step.loader.next = lambda size: change(*original(size))  # type: ignore[method-assign]

    return inject


def _replace_some(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Replace a seventh of the tokens, in inputs and targets alike."""
    inputs, targets = inputs.clone(), targets.clone()
    targets[:, 6::7] = 120
    inputs[:, 1:] = targets[:, :-1]
    return inputs, targets


def _repeat(trainer: Trainer) -> None:
    """Return every batch twice."""
    original, kept = trainer.train_step.loader.next, list[Any]()

    def read(size: int) -> Any:
        batch = original(size)
        if kept:
            return kept.pop()
        kept.append(batch)
        return batch

    trainer.train_step.loader.next = read  # type: ignore[method-assign]


def _stuck(trainer: Trainer) -> None:
    at_step(trainer, 90, lambda: _stop(trainer))


def _stop(trainer: Trainer) -> None:
    batches, position = trainer.train_step.batches, trainer.train_step.batches.position
    original = batches.next_starts

    def again(size: int) -> Any:
        batches.seek(position)
        return original(size)

    batches.next_starts = again  # type: ignore[method-assign]


def _no_zero_grad(trainer: Trainer) -> None:
    trainer.model.zero_grad = lambda set_to_none=True: None  # type: ignore[method-assign]


def _step_twice(trainer: Trainer) -> None:
    optimizer = trainer.train_step.optimizers[-1]
    original = optimizer.step

    def step(*arguments: Any) -> None:
        original()
        original()

    optimizer.step = step  # type: ignore[method-assign]


def _forget(trainer: Trainer) -> None:
    for optimizer in trainer.train_step.optimizers:
        optimizer.state.clear()


def _average_frozen(trainer: Trainer) -> None:
    assert trainer.train_step.average is not None
    trainer.train_step.average.update = lambda *_: None  # type: ignore[method-assign]


def _untie(model: LanguageModel) -> None:
    copied = nn.Parameter(model.token_embedding.weight.detach().clone())  # type: ignore[union-attr, operator]
    model.head = lambda features: F.linear(features, copied)  # type: ignore[method-assign]


def _move_positions(model: LanguageModel) -> None:
    embed = model.embed
    model.embed = lambda tokens, positions: embed(tokens, (positions + 1) % model.config.context_length)  # type: ignore[method-assign]


def _uncover_first(model: LanguageModel) -> None:
    model.blocks[0].attention.attend = _see_all  # type: ignore[union-attr]


def _set_dropout(model: LanguageModel) -> None:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.9


def _shifted_on_disk(tokens: Any) -> Any:
    return (tokens + 1) % 256


MICRO = {"train.micro_batch_size": 2}
RATE, UPDATE, GRADIENT, LOSS = ("GG-LRT-002",), ("GG-UPD-004", "GG-UPD-005"), ("GG-GRD-006",), ("GG-LOS-001",)


def _fault(name: str, what: str, expects: tuple[str, ...], inject: Inject | None = None, **more: Any) -> Fault:
    defaults: dict[str, Any] = {"fatal": False, "stage": "during", "persists": True}
    return Fault(name=name, what=what, expects=expects, inject=inject, **{**defaults, **more})


STEP_FAULTS: Sequence[Fault] = (
    _fault("schedule-stepped-twice", "the schedule advances two steps at a time", RATE,
           scheduled(lambda t, n, f: f(min(2 * n, 299))), kind="applied rate"),
    _fault("warmup-ignored", "the warmup is left out", RATE, scheduled(lambda t, n, f: f(max(n, 30))), kind="applied rate"),
    _fault("decay-never-begins", "the rate stays at its peak after warmup", RATE,
           scheduled(lambda t, n, f: f(min(n, 30))), kind="applied rate"),
    _fault("rate-per-epoch", "the schedule advances every tenth step", RATE,
           scheduled(lambda t, n, f: f(n // 10)), kind="applied rate"),
    _fault("embedding-rate-tenfold", "the learning rate of the embeddings is ten times too high", RATE,
           groups_changed(lambda t, group: group.update(rate_ratio=10.0) if has_embedding(t, group) else None), kind="applied rate"),
    _fault("two-optimizer-steps", "the optimizer steps twice with each gradient", UPDATE, _step_twice, kind="wrong update"),
    _fault("every-second-gradient-flipped", "the gradient of every second micro-batch has the wrong sign", GRADIENT,
           with_loss(lambda n, f, x, y: f(x, y) if n % 2 else opposite(f(x, y))), kind="accumulated gradients", settings=MICRO, fatal=True),
    _fault("half-of-the-losses-negative", "the second half of the micro-batches is maximized", GRADIENT,
           with_loss(lambda n, f, x, y: f(x, y) if n < 3 else -f(x, y)), kind="accumulated gradients", settings=MICRO, fatal=True),
    _fault("micro-batches-not-divided", "micro-batches are summed, not averaged", (*LOSS, *GRADIENT),
           with_loss(lambda n, f, x, y: 6 * f(x, y)), kind="accumulated gradients", settings=MICRO),
    _fault("first-micro-batch-counts-double", "the first micro-batch counts four times", (*LOSS, *GRADIENT),
           with_loss(lambda n, f, x, y: (f(x, y) - f(x, y).detach()) * 4 + f(x, y).detach() if n == 0 else f(x, y)),
           kind="accumulated gradients", settings=MICRO),
    _fault("last-micro-batches-dropped", "two of six micro-batches contribute nothing", GRADIENT,
           with_loss(lambda n, f, x, y: f(x, y) if n < 4 else 0 * f(x, y) + f(x, y).detach()), kind="accumulated gradients", settings=MICRO),
    _fault("gradients-not-cleared", "gradients are never set to zero", ("GG-GRD-007",), _no_zero_grad, kind="accumulated gradients", fatal=True),
    _fault("gradients-of-a-block-halved", "the gradient through the first block is halved", GRADIENT,
           lambda t: t.model.get_submodule("blocks.0").register_forward_hook(lambda m, i, o: gradient(0.5)(o)) and None,
           kind="altered gradients"),
    _fault("gradient-noise", "noise of the gradient's size is added to it", ("GG-GRD-007",),
           before_each_update(each_gradient(lambda g: g.add_(torch.randn_like(g) * g.std()))), kind="altered gradients"),
    _fault("gradients-masked", "the gradient of the MLPs is lost before the update", ("GG-GRD-007", "GG-GRD-001"),
           before_each_update(each_gradient(torch.Tensor.zero_, ".mlp.")), kind="altered gradients"),
    _fault("gradients-sign-only", "only the sign of each gradient is used", ("GG-GRD-007",),
           before_each_update(each_gradient(torch.Tensor.sign_)), kind="altered gradients"),
    _fault("epsilon-one", "AdamW's epsilon is 1", ("GG-CFG-008", "GG-OPT-003"), kind="optimizer settings", stage="before",
           settings={"optimizer.epsilon": 1.0}),
    _fault("epsilon-one-unconfigured", "AdamW's epsilon is 1, unlike the configuration", ("GG-OPT-001", "GG-OPT-003"),
           groups_changed(lambda t, group: group.update(eps=1.0)), kind="optimizer settings"),
    _fault("beta2-zero", "AdamW's beta2 is 0", ("GG-CFG-010",), kind="optimizer settings", stage="before", settings={"optimizer.beta2": 0.0}),
    _fault("beta2-half-unconfigured", "AdamW's beta2 is 0.5, unlike the configuration", ("GG-OPT-001",),
           groups_changed(lambda t, group: group.update(betas=(0.9, 0.5))), kind="optimizer settings"),
    _fault("decay-negative", "the weight decay has the wrong sign", ("GG-OPT-001",),
           groups_changed(lambda t, group: group.update(weight_decay=-group["weight_decay"])), kind="optimizer settings"),
    _fault("decay-tenfold-unconfigured", "the weight decay is ten times the configured one", ("GG-OPT-001",),
           groups_changed(lambda t, group: group.update(weight_decay=10 * group["weight_decay"])), kind="optimizer settings"),
    _fault("decay-on-everything-later", "weight decay is also applied to embeddings, gains and biases", ("GG-OPT-001", "GG-GRD-004"),
           groups_changed(lambda t, group: group.update(weight_decay=0.1)), kind="optimizer settings"),
    _fault("muon-momentum-half", "Muon's momentum is 0.5, unlike the configuration", ("GG-OPT-001",), settings=MUON,
           inject=groups_changed(lambda t, group: group.update(momentum=0.5) if "momentum" in group else None), kind="optimizer settings"),
    _fault("optimizer-state-lost", "the optimizer's state is lost in the middle, as at a resume without it", ("GG-OPT-002",),
           lambda t: at_step(t, 150, lambda: _forget(t)), kind="optimizer state", at=150),
    _fault("optimizer-built-each-step", "the optimizer starts from nothing at each step", ("GG-OPT-002",),
           after_each_step(_forget), kind="optimizer state"),
    _fault("weights-rounded", "weights are rounded to bfloat16 after each step", UPDATE, after_each_step(each_weight(_round)), kind="wrong update"),
    _fault("weights-rounded-in-the-step", "weights are rounded to bfloat16 by the optimizer", UPDATE,
           after_each_step(each_weight(_round), within=True), kind="wrong update"),
    _fault("weights-rounded-muon", "weights are rounded to bfloat16 after each step with Muon", UPDATE,
           after_each_step(each_weight(_round)), kind="wrong update", settings=MUON),
    _fault("weights-shrink", "all weights shrink by a thousandth after each step", UPDATE,
           after_each_step(each_weight(lambda p: p.mul_(0.999))), kind="wrong update"),
    _fault("weights-clamped", "weights are clamped to 0.05 after each step", UPDATE,
           after_each_step(each_weight(lambda p: p.clamp_(-0.05, 0.05))), kind="wrong update"),
    _fault("block-put-back", "the last block keeps its initial weights although it has gradients", UPDATE, _held("blocks.1."), kind="wrong update"),
    _fault("matrix-initialized-again", "one matrix is initialized again at each step", UPDATE,
           after_each_step(each_weight(lambda p: p.normal_(0, 0.02), "blocks.0.mlp.up.weight")), kind="wrong update"),
    _fault("average-not-updated", "the averaged weights are never updated", ("GG-UPD-006",), _average_frozen, kind="averaged weights",
           settings={"train.ema_decay": 0.98}, fatal=True),
    _fault("dropout-nine-tenths", "a dropout of 0.9", ("GG-CFG-009",), kind="regularization", stage="before", settings={"model.dropout": 0.9}),
    _fault("dropout-in-modules", "modules drop nine tenths, unlike the configuration", ("GG-MOD-002",), later(1, _set_dropout), kind="regularization"),
    _fault("ids-shifted-in-training", "training batches have ids that are shifted by one", ("GG-DAT-013",),
           patches=batches_from(_ShiftedIds)[:1], kind="tokens fed", fatal=True),
    _fault("ids-shifted-before-the-model", "inputs and targets are shifted by one just before the model", LOSS,
           with_loss(lambda n, f, x, y: f((x + 1) % 256, (y + 1) % 256)), kind="tokens fed", fatal=True),
    _fault("ids-shifted-on-disk", "the training text on disk has ids that are shifted by one", ("GG-DAT-014",),
           dataset=datasets.with_tokens(_shifted_on_disk), kind="tokens fed", stage="before", fatal=True),
    _fault("windows-late", "each window starts five tokens late", ("GG-DAT-013",), patches=batches_from(_Late)[:1], kind="tokens fed"),
    _fault("tokens-replaced", "every seventh token is another", ("GG-DAT-013",), _batches_changed(_replace_some), kind="tokens fed"),
    _fault("batches-twice", "each batch is used twice", ("GG-DAT-013", "GG-DAT-003"), _repeat, kind="tokens fed"),
    _fault("data-stop-advancing", "from some step on each step sees the same batch", ("GG-DAT-003",), _stuck, kind="tokens fed", at=90, fatal=True),
    _fault("targets-not-shifted-later", "the loader gives the inputs as targets", ("GG-DAT-002",), _batches_changed(lambda x, y: (x, x)), kind="tokens fed", fatal=True),
    _fault("targets-are-inputs-in-the-loss", "the loss compares with the inputs", LOSS, with_loss(lambda n, f, x, y: f(x, x)), kind="wrong loss", fatal=True),
    _fault("loss-of-half-the-window", "the loss leaves out the second half of each window", LOSS,
           with_loss(lambda n, f, x, y: f(x[:, :16], y[:, :16])), kind="wrong loss"),
    _fault("loss-with-temperature", "logits are divided by two in the training loss", LOSS, model_loss(lambda z, y: F.cross_entropy(z / 2, y)), kind="wrong loss"),
    _fault("loss-masks-frequent-tokens", "the loss ignores blanks", LOSS, model_loss(lambda z, y: F.cross_entropy(z, y.where(y != 32, -100))), kind="wrong loss"),
    _fault("label-smoothing", "labels are smoothed by a fifth", LOSS, model_loss(lambda z, y: F.cross_entropy(z, y, label_smoothing=0.2)), kind="wrong loss"),
    _fault("mask-off-later", "one layer loses its causal mask after the start", ("GG-MOD-001",), later(40, _uncover_first), kind="changed module", at=40, fatal=True),
    _fault("positions-moved", "position embeddings are moved by one", ("GG-MOD-001",), later(1, _move_positions), kind="changed module"),
    _fault("head-untied", "the head is a copy of the embedding that does not learn", ("GG-MOD-001",), later(1, _untie), kind="changed module"),
)  # fmt: skip
