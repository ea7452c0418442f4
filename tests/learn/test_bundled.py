"""The models that come with the package, by name and from Python."""

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from glassgpt import api, console
from glassgpt.inspection.telling import TEXTS
from glassgpt.learn import bundled, course_run
from glassgpt.locale import LANGUAGES

MOST_BYTES = 2_000_000


@pytest.mark.parametrize("language", LANGUAGES)
def test_bundled_model_is_small_and_whole(language):
    files = [path for path in bundled(language).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < MOST_BYTES
    loaded = api.load(bundled(language), device="cpu")  # compares the checksums of its manifest
    assert loaded.model.config.context_length >= 128
    assert loaded.model.config.n_layer >= 2


def test_english_model_has_learned_its_language():
    loaded = api.load(bundled(), device="cpu")
    assert loaded.generate("ROMEO:\n", max_tokens=30, temperature=0).strip()
    tokens = torch.tensor(loaded.tokenizer.encode("MACBETH:\nThe queen, my lord, is dead.\n"))
    with torch.inference_mode():
        loss = F.cross_entropy(loaded.model(tokens[None])[0, :-1], tokens[1:]).item()
    assert loss < 0.7 * math.log(loaded.model.config.vocab_size)


def test_name_bundled_is_a_run(run_main):
    code, out, _ = run_main("generate", "bundled", "--prompt", "ROMEO:", "--max-tokens", "8", "--json")
    assert code == 0
    assert json.loads(out)


def test_folder_of_that_name_comes_first(run_main, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("bundled").mkdir()
    code, _, err = run_main("generate", "bundled", "--prompt", "x")
    assert (code, "bundled is not a run" in err) == (2, True), err


def test_inspect_without_a_run_opens_the_bundled_model(run_main):
    code, out, _ = run_main("inspect", "--text", "--prompt", "ROMEO")
    assert code == 0
    assert "R·O·M·E·O → " in out
    assert "4 blocks" in out


def test_inspect_opens_the_model_of_the_language(run_main, monkeypatch):
    monkeypatch.setenv("GLASSGPT_LANGUAGE", "ko")
    code, out, _ = run_main("inspect", "--text", "--prompt", "어머니")
    console.use_translation(None)
    assert (code, "블록 3개" in out) == (0, True), out


def test_student_run_comes_before_the_bundled_one(nano_run, tmp_path, monkeypatch):
    (tmp_path / "lesson1").mkdir()
    monkeypatch.chdir(tmp_path / "lesson1")
    assert course_run() == bundled()
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "demo").symlink_to(nano_run)
    assert course_run().resolve() == nano_run.resolve()


def test_name_bundled_is_a_tokenizer_and_can_be_measured(run_main, tmp_path):
    (tmp_path / "text.txt").write_text("The queen, my lord, is dead.\n" * 300)
    code, _, err = run_main("prepare", tmp_path / "text.txt", "--out", tmp_path / "data", "--tokenizer", "bundled")
    assert code == 0, err
    told = json.loads((tmp_path / "data" / "tokenizer.json").read_text())
    assert told == json.loads((bundled() / "tokenizer.json").read_text())
    flags = ("--batch", "1", "--new-tokens", "2", "--rounds", "1", "--device", "cpu")
    assert run_main("bench", "generate", "bundled", *flags)[0] == 0


def test_served_bundled_model_has_that_name():
    from glassgpt.cli.serve import _named_run

    assert _named_run("bundled") == ("bundled", bundled(), None)
    assert _named_run("macbeth=bundled") == ("macbeth", bundled(), None)
    assert _named_run("runs/mine@best") == ("mine@best", Path("runs/mine"), "best")


@pytest.mark.parametrize("run", [[], ["bundled"]])
def test_page_of_the_bundled_model_has_its_name_and_a_telling_text(run, run_main, monkeypatch):
    served = []
    monkeypatch.setattr("glassgpt.cli.inspection.serve_page", lambda service, **_: served.append(service))
    assert run_main("inspect", *run)[0] == 0
    overview = served[0].trace({})["overview"]
    assert overview["runs"] == ["bundled"]
    assert overview["text"] in TEXTS


def test_texts_of_the_bundled_model_leave_works_out_and_repeat_words(tmp_path):
    from tools.bundled_model import matching, write_repetitions

    (tmp_path / "macbeth.txt").write_text("Is this a dagger")
    (tmp_path / "hamlet.txt").write_text("who would these fardels bear " * 400)
    assert [file.name for file in matching(tmp_path, ("macbeth",))] == ["macbeth.txt"]
    with pytest.raises(SystemExit, match="no file in --text is named othello"):
        matching(tmp_path, ("othello",))
    (tmp_path / "macbeth.txt").unlink()
    size = (tmp_path / "hamlet.txt").stat().st_size
    write_repetitions(tmp_path, 0.5)
    lists = [each.split() for each in (tmp_path / "repetitions.txt").read_text().split("\n\n") if each]
    written = (tmp_path / "repetitions.txt").stat().st_size
    assert 0.5 * size <= written < 0.7 * size
    assert {len(each) // _period(each) for each in lists} == {2, 3}


def _period(words):
    return next(n for n in range(1, len(words) + 1) if len(words) % n == 0 and words == words[:n] * (len(words) // n))
