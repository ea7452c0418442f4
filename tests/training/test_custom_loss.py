"""Plug-ins of training: a loss and a schedule of the user's own, and the training step of lesson 6."""

import json

import pytest
import torch

from glassgpt import plugin
from glassgpt.config import load_config
from glassgpt.data.batches import Batches
from glassgpt.learn.lessons.lesson6 import solutions
from glassgpt.model.build import build_model

STEPS = 10
SHORT = ("--train.max-steps", STEPS, "--schedule.warmup-steps", 3, "--train.eval-tokens", 512)
LESSON = solutions.__name__


@pytest.fixture(autouse=True)
def nothing_allowed(monkeypatch):
    """Begin with no module allowed, and forget what the test allows."""
    monkeypatch.setenv(plugin.VARIABLE, "")


def losses(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def write_module(folder, monkeypatch, name, text):
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    (folder / f"{name}.py").write_text(text)


@pytest.fixture(scope="module")
def plain(grammar_data, tmp_path_factory):
    """The losses of a run of ten steps, without plug-ins."""
    from glassgpt import api

    out = tmp_path_factory.mktemp("plain") / "run"
    settings = {"data": str(grammar_data), **{str(n).lstrip("-").replace("-", "_"): v for n, v in _pairs(SHORT)}}
    api.train(load_config("nano", settings), out)
    return losses(out)


def _pairs(flags):
    return zip(flags[::2], flags[1::2], strict=True)


def test_loss_and_schedule_of_the_lesson_train_the_same(run_main, grammar_data, tmp_path, plain):
    own = (f"--train.loss={LESSON}:cross_entropy", f"--schedule.function={LESSON}:learning_rate_ratio")
    code, _, err = run_main("train", "nano", "--data", grammar_data, "--out", tmp_path / "run", *SHORT, *own)
    assert code == 0, err
    assert losses(tmp_path / "run") == pytest.approx(plain, abs=1e-5)


def test_training_step_of_the_lesson_has_the_same_losses(grammar_dataset, grammar_data, plain):
    config = load_config("nano", {"data": str(grammar_data)})
    torch.manual_seed(config.seed)
    model = build_model(config.model.__class__(**{**vars(config.model), "vocab_size": grammar_dataset.vocab_size}))
    groups = solutions.parameter_groups(model, config.optimizer.weight_decay)
    optimizer = torch.optim.AdamW(groups, betas=(config.optimizer.beta1, config.optimizer.beta2))
    text = grammar_dataset.split("train")
    batches = Batches(text, config.model.context_length, config.seed)
    tokens = torch.from_numpy(text.read(0, len(text)))
    found = []
    for step in range(STEPS):
        starts = batches.next_starts(config.train.batch_tokens // config.model.context_length)
        inputs, targets = solutions.make_batch(tokens, starts.tolist(), config.model.context_length)
        parts = list(zip(inputs.split(4), targets.split(4), strict=True))
        rate = config.train.learning_rate * solutions.learning_rate_ratio(step, STEPS, 3, config.schedule.final_ratio)
        found.append(solutions.train_step(model, optimizer, parts, rate, config.train.clip_norm))
    assert found == pytest.approx(plain, abs=1e-5)


def test_another_loss_changes_training_but_not_validation(run_main, grammar_data, tmp_path, monkeypatch, plain):
    write_module(
        tmp_path,
        monkeypatch,
        "doubled",
        "import torch.nn.functional as F\n"
        "def loss(logits, targets):\n    return 2 * F.cross_entropy(logits.flatten(0, 1), targets.flatten())\n",
    )
    flags = (*SHORT, "--train.loss", "doubled:loss")
    assert run_main("train", "nano", "--data", grammar_data, "--out", "run", *flags)[0] == 0
    assert losses(tmp_path / "run")[0] == pytest.approx(2 * plain[0], rel=1e-5)
    last = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()][-1]
    assert last["validation_loss"] < plain[0]


def test_resumed_run_does_not_import_its_plug_in_unasked(run_main, grammar_data, tmp_path, monkeypatch):
    write_module(tmp_path, monkeypatch, "mine", f"from {LESSON} import cross_entropy\n")
    begin = ("train", "nano", "--data", grammar_data, "--out", "run", *SHORT, "--train.loss", "mine:cross_entropy")
    assert run_main(*begin)[0] == 0
    monkeypatch.setenv(plugin.VARIABLE, "")
    resume = ("train", "--resume", "--out", "run", "--train.max-steps", STEPS + 1)
    code, _, err = run_main(*resume)
    assert code == 2
    assert "mine:cross_entropy" in err
    assert plugin.VARIABLE in err
    assert run_main("generate", "run", "--max-tokens", 1)[0] == 0  # needs no loss
    assert run_main(*resume, "--train.loss", "mine:cross_entropy")[0] == 0


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("loss = 3\n", "it must be a function"),
        ("def loss(logits, targets):\n    return logits\n", "tensor without dimensions"),
        ("def loss(logits, targets):\n    return 1.5\n", "returned a float"),
        ("def loss(logits, targets):\n    return logits.detach().mean()\n", "does not depend on the logits"),
        ("import no_such_module\n", "no_such_module"),
        ("def lose(logits, targets):\n    return logits\n", "did you mean lose"),
        ("def loss(logits, targets):\n    raise KeyError('x')\n", ":loss failed: KeyError: 'x'"),
        ("def loss(logits, targets):\n    raise SystemExit\n", ":loss failed: SystemExit"),
    ],
)
def test_unusable_loss_is_reported(run_main, grammar_data, tmp_path, monkeypatch, request, source, message):
    name = f"unusable_{request.node.callspec.indices['source']}"
    write_module(tmp_path, monkeypatch, name, source)
    code, _, err = run_main(
        "train", "nano", "--data", grammar_data, "--out", "run", *SHORT, f"--train.loss={name}:loss"
    )
    assert code == (1 if "failed" in message else 2)
    assert message in " ".join(err.split())
    assert "Traceback" not in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("returned", ["-1", "None", "float('nan')"])
def test_unusable_schedule_is_reported(run_main, grammar_data, tmp_path, monkeypatch, returned):
    name = f"schedule_{'npf'.index(returned[0]) if returned[0] in 'npf' else 9}_{len(returned)}"
    write_module(
        tmp_path, monkeypatch, name, f"def rate(step, max_steps, warmup_steps, final_ratio):\n    return {returned}\n"
    )
    flags = (*SHORT, f"--schedule.function={name}:rate")
    code, _, err = run_main("train", "nano", "--data", grammar_data, "--out", "run", *flags)
    assert code == 2
    assert "number of at least 0" in " ".join(err.split())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "others", [("--train.teacher", "runs/teacher"), ("--train.loss-chunk-tokens", 64)], ids=["teacher", "chunks"]
)
def test_loss_cannot_be_combined(run_main, grammar_data, tmp_path, others):
    flags = (f"--train.loss={LESSON}:cross_entropy", *others)
    code, _, err = run_main("train", "nano", "--data", grammar_data, "--out", tmp_path / "run", *flags)
    assert code == 2
    assert "train.loss" in err
    assert not (tmp_path / "run").exists()
