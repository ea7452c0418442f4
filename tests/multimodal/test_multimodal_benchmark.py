"""benchmarks/multimodal.py: which commands it runs, and how it puts figures together, without training."""

import json
from pathlib import Path

import pytest

from scripts import load_script


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        yield load_script("multimodal", patch)


class Recorded:
    """Commands that are not run; train leaves its metrics."""

    def __init__(self):
        self.done = []

    def run(self, *words):
        words = [str(word) for word in words]
        self.done.append(" ".join(words))
        if words[0] == "train":
            folder = words[words.index("--out") + 1]
            write_metrics(folder, [{"step": step, "seconds": 5 + 0.5 * step} for step in range(1, 9)])
        if words[0] == "evaluate":
            path = words[words.index("--json-file") + 1]
            write_json(path, {"rows": 2, "exact": 0.5, "by": {}, "answers": [{}, {}]})
        return 3.0


def write_json(path, content):
    with open(path, "w", encoding="utf-8") as stream:
        json.dump(content, stream)


def write_metrics(folder, lines):
    Path(folder).mkdir(parents=True)
    (Path(folder) / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    split = {"tokens": 300, "positions": {"image": 600, "audio": 100}}
    write_json(folder / "multimodal.json", {"row_length": 513, "train": split})
    return folder


def test_time_chooses_the_steps(script, data, tmp_path):
    commands = Recorded()
    script.train(commands, script.TASKS["cifar10"], data, tmp_path / "run", ["train.max_steps=7", "seed=2"], minutes=11)
    trial, whole = commands.done
    given = f"train cifar10-12m --data {data} --train.sequence-length 512 --train.max-steps"
    assert trial == f"{given} 300 --seed 2 --train.eval-every-steps 0 --out {tmp_path / 'run-trial'}"
    assert whole == f"{given} 1200 --seed 2 --out {tmp_path / 'run'}"  # 600 seconds of half a second
    assert script.text_share(data) == 0.3


def test_results_have_figures_without_answers_and_are_collected(script, data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(script, "Commands", lambda log: Recorded())
    for seed in ("1", "2"):
        script.main([
            "train", "digits", "--rows", str(tmp_path), "--data", str(data), "--runs", str(tmp_path / "runs"),
            "--out", str(tmp_path / "out"), "--seed", seed, "--label", "wide", "--set", "multimodal.mels=80",
        ])  # fmt: skip
    found = json.loads((tmp_path / "out/digits-wide-2.json").read_text())
    assert found["figures"] == {"test": {"rows": 2, "exact": 0.5, "by": {}}}
    assert (found["steps"], found["settings"]) == (8, ["multimodal.mels=80"])
    assert "--multimodal.mels 80 --seed 2" in found["commands"][0]
    script.main(["collect", str(tmp_path / "out"), "--out", str(tmp_path / "all.json")])
    summary = json.loads((tmp_path / "all.json").read_text())["exact answers"]
    assert summary == {"digits, wide": {"seeds": 2, "mean": 0.5, "lowest": 0.5, "highest": 0.5}}


def test_a_command_that_fails_is_named(script, tmp_path):
    with pytest.raises(SystemExit, match=r"glassgpt train none failed \(2\)"):
        script.Commands(tmp_path / "log").run("train", "none")


def test_the_last_checkpoint_is_evaluated_besides_the_best(script, data, tmp_path, monkeypatch, capsys):
    commands = Recorded()
    monkeypatch.setattr(script, "Commands", lambda log: commands)
    arguments = ["train", "emoji", "--rows", str(tmp_path), "--data", str(data), "--runs", str(tmp_path / "runs")]
    (tmp_path / "tune.jsonl").touch()
    train = script.train

    def train_and_save(commands, task, data, run, settings, minutes):
        seconds = train(commands, task, data, run, settings, minutes)
        for step in (4, 8):
            (run / f"checkpoints/step-{step:06d}").mkdir(parents=True)
        (run / "checkpoints/best").write_text("step-000004\n")
        (run / "checkpoints/latest").write_text("step-000008\n")
        return seconds

    monkeypatch.setattr(script, "train", train_and_save)
    script.main([*arguments, "--out", str(tmp_path / "out")])
    figures = json.loads((tmp_path / "out/emoji-preset-1.json").read_text())["figures"]
    assert list(figures) == ["test", "tuned on", "test, last checkpoint", "tuned on, last checkpoint"]
    asked = [
        words.split()[words.split().index("--checkpoint") + 1] for words in commands.done if "evaluate" in words[:9]
    ]
    assert asked == ["best", "best", "latest", "latest"]
    (tmp_path / "out/other.json").write_text("{}")
    assert list(script.collect(tmp_path / "out")["exact answers"]) == [
        "emoji, preset",
        "emoji, preset, last checkpoint",
    ]
    assert {"emoji-preset-1.answers.json", "last-emoji-preset-1.answers.json"} <= {
        path.name for path in (tmp_path / "out").iterdir()
    }
