"""The fault suite: cases are valid, scoring and the peers' detectors compute what they claim, and it runs."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from glassgpt.diagnosis.catalogue import entries
from glassgpt.diagnosis.findings import Finding

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "faults.json"


@pytest.fixture(scope="module", autouse=True)
def on_the_path():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT))
        yield


@pytest.fixture(scope="module")
def suite():
    from benchmarks.faults import suite

    return suite


def test_suite_has_enough_distinct_cases(suite):
    assert len(suite.FAULTS) >= 40
    assert len({fault.kind for fault in suite.FAULTS}) >= 12
    assert len(suite.HEALTHY) >= 15
    names = [case.name for case in (*suite.FAULTS, *suite.HEALTHY)]
    assert len(set(names)) == len(names)
    assert len({fault.what for fault in suite.FAULTS}) == len(suite.FAULTS)


def test_expected_codes_and_steps_exist(suite):
    for fault in suite.FAULTS:
        assert fault.expects, fault.name
        assert set(fault.expects) <= set(entries()), fault.name
        assert 0 <= fault.at <= fault.overrides()["train.max_steps"], fault.name


def test_settings_of_every_case_are_valid(suite):
    from glassgpt.config import load_config

    for case in (*suite.FAULTS, *suite.HEALTHY):
        assert load_config(case.preset, case.overrides()).problems() == [], case.name


def found(stage, code, severity, confidence=1.0, step=0):
    from benchmarks.faults.stages import StageFinding

    return StageFinding(stage, step, Finding(code, severity, {}, confidence))


def test_top_finding_is_the_worst_of_the_first_stage_that_warns():
    from benchmarks.faults.scoring import top_finding

    note = found("before", "GG-CFG-002", "note")
    first, second = found("during", "GG-SPK-002", "warning"), found("during", "GG-ATT-002", "warning")
    fatal, unsure = found("during", "GG-DIV-001", "fatal", 0.9), found("during", "GG-MEM-012", "fatal", 0.5)
    later = found("after", "GG-NAN-002", "fatal")
    assert top_finding([]) is None
    assert top_finding([note]) == note
    assert top_finding([note, first, second]) == first
    assert top_finding([note, first, unsure, fatal, later]) == fatal


def test_totals_count_the_rows():
    from benchmarks.faults.scoring import totals

    peer = {"detected": True, "cause": None}
    silent = {"detected": False, "cause": None}
    row = {
        "kind": "a", "fatal": True, "detected": True, "cause_right": True, "recoverable": "automatic", "recovered": True,
        "steps_until_detection": 3, "lightning": peer, "olmo_core": silent,
    }  # fmt: skip
    missed = {**row, "kind": "b", "detected": False, "cause_right": False, "recovered": False, "lightning": silent}
    missed |= {"steps_until_detection": None}
    healthy = {"false_alarm": False, "interventions": [], "notes": {}, "lightning": peer, "olmo_core": silent}
    counted = totals([row, missed], [healthy])
    assert (counted["faults"], counted["kinds"], counted["fatal"], counted["fatal_detected"]) == (2, 2, 2, 1)
    assert (counted["cause_right"], counted["recoverable"], counted["recovered"]) == (1, 2, 1)
    assert (counted["healthy"], counted["false_alarms"]) == (1, 0)
    assert counted["peers"]["lightning"] == {"detected": 1, "fatal_detected": 1, "cause_right": 0, "false_alarms": 1}


def test_olmo_core_alarms_above_six_standard_deviations():
    from benchmarks.faults.peers import olmo_spikes

    chance = np.random.default_rng(0)
    values = list(2 + 0.1 * chance.standard_normal(200))
    before = np.array(values[22:150])
    values[150] = float(before.mean() + 6.1 * before.std())
    assert [n for n, spike in enumerate(olmo_spikes(values)) if spike] == [150]
    values[150] = float(before.mean() + 5.9 * before.std())
    assert not any(olmo_spikes(values))
    values[140], values[150] = math.nan, 100.0  # a NaN in the window blinds it
    assert not any(olmo_spikes(values))


def test_lightning_alarms_above_three_times_the_running_mean():
    from benchmarks.faults.peers import lightning_spikes

    assert lightning_spikes([2.0] * 12 + [5.9, 2.0, 6.1]) == [False] * 14 + [False]
    assert lightning_spikes([2.0] * 12 + [6.1, 2.0])[12:] == [True, False]
    assert lightning_spikes([2.0, math.nan, 2.0]) == [False, True, False]


def test_peers_return_their_first_alarm():
    from benchmarks.faults.peers import Alarm, Series, lightning, olmo_core

    nan = Series([2.0, 2.0, math.nan], [1.0, 1.0, math.nan], [1, 2, 3])
    assert lightning(nan) == Alarm("EarlyStopping.check_finite", 3)
    assert olmo_core(nan) == Alarm("Trainer", 3)
    rising = Series(validations=[(10, 2.0), (20, 1.0), (30, 1.1), (40, 1.2), (50, 1.3)])
    assert lightning(rising) == Alarm("EarlyStopping.patience", 50)
    assert olmo_core(rising) is None


@pytest.mark.skipif(sys.platform == "win32", reason="each case runs in a forked process")
@pytest.mark.parametrize(
    ("name", "code", "stage"),
    [
        ("kernel-one-ahead", "GG-KER-001", "before"),
        pytest.param("checkpoint-bit-flipped", "GG-CKP-001", "after", marks=pytest.mark.slow),
    ],
)
def test_fault_is_detected_end_to_end(suite, monkeypatch, name, code, stage):
    import dataclasses

    from benchmarks.faults import __main__ as run

    fault = next(fault for fault in suite.FAULTS if fault.name == name)
    short = {"train.max_steps": 60, "checkpoint.every_steps": 20, "schedule.warmup_steps": 10}
    kill_at = fault.kill_at and 50
    short_fault = dataclasses.replace(fault, settings={**fault.settings, **short}, kill_at=kill_at, at=kill_at or 0)
    monkeypatch.setattr(run, "FAULTS", [short_fault])
    row = run.run_by_name(name)
    assert (row["detected"], row["cause_right"], row["code"], row["stage"]) == (True, True, code, stage)
    assert row["recovered"] is (True if fault.recovery else None)
    json.dumps(row, allow_nan=False)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="each case runs in a forked process")
def test_healthy_training_has_no_alarm_end_to_end(suite, monkeypatch):
    import dataclasses

    from benchmarks.faults import __main__ as run

    case = next(case for case in suite.HEALTHY if case.name == "resumed")
    short = {"train.max_steps": 60, "checkpoint.every_steps": 20, "schedule.warmup_steps": 10}
    monkeypatch.setattr(run, "FAULTS", [])
    monkeypatch.setattr(run, "HEALTHY", [dataclasses.replace(case, settings=short, stop_at=30)])
    row = run.run_by_name("resumed")
    assert (row["false_alarm"], row["ended"]) == (False, "finished")


def test_committed_results_meet_the_targets(suite):
    found = json.loads(RESULTS.read_text())
    assert {row["name"] for row in found["rows"]} == {fault.name for fault in suite.FAULTS}
    assert {row["name"] for row in found["healthy_rows"]} == {case.name for case in suite.HEALTHY}
    assert [row["name"] for row in found["healthy_rows"] if row["ended"] != "finished"] == []
    assert found["fatal_detected"] == found["fatal"]
    assert found["cause_right"] >= 0.9 * found["faults"]
    assert found["interventions_on_healthy"] == 0
