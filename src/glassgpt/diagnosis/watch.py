"""Watches a run while it trains: listens to its figures and looks into its layers once in a while.

It is silent on a healthy run. What it finds has a code (`signals`), is said in one line and written to
`events.jsonl`, each code once. First thresholds are from the literature, moved where healthy runs of ours crossed them.
"""

from __future__ import annotations

import json
import math
import statistics
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from glassgpt import console
from glassgpt.diagnosis.config import DiagnosisConfig
from glassgpt.diagnosis.layers import LayerProbe, LayerSample
from glassgpt.diagnosis.replay import Verdict
from glassgpt.diagnosis.signals import CODES, SIGNALS
from glassgpt.diagnosis.windows import LogWindow, slope_includes_zero, token_entropies
from glassgpt.training.loop import Trainer
from glassgpt.training.loss import ValidationLoss
from glassgpt.training.observers import Observer, StepMetrics
from glassgpt.training.schedule import learning_rate_ratio

SPIKE_NATS = 0.3
RECENT = 20
"""Steps whose median stands for now."""
RUN_AWAY_NATS, RUN_AWAY_SHARE, RUN_AWAY_STEPS = 1.0, 0.25, 20
STUCK_STEPS, STUCK_SHARE = 200, 0.1
STUCK_NATS = 0.05
TOKENS_COUNTED = 2_000_000
PLATEAU_STEPS, PLATEAU_SHARE, PLATEAU_EVERY = 500, 0.05, 100
OVERFIT_VALIDATIONS, OVERFIT_NATS = 3, 0.02
CLIP_STEPS, CLIP_SHARE, CLIP_TIMES = 200, 0.95, 5.0
BLOCK_RATIO = 100.0
UPDATE_LARGEST, UPDATE_SMALLEST = 0.1, 1e-5
STALE = 5.0
ENTROPY_LEAST, ENTROPY_HEADS = 0.05, 0.5
SCORE_MOST = 1000.0
DEAD_SHARE = 0.5
RESIDUAL_GROWTH = 100.0
LOG_Z_DRIFT = 20.0
SCALER_STEPS, SCALER_SHARE = 50, 0.4
WAIT_SHARE, WAIT_STEPS = 0.25, 50
SLOW_RATIO, SLOW_SECONDS, SLOW_STEPS, SLOW_AFTER = 2.0, 0.02, 50, 20
RECOMPILES = 3
MEMORY_EVERY, MEMORY_SAMPLES, MEMORY_GROWTH, MEMORY_LEAST = 10, 10, 1.2, 100e6
PIECES_RATIO = 2.0


class Watch(Observer):
    """The detectors of a run in training.

    Args:
        trainer: the run.
        config: what is watched.
        layers_file: where samples of layers are written, for `watch = "full"`.

    Attributes:
        found: code and figures of all findings of this process, in their order.
    """

    def __init__(self, trainer: Trainer, config: DiagnosisConfig, layers_file: Path | None = None) -> None:
        self.found: list[tuple[str, dict[str, Any]]] = []
        self._trainer, self._config, self._layers_file = trainer, config, layers_file
        self._said: set[str] = set()
        self._loss, self._norm = LogWindow(), LogWindow(floor=math.log(3))
        self._recent: deque[float] = deque(maxlen=RECENT)
        self._best_median = math.inf
        self._away, self._since_spike = 0, RECENT
        self._speed = _Speed(self._find)
        self._stuck = _Stuck(trainer, self._find)
        self._overfitting = _Overfitting(self._find)
        self._scaler: deque[bool] = deque(maxlen=SCALER_STEPS)
        self._clipped: deque[bool] = deque(maxlen=CLIP_STEPS)
        self._first_log_z: float | None = None
        self._sample: LayerSample | None = None

    def attach(self) -> None:
        """Begin to listen."""
        self._trainer.observers.append(self)
        if self._config.sample_every_steps:
            probe = LayerProbe(self._trainer, self._config.sample_every_steps, self.on_layers)
            self._trainer.stepper.probes.append(probe)

    def state(self) -> dict[str, Any]:
        """What a resumed run must remember, as JSON."""
        return {
            "said": sorted(self._said),
            "loss": list(self._loss.values),
            "norm": list(self._norm.values),
            "recent": list(self._recent),
            "best_median": self._best_median if math.isfinite(self._best_median) else None,
            "away": self._away,
            "since_spike": self._since_spike,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Undo `state`."""
        if not state:
            return
        self._said = set(state["said"])
        self._loss.values.extend(state["loss"])
        self._norm.values.extend(state["norm"])
        self._recent.extend(state["recent"])
        self._best_median = math.inf if state["best_median"] is None else state["best_median"]
        self._away, self._since_spike = state["away"], state["since_spike"]

    # What the loop tells

    def on_step(self, metrics: StepMetrics) -> None:
        """Ask every detector that lives on a step's figures."""
        self._speed.look(metrics)
        self._watch_scaler(metrics)
        if metrics.skipped:
            return
        self._watch_loss(metrics)
        self._watch_norm(metrics)
        self._stuck.look(metrics)

    def on_validation(self, step: int, validation: ValidationLoss, is_best: bool) -> None:
        """Ask whether it overfits."""
        self._overfitting.look(validation.loss, self._loss.median())

    def on_event(self, step: int, event: str, details: Mapping[str, Any]) -> None:
        """Say what recovery did, with its code."""
        if event == "out of memory":
            self._find("GG-MEMORY-003", {"at": details["at"]}, again=True)

    def on_verdict(self, step: int, verdict: Verdict) -> None:
        """Say what a replay came to."""
        figures: dict[str, Any] = {"at": step, "why": verdict.why, "confidence": verdict.confidence}
        if verdict.rows:
            figures["text"] = verdict.rows[0].text
        if verdict.module:
            figures["module"] = verdict.module.name
        self._find(CODES[verdict.cause], figures, again=True)

    def close(self) -> None:
        """Print the table of the last look, where layers are watched in full."""
        if self._sample is not None and self._config.watch == "full" and self._trainer.ranks.is_first:
            show_layers(self._sample)

    # What recovery asks

    def diverging(self) -> bool:
        """Whether the loss has been far above its best for long enough that it will not come back by itself."""
        return self._away >= RUN_AWAY_STEPS

    def is_calm(self) -> bool:
        """Whether the loss is where it is expected, and has been for the last steps."""
        return self._away == 0 and self._since_spike >= RECENT

    def forget_after(self, step: int) -> None:
        """After a rewind, what was reached before is to be reached again; windows begin anew."""
        self._away, self._since_spike = 0, RECENT
        self._recent.clear()
        self._loss.values.clear()
        self._norm.values.clear()
        self._best_median = math.inf
        self._said.discard("GG-LOSS-002")

    # Detectors

    def _watch_loss(self, metrics: StepMetrics) -> None:
        if self._loss.is_spike(metrics.loss) and metrics.loss > self._loss.median() + SPIKE_NATS:
            self._since_spike = 0
            self._find("GG-LOSS-001", {"loss": metrics.loss, "median": self._loss.median()})
        else:
            self._since_spike += 1
            self._loss.accept(metrics.loss)
        self._recent.append(metrics.loss)
        if len(self._recent) < RECENT:
            return
        median = statistics.median(self._recent)
        self._best_median = min(self._best_median, median)
        far = median > self._best_median + max(RUN_AWAY_NATS, RUN_AWAY_SHARE * self._best_median)
        self._away = self._away + 1 if far else 0
        if self.diverging():
            self._find("GG-LOSS-002", {"median": median, "best": self._best_median})

    def _watch_norm(self, metrics: StepMetrics) -> None:
        if self._norm.is_spike(metrics.grad_norm):
            if metrics.loss > self._loss.median() + SPIKE_NATS:
                self._find("GG-GRAD-001", {"norm": metrics.grad_norm, "median": self._norm.median()})
        else:
            self._norm.accept(metrics.grad_norm)
        limit = self._trainer.settings.train.clip_norm
        if not limit or metrics.step <= self._trainer.settings.schedule.warmup_steps:
            return
        self._clipped.append(metrics.grad_norm > limit)
        share = sum(self._clipped) / CLIP_STEPS
        if share >= CLIP_SHARE and self._norm.median() > CLIP_TIMES * limit:
            self._find("GG-GRAD-002", {"share": share, "median": self._norm.median(), "limit": limit})

    def _watch_scaler(self, metrics: StepMetrics) -> None:
        if not self._trainer.stepper.scaler.is_enabled():
            return
        self._scaler.append(metrics.skipped)
        if sum(self._scaler) >= SCALER_SHARE * SCALER_STEPS:
            self._find("GG-FP16-001", {"count": sum(self._scaler), "steps": len(self._scaler)})

    def on_layers(self, sample: LayerSample) -> None:
        """Ask every detector that lives on a look into the layers."""
        self._sample = sample
        if self._layers_file is not None and self._config.watch == "full" and self._trainer.ranks.is_first:
            with open(self._layers_file, "a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(sample)) + "\n")
        self._watch_gradients(sample)
        if sample.step > self._trainer.settings.schedule.warmup_steps + RECENT:
            self._watch_updates(sample)
            self._watch_activations(sample)

    def _watch_gradients(self, sample: LayerSample) -> None:
        cut_off = [name for name, norm in sample.gradients.items() if not norm]
        if cut_off:
            self._find("GG-GRAD-004", {"names": ", ".join(cut_off[:3]) + (" …" if len(cut_off) > 3 else "")})
            return
        norms = sample.block_gradients()
        large, small = max(norms), min(norms)
        if large > BLOCK_RATIO * small:
            names = {"large": f"block {norms.index(large)}", "small": f"block {norms.index(small)}"}
            self._find("GG-GRAD-003", {**names, "ratio": large / small})

    def _watch_updates(self, sample: LayerSample) -> None:
        ratio, train = sample.median_update(), self._trainer.settings
        scheduled = learning_rate_ratio(train.schedule, sample.step, train.train.max_steps)
        if ratio > UPDATE_LARGEST:
            self._find("GG-UPDATE-001", {"ratio": ratio})
        elif 0 < ratio < UPDATE_SMALLEST * scheduled:
            self._find("GG-UPDATE-002", {"ratio": ratio})
        stale = statistics.median(sample.staleness.values()) if sample.staleness else 0.0
        if stale > STALE:
            self._find("GG-UPDATE-003", {"ratio": stale})

    def _watch_activations(self, sample: LayerSample) -> None:
        heads = [entropy for block in sample.entropies for entropy in block]
        narrow = sum(entropy < ENTROPY_LEAST for entropy in heads)
        if narrow > ENTROPY_HEADS * len(heads):
            self._find("GG-ATTENTION-001", {"share": narrow / len(heads), "limit": ENTROPY_LEAST})
        self._largest(sample.scores, SCORE_MOST, "GG-ATTENTION-002", "score")
        self._largest(sample.dead, DEAD_SHARE, "GG-LAYER-001", "share")
        growth = [after / before for before, after in pairwise(sample.residual[1:])]
        self._largest([0.0, *growth], RESIDUAL_GROWTH, "GG-LAYER-002", "ratio")
        if sample.log_z is not None:
            self._first_log_z = sample.log_z if self._first_log_z is None else self._first_log_z
            if abs(sample.log_z - self._first_log_z) > LOG_Z_DRIFT:
                self._find("GG-LAYER-003", {"now": sample.log_z, "before": self._first_log_z})

    def _largest(self, by_block: list[float], limit: float, code: str, name: str) -> None:
        if by_block and max(by_block) > limit:
            self._find(code, {name: max(by_block), "block": by_block.index(max(by_block))})

    def _find(self, code: str, figures: Mapping[str, Any], *, again: bool = False) -> None:
        """Say and write a finding; each code once, unless what it tells happens anew each time."""
        if code in self._said and not again:
            return
        self._said.add(code)
        self.found.append((code, dict(figures)))
        signal = SIGNALS[code]
        line = signal.line.format(**figures)
        self._trainer.tell("finding", {"code": code, "severity": signal.severity, "seen": line, **figures})
        say: Callable[[str], None] = console.say if signal.severity == "note" else console.warn
        say(f"{code} step {self._trainer.state.step:,}: {line}; {signal.advice}")


class _Stuck:
    """Whether the loss stays on a rung: ln V, the entropy of tokens, that of pairs; or simply stays."""

    def __init__(self, trainer: Trainer, find: Callable[[str, Mapping[str, Any]], None]) -> None:
        self._trainer, self._find = trainer, find
        train = trainer.settings.train
        self._long = max(STUCK_STEPS, round(STUCK_SHARE * train.max_steps))
        self._losses: deque[float] = deque(
            maxlen=max(self._long, PLATEAU_STEPS, round(PLATEAU_SHARE * train.max_steps))
        )
        self._rungs: tuple[float, float, float] | None = None

    def look(self, metrics: StepMetrics) -> None:
        """At intervals, over the steps since warmup."""
        settings = self._trainer.settings
        if metrics.step <= settings.schedule.warmup_steps:
            return
        self._losses.append(metrics.loss)
        if metrics.step % PLATEAU_EVERY or len(self._losses) < self._long:
            return
        last = list(self._losses)[-self._long :]
        early, late = statistics.median(last[: len(last) // 2]), statistics.median(last[len(last) // 2 :])
        if abs(early - late) < STUCK_NATS:
            self._on_a_rung(late)
        ending = learning_rate_ratio(settings.schedule, metrics.step, settings.train.max_steps) < 0.5
        if len(self._losses) < (self._losses.maxlen or 0) or ending or late < self.rungs[2] + STUCK_NATS:
            return
        if slope_includes_zero([math.log(loss) for loss in self._losses]):
            self._find("GG-LOSS-006", {"steps": len(self._losses)})

    def _on_a_rung(self, loss: float) -> None:
        uniform, unigram, bigram = self.rungs
        if uniform - unigram > 4 * STUCK_NATS and abs(loss - uniform) < STUCK_NATS:
            self._find("GG-LOSS-003", {"level": uniform})
        elif unigram - bigram > 4 * STUCK_NATS and abs(loss - unigram) < STUCK_NATS:
            self._find("GG-LOSS-004", {"level": unigram})

    @property
    def rungs(self) -> tuple[float, float, float]:
        """ln V and the entropies of tokens and of pairs, counted when first needed."""
        if self._rungs is None:
            text = self._trainer.stepper.batches.tokens
            counted = token_entropies(text.read(0, min(len(text), TOKENS_COUNTED)))
            self._rungs = (math.log(self._trainer.model.config.vocab_size), *counted)
        return self._rungs


class _Overfitting:
    def __init__(self, find: Callable[[str, Mapping[str, Any]], None]) -> None:
        self._find = find
        self._best, self._train_then, self._count = math.inf, math.inf, 0

    def look(self, validation: float, training: float) -> None:
        """After each validation, with the median of the last training losses."""
        if validation < self._best:
            self._best, self._train_then, self._count = validation, training, 0
            return
        worse = validation > self._best + OVERFIT_NATS and training < self._train_then - OVERFIT_NATS
        self._count = self._count + 1 if worse else 0
        if self._count >= OVERFIT_VALIDATIONS:
            figures = {"count": self._count, "validation": validation, "best": self._best}
            self._find("GG-LOSS-007", figures)


class _Speed:
    """Time and memory: what costs, without endangering the run."""

    def __init__(self, find: Callable[[str, Mapping[str, Any]], None]) -> None:
        self._find = find
        self._last: StepMetrics | None = None
        self._first: list[float] = []
        self._seconds: deque[float] = deque(maxlen=SLOW_STEPS)
        self._waits: deque[float] = deque(maxlen=WAIT_STEPS)
        self._compiled_at_first: int | None = None
        self._memory: deque[float] = deque(maxlen=MEMORY_SAMPLES)

    def look(self, metrics: StepMetrics) -> None:
        """At each step."""
        last, self._last = self._last, metrics
        if last is None or metrics.step != last.step + 1:
            return
        seconds = metrics.seconds - last.seconds
        self._seconds.append(seconds)
        self._waits.append(metrics.data_seconds)
        self._starved()
        self._slower(seconds)
        if metrics.step % MEMORY_EVERY == 0:
            self._grows()
            self._recompiles()

    def _starved(self) -> None:
        if len(self._waits) == WAIT_STEPS and sum(self._waits) > WAIT_SHARE * sum(self._seconds):
            self._find("GG-SPEED-001", {"share": sum(self._waits) / sum(self._seconds)})

    def _slower(self, seconds: float) -> None:
        if len(self._first) < SLOW_AFTER + SLOW_STEPS:
            self._first.append(seconds)
            return
        usual, now = statistics.median(self._first[SLOW_AFTER:]), statistics.median(self._seconds)
        if now > SLOW_RATIO * usual and now > usual + SLOW_SECONDS:
            self._find("GG-SPEED-002", {"ratio": now / usual, "now": 1e3 * now})

    def _recompiles(self) -> None:
        from torch._dynamo.utils import counters

        compiled = int(counters["stats"]["unique_graphs"])
        if self._compiled_at_first is None:
            self._compiled_at_first = compiled
        elif compiled - self._compiled_at_first >= RECOMPILES:
            self._find("GG-SPEED-003", {"count": compiled - self._compiled_at_first})

    def _grows(self) -> None:
        self._memory.append(_memory_in_use())
        memory = list(self._memory)
        rises = all(after > before for before, after in pairwise(memory))
        grown = memory[-1] - memory[0]
        if len(memory) == MEMORY_SAMPLES and rises and grown > max(MEMORY_LEAST, (MEMORY_GROWTH - 1) * memory[0]):
            self._find("GG-MEMORY-001", {"before": memory[0] / 1e9, "now": memory[-1] / 1e9})
        if torch.cuda.is_available():
            reserved, used = torch.cuda.memory_reserved(), torch.cuda.max_memory_allocated()
            if torch.cuda.memory_stats().get("num_alloc_retries", 0) > 0 and reserved > PIECES_RATIO * used:
                self._find("GG-MEMORY-002", {"reserved": reserved / 1e9, "used": used / 1e9})


def show_layers(sample: LayerSample) -> None:
    """Print a look into the layers: gradients and updates by parameter, then what each block does."""
    title = f"step {sample.step:,}: gradients and updates"
    figures = [
        (name, _short(norm), _short(sample.updates.get(name)), _short(sample.staleness.get(name)))
        for name, norm in sample.gradients.items()
    ]
    console.table(title, ("parameter", "gradient norm", "update / weight", "staleness"), figures)
    blocks = [
        (f"{n}", _short(min(sample.entropies[n])), _short(sample.scores[n]), f"{sample.dead[n]:.1%}", _short(rms))
        for n, rms in enumerate(sample.residual[1:])
    ]
    columns = ("block", "least entropy of a head", "largest score", "dead units", "residual rms")
    console.table("what each block does", columns, blocks)


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _memory_in_use() -> float:
    """Bytes: allocated on the GPU, or resident in this process where there is none."""
    if torch.cuda.is_available():
        return float(torch.cuda.memory_allocated())
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:  # not Linux: no growth is seen there
        return 0.0
    return float(pages * 4096)
