"""A logits processor of the user's own on the command line."""

import pytest

from glassgpt import plugin
from glassgpt.errors import RequestError
from glassgpt.learn.lessons.lesson7 import solutions

LESSON = f"{solutions.__name__}:processor"
PLAIN = ("--temperature", 1, "--top-p", 1)


@pytest.fixture(autouse=True)
def nothing_allowed(monkeypatch):
    monkeypatch.setenv(plugin.VARIABLE, "")


@pytest.fixture
def generated(run_main, nano_run):
    """Return a function that generates with some flags and returns code, text and messages."""

    def generate(*flags):
        return run_main("generate", nano_run, "--prompt", "today the", "--max-tokens", 24, "--seed", 5, *flags)

    return generate


def test_processor_of_the_lesson_generates_the_same_text(generated):
    code, ours, _ = generated("--temperature", 0.8, "--top-p", 0.9, "--repetition-penalty", 1.2)
    assert code == 0
    assert generated(*PLAIN, "--processor", LESSON)[1] == ours
    assert generated(*PLAIN)[1] != ours


def test_processors_follow_each_other(generated, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "letters.py").write_text(
        "def no_e(logits, histories):\n    logits[:, ord('e')] = float('-inf')\n    return logits\n"
        "def no_a(logits, histories):\n    logits[:, ord('a')] = float('-inf')\n    return logits\n"
    )
    code, text, _ = generated(*PLAIN, "--processor", "letters:no_e", "--processor", "letters:no_a")
    assert code == 0
    assert not set("ea") & set(text.removeprefix("today the"))


def test_explain_names_the_processor(generated):
    code, out, _ = generated(*PLAIN, "--processor", LESSON, "--explain")
    assert code == 0
    assert "processor" in out


@pytest.mark.parametrize(
    ("source", "code", "message"),
    [
        ("def p(logits, histories):\n    raise NotImplementedError('exercise 7.2')\n", 1, "exercise 7.2"),
        ("def p(logits, histories):\n    return logits.softmax(-1)[0]\n", 1, "it must return logits"),
        ("p = 'text'\n", 2, "must be a function"),
        ("import nowhere_at_all\n", 2, "nowhere_at_all"),
    ],
)
def test_unusable_processor_is_reported(generated, tmp_path, monkeypatch, request, source, code, message):
    name = f"processor_{request.node.callspec.indices['source']}"
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / f"{name}.py").write_text(source)
    found, _, err = generated(*PLAIN, "--processor", f"{name}:p")
    assert found == code
    assert message in " ".join(err.split())
    assert "Traceback" not in err


def test_debug_shows_where_a_processor_failed(generated, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "failing.py").write_text("def p(logits, histories):\n    return 1 / 0\n")
    with pytest.raises(RequestError, match="failing:p failed"):
        generated(*PLAIN, "--processor", "failing:p", "--debug")
    code, _, err = generated(*PLAIN, "--processor", "failing:p")
    assert code == 1
    assert "failing:p failed: ZeroDivisionError: division by zero" in " ".join(err.split())
