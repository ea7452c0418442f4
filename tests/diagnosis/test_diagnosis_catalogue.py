"""Findings, and the catalogue that explains them in two languages."""

import json
import math
import re
from pathlib import Path
from typing import get_args

import pytest
from diagnosis_helpers import event_of
from hypothesis import given
from hypothesis import strategies as st

import glassgpt
from glassgpt.diagnosis import pages
from glassgpt.diagnosis.catalogue import (
    CODE,
    actions,
    actions_taken,
    check_name,
    checks,
    describe,
    describe_measurement,
    entries,
    entry,
    format_value,
    reasons,
    ruled_out_causes,
    words,
)
from glassgpt.diagnosis.findings import CheckResult, Finding, is_fatal
from glassgpt.diagnosis.replay import Cause
from glassgpt.errors import DataError, UsageError
from glassgpt.locale import LANGUAGES

SOURCE = Path(glassgpt.__file__).parent
PAGES = Path(__file__).parents[2] / "docs" / "diagnosis"
values = st.one_of(st.text(), st.integers(), st.floats(allow_nan=False, allow_infinity=False))
findings = st.builds(
    Finding,
    code=st.sampled_from(sorted(entries())),
    severity=st.sampled_from(["fatal", "warning", "note"]),
    evidence=st.dictionaries(st.text(), values),
    confidence=st.floats(0.01, 1),
    ruled_out=st.lists(st.sampled_from(sorted(entries()))).map(tuple),
    actions=st.lists(st.sampled_from(sorted(actions()))).map(tuple),
)


def codes_in_source() -> set[str]:
    text = "".join(path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py"))
    return set(re.findall(rf'"({CODE.pattern})"', text))


@given(findings, st.integers(0))
def test_finding_survives_json(finding, step):
    line = json.dumps(event_of(finding, step), allow_nan=False)
    assert "\n" not in line
    assert json.loads(line)["step"] == step
    assert Finding.from_json(json.loads(line)) == finding


def test_non_finite_values_become_text():
    finding = Finding("GG-NAN-002", "fatal", {"loss": math.nan, "grad_norm": math.inf})
    assert finding.evidence == {"loss": "nan", "grad_norm": "inf"}
    assert Finding.from_json(json.loads(json.dumps(finding.to_json()))) == finding


@pytest.mark.parametrize(
    "line", [{}, {"code": "GG-NAN-002"}, {**Finding("GG-NAN-002", "fatal").to_json(), "severity": "bad"}]
)
def test_from_json_refuses_malformed_findings(line):
    with pytest.raises(DataError, match="not a finding"):
        Finding.from_json(line)


def test_severity_and_confidence_are_validated():
    with pytest.raises(ValueError, match="severity"):
        Finding("GG-NAN-002", "bad")
    with pytest.raises(ValueError, match="confidence"):
        Finding("GG-NAN-002", "note", confidence=0)


def test_is_fatal_only_for_fatal_findings():
    note, fatal = (
        CheckResult("end", "killed", findings=(Finding("GG-NAN-002", severity),)) for severity in ("note", "fatal")
    )
    assert not is_fatal([note, CheckResult("weight decay", "none")])
    assert is_fatal([note, fatal])


@pytest.mark.parametrize("code", entries())
def test_entry_is_complete_in_both_languages(code):
    assert CODE.fullmatch(code)
    english, korean = (entries()[code][language] for language in LANGUAGES)
    assert all((english.title, english.means, english.cause, english.do))
    assert all((korean.title, korean.means, korean.cause, korean.do))
    assert english.placeholders() == korean.placeholders()
    assert re.search("[가-힣]", korean.title)
    assert re.search("[가-힣]", korean.do)
    assert not re.search("[가-힣]", f"{english.title}{english.means}{english.cause}{english.do}")


def test_codes_in_source_and_catalogue_are_the_same():
    assert codes_in_source() == set(entries())


def test_codes_mentioned_in_texts_exist():
    for texts in entries().values():
        for text in texts.values():
            assert set(CODE.findall(f"{text.means}{text.cause}{text.do}")) <= set(entries())


def test_every_action_is_used_in_source():
    text = "".join(path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py"))
    for name in actions():
        assert f'"{name}"' in text


def outcomes() -> list[tuple[str, str]]:
    return [(name, outcome) for name, table in checks().items() for outcome in table if outcome not in LANGUAGES]


def test_check_outcomes_in_source_and_catalogue_are_the_same():
    text = "".join(path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py"))
    for name, outcome in outcomes():
        assert f'"{name}"' in text
        assert f'"{outcome}"' in text
    made = re.findall(r'CheckResult\(\s*"([^"]+)",\s*"([^"]+)"', text)
    assert len(made) > 30
    assert set(made) <= set(outcomes())


@pytest.mark.parametrize(("name", "outcome"), outcomes())
def test_outcome_is_complete_in_both_languages(name, outcome):
    english, korean = (checks()[name][outcome][language] for language in LANGUAGES)
    figures = [set(re.findall(r"\{[^}]+\}", text)) for text in (english, korean)]
    assert figures[0] == figures[1]
    assert not re.search("[가-힣]", english)
    assert re.search("[가-힣]", checks()[name]["ko"])
    assert re.search("[가-힣]", korean) or (name, outcome) in (
        ("initial loss", "not finite"),
        ("initial loss", "fresh"),
        ("speed", "typical"),
    )


def test_measurement_is_filled_into_its_sentence():
    check = CheckResult("learning rate", "compared with typical", {"rate": 3e-4, "ratio": 0.5})
    assert (check_name(check), describe_measurement(check)) == (
        "learning rate",
        "0.0003, 0.5 times the typical rate for this width",
    )
    assert (check_name(check, "ko"), describe_measurement(check, "ko")) == (
        "학습률",
        "0.0003, 이 너비에서 흔한 값의 0.5배",
    )
    known = CheckResult("replay", "already replayed", {"step": 5, "cause": "data"})
    assert describe_measurement(known, "ko").endswith(": 데이터")
    with pytest.raises(KeyError):
        describe_measurement(CheckResult("learning rate", "compared with typical"))


@pytest.mark.parametrize("language", LANGUAGES)
def test_numbers_in_what_to_do_can_be_typed(language):
    values = {"share": 100.0, "rate": 16_000, "half": 8000, "limit": 4000}
    text = describe(Finding("GG-MED-006", "warning", values), language)
    assert "8,000 Hz" in text.means
    assert "--rate 8000" in text.do


def test_every_reason_is_used_and_complete_in_both_languages():
    text = "".join(path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py"))
    for key, lines in reasons().items():
        assert f'"{key}"' in text
        assert set(re.findall(r"\{\w+\}", lines["en"])) == set(re.findall(r"\{\w+\}", lines["ko"]))
        assert re.search("[가-힣]", lines["ko"])
    finding = Finding(
        "GG-NAN-014", "fatal", {"step": 9, "module": "x", "why": "finite-at-a-lower-rate", "lower": "1e-05"}
    )
    assert "at a learning rate of 1e-05 the same steps are finite" in describe(finding).title
    assert "학습률 1e-05에서는 같은 스텝들이 유한합니다" in describe(finding, "ko").title
    older = Finding("GG-NAN-014", "fatal", {"step": 9, "module": "x", "why": "at a rate of 1 it is"})
    assert "at a rate of 1 it is" in describe(older, "ko").title


def test_every_logged_event_has_a_display_name():
    text = "".join(path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py"))
    told = set(re.findall(r'\.emit\(\s*"([^"]+)"', text))
    assert len(told) > 10
    assert told | set(get_args(Cause)) <= set(words())


def test_committed_pages_match_the_catalogue(tmp_path):
    pages.write_catalogue_pages(tmp_path)
    committed = {
        path.name: path.read_text(encoding="utf-8") for path in PAGES.glob("*.md") if not path.name.startswith("README")
    }
    assert committed == {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()}


def test_write_catalogue_pages_removes_pages_of_dropped_codes(tmp_path):
    (tmp_path / "GG-OLD-001.md").write_text("")
    (tmp_path / "README.md").write_text("kept")
    pages.write_catalogue_pages(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*pages.render_pages(), "README.md"}


def test_describe_fills_in_values():
    finding = Finding(
        "GG-CFG-002",
        "note",
        {"warmup": 1000, "steps": 50, "taken": 5},
        ruled_out=("GG-CFG-003",),
        actions=("shortened-warmup",),
    )
    assert describe(finding).title == "the warmup of 1,000 steps does not end before training does (50 steps)"
    assert "1,000" in describe(finding, "ko").title
    assert actions_taken(finding) == ["Training uses a warmup of 5 steps instead."]
    assert ruled_out_causes(finding) == [
        "the learning rate … is far above the typical rate for this model and optimizer (…) (GG-CFG-003)"
    ]
    named = Finding("GG-NAN-011", "fatal", ruled_out=("GG-NAN-012",))
    assert (ruled_out_causes(named), ruled_out_causes(named, "ko")) == (
        ["the precision (GG-NAN-012)"],
        ["정밀도 (GG-NAN-012)"],
    )
    with pytest.raises(KeyError, match="warmup"):
        describe(Finding("GG-CFG-002", "note"))


def test_values_are_formatted_for_people():
    assert [format_value(value) for value in (12345, 0.123456, 3e-5, 2.0, 1e9, "nan")] == [
        "12,345", "0.1235", "3e-05", "2", "1,000,000,000", "nan",
    ]  # fmt: skip


def test_unknown_code_suggests_similar_ones():
    with pytest.raises(UsageError, match="GG-NAN-002"):
        entry("GG-NAN-022")
