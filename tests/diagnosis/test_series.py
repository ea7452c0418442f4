"""Robust statistics compared with numpy's, and with outliers or missing values."""

import math

import numpy as np
import pytest

from glassgpt.diagnosis.series import residuals, robust, slope


def test_robust_statistics_ignore_outliers_and_non_finite_values():
    known = robust([1.0, 2.0, 3.0, math.nan, math.inf, 1e9])
    assert known.median == 2.5
    assert known.sigma < 3
    normal = np.random.default_rng(0).normal(5, 2, 100_000)
    assert robust(normal).sigma == pytest.approx(2, rel=0.02)
    with pytest.raises(ValueError, match="finite"):
        robust([math.nan])


def test_residuals_agree_with_numpys_line():
    values = 3 - 0.1 * np.arange(50) + np.random.default_rng(0).normal(0, 0.1, 50)
    line = np.polyval(np.polyfit(np.arange(50), values, 1), np.arange(50))
    np.testing.assert_allclose(residuals(values), values - line, atol=1e-12)


def test_slope_interval_contains_the_true_slope():
    steps = np.arange(1000)
    losses = 3 - 0.0005 * steps + np.random.default_rng(0).normal(0, 0.1, 1000)
    found = slope(steps, losses)
    assert found.low < -0.0005 < found.high
    assert not found.is_flat
    with pytest.raises(ValueError, match="two"):
        slope([1], [1.0])


def test_slope_agrees_with_numpy():
    steps = np.arange(40.0)
    losses = np.exp(1 - 0.01 * steps)
    scale = math.exp(np.median(np.log(losses)))
    assert slope(steps, losses).value == pytest.approx(np.polyfit(steps, np.log(losses), 1)[0] * scale)
