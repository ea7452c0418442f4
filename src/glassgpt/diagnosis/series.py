"""Detectors on series of figures. Pure: numbers in, findings' evidence out; used while training and on a dead run's files.

Whatever is not finite never enters a window: a NaN would blind its statistics for good.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MAD_TO_SIGMA = 1.4826
"""Standard deviations in a median absolute deviation, for a normal distribution."""
SPIKE_WINDOW = 128
SPIKE_SIGMAS = 6.0
SPIKE_NATS = 0.3
LEAST_FOR_SPIKES = 32
"""Accepted steps before the first judgement, and those whose median is the level: a median of fewer is chance."""
LASTING_STEPS = 64
"""Steps in a row above the threshold after which it is no spike any more but the new level."""
HIGH_RATE = 0.5
"""Share of the peak rate below which a schedule explains a loss that no longer falls."""
PLATEAU_STEPS = 500
PLATEAU_SHARE = 0.05
BOOTSTRAP_BINS = 40
BOOTSTRAP_DRAWS = 2000
STALLED_NATS = 0.1
"""A loss that fell by less since the middle of the steps at a high rate has stalled."""
RUNG_NATS = 0.1
SLOWDOWN_WINDOW = 50
SLOWDOWN_RATIO = 1.3
OVERFIT_EVALUATIONS = 3


@dataclass(frozen=True)
class Robust:
    """Statistics of a window that a single wild value does not move.

    Attributes:
        median: the middle.
        sigma: 1.4826 times the median absolute deviation, the standard deviation if the values were normal.
    """

    median: float
    sigma: float


def robust(values: Sequence[float] | Floats) -> Robust:
    """Median and robust standard deviation; values that are not finite are left out.

    Raises:
        ValueError: there is no finite value.
    """
    finite = _finite(values)
    if not len(finite):
        raise ValueError("there is no finite value")
    median = float(np.median(finite))
    return Robust(median, MAD_TO_SIGMA * float(np.median(np.abs(finite - median))))


def _finite(values: Sequence[float] | Floats) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    return array[np.isfinite(array)]


class SpikeDetector:
    """Tells whether a loss stands out from the accepted ones before it.

    The level is the median of the last 32 accepted log-losses, the spread 1.4826 times the median absolute deviation
    of all 128 from the line through them: without the line, a loss that falls fast would count as widely spread, and
    a jump on it as usual. A spike is not accepted, so that a second one cannot hide behind a first; but what stays up
    for `LASTING_STEPS` steps is the new level, and the window begins again there.

    Args:
        window: accepted steps that are remembered.
    """

    def __init__(self, window: int = SPIKE_WINDOW) -> None:
        self._accepted: deque[float] = deque(maxlen=window)
        self._refused: list[float] = []

    @property
    def usual(self) -> float:
        """Median of the newest accepted losses in nats; NaN before there are any."""
        recent = list(self._accepted)[-LEAST_FOR_SPIKES:]
        return math.exp(float(np.median(recent))) if recent else math.nan

    @property
    def threshold(self) -> float:
        """Nats above which the next loss is a spike; infinite while too little is known."""
        if len(self._accepted) < LEAST_FOR_SPIKES:
            return math.inf
        spread = robust(_without_trend(np.array(self._accepted))).sigma
        return max(self.usual * math.exp(min(SPIKE_SIGMAS * spread, 500.0)), self.usual + SPIKE_NATS)

    def see(self, loss: float) -> bool:
        """Whether this loss (nats, of the next step) is a spike; one that is not finite is, and never accepted."""
        if not math.isfinite(loss):
            return True
        if loss <= self.threshold:
            self._accepted.append(_log(loss))
            self._refused.clear()
            return False
        self._refused.append(_log(loss))
        if len(self._refused) >= LASTING_STEPS:
            self._accepted.clear()
            self._accepted.extend(self._refused)
            self._refused.clear()
        return True

    def state_dict(self) -> dict[str, list[float]]:
        """The windows, as JSON, for a checkpoint."""
        return {"accepted": list(self._accepted), "refused": list(self._refused)}

    def load_state_dict(self, state: dict[str, list[float]]) -> None:
        """Undo `state_dict`."""
        self._accepted = deque(state["accepted"], maxlen=self._accepted.maxlen)
        self._refused = list(state["refused"])


def _without_trend(values: Floats) -> Floats:
    """What is left of a series beside the straight line through it."""
    at = np.arange(len(values)) - (len(values) - 1) / 2
    centred = values - values.mean()
    return centred - at * (at @ centred) / (at @ at)


def _log(loss: float) -> float:
    return math.log(max(loss, 1e-12))


@dataclass(frozen=True)
class Spike:
    """Steps in a row whose loss stood out.

    Attributes:
        step: the first of them.
        peak: the highest loss; infinite or NaN if one was not finite.
        peak_step: where it was.
        usual: median of the accepted losses before.
        steps: how many.
        lasting: whether it reached the end of the series or became the new level.
    """

    step: int
    peak: float
    peak_step: int
    usual: float
    steps: int
    lasting: bool


def find_spikes(steps: Sequence[int], losses: Sequence[float]) -> list[Spike]:
    """All spikes of a series of training losses."""
    detector = SpikeDetector()
    found: list[Spike] = []
    at: list[int] = []
    usual = math.nan
    for i, loss in enumerate(losses):
        before = detector.usual
        if detector.see(loss):
            usual = usual if at else before
            at.append(i)
        elif at:
            found.append(_spike(steps, losses, at, usual, lasting=False))
            at = []
    return [*found, *([_spike(steps, losses, at, usual, lasting=True)] if at else [])]


def _spike(steps: Sequence[int], losses: Sequence[float], at: list[int], usual: float, *, lasting: bool) -> Spike:
    peak = max(at, key=lambda i: losses[i] if math.isfinite(losses[i]) else math.inf)
    return Spike(steps[at[0]], losses[peak], steps[peak], usual, len(at), lasting or len(at) >= LASTING_STEPS)


@dataclass(frozen=True)
class Slope:
    """How a series falls.

    Attributes:
        value: nats a step, negative when it falls.
        low: lower end of the 95 % interval.
        high: upper end of it.
    """

    value: float
    low: float
    high: float

    @property
    def is_flat(self) -> bool:
        """Whether the interval holds 0 or lies above it: nothing says that the series falls."""
        return self.high >= 0


def slope(steps: Sequence[int], losses: Sequence[float], *, seed: int = 0) -> Slope:
    """Slope of the log-loss with a bootstrap interval, given in nats a step at the median loss.

    Steps are averaged in bins first, so that what is drawn is nearly independent although neighbouring steps are
    not; then pairs (step, log-loss) are drawn with replacement (Efron 1979).

    Raises:
        ValueError: there are fewer than two finite losses.
    """
    x, y = np.asarray(steps, dtype=np.float64), np.asarray(losses, dtype=np.float64)
    good = np.isfinite(y)
    x, y = x[good], np.log(np.maximum(y[good], 1e-12))
    if len(x) < 2:
        raise ValueError("a slope needs two finite losses")
    bins = np.array_split(np.arange(len(x)), min(BOOTSTRAP_BINS, len(x)))
    x, y = (np.array([part[chosen].mean() for chosen in bins]) for part in (x, y))
    drawn = np.random.default_rng(seed).integers(len(x), size=(BOOTSTRAP_DRAWS, len(x)))
    slopes = _least_squares(x[drawn], y[drawn])
    scale = math.exp(float(np.median(y)))
    low, high = np.nanpercentile(slopes, (2.5, 97.5))
    return Slope(float(_least_squares(x[None], y[None])[0]) * scale, float(low) * scale, float(high) * scale)


def _least_squares(x: Floats, y: Floats) -> Floats:
    """Slopes of y over x, each (draws, bins) -> (draws,); NaN where all x of a draw are the same."""
    dx, dy = x - x.mean(axis=1, keepdims=True), y - y.mean(axis=1, keepdims=True)
    spread = (dx * dx).sum(axis=1)
    return np.divide((dx * dy).sum(axis=1), spread, out=np.full(len(x), np.nan), where=spread > 0)


@dataclass(frozen=True)
class Plateau:
    """A stretch in which the loss did not fall although the rate was high.

    Attributes:
        first: its first step.
        last: its last step.
        loss: median over it.
        slope: of the loss over it.
    """

    first: int
    last: int
    loss: float
    slope: Slope


def find_plateau(
    steps: Sequence[int],
    losses: Sequence[float],
    rates: Sequence[float],
    *,
    max_steps: int,
    warmup_steps: int,
    epoch_steps: float = math.inf,
) -> Plateau | None:
    """The last stretch at a high rate, if the loss no longer fell in it.

    Left out is what a schedule explains: the warmup, and the steps whose rate is below half of the peak. The stretch
    is 500 steps or a twentieth of the run, whichever is longer, and at least a whole epoch where the text is read
    several times, because the loss drops at the beginning of each. Too short a run is not judged.

    Args:
        steps: numbers of the steps.
        losses: training losses.
        rates: learning rates.
        max_steps: how long the run is meant to be.
        warmup_steps: steps of warmup.
        epoch_steps: steps in which the text is read once.
    """
    chosen = high_rate_steps(steps, rates, warmup_steps)
    length = max(PLATEAU_STEPS, PLATEAU_SHARE * max_steps, epoch_steps if epoch_steps < max_steps / 2 else 0)
    window = chosen[-math.ceil(length) :]
    if len(window) < length:
        return None
    x, y = [steps[i] for i in window], [losses[i] for i in window]
    found = slope(x, y)
    return Plateau(x[0], x[-1], robust(y).median, found) if found.is_flat else None


def high_rate_steps(steps: Sequence[int], rates: Sequence[float], warmup_steps: int) -> list[int]:
    """Indices of the steps after warmup whose rate is at least half of the highest."""
    peak = max(rates, default=0.0)
    return [i for i, step in enumerate(steps) if step > warmup_steps and rates[i] >= HIGH_RATE * peak]


@dataclass(frozen=True)
class NGramBaseline:
    """What knowing little of a text costs, in nats per token: rungs that a loss is held against.

    Attributes:
        uniform: every token equally probable, ln V.
        unigram: by the frequencies of tokens.
        bigram: by the frequencies of pairs of tokens.
    """

    uniform: float
    unigram: float
    bigram: float

    def rung(self, loss: float) -> str:
        """The lowest rung that the loss has not passed: `uniform`, `unigram`, `bigram`, or `` below all of them.

        A loss counts as on a rung up to 0.1 nats above it and, because what a network makes of counts may be a little
        better than smoothing them, 0.05 below. Rungs that lie so close together cannot be told apart: then it is the
        lowest of them.
        """
        rungs = {name: getattr(self, name) for name in ("bigram", "unigram", "uniform")}
        near = [name for name, value in rungs.items() if value - RUNG_NATS / 2 <= loss <= value + RUNG_NATS]
        above = [name for name, value in rungs.items() if loss > value]
        return near[0] if near else above[-1] if above else ""


def ngram_baseline(train: NDArray[np.int64], validation: NDArray[np.int64], vocab_size: int) -> NGramBaseline:
    """The ladder of a text: what models of each kind, made from `train`, pay for `validation`.

    Entropies of the counts themselves would be far too low for pairs, most of which occur once. So the pairs are
    smoothed with the frequencies, and these with the uniform distribution (Witten and Bell 1991, method C), and both
    pay for text that they have not seen.

    Args:
        train: (N,) tokens that are counted.
        validation: (M,) tokens that are paid for, at least 2.
        vocab_size: V.
    """
    counts = np.bincount(train, minlength=vocab_size).astype(np.float64)
    kinds = np.count_nonzero(counts)
    unigram = (counts + kinds / vocab_size) / (len(train) + kinds)
    pair_counts, totals, followers = _pairs(train, validation, vocab_size)
    before, after = validation[:-1], validation[1:]
    smoothed = pair_counts + followers[before] * unigram[after]
    bigram = smoothed / np.maximum(totals[before] + followers[before], 1e-12)
    bigram = np.where(totals[before] > 0, bigram, unigram[after])
    return NGramBaseline(
        math.log(vocab_size), float(-np.log(unigram[after]).mean()), float(-np.log(np.maximum(bigram, 1e-300)).mean())
    )


def _pairs(train: NDArray[np.int64], text: NDArray[np.int64], vocab_size: int) -> tuple[Floats, Floats, Floats]:
    """How often each pair of `text` occurs in `train`; and for each token how many pairs, and kinds of, it begins."""
    pairs, counts = np.unique(train[:-1] * vocab_size + train[1:], return_counts=True)
    first = pairs // vocab_size
    totals = np.bincount(first, weights=counts, minlength=vocab_size).astype(np.float64)
    followers = np.bincount(first, minlength=vocab_size).astype(np.float64)
    asked = text[:-1] * vocab_size + text[1:]
    at = np.minimum(np.searchsorted(pairs, asked), len(pairs) - 1)
    return np.where(pairs[at] == asked, counts[at], 0).astype(np.float64), totals, followers


@dataclass(frozen=True)
class Stall:
    """A loss that came to a rung and stayed.

    Attributes:
        rung: of the ladder.
        loss: median at the end.
        steps: how long it stayed.
    """

    rung: str
    loss: float
    steps: int


def find_stall(
    steps: Sequence[int], losses: Sequence[float], rates: Sequence[float], ladder: NGramBaseline, *, warmup_steps: int
) -> Stall | None:
    """Whether the loss stands on a rung of the ladder and hardly moved over the second half at a high rate.

    A run that only passes a rung on its way down is none. Fewer than 100 steps are not judged.
    """
    chosen = high_rate_steps(steps, rates, warmup_steps)
    half = chosen[len(chosen) // 2 :]
    if len(half) < 50:
        return None
    quarter = max(10, len(half) // 4)
    start, end = ([losses[i] for i in part] for part in (half[:quarter], half[-quarter:]))
    first, last = robust(start).median, robust(end).median
    rung = ladder.rung(last)
    return Stall(rung, last, len(half)) if rung and first - last < STALLED_NATS else None


@dataclass(frozen=True)
class Validation:
    """One evaluation.

    Attributes:
        step: when.
        loss: nats per token.
        tokens: how many were looked at.
    """

    step: int
    loss: float
    tokens: int

    @property
    def standard_error(self) -> float:
        """Of the loss, in nats. A token's nats are spread about as widely as their mean is high."""
        return self.loss / math.sqrt(max(1, self.tokens))


@dataclass(frozen=True)
class Overfit:
    """Validation that got worse while training got better.

    Attributes:
        best: the best evaluation.
        last: the newest.
        evaluations: how many at the end are all above best + 2 SE.
    """

    best: Validation
    last: Validation
    evaluations: int


def find_overfitting(
    validations: Sequence[Validation], steps: Sequence[int], losses: Sequence[float]
) -> Overfit | None:
    """Whether the last three or more evaluations are all above the best + 2 SE while the training loss fell."""
    finite = [one for one in validations if math.isfinite(one.loss)]
    if not finite:
        return None
    best = min(finite, key=lambda one: one.loss)
    limit = best.loss + 2 * best.standard_error
    later = [one for one in finite if one.step > best.step]
    above = 0
    while above < len(later) and later[-1 - above].loss > limit:
        above += 1
    if above < OVERFIT_EVALUATIONS or not _fell(steps, losses, best.step):
        return None
    return Overfit(best, finite[-1], above)


def _fell(steps: Sequence[int], losses: Sequence[float], since: int) -> bool:
    """Whether the training loss is lower at the end than around a step."""
    at = int(np.searchsorted(np.asarray(steps), since))
    width = max(1, min(50, (len(steps) - at) // 2))
    around = _finite(losses[max(0, at - width) : at + 1])
    end = _finite(losses[-width:])
    return bool(len(around) and len(end) and np.median(end) < np.median(around))


@dataclass(frozen=True)
class Slowdown:
    """Steps that became slower.

    Attributes:
        before: median seconds a step in the fastest stretch.
        now: median seconds of the last steps.
    """

    before: float
    now: float

    @property
    def ratio(self) -> float:
        """How many times slower."""
        return self.now / self.before


def find_slowdown(durations: Sequence[float]) -> Slowdown | None:
    """Whether the median of the last 50 steps is above 1.3 times that of the fastest 50 before, and stays there.

    It must last: the 50 before the last 50 are slow as well.

    Args:
        durations: seconds of each step.
    """
    times = _finite(durations)[1:]  # the first one compiles, allocates and reads what later steps find ready
    if len(times) < 4 * SLOWDOWN_WINDOW:
        return None
    medians = [float(np.median(part)) for part in np.array_split(times, len(times) // SLOWDOWN_WINDOW)]
    before, now = min(medians[:-2]), medians[-1]
    lasts = min(medians[-2:]) > SLOWDOWN_RATIO * before
    return Slowdown(before, now) if before > 0 and lasts else None


@dataclass(frozen=True)
class Clipping:
    """How gradients relate to the clip.

    Attributes:
        share: of the steps after warmup whose norm was above the clip, in [0, 1].
        median: norm, before clipping.
    """

    share: float
    median: float


def clipping(steps: Sequence[int], norms: Sequence[float], clip_norm: float, *, warmup_steps: int) -> Clipping | None:
    """Share of clipped steps after warmup; None without clipping or without such steps."""
    after = _finite([norm for step, norm in zip(steps, norms, strict=True) if step > warmup_steps])
    if clip_norm <= 0 or not len(after):
        return None
    return Clipping(float((after > clip_norm).mean()), float(np.median(after)))
