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


def rows_of(folder, medium, number, **more):
    """Write a folder of rows with as many media, whose text is their number."""
    folder.mkdir(parents=True)
    for part in ("train", "test"):
        rows = [{medium: f"../files/{part}/{at}.bin", "text": f"{part} {at}", **more} for at in range(number)]
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def read_rows(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def tasks(tmp_path):
    rows_of(tmp_path / "rows/photos", "image", 300)
    rows_of(tmp_path / "rows/digits", "audio", 60)
    return {name: tmp_path / "rows" / name for name in ("photos", "digits")}


def test_rows_of_several_tasks_are_divided_by_their_media_and_repeated(script, tasks, tmp_path):
    from multimodal_parts import together

    counts = together.write_rows(tasks, {"digits": 3}, tmp_path / "out", test_rows=20)
    train, validation = (read_rows(tmp_path / f"out/{name}.jsonl") for name in ("train", "validation"))
    assert len(train) == counts["photos"]["train"] + 3 * counts["digits"]["train"]
    assert counts["photos"]["train"] + counts["photos"]["validation"] == 300
    assert 1 <= len(validation) <= 20
    media = [{row.get("image") or row["audio"] for row in rows} for rows in (train, validation)]
    assert not media[0] & media[1]
    assert media[0] | media[1] >= {str(tmp_path / f"rows/files/train/{at}.bin") for at in range(60)}
    test = read_rows(
        tmp_path / "out/photos-test.jsonl"
    )  # sorted by class, so the first rows alone would be of one class
    assert [row["text"] for row in test] == [f"test {at}" for at in range(0, 300, 15)]
    assert len(read_rows(tmp_path / "out/digits-test.jsonl")) == counts["digits"]["test"] == 20
    together.write_rows(tasks, {}, tmp_path / "all", test_rows=0)
    assert len(read_rows(tmp_path / "all/photos-test.jsonl")) == 300


class Prepared(Recorded):
    """Commands that are not run; prepare leaves the counts of a dataset, evaluate a loss of text, too."""

    def run(self, *words):
        words = [str(word) for word in words]
        if "--resume" in words:
            self.done.append(" ".join(words))
            return 1.0
        if words[0] == "prepare":
            folder = Path(words[words.index("--out") + 1])
            folder.mkdir()
            split = {"tokens": 300, "positions": {"image": 600, "audio": 100}}
            write_json(folder / "multimodal.json", {"row_length": 1025, "train": split})
        seconds = super().run(*words)
        if words[0] == "train":
            with (Path(words[words.index("--out") + 1]) / "metrics.jsonl").open("a", encoding="utf-8") as stream:
                stream.write('{"step": 8, "validation_loss": 3.5}\n')
        if "--data" in words and words[0] == "evaluate":
            loss = 3.7 if "latest" in words else 3.6
            write_json(words[words.index("--json-file") + 1], {"validation_loss": loss})
        return seconds


def test_one_model_is_evaluated_on_every_task_and_on_text(script, tasks, tmp_path, monkeypatch, capsys):
    commands = Prepared()
    monkeypatch.setattr(script, "Commands", lambda log: commands)
    given = [
        "together", "--rows", *(f"{name}={folder}" for name, folder in tasks.items()), "--copies", "digits=3",
        "--text", "train.jsonl", "--held-out", "val.jsonl", "--prepare", "image-size=64", "patch-size=8",
        "--set", "model.dropout=0.1", "--out", str(tmp_path / "out"), "--runs", str(tmp_path / "runs"),
    ]  # fmt: skip
    script.main(given)
    kinds = [words.split()[0] for words in commands.done]
    assert kinds == ["prepare", "prepare", "train", *["evaluate"] * 4]
    assert "--tokenizer gpt2 --row-tokens 1024 --image-size 64 --patch-size 8 --rate 8000" in commands.done[0]
    assert "multimodal-124m" in commands.done[2]
    assert "--train.sequence-length 1024 --model.dropout 0.1 --seed 1" in commands.done[2]
    found = json.loads((tmp_path / "out/together-preset-1.json").read_text())
    assert {checkpoint: figures["validation_loss"] for checkpoint, figures in found["text"].items()} == {
        "latest": 3.7,
        "best": 3.6,
    }
    assert found["tasks"] == {name: {"rows": 2, "exact": 0.5, "by": {}} for name in tasks}
    assert found["positions"] == {"tokens": 300, "image": 600, "audio": 100}
    assert (found["steps"], found["seconds of training"], found["seconds of a step"]) == (8, 9.0, 0.5)
    assert found["validation losses"] == {"8": 3.5}
    write_json(tmp_path / "out/together-preset-1.json", found)
    assert script.collect(tmp_path / "out")["exact answers"] == {}


def test_a_second_start_resumes_the_run(script, tasks, data, tmp_path, monkeypatch, capsys):
    commands = Prepared()
    monkeypatch.setattr(script, "Commands", lambda log: commands)
    out = tmp_path / "out"
    for folder in (out / "together-data", out / "together-text"):
        folder.mkdir(parents=True)
        (folder / "multimodal.json").write_bytes((data / "multimodal.json").read_bytes())
    run = tmp_path / "runs/together-preset-1"
    write_metrics(run, [{"step": step, "seconds": step} for step in range(1, 5)])
    write_json(out / "together-preset-1.json", {"commands": ["prepare", "train"], "seconds of preparing": 60.0})
    script.main([
        "together", "--rows", f"digits={tasks['digits']}", "--text", "t", "--held-out", "v", "--out", str(out),
        "--runs", str(run.parent),
    ])  # fmt: skip
    assert commands.done[2] == f"train --resume --out {run}"
    found = json.loads((out / "together-preset-1.json").read_text())
    assert [words.split()[0] for words in found["commands"]] == ["prepare", "train", "train", *["evaluate"] * 3]
    assert found["seconds of preparing"] == 60.0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--copies photos=2", "--copies names photos, but --rows has digits"),
        ("--copies digits=0", "--copies digits=0: give a number of 1 or more"),
        ("--copies digits", "'digits' must be NAME=VALUE"),
        ("--rows digits=nowhere", "nowhere has no train.jsonl; write the rows with tools/multimodal_data.py"),
    ],
)
def test_wrong_copies_are_named_before_anything_runs(script, tasks, tmp_path, words, message):
    required = ["--rows", f"digits={tasks['digits']}", "--text", "t", "--held-out", "v", "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as stop:
        script.main(["together", *required, *words.split()])
    assert message in str(stop.value)
    assert not (tmp_path / "out/together.log").exists()
