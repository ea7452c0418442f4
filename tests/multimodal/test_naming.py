"""`evaluate --rows`: exact answers by greedy generation, and the most probable of all names."""

import json
import wave

import pytest
import torch
from multimodal_helpers import GEOMETRY, picture, sound
from named_media import NAMES
from PIL import Image

from glassgpt import api
from glassgpt.api.multimodal import encoded_prompts, prompt_with_media
from glassgpt.errors import DataError, GenerationError, UsageError
from glassgpt.evaluation.edit_distance import edit_distance, error_rate
from glassgpt.generation.options import GenerationOptions
from glassgpt.model.vectors import vector_table
from glassgpt.multimodal import naming
from glassgpt.multimodal.naming import NameRanker, read_questions
from glassgpt.multimodal.prompting import encode_medium
from glassgpt.retrieval.likelihood import continuation_logprobs

CANDIDATES = [*NAMES, "a red bird", "a blue apple", "a", "a blue", "빨간 사과", "a red apple and a blue bird", "apple"]


@pytest.fixture(scope="module")
def named(named_run):
    return api.load(named_run, device="cpu")


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Rows with two pictures that the run knows and one that it names otherwise."""
    folder = tmp_path_factory.mktemp("rows")
    for kind in (0, 1):
        Image.fromarray(picture(kind).data).save(folder / f"{kind}.png")
    given = [
        {"image": "0.png", "text": NAMES[0], "language": "en"},
        {"image": "1.png", "text": NAMES[1], "language": "en"},
        {"image": "1.png", "text": NAMES[0], "language": "ko"},
    ]
    return write_rows(folder / "rows.jsonl", given)


@pytest.mark.parametrize("at_once", [2, 128])
def test_best_names_are_those_of_all_names_computed_one_by_one(named, monkeypatch, at_once):
    monkeypatch.setattr(naming, "NAMES_AT_ONCE", at_once)
    tokenizer, model = named.tokenizer, named.decoding_model
    ids = [[*tokenizer.encode(name), tokenizer.end_of_text] for name in CANDIDATES]
    ranker = NameRanker(model, tokenizer, CANDIDATES)
    prompts = [prompt_with_media(named.model, "a", [picture(kind).data], []) for kind in (0, 1)]
    with encoded_prompts(named.model, model, tokenizer, prompts, GenerationOptions()) as encoded:
        for prompt in encoded:
            every = continuation_logprobs(model, prompt, ids, tokenizer.vocab_size)
            expected = sorted(zip(every, CANDIDATES, strict=True), reverse=True)
            for count in (1, 4, len(CANDIDATES)):
                found = ranker.best(prompt, count)
                assert [each.text for each in found] == [name for _, name in expected[:count]]
                torch.testing.assert_close(
                    torch.tensor([each.logprob for each in found]),
                    torch.tensor([total for total, _ in expected[:count]]),
                )


def test_names_that_cannot_be_among_the_best_are_not_computed(named, monkeypatch):
    monkeypatch.setattr(naming, "NAMES_AT_ONCE", 1)
    ranker = NameRanker(named.decoding_model, named.tokenizer, [*NAMES, *(f"{letter} red" for letter in "bcdefghijk")])
    computed = []
    totals = ranker._totals
    monkeypatch.setattr(ranker, "_totals", lambda *given: computed.append(1) or totals(*given))
    prompt = prompt_with_media(named.model, "", [picture(0).data], [])
    options = GenerationOptions()
    with encoded_prompts(named.model, named.decoding_model, named.tokenizer, [prompt], options) as (ids,):
        assert ranker.best(ids, 1)[0].text == NAMES[0]
    assert len(computed) < 4


def test_names_are_ranked_for_pictures_and_sounds(named):
    heard = (sound(1, 720).data, GEOMETRY.rate)
    assert api.top_names(named, CANDIDATES, 2, images=[picture(0).data])[0].text == NAMES[0]
    assert api.top_names(named, CANDIDATES, 2, audio=[heard])[0].text == NAMES[1]
    assert len(api.top_names(named, NAMES, prompt="a")) == 2  # of a text, too
    with pytest.raises(GenerationError, match="at least one name"):
        api.top_names(named, [], images=[picture(0).data])
    with pytest.raises(UsageError, match="k is 0; it must be an integer of at least 1"):
        api.top_names(named, NAMES, 0)
    with pytest.raises(GenerationError, match="names is 'a red apple'; it must be a list"):
        api.top_names(named, "a red apple")
    with pytest.raises(GenerationError, match="positions left in the context"):
        api.top_names(named, ["x" * 200], images=[picture(0).data])


def test_a_name_may_fill_the_context(named):
    prompt, context = [named.tokenizer.end_of_text] * 4, named.model.config.context_length
    name = next("x" * n for n in range(1, 200) if len(named.tokenizer.encode("x" * n)) == context - len(prompt))
    assert NameRanker(named.decoding_model, named.tokenizer, [name]).best(prompt, 1)[0].text == name


def test_a_null_is_no_label(tmp_path):
    rows = [{"image": "a.png", "text": "a", "language": given} for given in (None, "ko")]
    assert [each.labels for each in read_questions(write_rows(tmp_path / "rows.jsonl", rows))] == [
        {},
        {"language": "ko"},
    ]


def test_exact_answers_are_counted_by_label(named, rows, capsys):
    report = api.evaluate_rows(named, rows, top=1)
    assert [answer.is_exact for answer in report.answers] == [True, True, False]
    errors = report.shares["character_errors"]
    assert report.shares == {"rows": 3, "exact": 2 / 3, "top_1": pytest.approx(2 / 3), "character_errors": errors}
    wrong = report.answers[2]
    assert errors == edit_distance(wrong.said.strip(), wrong.question.answer.strip()) / sum(
        len(each.question.answer.strip()) for each in report.answers
    )
    assert report.by_label["language"] == {
        "en": {"rows": 2, "exact": 1, "top_1": 1, "character_errors": 0},
        "ko": {
            "rows": 1,
            "exact": 0,
            "top_1": 0,
            "character_errors": error_rate([(wrong.said, wrong.question.answer)]),
        },
    }
    printed = capsys.readouterr().out
    assert "language: ko" in printed
    assert "✗" in printed


def test_command_writes_figures_and_answers(named_run, rows, tmp_path, run_main):
    path = tmp_path / "figures.json"
    words = ["evaluate", named_run, "--rows", rows, "--limit", "2", "--device", "cpu", "--json-file", path]
    code, _, error = run_main(*words)
    assert code == 0, error
    figures = json.loads(path.read_text())
    assert (figures["rows"], figures["exact"]) == (2, 1)
    assert [answer["said"] for answer in figures["answers"]] == list(NAMES)
    assert figures["by"] == {}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "a"}, "to be asked about, a row needs image or audio, and text"),
        ({"image": "a.png", "content": []}, "content and image cannot be combined"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, "a row needs image"),
    ],
)
def test_rows_that_ask_nothing_are_named(tmp_path, row, message):
    with pytest.raises(DataError, match=f"line 1: .*{message}"):
        read_questions(write_rows(tmp_path / "rows.jsonl", [row]))


GOOD = {"image": "0.png", "text": f" {NAMES[0]}"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"image": "0.png"}, "to be asked about, a row needs image or audio, and text"),
        ({**GOOD, "text": "  "}, "to be asked about, a row needs image or audio, and text"),
        ({**GOOD, "text": None}, "to be asked about, a row needs image or audio, and text"),
        ({**GOOD, "prompt": 3}, "prompt is int; it must be text"),
        ({**GOOD, "image": "none.png"}, "none.png does not exist, or is not a file"),
        ({**GOOD, "image": "."}, "does not exist, or is not a file"),
        ({**GOOD, "image": "cut.png"}, "cut.png: the picture is damaged"),
        (
            {**GOOD, "prompt": "zebra " * 20},
            r"the row takes \d+ positions with its text, more than the model's context of 64",
        ),
        (
            {**GOOD, "text": "zebra " * 20},
            r"the row takes \d+ positions with its text, more than the model's context of 64",
        ),
        ({**GOOD, "image": ["0.png"] * 12}, r"the row takes 6\d positions .* shorten it, or leave it out"),
        ({"audio": "long.wav", "text": "a"}, r"the row takes \d+ positions .* shorten it, or leave it out"),
    ],
)
def test_rows_that_cannot_be_asked_are_named_by_line(named, tmp_path, row, message):
    Image.fromarray(picture(0).data).save(tmp_path / "0.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "0.png").read_bytes()[:-40])
    with wave.open(str(tmp_path / "long.wav"), "wb") as file:
        file.setparams((1, 2, GEOMETRY.rate, 0, "NONE", ""))
        file.writeframes(sound(0, 3 * GEOMETRY.rate).data.tobytes())
    rows = write_rows(tmp_path / "rows.jsonl", [GOOD, row])
    with pytest.raises(DataError, match=f"rows.jsonl, line 2: .*{message}"):
        api.evaluate_rows(named, rows)
    assert len(api.evaluate_rows(named, rows, limit=1).answers) == 1


def test_other_texts_that_are_too_long_behind_a_row_name_it(named, tmp_path):
    Image.fromarray(picture(0).data).save(tmp_path / "0.png")
    long = {**GOOD, "text": "zebra " * 7}
    rows = write_rows(tmp_path / "rows.jsonl", [long, {**GOOD, "image": ["0.png"] * 8}])
    with pytest.raises(DataError, match="line 2: the longest text has"):
        api.evaluate_rows(named, rows, top=1)


def test_a_begin_token_in_a_question_is_text_as_in_training(named, tmp_path):
    Image.fromarray(picture(0).data).save(tmp_path / "0.png")
    question = "say <|image|>, <|audio|>"
    rows = write_rows(tmp_path / "rows.jsonl", [{**GOOD, "prompt": question, "extra": [1]}])
    (answer,) = api.evaluate_rows(named, rows).answers
    special = named.tokenizer.special_tokens
    before = [named.tokenizer.end_of_text, special["<|image|>"]]
    with vector_table(named.decoding_model).holding(encode_medium(named.model, picture(0))) as ids:
        prompt = [*before, *ids, *named.tokenizer.encode(question)]
        said = named.generate(prompt, temperature=0.0, max_tokens=len(named.tokenizer.encode(GOOD["text"])) + 8)
    assert answer.said == said
    assert answer.question.labels == {"extra": "[1]"}


def test_wrong_options_are_refused(named, rows, tmp_path):
    with pytest.raises(UsageError, match="--top is -1; it must be an integer of at least 0"):
        api.evaluate_rows(named, rows, top=-1)
    with pytest.raises(DataError, match="has no rows"):
        read_questions(write_rows(tmp_path / "none.jsonl", []))


def test_wrong_commands_are_refused(named_run, rows, tmp_path, run_main):
    for words, message in (
        (["--top", "3"], "--top is for pictures and sound; add --rows FILE"),
        (["--rows", tmp_path / "none"], "is not a file"),
        (["--rows", rows, "--generate"], "--generate cannot be combined with --rows"),
    ):
        code, _, error = run_main("evaluate", named_run, *words)
        assert code == 2
        assert message in " ".join(error.split())
