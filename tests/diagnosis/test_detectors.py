"""Each detector fires on the series it is made for and stays silent on healthy ones, both live and from files."""

import dataclasses
import json
import math

import numpy as np
import pytest
from diagnosis_helpers import small_batch_config
from hypothesis import given, settings
from hypothesis import strategies as st

from glassgpt.diagnosis.catalogue import entries
from glassgpt.diagnosis.detectors.base import RunContext
from glassgpt.diagnosis.detectors.divergence import DivergenceDetector
from glassgpt.diagnosis.detectors.layers import ClippedActivationsDetector, EpsilonDetector
from glassgpt.diagnosis.detectors.loss_spike import LossSpikeDetector, OutlierFilter, find_spikes
from glassgpt.diagnosis.detectors.overfitting import OverfittingDetector
from glassgpt.diagnosis.detectors.process import MemoryGrowthDetector
from glassgpt.diagnosis.detectors.speed import DataWaitDetector, SlowdownDetector
from glassgpt.diagnosis.detectors.stagnation import StagnationDetector, find_plateau, find_stall
from glassgpt.diagnosis.detectors.suite import DETECTOR_CLASSES, DETECTOR_CODES, DetectorSet, run_detectors
from glassgpt.diagnosis.detectors.validation_gap import UnrelatedValidationDetector
from glassgpt.diagnosis.layer_sample import LayerSample
from glassgpt.diagnosis.ngram_baseline import NGramBaseline
from glassgpt.diagnosis.series import Validation
from glassgpt.training.observers import StepMetrics

BASELINE = NGramBaseline(uniform=5.55, unigram=2.9, bigram=2.1)


def context(max_steps=1000, on_cpu=True, **train):
    config = small_batch_config(max_steps=max_steps, **train)
    config = dataclasses.replace(config, schedule=dataclasses.replace(config.schedule, warmup_steps=10))
    return RunContext(config, on_cpu, math.inf, lambda: BASELINE)


def metrics(step, loss=2.0, norm=0.5, rate=1e-3, seconds=None, **more):
    seconds = 0.1 * step if seconds is None else seconds
    return StepMetrics(step, float(loss), float(rate), float(norm), 256 * step, float(seconds), 1e3, None, **more)


def feed(detector, losses, **more):
    """Findings of a detector on a series of losses, one for each code."""
    found = [detector.on_step(metrics(step, loss, **more)) for step, loss in enumerate(losses, start=1)]
    return list({finding.code: finding for finding in reversed(found) if finding is not None}.values())[::-1]


def curve(n, start=5.5, end=1.5, noise=0.03, seed=0):
    """A healthy training loss: a power law with noise."""
    steps = np.arange(1, n + 1)
    clean = end + (start - end) * (1 + steps / 20) ** -0.6
    return clean * np.exp(np.random.default_rng(seed).normal(0, noise, n))


def flat(n, level=2.0, seed=1):
    return level + np.random.default_rng(seed).normal(0, 0.05, n)


# Spikes


@given(st.integers(0, 200), st.floats(0.005, 0.08))
@settings(max_examples=40, deadline=None)
def test_healthy_loss_has_no_spike(seed, noise):
    losses = curve(600, noise=noise, seed=seed)
    assert find_spikes(range(1, 601), losses) == []


def test_spike_is_found_with_its_height_and_length():
    losses = curve(600)
    losses[300:304] *= 2
    (spike,) = find_spikes(range(1, 601), losses)
    assert (spike.step, spike.steps, spike.is_lasting) == (301, 4, False)
    assert spike.peak == losses[300:304].max()
    assert spike.level == pytest.approx(np.median(losses[268:300]), rel=0.001)


def test_second_spike_does_not_hide_behind_the_first():
    losses = curve(600)
    losses[300:340] *= 3
    losses[345] *= 2
    assert [spike.step for spike in find_spikes(range(1, 601), losses)] == [301, 346]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_non_finite_loss_is_a_spike_and_does_not_enter_the_window(value):
    losses = curve(600)
    losses[300] = value
    losses[310] *= 2
    spikes = find_spikes(range(1, 601), losses)
    assert [spike.step for spike in spikes] == [301, 311]
    assert not math.isfinite(spikes[0].peak)


def test_jump_of_a_fast_falling_loss_is_found():
    losses = np.exp(np.linspace(1.5, -1, 200)) * np.exp(np.random.default_rng(0).normal(0, 0.05, 200))
    assert find_spikes(range(200), losses) == []
    losses[150] += 1.5
    assert [spike.step for spike in find_spikes(range(200), losses)] == [150]


def test_small_bump_of_a_quiet_loss_is_not_a_spike():
    losses = np.full(300, 2.0)
    losses[200] = 2.0 + 0.9 * OutlierFilter.MIN_NATS
    assert find_spikes(range(300), losses) == []
    losses[200] = 2.0 + 1.1 * OutlierFilter.MIN_NATS
    assert len(find_spikes(range(300), losses)) == 1


def test_single_spike_that_comes_back_is_a_note():
    losses = curve(600)
    losses[300:304] *= 6
    (finding,) = feed(LossSpikeDetector(), losses)
    assert (finding.code, finding.severity) == ("GG-SPK-002", "note")


def test_spike_that_lasts_is_a_warning():
    detector = LossSpikeDetector()
    jump, lasting = feed(detector, np.concatenate([curve(300), np.full(300, 6.0)]))
    assert (jump.code, lasting.code, lasting.severity) == ("GG-SPK-002", "GG-SPK-001", "warning")
    assert (lasting.evidence["lasting"], lasting.evidence["recovered"]) == (1, 0)
    assert detector.count == 1  # what stays up is the new level


def test_spikes_that_recur_are_a_warning():
    losses = curve(900)
    losses[[300, 400, 500]] *= 2
    _, recurring = feed(LossSpikeDetector(), losses)
    assert (recurring.code, recurring.evidence["count"], recurring.evidence["recovered"]) == ("GG-SPK-001", 3, 3)


def test_spikes_far_apart_do_not_recur():
    losses = curve(2000)
    losses[[300, 900, 1500]] *= 2
    assert [finding.code for finding in feed(LossSpikeDetector(), losses)] == ["GG-SPK-002"]


def test_spikes_before_a_rollback_do_not_count():
    losses = curve(900)
    losses[[300, 400]] *= 2
    detector = LossSpikeDetector()
    feed(detector, losses[:450])
    detector.forget_after(350)
    found = [detector.on_step(metrics(step, losses[step - 1])) for step in range(351, 900)]
    assert [finding.code for finding in found if finding] == ["GG-SPK-002"]


# Divergence


def text_and_captions(n, seed, rows=4, share=0.2):
    """Losses of small batches of rows of text (2.4 nats per token, 1,000 tokens) and of captions (0.05 nats, 100)."""
    count = np.random.default_rng(seed).binomial(rows, share, n)
    return (2400 * count + 5 * (rows - count)) / (1000 * count + 100 * (rows - count))


@pytest.mark.parametrize("seed", range(5))
def test_batches_that_differ_are_no_divergence(seed):
    losses = text_and_captions(4000, seed)
    assert feed(DivergenceDetector(), losses) == []
    (found,) = feed(DivergenceDetector(), np.concatenate([losses, losses[:60] + 4]))
    assert (found.code, found.severity) == ("GG-DIV-001", "fatal")


def test_spikes_around_the_best_median_do_not_hide_a_divergence():
    losses = np.concatenate([curve(400), flat(60, 4.0)])
    losses[[390, 395]] = 9
    assert [finding.code for finding in feed(DivergenceDetector(), losses)] == ["GG-DIV-001"]


# Stagnation


def test_plateau_at_a_high_rate_is_found():
    losses = np.concatenate([curve(500, end=2.0), flat(700)])
    found = find_plateau(range(1, 1201), losses, np.ones(1200), max_steps=1200, warmup_steps=50)
    assert found is not None
    assert found.first == 701
    assert found.loss == pytest.approx(2.0, abs=0.02)


def test_falling_loss_is_not_a_plateau():
    losses = 4 * np.arange(1, 2001) ** -0.1
    losses += np.random.default_rng(0).normal(0, 0.05, 2000)
    assert find_plateau(range(1, 2001), losses, np.ones(2000), max_steps=2000, warmup_steps=50) is None


def test_level_loss_that_the_schedule_explains_is_not_a_plateau():
    """Flat while warming up or at the end of the decay, falling between."""
    falling = np.linspace(4, 3, 700)
    losses = np.concatenate([flat(600, 4.0), falling + flat(700, 0.0), flat(600, 3.0)])
    rates = np.concatenate([np.full(600, 0.1), np.ones(700), np.full(600, 0.05)])
    assert find_plateau(range(1, 1901), losses, rates, max_steps=1900, warmup_steps=600) is None


def test_short_run_is_not_judged_for_a_plateau():
    assert find_plateau(range(1, 301), flat(300), np.ones(300), max_steps=300, warmup_steps=0) is None


def test_loss_that_falls_in_steps_by_epoch_is_not_a_plateau():
    """Flat inside each epoch of 900 steps, lower in the next."""
    losses = np.concatenate([flat(900, level) for level in (5, 4, 3)])
    steps, rates = range(1, 2701), np.ones(2700)
    assert find_plateau(steps, losses, rates, max_steps=2700, warmup_steps=0) is not None
    assert find_plateau(steps, losses, rates, max_steps=2700, warmup_steps=0, epoch_steps=1200) is None


@pytest.mark.parametrize("name", ["uniform", "unigram", "bigram"])
def test_loss_that_stays_at_a_baseline_has_stalled(name):
    level = BASELINE.value(name)
    losses = np.concatenate([np.linspace(6, level, 100), flat(300, level + 0.05)])
    found = find_stall(range(1, 401), losses, np.ones(400), BASELINE, warmup_steps=20)
    assert found is not None
    assert found.baseline == name


def test_loss_above_the_uniform_baseline_has_stalled_at_it():
    assert find_stall(range(400), flat(400, 9.0), np.ones(400), BASELINE, warmup_steps=0).baseline == "uniform"


@given(st.integers(0, 100))
@settings(max_examples=30, deadline=None)
def test_healthy_loss_only_passes_the_baselines(seed):
    losses, steps = curve(800, end=1.2, seed=seed), np.arange(800)
    rates = np.where(steps < 50, (steps + 1) / 51, 0.55 + 0.45 * np.cos(np.pi * steps / 800))
    assert find_stall(range(1, 801), losses, rates, BASELINE, warmup_steps=50) is None


def test_loss_on_its_way_down_has_not_stalled():
    """It is at the unigram baseline only now, and falling."""
    assert find_stall(range(400), np.linspace(5.5, 2.9, 400), np.ones(400), BASELINE, warmup_steps=20) is None


@pytest.mark.parametrize(
    ("level", "ruled_out"),
    [(5.55, ()), (2.9, ("GG-LAD-001",)), (2.1, ("GG-LAD-001", "GG-LAD-002"))],
)
def test_only_baselines_clearly_above_the_loss_are_ruled_out(level, ruled_out):
    (finding,) = feed(StagnationDetector(context()), flat(400, level))
    assert finding.ruled_out == ruled_out


def test_baselines_close_together_are_not_ruled_out():
    """Random text: standing at the lowest baseline does not rule out the others."""
    close = dataclasses.replace(context(), baseline=lambda: NGramBaseline(5.55, 5.53, 5.50))
    (finding,) = feed(StagnationDetector(close), flat(400, 5.52))
    assert (finding.code, finding.ruled_out) == ("GG-LAD-003", ())


@pytest.mark.parametrize(("first", "codes"), [(9.0, []), (5.6, ["GG-LAD-001"])])
def test_loaded_weights_that_start_above_a_uniform_guess_are_learning(first, codes):
    """A short fine-tuning on another language may end where an untrained model begins."""
    detector = StagnationDetector(context(max_steps=160))
    assert [finding.code for finding in feed(detector, np.linspace(first, 5.6, 160))] == codes


def test_long_runs_are_judged_from_means_of_several_steps():
    detector = StagnationDetector(context(max_steps=50_000))
    losses = np.concatenate([np.linspace(6, 2.9, 1000), flat(6000, 2.9)])
    (finding,) = feed(detector, losses)
    assert finding.code == "GG-LAD-002"
    assert len(json.dumps(detector.state_dict())) < 10_000


# Overfitting


def overfitting(losses, training=None, tokens=40_000):
    """Findings of validations after each 100 steps of a training loss, which falls by default."""
    detector = OverfittingDetector()
    training = curve(100 * len(losses)) if training is None else training
    found = []
    for n, loss in enumerate(losses, start=1):
        for step in range(100 * (n - 1) + 1, 100 * n + 1):
            detector.on_step(metrics(step, training[step - 1]))
        found.append(detector.on_validation(Validation(100 * n, loss, tokens)))
    return [finding for finding in found if finding is not None]


def test_overfitting_is_found_with_its_best_step():
    (finding,) = overfitting([3.0, 2.5, 2.3, 2.4, 2.5, 2.6])
    assert (finding.code, finding.severity) == ("GG-OVF-001", "warning")
    assert (finding.evidence["best_step"], finding.evidence["evaluations"]) == (300, 3)


@pytest.mark.parametrize(
    "losses",
    [
        [3.0, 2.5, 2.3, 2.2, 2.15, 2.1],
        [3.0, 2.5, 2.3, 2.31, 2.305, 2.31],  # within two standard errors
        [3.0, 2.5, 2.3, 2.4, 2.5],  # two validations only
        [3.0, 2.3, 2.4, 2.5, 2.31, 2.5],  # it came back
        [2.3, math.nan, math.nan, math.nan],
    ],
)
def test_healthy_validation_is_not_overfitting(losses):
    assert overfitting(losses) == []


def test_validation_that_rises_with_the_training_loss_is_not_overfitting():
    training = np.concatenate([curve(300), np.full(300, 6.0)])
    assert overfitting([3.0, 2.5, 2.3, 5.0, 5.5, 6.0], training) == []


def test_rise_too_small_to_matter_is_not_overfitting():
    assert overfitting([2.3, 2.31, 2.315, 2.318], tokens=10**9) == []


# Validation that does not follow training


def validated(detector, training, validations):
    """Findings of validations after each 100 steps of a level training loss."""
    found = []
    for n, (loss, validation) in enumerate(zip(training, validations, strict=True), start=1):
        for step in range(100 * n - 99, 100 * n + 1):
            detector.on_step(metrics(step, loss))
        found.append(detector.on_validation(Validation(100 * n, validation, 10_000)))
    return [finding for finding in found if finding is not None]


def test_validation_that_never_follows_training_is_not_overfitting():
    detector = UnrelatedValidationDetector(context())
    finding = validated(detector, [2.5, 1.5, 1.0], [5.2, 6.0, 7.0])[0]
    assert (finding.code, finding.severity) == ("GG-VAL-001", "fatal")
    assert finding.confidence > OverfittingDetector.CONFIDENCE
    assert finding.evidence == {"validation": 5.2, "training": 1.5, "unigram": 2.9}


@pytest.mark.parametrize(
    "validations",
    [
        [2.8, 4.0, 6.0],  # overfitting: it followed at first
        [2.6, 1.6, 1.2],
        [math.nan, 5.2, math.nan],
    ],
)
def test_validation_that_followed_training_is_related(validations):
    assert validated(UnrelatedValidationDetector(context()), [2.5, 1.5, 1.0], validations) == []


def test_validation_of_an_untrained_model_is_not_judged():
    assert validated(UnrelatedValidationDetector(context()), [5.5, 4.0, 3.0], [5.6, 5.4, 5.3]) == []


def test_large_epsilon_is_found():
    detector = EpsilonDetector()
    finding = detector.on_layers(LayerSample(20, epsilon={"a": 900.0, "b": 30.0, "c": 1e-5}))
    assert finding is not None
    assert (finding.code, finding.evidence["ratio"]) == ("GG-OPT-003", 30.0)
    assert detector.on_layers(LayerSample(20, epsilon={"a": 1e-4, "b": 1e-5, "rare": 40.0})) is None
    assert detector.on_layers(LayerSample(20)) is None


@pytest.mark.parametrize(
    ("settings", "is_reported"),
    [
        ({"fp8": "mlp"}, True),
        ({"fp8": "all", "fp8_until": 0.02}, True),
        ({"fp8": "all", "fp8_until": 0.01}, False),
        ({"fp8": "head"}, False),
        ({}, False),
    ],
)
def test_activations_beyond_the_range_of_8_bits_are_reported(settings, is_reported):
    detector = ClippedActivationsDetector(context(**settings))
    assert detector.on_layers(LayerSample(20, activations=[1.0, ClippedActivationsDetector.LIMIT])) is None
    assert detector.on_layers(LayerSample(20)) is None
    finding = detector.on_layers(LayerSample(20, activations=[2.0, 1800.0, 3.0]))
    assert (finding is not None) == is_reported
    if finding is not None:
        assert (finding.code, finding.severity, finding.evidence["block"]) == ("GG-LAY-004", "warning", 1)


# Speed


def durations(n, seconds, seed=0):
    return seconds * np.exp(np.random.default_rng(seed).normal(0, 0.1, n))


def timed(detector, seconds, **more):
    found = [
        detector.on_step(metrics(step, seconds=total, **more)) for step, total in enumerate(np.cumsum(seconds), start=1)
    ]
    return [finding for finding in found if finding is not None]


def test_lasting_slowdown_is_found():
    found = timed(SlowdownDetector(), [*durations(400, 0.1), *durations(200, 0.25)])
    assert (found[-1].code, found[-1].severity) == ("GG-SPD-001", "note")
    assert found[-1].evidence["ratio"] == pytest.approx(2.5, rel=0.1)


@pytest.mark.parametrize(
    "seconds",
    [
        durations(600, 0.1),
        [*durations(300, 0.1), *durations(20, 0.9), *durations(200, 0.1)],
        [30.0, *durations(300, 0.1)],
    ],
    ids=["steady", "a pause", "compiled at first"],
)
def test_steady_steps_are_not_a_slowdown(seconds):
    assert timed(SlowdownDetector(), seconds) == []


def test_slow_steps_of_a_busy_cpu_are_told_from_steps_that_do_more():
    seconds = [*durations(200, 0.1), *durations(200, 0.3)]
    same_work = iter(np.arange(1000) * 0.1)
    more_work = iter(np.cumsum([0.0, *seconds]))
    contention = timed(SlowdownDetector(lambda: next(same_work)), seconds)[-1]
    assert (contention.code, contention.severity) == ("GG-SPD-004", "note")
    assert contention.evidence["ratio"] == pytest.approx(3, rel=0.1)
    assert contention.evidence["cpu"] == pytest.approx(100)
    assert timed(SlowdownDetector(lambda: next(more_work)), seconds)[-1].code == "GG-SPD-001"


def test_a_slow_loader_is_not_called_contention():
    seconds = [*durations(200, 0.1), *durations(200, 0.3)]
    waits = [0.001] * 200 + [0.2] * 200
    steps = [
        metrics(step, seconds=total, data_seconds=wait)
        for step, (total, wait) in enumerate(zip(np.cumsum(seconds), waits, strict=True), start=1)
    ]
    same_work = iter(np.arange(1000) * 0.1)
    slowdown, data_wait = SlowdownDetector(lambda: next(same_work)), DataWaitDetector()
    assert [slowdown.on_step(step) for step in steps] == [None] * len(steps)
    assert [finding.code for step in steps if (finding := data_wait.on_step(step))][-1] == "GG-SPD-002"


def test_waiting_for_data_is_found():
    assert timed(DataWaitDetector(), durations(100, 0.1), data_seconds=0.01) == []
    found = timed(DataWaitDetector(), durations(100, 0.1), data_seconds=0.04)
    assert found[0].evidence["share"] == pytest.approx(40, rel=0.1)


# The process


def test_memory_that_keeps_rising_is_found():
    used = iter(range(10**9, 10**11, 10**8))
    (finding,) = feed(MemoryGrowthDetector(lambda: float(next(used))), [2.0] * 110)
    assert (finding.code, finding.severity) == ("GG-MEM-010", "warning")


@pytest.mark.parametrize("samples", [[1e9] * 30, [1e9, 2e9, 1.9e9] * 10, [1e9 + n for n in range(30)]])
def test_memory_that_stays_or_pauses_is_healthy(samples):
    used = iter(samples)
    assert feed(MemoryGrowthDetector(lambda: next(used)), [2.0] * 110) == []


# All of them


def test_every_code_has_a_catalogue_entry_and_one_detector():
    assert set(entries()) >= DETECTOR_CODES
    assert sum(len(detector.codes) for detector in DETECTOR_CLASSES) == len(DETECTOR_CODES)


def troubled_run():
    """A series in which most detectors report a finding, with two validations and three layer samples."""
    chance = np.random.default_rng(0)
    losses = np.concatenate([curve(300), np.full(100, 6.0), flat(500, 2.9)])
    losses[50] *= 3
    steps = [
        metrics(step, loss, norm=8.0, seconds=0.1 * step + 0.2 * max(0, step - 500), data_seconds=0.05)
        for step, loss in enumerate(losses, start=1)
    ]
    steps += [metrics(step, 2.9, math.inf, skipped=step % 2 == 0) for step in range(901, 1001)]
    validations = [Validation(step, 3.0 + 0.2 * (step > 500) * step / 500, 10_000) for step in range(100, 1001, 100)]
    samples = [
        LayerSample(
            step,
            gradients={"blocks.0.norm1.weight": 1.0, "blocks.1.norm1.weight": 1e-3},
            updates={"a": ratio},
            staleness={"a": 9.0},
            epsilon={"a": 2.0},
            entropies=[[0.01, 0.02], [0.01, 0.5]],
            scores=[2000.0, 1.0],
            dead=[0.0, 0.9],
            activations=[10.0, 2000.0],
            residual=[1.0, 1.0, 500.0],
            log_z=float(step) * chance.uniform(0.9, 1.1),
        )
        for step, ratio in ((100, 1e-8), (200, 0.5), (300, 0.01))
    ]
    return steps, validations, samples


def test_series_gives_the_same_findings_live_and_from_the_files():
    """Live, the detectors are called step by step; from files, the series are merged by step."""
    steps, validations, samples = troubled_run()
    offline = run_detectors(DetectorSet(context(on_cpu=False), live=False), steps, validations, samples)
    live = DetectorSet(context(on_cpu=False), live=True)
    found = []
    for one in steps:
        found += [live.on_layers(sample) for sample in samples if sample.step == one.step]
        found.append(live.on_step(one))
        found += [live.on_validation(validation) for validation in validations if validation.step == one.step]
    online = [finding for findings in found for finding in findings if not finding.code.startswith("GG-MEM")]
    assert online == [finding for _, finding in offline]
    assert {finding.code for finding in online} >= {
        "GG-CLP-001", "GG-DIV-001", "GG-SPK-001", "GG-SPK-002", "GG-SCL-001", "GG-SPD-001", "GG-SPD-002",
        "GG-UPD-001", "GG-UPD-002", "GG-UPD-003", "GG-GRD-005", "GG-ATT-001", "GG-ATT-002", "GG-LAY-001",
        "GG-LAY-002", "GG-LAY-003", "GG-OPT-003",
    }  # fmt: skip


def test_detectors_resume_from_their_saved_state():
    """Timing is left out: each process is timed on its own."""
    run = troubled_run()

    def part(detectors, first, last):
        within = [[one for one in series if first < one.step <= last] for series in run]
        found = run_detectors(detectors, *within)
        return [(step, finding) for step, finding in found if not finding.code.startswith("GG-SPD")]

    whole = part(DetectorSet(context(), live=False), 0, 1000)

    @given(st.integers(1, 999))
    @settings(max_examples=20, deadline=None)
    def is_the_same_resumed_at(at):
        first, second = DetectorSet(context(), live=False), DetectorSet(context(), live=False)
        before = part(first, 0, at)
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        assert before + part(second, at, 1000) == whole

    is_the_same_resumed_at()


def test_withheld_codes_are_left_to_the_caller():
    detectors = DetectorSet(context(), live=False, withheld=("GG-DIV-001",))
    found = run_detectors(detectors, [metrics(n, 2.0 if n < 60 else 9.0) for n in range(1, 120)], [], [])
    assert "GG-DIV-001" not in [finding.code for _, finding in found]
    assert detectors.divergence.is_diverging
