"""Watches a run while it trains: listens to its figures and looks into its layers once in a while.

It is silent on a healthy run. What it finds has a code of the catalogue, is said in one line and written to
`events.jsonl`, each code once. First thresholds are from the literature, moved where healthy runs of ours crossed them.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import torch

from glassgpt import console
from glassgpt.diagnosis.catalogue import describe, terminal_language
from glassgpt.diagnosis.config import DiagnosisConfig
from glassgpt.diagnosis.findings import EVENT, Finding, Severity, Value
from glassgpt.diagnosis.layer_probe import LayerProbe, LayerSample
from glassgpt.diagnosis.replay import Cause, ReplayResult
from glassgpt.diagnosis.series import (
    NGramBaseline,
    SpikeDetector,
    Validation,
    find_overfitting,
    find_plateau,
    find_stall,
    ngram_baseline,
)
from glassgpt.training.loop import Trainer
from glassgpt.training.loss import ValidationLoss
from glassgpt.training.observers import Observer, StepMetrics
from glassgpt.training.schedule import learning_rate_ratio

CODES: dict[Cause, str] = {
    "data": "GG-NAN-011",
    "precision": "GG-NAN-012",
    "weights": "GG-NAN-013",
    "learning rate": "GG-NAN-014",
    "kernel": "GG-NAN-015",
    "model": "GG-NAN-016",
    "not reproduced": "GG-NAN-017",
    "unknown": "GG-NAN-018",
}
"""Of a replay's verdict."""
RECENT = 20
"""Steps whose median stands for now."""
RUN_AWAY_NATS, RUN_AWAY_SHARE, RUN_AWAY_STEPS = 1.0, 0.25, 20
STALL_STEPS, STALL_SHARE, STALL_EVERY = 200, 0.1, 100
TOKENS_COUNTED = 2_000_000
ABOVE_PAIRS = 0.05
"""Nats above the rung of pairs from which on a loss that stays is a fault; below, the text may hold no more."""
SURE_OF_SPIKE = 0.7
"""A jump is seen for certain; where it comes from is not, as the doctor says of it too."""
OVERFIT_NATS = 0.02
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


class TrainingMonitor(Observer):
    """The detectors of a run in training.

    Args:
        trainer: the run.
        config: what is watched.
        layers_file: where samples of layers are written, for `watch = "full"`.

    Attributes:
        found: all findings of this process, in their order.
    """

    def __init__(self, trainer: Trainer, config: DiagnosisConfig, layers_file: Path | None = None) -> None:
        self.found: list[Finding] = []
        self._trainer, self._config, self._layers_file = trainer, config, layers_file
        self._said: set[str] = set()
        self._loss = SpikeDetector()
        self._norms: deque[float] = deque(maxlen=CLIP_STEPS)
        self._recent: deque[float] = deque(maxlen=RECENT)
        self._best_median = math.inf
        self._away, self._since_spike = 0, RECENT
        self._speed = _Speed(self._find, on_cpu=trainer.hardware.device.type == "cpu")
        self._curve = _Curve(trainer, self._find)
        self._scaler: deque[bool] = deque(maxlen=SCALER_STEPS)
        self._first_log_z: float | None = None
        self._stood_still = False
        self._ran_away: dict[str, Value] = {}
        self._sample: LayerSample | None = None

    def attach(self) -> None:
        """Begin to listen."""
        self._trainer.observers.append(self)
        if self._config.sample_every_steps:
            probe = LayerProbe(self._trainer, self._config.sample_every_steps, self.on_layers)
            self._trainer.train_step.probes.append(probe)

    def state(self) -> dict[str, Any]:
        """What a resumed run must remember, as JSON."""
        return {
            "said": sorted(self._said),
            "loss": self._loss.state_dict(),
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
        self._loss.load_state_dict(state["loss"])
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
        self._curve.on_step(metrics)

    def on_validation(self, step: int, validation: ValidationLoss, is_best: bool) -> None:
        """Ask whether it overfits."""
        self._curve.on_validation(step, validation)

    def on_event(self, step: int, event: str, details: Mapping[str, Any]) -> None:
        """Give what recovery did with memory its code."""
        if event == "out of memory":
            seen = {"step": details["at"], "micro_rows": details["before"]["micro_rows"]}
            done = ("less-memory",) if details["recovered"] else ()
            self._say(Finding("GG-MEM-012", "warning" if done else "fatal", seen, done=done))

    def on_replay(self, step: int, verdict: ReplayResult, done: Sequence[str]) -> None:
        """Say what a replay came to, and what was done."""
        self._say(finding_from_replay(step, verdict, done))

    def on_divergence(self, step: int, verdict: ReplayResult | None, done: Sequence[str]) -> None:
        """Say that the loss ran away, from what if that is known, and what was done."""
        severity: Severity = "warning" if done else "fatal"
        if verdict is None or verdict.cause != "weights":
            sure = verdict.confidence if verdict else 0.6
            ruled_out = ("GG-DIV-002",) if verdict else ()
            self._say(Finding("GG-DIV-001", severity, self._ran_away, sure, ruled_out, tuple(done)))
            return
        seen = {**self._ran_away, "parameter": verdict.parameters[0], "count": len(verdict.parameters)}
        self._say(Finding("GG-DIV-002", severity, seen, verdict.confidence, ("GG-DIV-001",), tuple(done)))

    def close(self) -> None:
        """Print the table of the last look, where layers are watched in full."""
        if self._sample is not None and self._config.watch == "full" and self._trainer.dist.is_main:
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
        self._loss = SpikeDetector()
        self._best_median = math.inf
        self._said.discard("GG-DIV-001")
        self._curve.forget_after(step)

    # Detectors

    def _watch_loss(self, metrics: StepMetrics) -> None:
        usual = self._loss.usual
        self._since_spike += 1
        if self._loss.see(metrics.loss):
            self._since_spike = 0
            self._find("GG-SPK-002", "warning", {"peak": metrics.loss, "usual": usual}, SURE_OF_SPIKE)
        self._recent.append(metrics.loss)
        if len(self._recent) < RECENT:
            return
        median = statistics.median(self._recent)
        self._best_median = min(self._best_median, median)
        far = median > self._best_median + max(RUN_AWAY_NATS, RUN_AWAY_SHARE * self._best_median)
        self._away = self._away + 1 if far else 0
        self._ran_away = {"median": median, "best": self._best_median}
        if self.diverging() and not self._config.recover:
            self._find("GG-DIV-001", "fatal", self._ran_away)

    def _watch_norm(self, metrics: StepMetrics) -> None:
        limit = self._trainer.config.train.clip_norm
        if not limit or metrics.step <= self._trainer.config.schedule.warmup_steps:
            return
        self._norms.append(metrics.grad_norm)
        share = sum(norm > limit for norm in self._norms) / CLIP_STEPS
        median = statistics.median(self._norms)
        if share >= CLIP_SHARE and median > CLIP_TIMES * limit:
            seen = {"share": 100 * share, "clip_norm": limit, "median": median, "wanted": float(f"{2 * median:.1g}")}
            self._find("GG-CLP-001", "note", seen)

    def _watch_scaler(self, metrics: StepMetrics) -> None:
        if not self._trainer.train_step.scaler.is_enabled():
            return
        self._scaler.append(metrics.skipped)
        if sum(self._scaler) >= SCALER_SHARE * SCALER_STEPS:
            self._find("GG-SCL-001", "warning", {"count": sum(self._scaler), "steps": len(self._scaler)})

    def on_layers(self, sample: LayerSample) -> None:
        """Ask every detector that lives on a look into the layers."""
        self._sample = sample
        if self._layers_file is not None and self._config.watch == "full" and self._trainer.dist.is_main:
            with open(self._layers_file, "a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(sample)) + "\n")
        self._watch_gradients(sample)
        if sample.step > self._trainer.config.schedule.warmup_steps + RECENT:
            self._watch_updates(sample)
            self._watch_activations(sample)

    def _watch_gradients(self, sample: LayerSample) -> None:
        cut_off = [name for name, norm in sample.gradients.items() if not norm and not _is_dead(name, sample)]
        if cut_off:
            self._find("GG-GRD-001", "warning", {"count": len(cut_off), "parameter": cut_off[0]})
            return
        norms = sample.block_gradients()
        large, small = max(norms), min(norms)
        if large > BLOCK_RATIO * small:
            seen = {"large": norms.index(large), "small": norms.index(small), "ratio": _times(large, small)}
            self._find("GG-GRD-005", "warning", seen)

    def _watch_updates(self, sample: LayerSample) -> None:
        ratio, train = sample.median_update(), self._trainer.config
        scheduled = learning_rate_ratio(train.schedule, sample.step, train.train.max_steps)
        if ratio > UPDATE_LARGEST:
            self._find("GG-UPD-001", "warning", {"ratio": ratio})
        elif ratio < UPDATE_SMALLEST * scheduled and (ratio > 0 or self._stood_still):
            self._find("GG-UPD-002", "warning", {"ratio": ratio})
        self._stood_still = ratio == 0  # once is no sign: a step that was queued behind a refused one moves nothing
        stale = statistics.median(sample.staleness.values()) if sample.staleness else 0.0
        if stale > STALE:
            self._find("GG-UPD-003", "note", {"ratio": stale})

    def _watch_activations(self, sample: LayerSample) -> None:
        heads = [entropy for block in sample.entropies for entropy in block]
        narrow = sum(entropy < ENTROPY_LEAST for entropy in heads)
        if narrow > ENTROPY_HEADS * len(heads):
            self._find("GG-ATT-001", "warning", {"share": 100 * narrow / len(heads)})
        self._largest(sample.scores, SCORE_MOST, "GG-ATT-002", "score")
        self._largest([100 * share for share in sample.dead], 100 * DEAD_SHARE, "GG-LAY-001", "share")
        growth = [_times(after, before) for before, after in pairwise(sample.residual[1:])]
        self._largest([0.0, *growth], RESIDUAL_GROWTH, "GG-LAY-002", "ratio")
        if sample.log_z is not None:
            self._first_log_z = sample.log_z if self._first_log_z is None else self._first_log_z
            if abs(sample.log_z - self._first_log_z) > LOG_Z_DRIFT:
                self._find("GG-LAY-003", "note", {"now": sample.log_z, "before": self._first_log_z})

    def _largest(self, by_block: list[float], limit: float, code: str, name: str) -> None:
        if by_block and max(by_block) > limit:
            self._find(code, "warning", {name: max(by_block), "block": by_block.index(max(by_block))})

    def _find(self, code: str, severity: Severity, seen: Mapping[str, Value], confidence: float = 1.0) -> None:
        """Say a finding, once."""
        if code not in self._said:
            self._said.add(code)
            self._say(Finding(code, severity, seen, confidence))

    def _say(self, finding: Finding) -> None:
        """Write a finding, and say it in one line."""
        self.found.append(finding)
        self._trainer.tell(EVENT, finding.to_json())
        title = describe(finding, terminal_language()).title
        say: Callable[[str], None] = console.info if finding.severity == "note" else console.warn
        at = "" if "step" in finding.seen else f" step {self._trainer.state.step:,}"  # else it is in the title
        say(f"{finding.code}{at}: {title} (glassgpt doctor {finding.code})")


def finding_from_replay(step: int, verdict: ReplayResult, done: Sequence[str] = ()) -> Finding:
    """What a replay of a step came to, with its code; no longer fatal where something was done about it."""
    seen: dict[str, Value] = {"step": step, "why": verdict.why.key, **verdict.why.seen}
    seen |= {"module": verdict.module.name if verdict.module else "(not seen)"}
    if verdict.rows:
        seen |= {"text": verdict.rows[0].text.replace("\n", "⏎"), "start": verdict.rows[0].start}
    others = tuple(dict.fromkeys(CODES[cause] for cause in verdict.causes_ruled_out()))
    severity: Severity = "warning" if done else "fatal"
    return Finding(CODES[verdict.cause], severity, seen, verdict.confidence, others, tuple(done))


def _times(after: float, before: float) -> float:
    """How many times as large; without end where it was nothing."""
    if before == 0:
        return math.inf if after else 1.0
    return after / before


def _is_dead(name: str, sample: LayerSample) -> bool:
    """Whether a parameter has no gradient because the units that it feeds are dead, which is found by itself."""
    place = name.split(".")
    return place[0] == "blocks" and place[2] in ("norm2", "mlp") and sample.dead[int(place[1])] > DEAD_SHARE


class _Find(Protocol):
    def __call__(self, code: str, severity: Severity, seen: Mapping[str, Value]) -> None: ...


class _Curve:
    """The curves so far: whether the loss stays where it is, and whether it overfits."""

    def __init__(self, trainer: Trainer, find: _Find) -> None:
        self._trainer, self._find = trainer, find
        self._steps: list[int] = []
        self._losses: list[float] = []
        self._rates: list[float] = []
        self._validations: list[Validation] = []
        self._ladder: NGramBaseline | None = None

    def on_step(self, metrics: StepMetrics) -> None:
        """Take a step in; at intervals, look at all of them."""
        self._steps.append(metrics.step)
        self._losses.append(metrics.loss)
        self._rates.append(metrics.learning_rate)
        train, warmup = self._trainer.config.train, self._trainer.config.schedule.warmup_steps
        long_enough = warmup + max(STALL_STEPS, STALL_SHARE * train.max_steps)
        if metrics.step % STALL_EVERY or metrics.step < long_enough:
            return
        stall = find_stall(self._steps, self._losses, self._rates, self.ladder, warmup_steps=warmup)
        if stall is not None:
            code = {"uniform": "GG-LAD-001", "unigram": "GG-LAD-002", "bigram": "GG-LAD-003"}[stall.rung]
            severity: Severity = "note" if stall.rung == "bigram" else "warning"
            seen = {"loss": stall.loss, "rung": getattr(self.ladder, stall.rung), "steps": stall.steps}
            self._find(code, severity, {**seen, "step": metrics.step, "rate": metrics.learning_rate})
        else:  # a rung says more than that the loss is level
            self._plateau()

    def _plateau(self) -> None:
        train, warmup = self._trainer.config.train, self._trainer.config.schedule.warmup_steps
        epoch = self._trainer.train_step.batches.windows_per_epoch * self._trainer.model.config.context_length
        found = find_plateau(
            self._steps,
            self._losses,
            self._rates,
            max_steps=train.max_steps,
            warmup_steps=warmup,
            epoch_steps=epoch / train.batch_tokens,
        )
        if found is not None and found.loss > self.ladder.bigram + ABOVE_PAIRS:
            fall = found.slope
            seen = {"slope": 1000 * fall.value, "low": 1000 * fall.low, "high": 1000 * fall.high}
            steps = found.last - found.first + 1
            self._find("GG-PLT-001", "note", {**seen, "loss": found.loss, "steps": steps})

    def on_validation(self, step: int, validation: ValidationLoss) -> None:
        """Take a validation in, and ask whether it overfits."""
        self._validations.append(Validation(step, validation.loss, validation.tokens))
        found = find_overfitting(self._validations, self._steps, self._losses)
        if found is not None and found.last.loss > found.best.loss + OVERFIT_NATS:
            seen = {"best_step": found.best.step, "best": found.best.loss, "last": found.last.loss}
            self._find("GG-OVF-001", "warning", {**seen, "evaluations": found.evaluations})

    def forget_after(self, step: int) -> None:
        """After a rewind."""
        kept = sum(one <= step for one in self._steps)
        for series in (self._steps, self._losses, self._rates):
            del series[kept:]
        self._validations = [one for one in self._validations if one.step <= step]

    @property
    def ladder(self) -> NGramBaseline:
        """Of the training text and the held-out one; counted when first needed."""
        if self._ladder is None:
            texts = (self._trainer.dataset.split("train"), self._trainer.dataset.split("validation"))
            train, held_out = (text.read(0, min(len(text), TOKENS_COUNTED)) for text in texts)
            self._ladder = ngram_baseline(train, held_out, self._trainer.model.config.vocab_size)
        return self._ladder


class _Speed:
    """Time and memory: what costs, without endangering the run."""

    def __init__(self, find: _Find, *, on_cpu: bool) -> None:
        self._find, self._on_cpu = find, on_cpu
        self._worked = time.process_time()
        self._first_work: list[float] = []
        self._work: deque[float] = deque(maxlen=SLOW_STEPS)
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
        before, self._worked = self._worked, time.process_time()
        self._work.append(self._worked - before)
        self._seconds.append(seconds)
        self._waits.append(metrics.data_seconds)
        self._starved()
        self._slower(seconds)
        if metrics.step % MEMORY_EVERY == 0:
            self._grows()
            self._recompiles()

    def _starved(self) -> None:
        if len(self._waits) == WAIT_STEPS and sum(self._waits) > WAIT_SHARE * sum(self._seconds):
            self._find("GG-SPD-002", "note", {"share": 100 * sum(self._waits) / sum(self._seconds)})

    def _slower(self, seconds: float) -> None:
        if len(self._first) < SLOW_AFTER + SLOW_STEPS:
            self._first.append(seconds)
            self._first_work.append(self._work[-1])
            return
        usual, now = statistics.median(self._first[SLOW_AFTER:]), statistics.median(self._seconds)
        if now > SLOW_RATIO * usual and now > usual + SLOW_SECONDS and not self._others_work():
            self._find("GG-SPD-001", "note", {"ratio": now / usual, "now": 1e3 * now, "before": 1e3 * usual})

    def _others_work(self) -> bool:
        """Whether this process does no more than before: it only waits for a CPU that others use as well."""
        usual = statistics.median(self._first_work[SLOW_AFTER:])
        return self._on_cpu and statistics.median(self._work) < SLOW_RATIO * usual

    def _recompiles(self) -> None:
        from torch._dynamo.utils import counters

        compiled = int(counters["stats"]["unique_graphs"])
        if self._compiled_at_first is None:
            self._compiled_at_first = compiled
        elif compiled - self._compiled_at_first >= RECOMPILES:
            self._find("GG-SPD-003", "note", {"count": compiled - self._compiled_at_first})

    def _grows(self) -> None:
        self._memory.append(_memory_in_use())
        memory = list(self._memory)
        rises = all(after > before for before, after in pairwise(memory))
        grown = memory[-1] - memory[0]
        if len(memory) == MEMORY_SAMPLES and rises and grown > max(MEMORY_LEAST, (MEMORY_GROWTH - 1) * memory[0]):
            self._find("GG-MEM-010", "warning", {"before": memory[0] / 1e9, "now": memory[-1] / 1e9})
        if torch.cuda.is_available():
            reserved, used = torch.cuda.memory_reserved(), torch.cuda.max_memory_allocated()
            if torch.cuda.memory_stats().get("num_alloc_retries", 0) > 0 and reserved > PIECES_RATIO * used:
                self._find("GG-MEM-011", "note", {"reserved": reserved / 1e9, "used": used / 1e9})


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
