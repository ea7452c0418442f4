"""The command `glassgpt doctor`."""

import json
import shutil

import pytest
from diagnosis_helpers import codes

from glassgpt import api


def test_doctor_on_a_preset(run_main, grammar_data):
    code, out, err = run_main("doctor", "nano", "--data", grammar_data, "--json")
    assert code == 0
    found = json.loads(out)
    assert found["verdict"] == "fine"
    assert {"initial loss", "causality", "one batch", "memory", "overlap"} <= {c["check"] for c in found["checks"]}
    assert "initial loss" in err  # progress


@pytest.mark.parametrize("has_data", [True, False])
def test_doctor_reports_a_warmup_that_training_would_shorten(has_data, run_main, grammar_data):
    data = ["--data", grammar_data] if has_data else []
    code, out, _ = run_main("doctor", "nano", *data, "--schedule.warmup-steps", "2000", "--json")
    found = [finding for check in json.loads(out)["checks"] for finding in check["findings"]]
    assert (code, [finding["code"] for finding in found]) == (0, ["GG-CFG-002"])
    assert found[0]["seen"] == {"warmup": 2000, "steps": 300, "taken": 30}


def test_doctor_on_an_invalid_configuration(run_main, grammar_data):
    code, out, _ = run_main("doctor", "nano", "--data", grammar_data, "--model.n-head", "7", "--language", "ko")
    assert code == 1
    assert "GG-CFG-001" in out
    assert "해결 방법" in out


def test_doctor_on_a_dataset_and_without_one(run_main, grammar_data):
    assert run_main("doctor", grammar_data)[0] == 0
    code, out, _ = run_main("doctor", "nano", "--model.vocab-size", 300)
    assert code == 0
    assert "causality" in out


def test_doctor_on_a_run_without_checkpoints(run_main, run):
    for manifest in run.checkpoints.glob("*/manifest.json"):
        manifest.unlink()
    code, out, _ = run_main("doctor", run.path)
    assert code == 1
    assert "GG-CKP-002" in out
    assert "what to do" in out


def test_doctor_explains_a_code(run_main):
    code, out, _ = run_main("doctor", "GG-CAU-001")
    assert code == 0
    assert out.startswith("GG-CAU-001: the model sees the future")
    assert run_main("doctor", "GG-XXX-999")[0] == 2


def test_doctor_suggests_the_nearest_preset(run_main):
    code, _, err = run_main("doctor", "nanoo")
    assert code == 2
    assert "did you mean nano" in err


def test_text_option_needs_a_run_with_data(run_main, grammar_data, run):
    assert run_main("doctor", "nano", "--text")[0] == 2
    assert run_main("doctor", run.path, "--temperature", "1")[0] == 2
    text = run.config.read_text().replace(str(grammar_data), str(run.path / "gone"))
    run.config.write_text(text.rpartition("# sha256")[0])  # an edited configuration
    code, _, err = run_main("doctor", run.path, "--text")
    assert code == 2
    assert "--data" in err
    assert run_main("doctor", run.path, "--text", "--data", grammar_data)[0] == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder.mkdir(), "is neither a run (config.toml) nor a dataset (dataset.json)"),
        (lambda folder: folder.write_text("some text"), "then glassgpt doctor DIR"),
        (
            lambda folder: (folder.mkdir(), (folder / "metrics.jsonl").write_text("{}")),
            "is a run without its config.toml",
        ),
    ],
)
def test_doctor_refuses_other_files_and_folders(tmp_path, run_main, make, message):
    make(tmp_path / "it")
    code, out, err = run_main("doctor", tmp_path / "it")
    assert (code, out) == (2, "")
    assert message in " ".join(err.split())


def test_doctor_on_a_run_without_its_tokenizer(run, tmp_path):
    copied = tmp_path / "copied"
    shutil.copytree(run.path, copied)
    (copied / "tokenizer.json").unlink()
    checks = list(api.doctor(copied))
    assert codes(*checks)[0] == "GG-DAT-010"
    assert "end" in [check.name for check in checks]
