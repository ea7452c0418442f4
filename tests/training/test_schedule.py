"""Learning rate schedules."""

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glassgpt.training.config import ScheduleConfig
from glassgpt.training.schedule import learning_rate_ratio

KINDS = ["constant", "linear", "cosine", "step", "wsd"]


@pytest.mark.parametrize("kind", KINDS)
def test_warmup_is_linear_and_reaches_the_peak(kind):
    schedule = ScheduleConfig(kind=kind, warmup_steps=4)
    ratios = [learning_rate_ratio(schedule, step, 100) for step in range(5)]
    assert ratios == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


@pytest.mark.parametrize("kind", ["linear", "cosine", "wsd"])
def test_the_last_step_has_the_final_ratio(kind):
    schedule = ScheduleConfig(kind=kind, warmup_steps=10, final_ratio=0.07)
    assert learning_rate_ratio(schedule, 99, 100) == pytest.approx(0.07)
    assert learning_rate_ratio(schedule, 250, 100) == pytest.approx(0.07)  # resumed with fewer steps


def test_values_in_the_middle_of_the_decay():
    at_half = dataclasses.replace(ScheduleConfig(), warmup_steps=0, final_ratio=0.0)
    assert learning_rate_ratio(dataclasses.replace(at_half, kind="cosine"), 50, 101) == pytest.approx(0.5)
    assert learning_rate_ratio(dataclasses.replace(at_half, kind="cosine"), 25, 101) == pytest.approx(
        0.5 * (1 + math.cos(math.pi / 4))
    )
    assert learning_rate_ratio(dataclasses.replace(at_half, kind="linear"), 25, 101) == pytest.approx(0.75)
    assert learning_rate_ratio(dataclasses.replace(at_half, kind="constant"), 99, 100) == 1.0


def test_step_drops_by_its_factor():
    schedule = ScheduleConfig(kind="step", warmup_steps=10, step_every=20, step_factor=0.1)
    ratios = [learning_rate_ratio(schedule, step, 100) for step in (10, 29, 30, 50)]
    assert ratios == pytest.approx([1.0, 1.0, 0.1, 0.01])


def test_wsd_is_stable_then_decays():
    schedule = ScheduleConfig(kind="wsd", warmup_steps=10, decay_fraction=0.2, final_ratio=0.0)
    assert [learning_rate_ratio(schedule, step, 100) for step in (10, 50, 80)] == [1.0, 1.0, 1.0]
    assert learning_rate_ratio(schedule, 90, 100) == pytest.approx(9 / 19)


@given(st.sampled_from(KINDS), st.integers(0, 50), st.floats(0, 1), st.floats(0, 1), st.integers(1, 200))
def test_ratio_is_in_0_1_and_never_rises_after_warmup(kind, warmup, final, decay, steps):
    schedule = ScheduleConfig(kind=kind, warmup_steps=warmup, final_ratio=final, decay_fraction=decay, step_every=7)
    ratios = [learning_rate_ratio(schedule, step, steps) for step in range(steps)]
    assert all(0 <= ratio <= 1 for ratio in ratios)
    assert all(a >= b - 1e-9 for a, b in zip(ratios[warmup:], ratios[warmup + 1 :], strict=False))
