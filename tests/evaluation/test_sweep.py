"""Searching for generation settings."""

import dataclasses
import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from text_quality_helpers import BYTES

from glassgpt.errors import ConfigError, UsageError
from glassgpt.evaluation.compare import comparison_options
from glassgpt.evaluation.continuations import generate_continuations, generation_jobs
from glassgpt.evaluation.held_out import Continuation, PromptOptions, human_continuations
from glassgpt.evaluation.objectives import OBJECTIVES, Objective, ScoreInputs, objective_for
from glassgpt.evaluation.quality import Diversity, mean_surprisal
from glassgpt.evaluation.show_sweep import describe, settings_toml, show_sweep
from glassgpt.evaluation.sweep import (
    candidates_for,
    count_with_validation,
    plan_rounds,
    preset_values,
    split_prompts,
    sweep,
)
from glassgpt.generation.options import GenerationOptions
from glassgpt.generation.presets import generation_preset_names, load_generation_preset


def inputs(surprisal, distinct_2, repeated_4):
    return ScoreInputs(surprisal, Diversity(0.5, distinct_2, 0.9, repeated_4))


def test_objective_on_small_examples():
    objective = Objective(0.5, 2.0, 10.0, "")
    human = inputs(4.0, 0.8, 0.01)
    assert objective.score(inputs(3.0, 0.7, 0.03), human) == pytest.approx(0.25 + 2 * 0.1 + 10 * 0.02)
    assert objective.score(inputs(2.0, 0.8, 0.0), human) == 0  # less repetition than human text is not penalized
    assert objective.score(inputs(math.nan, 0.8, 0.0), human) == math.inf
    assert objective.score(inputs(2.0, 0.8, math.nan), human) == 0  # too short to contain a 4-gram


def test_every_purpose_has_an_objective_that_ranks_sensibly():
    assert set(OBJECTIVES) == set(generation_preset_names())
    human, loop, sensible, wild = (
        inputs(3.0, 0.8, 0.01), inputs(0.5, 0.1, 0.6), inputs(1.5, 0.6, 0.01), inputs(6.0, 0.95, 0.0),
    )  # fmt: skip
    for purpose, best in (("creative", human), ("technical", sensible), ("code", sensible)):
        scores = {one.surprisal: OBJECTIVES[purpose].score(one, human) for one in (human, loop, sensible, wild)}
        assert min(scores, key=lambda key: scores[key]) == best.surprisal, purpose
    with pytest.raises(
        ConfigError, match="--for must be one of creative, chat, .*, not creativ; did you mean creative"
    ):
        objective_for("creativ")


def test_plan_halves_candidates_within_the_budget():
    rounds = plan_rounds(127, 64, 1500)
    assert [one.candidates for one in rounds] == [127, 43, 15, 5, 2]
    assert [one.prompts for one in rounds] == [2, 6, 20, 60, 64]
    new = [one.candidates * (one.prompts - before.prompts) for before, one in pairwise(rounds)]
    assert rounds[0].candidates * rounds[0].prompts + sum(new) <= 1500
    assert plan_rounds(3, 8, 100)[0].prompts == 8
    with pytest.raises(UsageError, match="--budget must be at least 127 .one text per candidate., not 126"):
        plan_rounds(127, 64, 126)


@settings(deadline=None)
@given(st.integers(1, 300), st.integers(1, 100), st.integers(0, 3000))
def test_plans_give_fewer_candidates_more_prompts(candidates, prompts, extra):
    rounds = plan_rounds(candidates, prompts, candidates + extra)
    for before, after in pairwise(rounds):
        assert after.candidates < before.candidates
        assert after.prompts >= before.prompts
    assert all(1 <= one.prompts <= prompts for one in rounds)
    assert rounds[-1].candidates <= 3


def test_preset_is_a_candidate():
    for purpose in generation_preset_names():
        found = candidates_for(purpose)
        assert found[0] == preset_values(purpose)
        assert len({tuple(sorted(one.items())) for one in found}) == len(found)
        for one in found:
            GenerationOptions(**one).check()


@pytest.fixture(scope="module")
def swept(loaded, grammar_dataset):
    prompts = PromptOptions(4, 12, 16, seed=2).resolve(64)
    human = human_continuations(grammar_dataset, prompts)

    return sweep(loaded.model, BYTES, human, "technical", prompts, budget=300)


@pytest.mark.slow
def test_sweep_is_deterministic(swept, loaded, grammar_dataset):
    prompts = PromptOptions(4, 12, 16, seed=2).resolve(64)
    human = human_continuations(grammar_dataset, prompts)
    first, second = swept, sweep(loaded.model, BYTES, human, "technical", prompts, budget=300)
    assert first == second
    finals = [one for one in first.ranking if len(one.texts) == first.rounds[-1].prompts]
    assert [one.score for one in finals] == sorted(one.score for one in finals)
    assert len(first.ranking) == first.rounds[0].candidates
    assert first.winner is first.ranking[0]


def test_winner_is_validated_on_unused_prompts(swept, loaded, grammar_dataset):
    prompts = PromptOptions(4, 12, 16, seed=2).resolve(64)
    human = human_continuations(grammar_dataset, prompts)
    searched, aside = split_prompts(human)
    assert (searched, aside) == ([human[0], human[1], human[3]], [human[2]])
    assert [one.prompt for one in swept.winner.texts] == [one.prompt for one in searched]
    assert (swept.prompts.count, swept.validation.prompts) == (3, 1)
    assert [one.name for one in swept.validation.settings] == ["found", "ready", "default"]
    taken = {
        "found": {**swept.kept, **swept.winner.settings},
        "ready": load_generation_preset("technical"),
        "default": {},
    }
    for one in swept.validation.settings:
        options = comparison_options(taken[one.name], prompts, 64)
        text = generate_continuations(loaded.model, BYTES, generation_jobs(aside, options, seed=2, first=3))
        assert one.inputs.surprisal == pytest.approx(mean_surprisal(loaded.model, BYTES, text))
        assert one.score == objective_for("technical").score(one.inputs, swept.validation.human)


@pytest.mark.parametrize(("found", "searched", "aside"), [(1, 1, 0), (2, 2, 0), (3, 2, 1), (96, 64, 32)])
def test_a_third_of_the_prompts_is_set_aside(found, searched, aside):
    parts = split_prompts([Continuation((at,), (1,), "x", False) for at in range(found)])
    assert [len(part) for part in parts] == [searched, aside]
    assert {one.prompt for part in parts for one in part} == {(at,) for at in range(found)}
    assert count_with_validation(64) == 96


def test_too_few_prompts_to_validate_is_reported(swept, capsys):
    found = dataclasses.replace(swept, validation=None)
    show_sweep(found, BYTES, samples=0)
    assert "too few prompts to validate the winner" in capsys.readouterr().out
    assert "other prompts" not in settings_toml(found, "run")


@pytest.mark.parametrize(
    ("scores", "conclusion"),
    [
        ((0.1, 0.2, 0.3), "the settings found are the best of the three"),
        ((0.3, 0.2, 0.25), "the preset's settings do better"),
    ],
)
def test_sweep_reports_whether_it_beat_the_preset(swept, capsys, scores, conclusion):
    settings = [
        dataclasses.replace(one, score=score) for one, score in zip(swept.validation.settings, scores, strict=True)
    ]
    show_sweep(
        dataclasses.replace(swept, validation=dataclasses.replace(swept.validation, settings=settings)),
        BYTES,
        samples=0,
    )
    assert conclusion in capsys.readouterr().out


def test_texts_too_short_to_score_are_refused(loaded, grammar_dataset):
    prompts = PromptOptions(2, 12, 1).resolve(64)
    human = human_continuations(grammar_dataset, prompts)
    with pytest.raises(UsageError, match="texts of up to 1 tokens are too short .* --new-tokens"):
        sweep(loaded.model, BYTES, human, "creative", prompts, budget=130)


def test_winner_is_written_as_a_preset_file(swept, tmp_path, capsys):
    found = swept
    path = tmp_path / "winner.toml"
    path.write_text(settings_toml(found, "a\nrun"), encoding="utf-8")
    read = load_generation_preset(str(path))
    assert read == {**found.winner.settings, **found.kept}
    assert read["no_repeat_ngram"] == load_generation_preset("technical")["no_repeat_ngram"]
    GenerationOptions(**read).check()
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# For technical text by a run: the most probable text")
    assert all("#" in line for line in lines if line)
    show_sweep(found, BYTES, samples=1)
    out = capsys.readouterr().out
    assert f"1. {describe(found.winner)}" in " ".join(out.replace("│", " ").split())
    assert "lower is better" in out
    assert "(preset)" in out
    assert "on 1 prompts that the search did not use" in out
    assert out.count("── prompt") == 1


@pytest.mark.parametrize("purpose", ["chat", "creative", "code"])
def test_fixed_preset_values_are_written_as_well(purpose, swept, tmp_path):
    kept = {
        name: value for name, value in load_generation_preset(purpose).items() if name not in preset_values(purpose)
    }
    found = dataclasses.replace(swept, purpose=purpose, kept=kept)
    path = tmp_path / "winner.toml"
    path.write_text(settings_toml(found, "run"), encoding="utf-8")
    assert load_generation_preset(str(path)) == {**found.winner.settings, **kept}
