"""Detectors on samples of every layer: gradients, updates, attention, units, the residual stream, logits."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar

from glassgpt.diagnosis.detectors.base import Detector, RunContext
from glassgpt.diagnosis.findings import Finding
from glassgpt.diagnosis.layer_sample import LayerSample
from glassgpt.training.custom_schedule import configured_ratio

CONFIDENCE = 0.9
"""Confidence in a cause that is read from a size alone: the size is certain, its cause only the usual one."""
DEAD_SHARE = 0.5
"""Share of dead units of a block. A fifth, the usual first threshold, was crossed by runs that learned well."""


class GradientFlowDetector(Detector):
    """Warns when parameters get no gradient, or blocks get gradients of very different size."""

    codes = ("GG-GRD-001", "GG-GRD-005")
    BLOCK_RATIO = 100.0
    """Largest over smallest gradient norm of a block: two orders of magnitude. Clipping follows the largest, so the
    smallest then hardly learns."""

    def on_layers(self, sample: LayerSample) -> Finding | None:
        """Return GG-GRD-001 for parameters without a gradient, else GG-GRD-005 for unbalanced blocks."""
        missing = [name for name, norm in sample.gradients.items() if not norm and not _is_dead(name, sample)]
        if missing:
            return Finding("GG-GRD-001", "warning", {"count": len(missing), "parameter": missing[0]})
        norms = sample.block_gradients()
        if not norms or max(norms) <= self.BLOCK_RATIO * min(norms):
            return None
        evidence = {
            "large": norms.index(max(norms)),
            "small": norms.index(min(norms)),
            "ratio": _ratio(max(norms), min(norms)),
        }
        return Finding("GG-GRD-005", "warning", evidence, CONFIDENCE)


def _is_dead(name: str, sample: LayerSample) -> bool:
    """Return whether a parameter has no gradient because the units it feeds are dead, which is a separate finding."""
    path = name.split(".")
    if path[0] != "blocks" or path[2:3] not in (["norm2"], ["mlp"]):
        return False
    block = int(path[1])
    return block < len(sample.dead) and sample.dead[block] > DEAD_SHARE


class SettledDetector(Detector):
    """Base of layer detectors that wait until warmup is over and the weights have settled."""

    SETTLING_STEPS: ClassVar[int] = 20

    def __init__(self, context: RunContext) -> None:
        self._first_step = context.warmup_steps + self.SETTLING_STEPS

    def on_layers(self, sample: LayerSample) -> Finding | None:
        """Process a sample, if it is late enough in the run."""
        return self.on_settled_layers(sample) if sample.step > self._first_step else None

    def on_settled_layers(self, sample: LayerSample) -> Finding | None:
        """Process a sample from well after warmup."""
        raise NotImplementedError


class UpdateSizeDetector(SettledDetector):
    """Warns when a step changes the weights by an unusual fraction of their norm."""

    codes = ("GG-UPD-001", "GG-UPD-002")
    LARGEST = 0.1
    """Median of RMS(update) / RMS(weights). 0.03 is a common limit, but good runs of `nano` reached 0.08."""
    SMALLEST = 1e-5
    """Lower limit at the peak learning rate: weights then take 100,000 steps to change by themselves once."""
    CONFIDENCE = 0.8
    """Many other faults change the size of an update."""

    def __init__(self, context: RunContext) -> None:
        super().__init__(context)
        self._config = context.config
        self._was_zero = False

    def on_settled_layers(self, sample: LayerSample) -> Finding | None:
        """Return GG-UPD-001 for updates that are too large, GG-UPD-002 for ones that are too small."""
        ratio = sample.median_update()
        scheduled = configured_ratio(self._config.schedule, sample.step, self._config.train.max_steps)
        # One update of exactly zero means nothing: a step that was queued behind a skipped one changes no weight.
        was_zero, self._was_zero = self._was_zero, ratio == 0
        if ratio > self.LARGEST:
            return Finding("GG-UPD-001", "warning", {"ratio": ratio}, self.CONFIDENCE)
        if ratio < self.SMALLEST * scheduled and (ratio > 0 or was_zero):
            return Finding("GG-UPD-002", "warning", {"ratio": ratio}, self.CONFIDENCE)
        return None

    def state_dict(self) -> dict[str, Any]:
        """See `Detector`."""
        return {"was_zero": self._was_zero}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Detector`."""
        self._was_zero = state["was_zero"]


class EpsilonDetector(Detector):
    """Warns when AdamW's epsilon is larger than the typical gradient of most parameters."""

    codes = ("GG-OPT-003",)
    RATIO = 1.0
    CONFIDENCE = 0.95

    def on_layers(self, sample: LayerSample) -> Finding | None:
        """Return GG-OPT-003 when the median over parameters is too large."""
        ratio = statistics.median(sample.epsilon.values()) if sample.epsilon else 0.0
        return Finding("GG-OPT-003", "warning", {"ratio": ratio}, self.CONFIDENCE) if ratio > self.RATIO else None


class StaleMomentsDetector(SettledDetector):
    """Reports a note when gradients are much larger than AdamW's running mean of their squares suggests.

    Only dense parameters are sampled: the row of a rare token in an embedding or head has next to no gradient most of
    the time, so its mean is always out of date, in good runs too.
    """

    codes = ("GG-UPD-003",)
    RATIO = 5.0
    """Wortsman et al. 2023 (section 3.4) warn at 2.3; good runs of `nano` reached 3.1 early on."""

    def on_settled_layers(self, sample: LayerSample) -> Finding | None:
        """Return GG-UPD-003 when the median over dense parameters is too large."""
        ratio = statistics.median(sample.staleness.values()) if sample.staleness else 0.0
        return Finding("GG-UPD-003", "note", {"ratio": ratio}) if ratio > self.RATIO else None


class AttentionEntropyDetector(SettledDetector):
    """Warns when most heads attend to a single position."""

    codes = ("GG-ATT-001",)
    ENTROPY, SHARE = 0.05, 0.5
    """Share of heads with less than this share of the possible entropy. Single heads of good models do that; half of
    them pass hardly any gradient on."""

    def on_settled_layers(self, sample: LayerSample) -> Finding | None:
        """Return GG-ATT-001 when too many heads are too narrow."""
        heads = [entropy for block in sample.entropies for entropy in block]
        narrow = sum(entropy < self.ENTROPY for entropy in heads)
        if narrow <= self.SHARE * len(heads):
            return None
        return Finding("GG-ATT-001", "warning", {"share": 100 * narrow / len(heads)}, CONFIDENCE)


class AttentionScoreDetector(SettledDetector):
    """Warns when attention scores are so large that softmax is one-hot."""

    codes = ("GG-ATT-002",)
    SCORE = 1000.0
    """Softmax is one-hot far below it; good runs crossed 50, a common first limit. float16 ends at 65,504."""

    def on_settled_layers(self, sample: LayerSample) -> Finding | None:
        """Return GG-ATT-002 with the block of the largest score."""
        return _largest("GG-ATT-002", "score", sample.scores, self.SCORE)


class DeadUnitsDetector(SettledDetector):
    """Warns when most MLP units of a block never respond."""

    codes = ("GG-LAY-001",)

    def on_settled_layers(self, sample: LayerSample) -> Finding | None:
        """Return GG-LAY-001 with the block that has the most dead units."""
        return _largest("GG-LAY-001", "share", [100 * share for share in sample.dead], 100 * DEAD_SHARE)


class ClippedActivationsDetector(Detector):
    """Warns when activations of an MLP exceed what products in 8 bits represent, so that training clips them."""

    codes = ("GG-LAY-004",)
    LIMIT = 1792.0
    """The largest number of E4M3 over `training.fp8.linear.ACTIVATION_SCALE`."""

    def __init__(self, context: RunContext) -> None:
        train = context.config.train
        self._last_step = train.fp8_steps if train.fp8 in ("mlp", "all") else 0

    def on_layers(self, sample: LayerSample) -> Finding | None:
        """Return GG-LAY-004 with the block of the largest activation."""
        largest = max(sample.activations, default=0.0)
        if sample.step > self._last_step or largest <= self.LIMIT:
            return None
        evidence = {"value": largest, "block": sample.activations.index(largest), "limit": self.LIMIT}
        return Finding("GG-LAY-004", "warning", evidence, CONFIDENCE)


class ResidualGrowthDetector(SettledDetector):
    """Warns when the residual stream grows by orders of magnitude in one block."""

    codes = ("GG-LAY-002",)
    RATIO = 100.0
    """Growth from one block to the next; the first block, which adds to bare embeddings, is not judged. Good runs
    crossed ten."""

    def on_settled_layers(self, sample: LayerSample) -> Finding | None:
        """Return GG-LAY-002 with the block of the largest growth."""
        growth = [_ratio(after, before) for before, after in pairwise(sample.residual[1:])]
        return _largest("GG-LAY-002", "ratio", [0.0, *growth], self.RATIO)


class LogitDriftDetector(SettledDetector):
    """Reports a note when the log-sum-exp of the logits drifts far from its early value."""

    codes = ("GG-LAY-003",)
    DRIFT = 20.0
    """Nats from the first sample. Softmax ignores a common shift, but bfloat16 resolves only 0.125 at 20."""

    def __init__(self, context: RunContext) -> None:
        super().__init__(context)
        self._first: float | None = None

    def on_settled_layers(self, sample: LayerSample) -> Finding | None:
        """Return GG-LAY-003 when the drift is too large."""
        if sample.log_z is None:
            return None
        self._first = sample.log_z if self._first is None else self._first
        if abs(sample.log_z - self._first) <= self.DRIFT:
            return None
        return Finding("GG-LAY-003", "note", {"now": sample.log_z, "before": self._first})

    def state_dict(self) -> dict[str, Any]:
        """See `Detector`."""
        return {"first": self._first}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Detector`."""
        self._first = state["first"]


def _largest(code: str, name: str, by_block: Sequence[float], limit: float) -> Finding | None:
    """Return a warning with the block of the largest value, if it exceeds the limit."""
    if not by_block or max(by_block) <= limit:
        return None
    return Finding(code, "warning", {name: max(by_block), "block": by_block.index(max(by_block))}, CONFIDENCE)


def _ratio(after: float, before: float) -> float:
    """Return after / before; infinite where only `before` is zero."""
    if before == 0:
        return math.inf if after else 1.0
    return after / before
