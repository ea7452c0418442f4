"""The page of a sweep: complete, offline, escaped, in both languages, on a phone too; and what the terminal prints."""

import math
import random
import re

import pytest

from glassgpt.locale import LANGUAGES
from glassgpt.sweep.page import WORDS, render_page, write_page
from glassgpt.sweep.records import Luck, Outcome, TrialRecord, best_of, ranked
from glassgpt.sweep.result import SweepResult
from glassgpt.sweep.setup import SweepFolder, SweepSetup
from glassgpt.sweep.show import show_result
from glassgpt.sweep.space import Choices, Range

SPACE = (
    Range("train.learning_rate", 5e-4, 8e-3, log=True),
    Range("schedule.warmup_steps", 0, 400, is_integer=True),
    Choices("optimizer.name", ("adamw", "muon")),
)
BASE = {"train.learning_rate": 2e-3, "schedule.warmup_steps": 100, "optimizer.name": "adamw"}
NASTY = "<script>alert('\"&')</script>"


def record(number, values, kind="complete"):
    loss = 4.5 + abs(math.log10(values["train.learning_rate"]) + 2.6) + values["schedule.warmup_steps"] / 2000
    last = 2000 if kind == "complete" else 750
    curve = tuple((step, loss + 3 * (1 - step / 2000) ** 2) for step in range(250, last + 1, 250))
    code = "GG-NAN-002" if kind == "diverged" else ""
    outcome = None if kind == "unfinished" else Outcome(kind, loss, last, 61.2, code, NASTY if kind == "failed" else "")
    return TrialRecord(number, values, outcome, curve)


def make_result(trials=20):
    draw = random.Random(1)
    others = ("pruned", "diverged", "failed", "unfinished")
    found = [record(0, BASE)] if trials else []
    for number in range(1, trials):
        values = {
            "train.learning_rate": math.exp(draw.uniform(math.log(5e-4), math.log(8e-3))),
            "schedule.warmup_steps": draw.randint(0, 400),
            "optimizer.name": draw.choice(("adamw", "muon")),
        }
        found.append(record(number, values, others[number // 4 % 4] if number % 4 == 3 else "complete"))
    best = best_of(found)
    luck = best and Luck(best.number, best.loss, {n: best.loss + n / 100 for n in (1, 2, 4)})
    setup = SweepSetup(SPACE, "tpe", "median", 0, "x", 20, math.inf)
    importance = {"train.learning_rate": 0.7, "schedule.warmup_steps": 0.2, "optimizer.name": 0.1} if trials else {}
    return SweepResult(setup, BASE, found, importance, luck, 1834.0, 2000, {})


@pytest.fixture(scope="module")
def page():
    return render_page(make_result(), "rates & decays", f"a = '{NASTY}'\n")


def test_page_has_every_trial_and_both_languages(page):
    result = make_result()
    for record in result.trials:
        assert f"<td>{record.number}" in page
        assert f"<title>{record.number}: " in page or record.outcome is None
    for language in LANGUAGES:
        for name, word in WORDS[language].items():
            if "{" not in word and name not in ("none", "few", "alone"):
                assert word in page.replace("&amp;", "&"), name
    assert f"{result.best.loss:.4f}" in page
    assert "GG-NAN-002" in page


def test_page_loads_nothing_and_escapes_what_it_shows(page):
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "rates &amp; decays" in page
    assert not re.search(r"""(?:src|href|url|@import)\s*[=(]""", page)
    assert "default-src 'none'" in page


def test_lines_are_drawn_to_scale(page):
    best = ranked(make_result().trials)[0]
    path = re.search(rf'<g class="trial best"><title>{best.number}: .*?<path class="line" d="M([^"]+)"', page)[1]
    points = [tuple(map(float, point.split())) for point in path.split("L")]
    assert [x for x, _ in points] == pytest.approx([0, 333.3, 666.7, 1000], abs=0.1)
    rate = best.values["train.learning_rate"]
    assert points[0][1] == pytest.approx(1000 * (1 - math.log(rate / 5e-4) / math.log(16)), abs=0.1)
    assert points[1][1] == pytest.approx(1000 * (1 - best.values["schedule.warmup_steps"] / 400), abs=0.1)
    assert points[3][1] == 1000  # the lowest loss is at the bottom
    pruned = re.findall(r'<g class="trial pruned">.*?<path class="line" d="M([^"]+)"', page)
    assert {path.count("L") for path in pruned} == {2}  # no point on the axis of the loss


@pytest.mark.parametrize("trials", [0, 1, 2])
def test_page_of_few_trials(trials, tmp_path):
    write_page(make_result(trials), SweepFolder(tmp_path), "")
    page = (tmp_path / "sweep.html").read_text()
    assert (WORDS["en"]["none"] in page) == (trials == 0)
    assert "<details>" not in page


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme", "language"), [(1200, "light", "en"), (390, "dark", "ko")])
def test_page_fits_in_a_browser(open_page, page, tmp_path, width, scheme, language):
    (tmp_path / "sweep.html").write_text(page)
    view = open_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    requested = []
    view.on("request", lambda request: requested.append(request.url))
    view.goto((tmp_path / "sweep.html").as_uri())
    view.check(f"#{language}")
    assert view.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert view.locator("h2", has_text=WORDS[language]["importance"]).is_visible()
    assert view.locator("svg .trial.best .line").count() == 1
    assert requested == [(tmp_path / "sweep.html").as_uri()]


def test_terminal_shows_the_best_the_preset_and_luck(capsys):
    result = make_result()
    show_result(result)
    out = capsys.readouterr().out
    order = ranked(result.trials)
    rows = [line for line in out.splitlines() if re.match(r"│ +\d", line) or re.match(r"│ \d", line)]
    assert len(rows) == 10
    assert f"{order[0].loss:.4f}" in rows[0]
    assert "20 trials in 30 min 34 s: 15 complete, 2 pruned, 1 diverged, 1 failed, 1 unfinished" in out
    assert f"mean {result.luck.mean:.4f}, standard deviation {result.luck.spread:.4f}: +0.0233 against" in out
    assert "importance (PED-ANOVA): train.learning_rate 70%" in out
    if result.preset_trial in order[:10]:
        assert "the preset" in out


def test_result_is_json(tmp_path):
    result = make_result()
    result.write(SweepFolder(tmp_path))
    import json

    found = json.loads((tmp_path / "sweep.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert found["best"]["number"] == result.best.number
    assert found["base"]["values"] == BASE
    assert found["counts"] == {"complete": 15, "pruned": 2, "diverged": 1, "failed": 1, "unfinished": 1}
    assert found["luck"]["lost"] == pytest.approx(7 / 300)
    assert [each["outcome"] for each in found["trials"]].count("diverged") == 1
