"""Comparing generation settings."""

import dataclasses
import json
import math

import matplotlib.image
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from text_quality_helpers import BYTES, LetterCounts, documents, held_out

from glassgpt import api, console
from glassgpt.data.files import check_output_path
from glassgpt.errors import ConfigError, DataError, GenerationError, UsageError
from glassgpt.evaluation import pictures
from glassgpt.evaluation.bleu import reference_bleu
from glassgpt.evaluation.coherence import ModelStates
from glassgpt.evaluation.compare import SettingsResult, compare, comparison_options, parse_settings_list
from glassgpt.evaluation.evaluate import EvaluationRequest
from glassgpt.evaluation.held_out import Continuation, PromptOptions, human_continuations
from glassgpt.evaluation.pictures import PICTURES, draw_comparison
from glassgpt.evaluation.quality import METRICS, Diversity, TextQuality
from glassgpt.evaluation.show import comparison_json, sample_lines, show_comparison, split_to_width
from glassgpt.generation.presets import load_generation_preset


def test_settings_are_read_from_names_files_and_values(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text("temperature = 0.5\n")
    found = parse_settings_list(f"creative, greedy,{file},temperature=0.7,top-p=0.9+min_p=0.1,pure,default")
    assert found["creative"] == load_generation_preset("creative")
    assert found["greedy"] == {"temperature": 0.0}
    assert found[str(file)] == {"temperature": 0.5}
    assert found["temperature=0.7"] == {"temperature": 0.7}
    assert found["top-p=0.9+min_p=0.1"] == {"top_p": 0.9, "min_p": 0.1}
    assert found["default"] == {}
    options = comparison_options(found["creative"] | {"num_samples": 4, "logprobs": 2}, PromptOptions(1, 8, 20), 64)
    assert (options.max_tokens, options.num_samples, options.logprobs, options.overflow) == (20, 1, 0, "stop")
    assert comparison_options({}, PromptOptions(1, 8, 60), 64).overflow == "re-prefill"


@pytest.mark.parametrize(
    ("given_settings", "error", "message"),
    [
        ("gredy", ConfigError, "unknown settings gredy; did you mean greedy?; expected chat"),
        (" , ", UsageError, "--compare names no settings"),
        ("temprature=1", ConfigError, "did you mean temperature?"),
        ("temperature=warm", ConfigError, "--compare: cannot parse temperature=warm; expected NAME=VALUE"),
        ("temperature=1+top_p", ConfigError, "--compare: cannot parse top_p; expected NAME=VALUE"),
        ("temperature='warm'", ConfigError, "must be a number"),
        ("none.toml", ConfigError, "none.toml cannot be read"),
    ],
)
def test_unknown_settings_are_refused(given_settings, error, message):
    with pytest.raises(error) as caught:
        parse_settings_list(given_settings)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_value_out_of_range_is_refused_before_generating(loaded, grammar_dataset):
    human = human_continuations(grammar_dataset, PromptOptions(2, 8, 8))
    with pytest.raises(GenerationError, match="temperature is -1"):
        compare(
            loaded.model,
            BYTES,
            human,
            parse_settings_list("pure,temperature=-1"),
            PromptOptions(2, 8, 8),
            LetterCounts(),
        )


@pytest.fixture(scope="module")
def comparison(loaded, grammar_dataset):
    prompts = PromptOptions(4, 16, 40, seed=1).resolve(64)
    human = human_continuations(grammar_dataset, prompts)
    asked = parse_settings_list("greedy,pure,temperature=0.7")
    return compare(loaded.model, BYTES, human, asked, prompts, ModelStates(loaded.model, BYTES))


def test_comparison_measures_the_generated_texts(loaded, comparison):
    assert [each.name for each in comparison.settings] == ["greedy", "pure", "temperature=0.7"]
    greedy, pure = (each.quality for each in comparison.settings[:2])
    assert greedy.surprisal < pure.surprisal
    assert math.isnan(comparison.human.quality.bleu)
    assert comparison.human.quality.tokens == 40
    for each in comparison.settings:
        texts = [one.text for one in each.texts]
        assert each.quality.distinct_2 == Diversity.of(texts).distinct_2
        assert each.quality.bleu == reference_bleu(texts, [one.text for one in comparison.human.texts])
        assert [one.prompt for one in each.texts] == [one.prompt for one in comparison.human.texts]


def test_comparison_is_shown_as_table_and_json(comparison, capsys):
    show_comparison(comparison, BYTES, samples=1)
    out = capsys.readouterr().out
    assert out.count("── prompt") == 1
    for one in METRICS:
        assert one.heading in out
        assert one.reading in out
    found = json.loads(json.dumps(comparison_json(comparison, BYTES), allow_nan=False))
    assert list(found["settings"]) == ["people", "greedy", "pure", "temperature=0.7"]
    assert len(found["settings"]["pure"]["texts"]) == 4
    assert found["settings"]["people"]["figures"]["bleu"] is None
    assert found["prompts"] == {"count": 4, "prompt_tokens": 16, "new_tokens": 40, "seed": 1}


def test_comparison_is_plotted(comparison, tmp_path):
    awkward = Continuation((65,), (), "costs $5 or $x_$ \x00 \n 👍", True)
    first = dataclasses.replace(comparison.settings[0], texts=[awkward] * 4)
    unknown = dataclasses.replace(comparison.settings[1], quality=TextQuality(*[math.nan] * 10))
    path = tmp_path / "picture.png"
    has_all_glyphs = draw_comparison(dataclasses.replace(comparison, settings=[first, unknown]), BYTES, path)
    assert not has_all_glyphs
    pixels = matplotlib.image.imread(path)
    assert pixels.shape[1] > 1000
    assert pixels[..., :3].std() > 0.05  # not blank


@pytest.mark.filterwarnings("error")
def test_wide_characters_are_wrapped_inside_the_picture(comparison, tmp_path):
    korean = Continuation((65,), (), "할머니는 밤에 시장을 떠났다. " * 40, False)
    first = dataclasses.replace(comparison.settings[0], texts=[korean] * 4)
    lines = pictures._wrapped(pictures._drawable(korean.text)).splitlines()
    assert len(lines) >= 3
    assert max(map(cell_len, lines)) <= pictures.LINE_CHARACTERS
    assert " ".join(lines).split() == pictures._drawable(korean.text).split()
    draw_comparison(
        dataclasses.replace(comparison, settings=[first, *comparison.settings[1:]]), BYTES, tmp_path / "x.png"
    )


def test_interrupted_picture_keeps_the_old_file(comparison, tmp_path, monkeypatch):
    path = tmp_path / "picture.png"
    path.write_bytes(b"an older one")
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", interrupted_savefig)
    with pytest.raises(KeyboardInterrupt):
        draw_comparison(comparison, BYTES, path)
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [("picture.png", b"an older one")]


def interrupted_savefig(self, file, **_):
    file.write(b"half of it")
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    "ending", [each if each == ".svg" else pytest.param(each, marks=pytest.mark.slow) for each in PICTURES]
)
def test_every_picture_format_can_be_written(comparison, tmp_path, ending):
    path = tmp_path / f"picture{ending}"
    draw_comparison(comparison, BYTES, path)
    assert path.read_bytes()[:5] in (b"\x89PNG\r", b"<?xml", b"%PDF-")


def test_unwritable_output_is_refused_first(tmp_path):
    there = tmp_path / "there.png"
    there.write_text("")
    (tmp_path / "folder.png").mkdir()
    for path, message in (
        (tmp_path / "x.jpg.txt", "--picture is .*; the name must end in .png, .svg, .pdf"),
        (tmp_path / "none" / "x.png", "the folder .*none does not exist or is not writable"),
        (tmp_path / "folder.png", "which is a folder; give a file name"),
        (there, "there.png already exists; overwrite it with --force, or choose another --picture"),
    ):
        with pytest.raises(UsageError, match=message):
            check_output_path("--picture", path, PICTURES)
    check_output_path("--picture", there, PICTURES, force=True)
    check_output_path("--json-file", tmp_path / "any.ending")


@pytest.mark.parametrize("option", ["json_file", "picture"])
def test_existing_output_is_kept_and_nothing_is_measured(loaded, grammar_dataset, tmp_path, monkeypatch, option):
    monkeypatch.setattr("glassgpt.evaluation.evaluate.evaluate", None)  # a call would raise another error
    path = tmp_path / "there.png"
    path.write_text("mine")
    with pytest.raises(UsageError, match="already exists"):
        api.evaluate(loaded, grammar_dataset, EvaluationRequest(), **{option: path})
    assert path.read_text() == "mine"


@pytest.mark.parametrize(
    ("requested", "message"),
    [
        (EvaluationRequest(settings={"wild": {"temperature": -1.0}}), "settings wild: temperature is -1"),
        (
            EvaluationRequest(settings={"greedy": {}}, prompts=PromptOptions(prompt_tokens=64)),
            "no held-out document has more",
        ),
    ],
)
def test_invalid_generation_is_refused_before_evaluating(loaded, grammar_dataset, monkeypatch, requested, message):
    monkeypatch.setattr("glassgpt.evaluation.evaluate.evaluate_dataset", None)
    dataset = held_out(grammar_dataset, documents("only this"))
    with pytest.raises((GenerationError, DataError), match=message):
        api.evaluate(loaded, dataset, requested)


@given(st.lists(st.text("ab+=", min_size=1, max_size=30), min_size=1, max_size=12), st.integers(40, 140))
def test_tables_contain_every_setting_once_in_order(names, width):
    settings = [SettingsResult(name, None, []) for name in names]
    tables = split_to_width(settings, width)
    assert [one for table in tables for one in table] == settings
    assert all(tables)


@pytest.mark.parametrize("width", [80, 100])
def test_tables_fit_the_terminal(comparison, capsys, monkeypatch, width):
    monkeypatch.setattr(console.out, "_width", width)
    one = comparison.settings[0]
    names = ["greedy", "technical", "temperature=0.8+top_p=0.95+repetition_penalty=1.1", "pure", "chat", "creative"]
    many = [dataclasses.replace(one, name=name) for name in names]
    show_comparison(dataclasses.replace(comparison, settings=many), BYTES, samples=0)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    assert sum("repeated-4 │" in line for line in lines) == 2  # two tables, no name or value is wrapped
    for word in ("technical", "+repetition_penalty=1.1", "creative"):
        assert sum(word in line for line in lines) == 1


def test_samples_keep_their_white_space():
    assert sample_lines(" a  b\n") == " a  b"
    assert sample_lines("if x:\n    y\n") == "\n    if x:\n        y"
    assert sample_lines(" \n") == " (nothing)"
