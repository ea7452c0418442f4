"""Why a step was not finite: it is done again, watched, and then done otherwise.

Lowering the rate after a NaN is often the wrong remedy: as often the cause is one row of the data, the precision, a
kernel, or weights that were damaged. So the step is replayed from where it began, with hooks on every module, forward
and backward, which name the first one whose result is not finite; its micro-batch is bisected to the row; and it is
run again with one thing changed at a time. What makes the fault go away is the cause, what does not is ruled out.

`replay` works inside a run that is still alive, because a refused step has changed nothing; `replay_saved_run` on the files of
a dead one, whose steps are the same bits when they are done again from a checkpoint.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from glassgpt.diagnosis.findings import Value
from glassgpt.errors import GlassGPTError
from glassgpt.model.attention import AttentionFunction, attend_readable
from glassgpt.model.transformer import LanguageModel
from glassgpt.training.checkpoint import TrainingState, load_optimizers, load_weights, read_state, restore_rng
from glassgpt.training.guard import Guard, RefusedStep
from glassgpt.training.hardware import Hardware
from glassgpt.training.loop import Trainer
from glassgpt.training.loss import TrainingLoss
from glassgpt.training.step import StepSnapshot, TrainStep

Cause = Literal["data", "precision", "weights", "learning rate", "kernel", "model", "not reproduced", "unknown"]

MOST_STEPS_DONE_AGAIN = 100
"""From the last good weights to the fault, to tell a rate that is too high from weights that were damaged."""
STEPS_AHEAD = (1, 3, 7)
"""Where rows are taken from to see whether others fail too."""
LOWER_RATE, SAFE_RATE = 0.1, 1e-5
"""A share of the rate, and a rate that no model of this kind fails at."""
TEXT_CHARACTERS = 200
SAME_WEIGHTS = 1e-3
"""Relative distance up to which weights that were trained again count as the same."""

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class BadModule:
    """The first module whose result was not finite.

    Attributes:
        name: as in `named_modules`; of the parent, where what happened lies between its parts.
        direction: of the pass in which it happened.
        input_range: largest magnitude that went in, or None where that was not finite already.
        last_good: the modules just before, each with the largest magnitude that came out of it.
    """

    name: str
    direction: Literal["forward", "backward"]
    input_range: float | None
    last_good: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class BadRow:
    """A row of the batch that is not finite by itself.

    Attributes:
        micro_step: in which it came, 0 being the first.
        row: of the micro-batch.
        start: its first token in the training text.
        end: behind its last target.
        text: the beginning of it, decoded.
    """

    micro_step: int
    row: int
    start: int
    end: int
    text: str


@dataclass(frozen=True)
class Reason:
    """Why something is the cause, or is not; the catalogue has the words.

    Attributes:
        key: of the catalogue's reasons, such as `finite-at-a-lower-rate`.
        cause: that it speaks of.
        seen: the figures that its words ask for.
    """

    key: str
    cause: Cause
    seen: Mapping[str, Value] = field(default_factory=dict[str, Value], hash=False)


@dataclass(frozen=True)
class ReplayResult:
    """What a replay came to.

    Attributes:
        cause: what the fault goes away with.
        confidence: between 0 and 1.
        why: the reason.
        ruled_out: what was tried and left the fault as it was.
        module: where it began, where that was seen.
        rows: that are bad by themselves.
        parameters: weights that are not finite.
    """

    cause: Cause
    confidence: float
    why: Reason
    ruled_out: tuple[Reason, ...] = ()
    module: BadModule | None = None
    rows: tuple[BadRow, ...] = ()
    parameters: tuple[str, ...] = ()

    def causes_ruled_out(self) -> list[Cause]:
        """The causes that `ruled_out` speaks of."""
        return [cause for cause in get_args(Cause) if any(reason.cause == cause for reason in self.ruled_out)]

    def as_json(self) -> dict[str, Any]:
        """For `events.jsonl`."""
        return dataclasses.asdict(self)


@dataclass
class _Way:
    """A way to run a micro-batch: what a counterfactual changes one part of.

    Attributes:
        model: with which weights.
        autocast: in which precision.
        rng: from where dropout is drawn; None without dropout.
        chunk_tokens: of the loss.
    """

    model: LanguageModel
    autocast: Callable[[], AbstractContextManager[object]]
    rng: StepSnapshot | None
    chunk_tokens: int = 0

    def is_finite(self, batch: Batch) -> bool:
        """Whether loss and gradient norm of a micro-batch are finite; leaves every generator as it was."""
        with _as_found(self.model, self.rng):
            loss = self._loss(batch)
            return bool(loss.isfinite()) and math.isfinite(_gradient_norm(self.model, loss))

    def trace(self, batch: Batch) -> BadModule | None:
        """Where the first value that is not finite arises, or None."""
        with _as_found(self.model, self.rng), _Watched(self.model) as watched:
            loss = self._loss(batch)
            if not loss.isfinite():
                return watched.first_bad or watched.between("loss")
            gradients = _gradients(self.model, loss)
        names = [name for name, _ in self.model.named_parameters()]
        bad = [name for name, g in zip(names, gradients, strict=True) if g is not None and not g.isfinite().all()]
        if watched.first_bad is None and bad:
            return BadModule(bad[-1].rpartition(".")[0], "backward", None, watched.last_good())
        return watched.first_bad

    def _loss(self, batch: Batch) -> Tensor:
        with self.autocast():
            return TrainingLoss(self.model, self.chunk_tokens)(*batch)


class _Watched:
    """Hooks on every module that note the magnitudes of what goes in, comes out, and comes back."""

    def __init__(self, model: nn.Module) -> None:
        self.first_bad: BadModule | None = None
        self._seen: list[tuple[str, float]] = []
        self._backwards: list[tuple[str, float]] = []
        self._handles: list[Any] = []
        self._model = model

    def __enter__(self) -> _Watched:
        for name, module in self._model.named_modules():
            if name:
                self._handles.append(module.register_forward_hook(partial(self._forward, name)))
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()

    def last_good(self) -> tuple[tuple[str, float], ...]:
        """The last few finite results."""
        return tuple(self._seen[-3:])

    def between(self, name: str) -> BadModule:
        """What happened after the last module."""
        return BadModule(name, "forward", self._seen[-1][1] if self._seen else None, self.last_good())

    def _forward(self, name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if self.first_bad is not None or not isinstance(output, Tensor):
            return
        size = _magnitude(output)
        if size is None:
            given = [x for x in inputs if isinstance(x, Tensor)]
            fed = _magnitude(given[0]) if given else None
            # A part that was fed a bad value although no part before made one: it arose in their parent.
            culprit = name if fed is not None else name.rpartition(".")[0] or name
            self.first_bad = BadModule(culprit, "forward", fed, self.last_good())
            return
        self._seen.append((name, size))
        if output.requires_grad:
            output.register_hook(partial(self._backward, name))

    def _backward(self, name: str, gradient: Tensor) -> None:
        if self.first_bad is not None:
            return
        size = _magnitude(gradient)
        if size is None:
            # It was fed by the gradient seen last, so it arose in the backward pass of that one's module.
            fed = self._backwards[-1] if self._backwards else ("loss", None)
            self.first_bad = BadModule(fed[0], "backward", fed[1], self.last_good())
        else:
            self._backwards.append((name, size))
            self._seen.append((f"gradient of {name}", size))


def replay(trainer: Trainer, refused: RefusedStep, last_good: Path | None = None) -> ReplayResult:
    """Find out why a step of a living run was refused. Changes nothing, whatever it tries.

    Args:
        trainer: a run whose weights and optimizer are as the step found them; its model must not be sharded.
        refused: the step.
        last_good: a checkpoint whose weights are known to be good.
    """
    trainer.train_step.loader.restart()
    position = trainer.train_step.batches.position
    try:
        return _Case(trainer, refused, last_good).verdict()
    finally:
        trainer.train_step.batches.seek(position)


def explain_divergence(trainer: Trainer, last_good: Path | None = None) -> ReplayResult | None:
    """Whether training itself led to where a run is now, or its weights were changed by something else.

    The steps from the last good weights are done again, in a copy: only what training makes comes out again.

    Args:
        trainer: a living run whose loss is finite but has left what it had reached.
        last_good: a checkpoint whose weights are known to be good.

    Returns:
        A verdict of `weights` or `learning rate`; None where the way is too far, or several processes share it.
    """
    trainer.train_step.loader.restart()
    step = trainer.state.step
    rate = trainer.learning_rate(step)
    here = RefusedStep(step + 1, math.nan, math.nan, 0, rate, trainer.train_step.start())
    position = trainer.train_step.batches.position
    try:
        return _Case(trainer, here, last_good).compared_with_itself()
    finally:
        trainer.train_step.batches.seek(position)


class _Case:
    """One refused step and what is tried on it."""

    def __init__(self, trainer: Trainer, refused: RefusedStep, last_good: Path | None) -> None:
        self._trainer, self._refused, self._last_good = trainer, refused, last_good
        self._train_step, self._hardware = trainer.train_step, trainer.hardware
        self._ruled_out: list[Reason] = []
        self._module: BadModule | None = None

    def verdict(self) -> ReplayResult:
        """Try one thing after the other, the most telling first."""
        bad = [name for name, p in self._train_step.model.named_parameters() if not p.isfinite().all()]
        if bad:
            seen = {"parameter": bad[0]}
            return self._because("weights", 0.95, "weights-not-finite", seen, parameters=bad)
        found = self._find_micro_step()
        if found is None:
            return self._because("not reproduced", 0.6, "finite-when-done-again")
        number, batch, way = found
        self._module = way.trace(batch)
        others_fail = not any(way.is_finite(other) for other in self._other_batches())
        if not others_fail:
            self._rule_out("weights", "other-rows-are-finite")
        return (
            # Weights before the kernel: a fused kernel is the first to fail where weights have run away.
            (self._blame_weights(batch, way) if others_fail else None)
            or self._blame_kernel(batch, way)
            or self._blame_precision(batch, way)
            or (None if others_fail else self._blame_rows(number, batch, way))
            or self._blame_model(others_fail)
        )

    def compared_with_itself(self) -> ReplayResult | None:
        """Train again from the last good weights, and look whether the same come out; None where that cannot be."""
        if self._train_step.loss.is_sharded or (self._last_good is None and self._trainer.beginning is None):
            return None
        again = self._trained_again(1.0)
        if again is None:
            return None
        return self._changed_from_outside(again) or self._because("learning rate", 0.8, "same-weights-when-done-again")

    def _find_micro_step(self) -> tuple[int, Batch, _Way] | None:
        """The first micro-batch that is not finite, with the generators as they stood before it."""
        train_step, start = self._train_step, self._refused.start
        with _forked(self._hardware):
            _restore(start)
            for number in range(train_step.batch_size // train_step.micro_batch_size):
                before = dataclasses.replace(start, rng=_rng(self._hardware))
                batch = self._batch(
                    start.windows + number * train_step.micro_batch_size * self._trainer.dist.world_size
                )
                way = _Way(train_step.model, self._hardware.autocast, before, train_step.memory.loss_chunk_tokens)
                if not way.is_finite(batch):
                    return number, batch, way
                with torch.no_grad(), self._hardware.autocast():  # so that the next finds the generators as it did
                    TrainingLoss(train_step.model)(*batch)
        return None

    def _batch(self, position: int) -> Batch:
        batches = self._train_step.batches
        inputs, targets = batches.read(batches.starts_at(position, self._train_step.micro_batch_size))
        return inputs.to(self._hardware.device), targets.to(self._hardware.device)

    def _other_batches(self) -> list[Batch]:
        """Of later steps; several, because a bad row may stand in one of them as well."""
        step = self._train_step.batch_size * self._trainer.dist.world_size
        return [self._batch(self._refused.start.windows + ahead * step) for ahead in STEPS_AHEAD]

    def _blame_kernel(self, batch: Batch, way: _Way) -> ReplayResult | None:
        with plain_attention(way.model):
            if way.is_finite(batch):
                return self._because("kernel", 0.9, "finite-with-plain-attention")
        self._rule_out("kernel", "plain-attention-fails-too")
        return None

    def _blame_precision(self, batch: Batch, way: _Way) -> ReplayResult | None:
        given = self._hardware.precision
        if given == "fp32":
            model, better = copy.deepcopy(way.model).double(), "float64"
        else:
            model, better = way.model, "float32"
        if dataclasses.replace(way, model=model, autocast=nullcontext).is_finite(batch):
            seen = {"better": better, "given": given}
            return self._because("precision", 0.85, "finite-in-a-better-precision", seen)
        self._rule_out("precision", "a-better-precision-fails-too", {"better": better})
        return None

    def _blame_rows(self, number: int, batch: Batch, way: _Way) -> ReplayResult | None:
        calm = dataclasses.replace(way, rng=None)
        bad = _failing(range(len(batch[0])), lambda rows: not calm.is_finite((batch[0][rows], batch[1][rows])))
        if not bad:
            return None
        rows = [self._row(number, row) for row in bad]
        seen = {"row": rows[0].row, "micro_step": number}
        return self._because("data", 0.9, "row-not-finite-by-itself", seen, rows=rows)

    def _row(self, number: int, row: int) -> BadRow:
        batches, train_step = self._train_step.batches, self._train_step
        position = self._refused.start.windows + number * train_step.micro_batch_size * self._trainer.dist.world_size
        start = int(batches.starts_at(position, train_step.micro_batch_size)[row])
        end = start + batches.context_length + 1
        text = _decoded(self._trainer, start, end)
        return BadRow(number, row, start, end, text)

    def _blame_weights(self, batch: Batch, way: _Way) -> ReplayResult | None:
        good = self._good_model()
        if good is None:
            self._rule_out("data", "every-row-fails")
            return None
        if not dataclasses.replace(way, model=good).is_finite(batch):
            self._rule_out("weights", "last-good-weights-fail-too")
            return None
        self._rule_out("data", "last-good-weights-are-finite")
        return self._damaged_or_driven()

    def _good_model(self) -> LanguageModel | None:
        """A copy of the model with the last weights that are known to be good."""
        model = copy.deepcopy(self._train_step.model)
        if self._last_good is not None:
            load_weights(model, self._last_good)
            return model
        if self._trainer.beginning is None:
            return None
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(self._trainer.beginning.weights[name])
        return model

    def _damaged_or_driven(self) -> ReplayResult:
        """Train again from the last good weights: do the same weights come out, and with a lower rate better ones?"""
        again = self._trained_again(1.0)
        if again is None:
            return self._because("weights", 0.6, "only-the-last-good-weights-are-finite")
        changed = self._changed_from_outside(again)
        if changed is not None:
            return changed
        rate = self._refused.learning_rate
        for lower in (LOWER_RATE * rate, SAFE_RATE):
            slower = self._trained_again(lower / rate)
            assert slower is not None, "the same steps were done just now"
            way = _Way(slower.model, self._hardware.autocast, self._refused.start)
            if way.is_finite(self._batch(self._refused.start.windows)):
                return self._because("learning rate", 0.9, "finite-at-a-lower-rate", {"lower": f"{lower:.2g}"})
        return self._because("model", 0.5, "a-lower-rate-fails-too")

    def _changed_from_outside(self, again: TrainStep) -> ReplayResult | None:
        """The verdict on weights that training, done again, does not make."""
        now = dict(self._train_step.model.named_parameters())
        trained = dict(again.model.named_parameters())
        changed = [name for name, p in trained.items() if _differs(p, now[name])]
        if not changed:
            self._rule_out("weights", "training-again-gives-the-same")
            return None
        # What was changed spoils the steps after it too, so the rest moves as well, but less.
        first = max(changed, key=lambda name: _distance(trained[name], now[name]))
        others = (name for name in changed if name != first)
        return self._because(
            "weights", 0.9, "changed-by-something-else", {"parameter": first}, parameters=(first, *others)
        )

    def _trained_again(self, rate_factor: float) -> TrainStep | None:
        """A copy of the run, trained from the last good state to the refused step; None where that is too far."""
        trainer, state = self._trainer, TrainingState()
        if self._last_good is not None:
            state = read_state(self._last_good)
        steps = self._refused.step - 1 - state.step
        first = self._refused.start.windows - steps * self._train_step.batch_size
        since, warmup = trainer.state.rewarmup
        rewound = since == state.step and warmup > 0  # then the data went on elsewhere
        known = first == state.windows or rewound
        if trainer.dist.world_size > 1 or not known or not 0 <= steps <= MOST_STEPS_DONE_AGAIN:
            return None
        model = self._good_model()
        assert model is not None
        hardware = dataclasses.replace(self._hardware, compile=False)
        copied = TrainStep(model, trainer.dataset.split("train"), trainer.config, hardware, trainer.dist)
        with _forked(hardware):
            self._set_back(copied, state)
            copied.seek(first)
            for step in range(state.step, state.step + steps):
                copied.step(step + 1, trainer.learning_rate(step) * rate_factor)
                copied.release()
        copied.close()
        return copied

    def _set_back(self, copied: TrainStep, state: TrainingState) -> None:
        copied.model.train()
        copied.adapt(self._train_step.memory)
        copied.batches.quarantine(self._train_step.batches.quarantined)
        if self._last_good is not None:
            load_optimizers(copied.optimizers, self._last_good)
            restore_rng(state.rng[0])
            if state.scaler:
                copied.scaler.load_state_dict(state.scaler)
        elif self._trainer.beginning is not None:
            copied.go_back(self._trainer.beginning.start)

    def _blame_model(self, others_fail: bool) -> ReplayResult:
        if others_fail:
            if self._module is None:
                return self._because("model", 0.7, "every-batch-fails")
            return self._because("model", 0.7, "every-batch-fails-in-a-module", {"module": self._module.name})
        return self._because("unknown", 0.3, "only-this-batch-fails")

    def _because(
        self,
        cause: Cause,
        confidence: float,
        why: str,
        seen: Mapping[str, Value] | None = None,
        rows: Sequence[BadRow] = (),
        parameters: Sequence[str] = (),
    ) -> ReplayResult:
        reason = Reason(why, cause, seen or {})
        return ReplayResult(
            cause, confidence, reason, tuple(self._ruled_out), self._module, tuple(rows), tuple(parameters)
        )

    def _rule_out(self, cause: Cause, why: str, seen: Mapping[str, Value] | None = None) -> None:
        self._ruled_out.append(Reason(why, cause, seen or {}))


class _Collect(Guard[Trainer]):
    """Keeps the first refused step instead of stopping with an error."""

    def __init__(self) -> None:
        self.refused: RefusedStep | None = None

    def on_refused(self, trainer: Trainer, refused: RefusedStep) -> None:
        self.refused = refused
        raise _FoundError


class _FoundError(GlassGPTError):
    pass


def replay_saved_run(trainer: Trainer, checkpoint: Path, steps: int = MOST_STEPS_DONE_AGAIN) -> ReplayResult | None:
    """Find out why a dead run failed, from its files: go on from a checkpoint until it fails again.

    Args:
        trainer: built as the run was, on the same data; its folder is not written to.
        checkpoint: the last verified one.
        steps: after which it gives up.

    Returns:
        The verdict, or None where no step failed.
    """
    trainer.resume(checkpoint)
    trainer.guard = guard = _Collect()
    try:
        with trainer.hardware.kernels():
            trainer.train_on(steps)
    except _FoundError:
        assert guard.refused is not None
        return replay(trainer, guard.refused, checkpoint)
    finally:
        trainer.train_step.close()
    return None


@contextmanager
def plain_attention(model: LanguageModel) -> Generator[None]:
    """Let attention be computed by its readable twin as long as the context lasts."""
    kept = [(module, module.attend) for module in attentions(model)]
    set_attention(model, attend_readable)
    try:
        yield
    finally:
        for module, attend in kept:
            module.attend = attend


def set_attention(model: LanguageModel, attend: AttentionFunction) -> None:
    """Let every block attend by this function."""
    for module in attentions(model):
        module.attend = attend


def attentions(model: LanguageModel) -> list[Any]:
    """The modules that attend, in the order of the blocks."""
    return [module for module in model.modules() if hasattr(module, "attend")]


def _failing(rows: Sequence[int], fails: Callable[[list[int]], bool]) -> list[int]:
    """The rows that fail by themselves, by halving."""
    if not fails(list(rows)):
        return []
    if len(rows) == 1:
        return [rows[0]]
    middle = len(rows) // 2
    return _failing(rows[:middle], fails) + _failing(rows[middle:], fails)


def _gradients(model: nn.Module, loss: Tensor) -> Sequence[Tensor | None]:
    # Not backward(): what is wrapped for several ranks would begin to talk to the others.
    return torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)


def _gradient_norm(model: nn.Module, loss: Tensor) -> float:
    return nn.utils.get_total_norm([g for g in _gradients(model, loss) if g is not None]).item()


def _magnitude(tensor: Tensor) -> float | None:
    """Largest absolute value, or None where not all are finite."""
    size = tensor.detach().abs().max().float().item() if tensor.numel() else 0.0
    return size if math.isfinite(size) else None


def _differs(a: Tensor, b: Tensor) -> bool:
    return not _distance(a, b) <= SAME_WEIGHTS


def _distance(a: Tensor, b: Tensor) -> float:
    """Of b from a, relative to the smaller of them: what was multiplied stands out, up or down."""
    a, b = a.detach().double(), b.detach().double()  # the norm of large weights would overflow
    least = min(a.norm().item(), b.norm().item())
    difference = (a - b).norm().item()
    return difference / least if least else math.inf if difference else 0.0


def _decoded(trainer: Trainer, start: int, end: int) -> str:
    tokens = trainer.dataset.split("train").read(start, end - start).tolist()
    try:
        return trainer.dataset.tokenizer.decode(tokens)[:TEXT_CHARACTERS]
    except (GlassGPTError, IndexError, KeyError):
        return f"tokens that the tokenizer does not know: {tokens[:20]}"


@contextmanager
def _as_found(model: LanguageModel, start: StepSnapshot | None) -> Generator[None]:
    """Run with the generators of `start` (without dropout where None); all is as before afterwards."""
    was_training, device = model.training, next(model.parameters()).device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        model.train(start is not None)
        if start is not None:
            _restore(start)
        try:
            yield
        finally:
            model.train(was_training)


def _forked(hardware: Hardware) -> AbstractContextManager[object]:
    return torch.random.fork_rng([hardware.device] if hardware.device.type == "cuda" else [])


def _restore(start: StepSnapshot) -> None:
    torch.set_rng_state(start.rng["cpu"])
    if "cuda" in start.rng:
        torch.cuda.set_rng_state(start.rng["cuda"])


def _rng(hardware: Hardware) -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if hardware.device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(hardware.device)
    return states
