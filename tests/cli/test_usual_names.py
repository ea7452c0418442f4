"""Names that are usual elsewhere lead to the right option, and a prompts file may begin with a byte order mark."""

import pytest

from glassgpt.cli import main
from glassgpt.cli.generation_flags import read_prompts
from glassgpt.data import load_tokenizer
from glassgpt.errors import GenerationError
from glassgpt.generation import show
from glassgpt.generation.constrained import regex_constraint
from glassgpt.generation.options import GenerationOptions


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["generate", "run", "-t", "1"], "did you mean --temperature?"),
        (["generate", "run", "--length", "20"], "did you mean --max-tokens?"),
        (["train", "demo", "--epochs", "3"], "did you mean --train.max-steps?"),
        (["generate", "run", "It was"], "did you mean --prompt 'It was'?"),
    ],
)
def test_usual_names_get_the_right_hint(capsys, arguments, hint):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert hint in capsys.readouterr().err


def test_byte_order_mark_is_not_part_of_a_prompt(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("\ufeffone\ntwo\n", encoding="utf-8")
    assert read_prompts((), file).texts == ["one", "two"]


def test_error_of_the_first_token_comes_before_the_prompt(capsys):
    def fails():
        raise ValueError
        yield

    with pytest.raises(ValueError):
        show.print_stream("prompt", fails(), 5)
    assert capsys.readouterr().out == ""


def test_options_know_whether_the_output_has_a_form():
    assert not GenerationOptions().has_form
    for given in ({"regex": "a"}, {"choices": ("a",)}, {"json_schema": "{}"}):
        assert GenerationOptions(**given).has_form


def test_pattern_that_nothing_matches_is_an_error_at_once():
    pytest.importorskip("llguidance")
    with pytest.raises(GenerationError, match="regex is invalid: no text matches it"):
        regex_constraint("[a&&b]", load_tokenizer("bytes"))
