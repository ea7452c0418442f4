"""Distillation and pruning: the loss, the smaller models, and the runs that train them."""

import json
import shutil

import pytest
import torch
import torch.nn.functional as F
from tests.small_models import LLAMA, attentive_model

from glassgpt import api
from glassgpt.api.compression import CompressionSource
from glassgpt.api.runs import write_run_files
from glassgpt.cli.distillation import check_distillation, check_search
from glassgpt.compression.calibration import calibration_windows
from glassgpt.compression.distillation import training_settings
from glassgpt.compression.methods import check_methods
from glassgpt.compression.methods.distil import Distil, evenly_spaced
from glassgpt.compression.methods.int8 import Int8
from glassgpt.compression.methods.prune import Prune
from glassgpt.compression.report import divergence
from glassgpt.compression.shrink import block_importances, neuron_importances, with_blocks, with_neurons
from glassgpt.config import load_config
from glassgpt.data import load_tokenizer
from glassgpt.errors import CheckpointError, UsageError
from glassgpt.evaluation.held_out import Continuation
from glassgpt.evaluation.observer import EvaluationObserver
from glassgpt.model.config import ModelConfig
from glassgpt.training.checkpoint import find_checkpoint, list_checkpoints, load_model, newest_verified_checkpoint
from glassgpt.training.config import TrainConfig
from glassgpt.training.distillation import DistillationLoss
from glassgpt.training.lineage import read_lineage
from glassgpt.training.loss import cross_entropy
from glassgpt.training.run_folder import RunFolder

SHAPES = [{}, {"arch": "modern", "bias": False, "n_head": 4}, LLAMA]
NAMES = ["gpt2", "modern", "llama"]
SETTINGS = {
    "train.max_steps": 40,
    "train.batch_tokens": 1024,
    "train.eval_every_steps": 0,
    "checkpoint.every_steps": 10,
}
BUDGET = {"calibration_tokens": 1024, "eval_tokens": 4096}
progress = EvaluationObserver().progress


@pytest.fixture(scope="module")
def distilled(nano_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("distilled") / "run"
    return out, api.distil(CompressionSource(nano_run, **BUDGET), out, [Distil(1)], overrides=SETTINGS)


def some_tokens(rows=2, length=17):
    return torch.randint(0, 257, (rows, length), generator=torch.Generator().manual_seed(3))


# The loss


@pytest.mark.parametrize("chunk_tokens", [0, 7])
def test_loss_is_torchs_divergence_plus_the_teachers_entropy(chunk_tokens):
    teacher, student = attentive_model(0), attentive_model(1, n_layer=1).train()
    tokens = some_tokens()
    loss = DistillationLoss(student, teacher, chunk_tokens)(tokens[:, :-1], tokens[:, 1:])
    gradients = torch.autograd.grad(loss, list(student.parameters()))
    expected = teacher(tokens[:, :-1]).log_softmax(-1).flatten(0, 1).detach()
    found = student(tokens[:, :-1]).log_softmax(-1).flatten(0, 1)
    reference = F.kl_div(found, expected, reduction="batchmean", log_target=True)
    entropy = -(expected.exp() * expected).sum(-1).mean()
    assert loss.item() == pytest.approx((reference + entropy).item(), rel=1e-5)
    for mine, theirs in zip(gradients, torch.autograd.grad(reference, list(student.parameters())), strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-4, atol=1e-6)


def test_loss_of_a_validation_is_that_of_the_text():
    teacher, student = attentive_model(0), attentive_model(1)
    tokens = some_tokens()
    found = DistillationLoss(student, teacher)(tokens[:, :-1], tokens[:, 1:])
    assert torch.equal(found, cross_entropy(student(tokens[:, :-1]), tokens[:, 1:]))


def test_teacher_is_no_part_of_the_trained_module():
    student = attentive_model(1)
    loss = DistillationLoss(student, attentive_model(0))
    assert {p.data_ptr() for p in loss.parameters()} == {p.data_ptr() for p in student.parameters()}
    assert loss.of(student)._teacher is not loss._teacher
    assert loss.of(student)._teacher[0] is loss._teacher[0]


# The smaller models


def test_layers_are_evenly_spaced():
    assert evenly_spaced(12, 6) == [0, 2, 4, 7, 9, 11]  # DistilBERT's
    assert evenly_spaced(6, 3) == [0, 2, 5]
    assert evenly_spaced(5, 1) == [0]


@pytest.mark.parametrize("shape", SHAPES, ids=NAMES)
def test_student_begins_with_the_layers_of_its_teacher(shape):
    teacher = attentive_model(n_layer=4, **shape)
    student = Distil(2).apply(teacher, None, progress)
    assert student.config == Distil(2).shrunk(teacher.config)
    theirs = teacher.state_dict()
    for name, tensor in student.state_dict().items():
        assert torch.equal(tensor, theirs[name.replace("blocks.1.", "blocks.3.")]), name
    assert len(teacher.blocks) == 4


@pytest.mark.parametrize("shape", SHAPES, ids=NAMES)
def test_pruned_neurons_are_those_that_can_be_left_out(shape):
    model = attentive_model(**shape)
    kept = torch.arange(0, model.config.inner_width, 2)
    expected = attentive_model(**shape)
    with torch.no_grad():
        for block in expected.blocks:
            block.mlp.down.weight[:, 1::2] = 0
    found = with_neurons(model, [kept] * len(model.blocks))
    tokens = some_tokens()
    assert torch.allclose(found(tokens), expected(tokens), atol=1e-5)
    importances = neuron_importances(expected, tokens, progress)
    assert all(bool((each[1::2] == 0).all()) and bool((each[::2] > 0).all()) for each in importances)


def test_importance_predicts_what_leaving_a_neuron_out_costs():
    model, tokens = attentive_model(n_layer=1), some_tokens(1)
    with torch.no_grad():
        model.blocks[0].mlp.down.weight *= 1e-2  # the estimate is of first order
        before = cross_entropy(model(tokens[:, :-1]), tokens[:, 1:])
        changes = []
        for neuron in range(0, 96, 8):
            column = model.blocks[0].mlp.down.weight[:, neuron].clone()
            model.blocks[0].mlp.down.weight[:, neuron] = 0
            changes.append(abs(cross_entropy(model(tokens[:, :-1]), tokens[:, 1:]) - before) * 16)
            model.blocks[0].mlp.down.weight[:, neuron] = column
    importances = neuron_importances(model, tokens, progress)[0][::8] * 16
    assert torch.allclose(importances, torch.stack(changes), rtol=0.1, atol=0.01 * max(changes).item())


def test_block_that_does_nothing_is_pruned():
    model = attentive_model(n_layer=3)
    with torch.no_grad():
        for part in (model.blocks[1].attention.out, model.blocks[1].mlp.down):
            part.weight.zero_()
            part.bias.zero_()
    scores = block_importances(model, some_tokens(), progress)
    assert scores[1] == pytest.approx(0, abs=1e-6)
    assert min(scores[0], scores[2]) > 0.01
    smaller = Prune("layers", 0.67).apply(model, some_tokens(), progress)
    assert torch.allclose(smaller(some_tokens()), model(some_tokens()), atol=1e-6)
    assert torch.equal(with_blocks(model, [0, 2])(some_tokens()), smaller(some_tokens()))


def test_pruning_less_important_neurons_costs_less(nano_run, grammar_dataset):
    model = api.load(nano_run).model
    text = calibration_windows(grammar_dataset, 64, 4096)
    importances = neuron_importances(model, text, progress)
    held_out = torch.tensor(grammar_dataset.split("validation").read(0, 2049).astype("int64"))
    losses = []
    for largest in (True, False):
        chosen = [each.topk(128, largest=largest).indices.sort().values for each in importances]
        smaller = with_neurons(model, chosen)
        losses.append(cross_entropy(smaller(held_out[:-1].view(-1, 64)), held_out[1:].view(-1, 64)).item())
    assert losses[0] < losses[1] - 0.1


# The runs


def test_run_that_was_tuned_on_preferences_learns_from_text(nano_run, grammar_data, tmp_path):
    tuned = shutil.copytree(nano_run, tmp_path / "tuned")
    given = {"data": "", "init_from": "base", "preference.data": "pairs.jsonl", "preference.reference": "base"}
    write_run_files(RunFolder(tuned), load_config(tuned, given), load_tokenizer("bytes"))
    out = tmp_path / "new"
    assert check_distillation(tuned, out, [Distil(1)], grammar_data, "best", {}, resume=False) == out
    check_search(tuned, grammar_data, "best", {})


@pytest.mark.parametrize(("original", "expected"), [(0.0, 0.0), (0.05, 0.05), (0.4, 0.1)])
def test_student_is_trained_with_little_dropout(tmp_path, original, expected):
    model = ModelConfig(n_layer=2, dropout=original, token_dropout=0.1)
    settings = training_settings(tmp_path, tmp_path, [Distil(1)], model, TrainConfig(), {})
    assert settings["model.dropout"] == expected
    assert settings["model.token_dropout"] == 0.0
    chosen = training_settings(tmp_path, tmp_path, [Distil(1)], model, TrainConfig(), {"model.dropout": "0.3"})
    assert chosen["model.dropout"] == "0.3"


def test_training_brings_the_student_closer(distilled, nano_run, grammar_dataset):
    out, measured = distilled
    teacher, student = api.load(nano_run).model, api.load(out).model
    assert len(student.blocks) == 1
    ids = grammar_dataset.split("validation").read(0, 64).tolist()
    text = Continuation(tuple(ids[:8]), tuple(ids[8:]), "", False)
    untrained = Distil(1).apply(teacher, None, progress)
    assert divergence(teacher, student, text) < 0.5 * divergence(teacher, untrained, text)
    assert json.loads((out / "compression.json").read_text())["after"]["perplexity"] == measured.after.perplexity
    assert measured.after.n_bytes < measured.before.n_bytes


def test_run_holds_the_student_alone_and_names_its_teacher(distilled, nano_run):
    out, _ = distilled
    run = RunFolder(out)
    assert load_config(out).train.teacher == str(nano_run)
    lineage = read_lineage(run)
    assert (lineage.source, lineage.steps) == (str(nano_run), ("distil: 1 layers, evenly spaced",))
    weights = load_model(find_checkpoint(run, "latest")).state_dict()
    assert not any(name.startswith("blocks.1.") for name in weights)
    size = sum(file.stat().st_size for file in find_checkpoint(run, "latest").iterdir())
    assert size < 3.5 * 4 * sum(tensor.numel() for tensor in weights.values())  # weights and two moments


def test_resumed_run_has_the_same_bits(distilled, nano_run, run_main, tmp_path):
    out, _ = distilled
    stopped = shutil.copytree(out, tmp_path / "run")
    newest = newest_verified_checkpoint(RunFolder(stopped)).path
    earlier = [path for path in list_checkpoints(RunFolder(stopped)) if path != newest]
    shutil.rmtree(newest)
    for pointer in ("latest", "best"):
        (stopped / "checkpoints" / pointer).unlink()
    (stopped / "compression.json").unlink()
    assert earlier
    code, _, err = run_main("compress", nano_run, "--out", stopped, "--resume", "--eval-tokens", 4096)
    assert code == 0, err
    first, second = (load_model(find_checkpoint(RunFolder(run), "latest")).state_dict() for run in (out, stopped))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert (stopped / "compression.json").is_file()


def test_run_that_has_done_no_step_begins_with_the_student(nano_run, tmp_path, monkeypatch):
    def killed(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("glassgpt.api.distillation.train", killed)
    with pytest.raises(KeyboardInterrupt):
        api.distil(CompressionSource(nano_run, **BUDGET), tmp_path / "run", [Distil(1)], overrides=SETTINGS)
    stored = load_model(find_checkpoint(RunFolder(tmp_path / "run"), "best")).state_dict()
    expected = Distil(1).apply(api.load(nano_run).model, None, progress).state_dict()
    assert all(torch.equal(stored[name], expected[name]) for name in expected)


def test_resuming_with_another_teacher_is_refused(distilled, nano_run, tmp_path):
    teacher = shutil.copytree(nano_run, tmp_path / "teacher")
    moved = load_config(distilled[0], {"train.teacher": str(teacher)})
    stopped = shutil.copytree(distilled[0], tmp_path / "run")
    api.train(moved, stopped, resume=True)  # the same weights in another place
    best = find_checkpoint(RunFolder(teacher), "best")
    other = next(path for path in list_checkpoints(RunFolder(teacher)) if path != best)
    (teacher / "checkpoints" / "best").write_text(other.name + "\n")
    with pytest.raises(CheckpointError, match="began with other weights of its teacher"):
        api.train(moved, stopped, resume=True)


def test_any_model_can_learn_from_a_teacher(run_main, nano_run, grammar_data, tmp_path):
    steps = ["--train.max-steps", 2, "--data", grammar_data]
    code, _, err = run_main("train", "nano", "--train.teacher", nano_run, "--out", tmp_path / "new", *steps)
    assert code == 0, err
    assert read_lineage(RunFolder(tmp_path / "new")).source == str(nano_run)
    longer = ["--model.context-length", 128]
    code, _, err = run_main("train", "nano", "--train.teacher", nano_run, "--out", tmp_path / "long", *steps, *longer)
    assert code == 1
    assert "model.context_length is 128 here and 64 there" in err


@pytest.mark.slow
def test_pruned_run_is_smaller_and_healed(run_main, nano_run, tmp_path):
    settings = [word for name, value in SETTINGS.items() for word in (f"--{name}".replace("_", "-"), value)]
    common = [
        "compress",
        nano_run,
        "--prune",
        "mlp",
        "--keep",
        0.25,
        "--eval-tokens",
        4096,
        "--calibration-tokens",
        2048,
    ]
    code, _, err = run_main(*common, "--out", tmp_path / "healed", *settings)
    assert code == 0, err
    code, _, err = run_main(*common, "--out", tmp_path / "not", "--no-training", "--int8")
    assert code == 0, err
    healed, not_healed = (json.loads((tmp_path / run / "compression.json").read_text()) for run in ("healed", "not"))
    assert load_config(tmp_path / "healed").model.n_inner == load_config(tmp_path / "not").model.n_inner == 64
    assert healed["after"]["perplexity"] < 0.9 * not_healed["after"]["perplexity"]
    for command in ("doctor", "evaluate"):
        code, _, err = run_main(command, tmp_path / "healed")
        assert code == 0, err


# Mistakes


@pytest.mark.parametrize(
    ("methods", "shape", "message"),
    [
        ([Distil(12)], {}, "--layers is 12; it must be at least 1 and below the model's 12"),
        ([Distil(0)], {}, "--layers is 0; it must be at least 1"),
        ([Distil(6)], {"arch": "modern", "bias": False, "window": 256}, "model.window is 256"),
        ([Prune("mlp", 1.0)], {}, "--keep is 1; it must be above 0 and below 1"),
        ([Prune("layers", 0.99)], {}, "removes nothing"),
        ([Distil(6), Int8()], {}, "--distil trains its model, which --int8 cannot be combined with"),
    ],
)
def test_mistakes_are_reported_before_anything_is_loaded(methods, shape, message):
    with pytest.raises(UsageError, match=message):
        check_methods(methods, ModelConfig(**shape))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--distil", "--model.n-layer", 1], "--model.n-layer cannot be set here"),
        (["--distil", "--checkpoint", "latest"], "learns from the best"),
        (["--distil", "--train.max-steps", 0], "train.max_steps is 0"),
        (["--int8", "--train.max-steps", 5], "it needs --distil, --prune or --target"),
        (["--int8", "--layers", 1], "--layers belongs to --distil"),
        (["--resume"], "does not exist"),
    ],
)
def test_mistakes_of_the_command_create_nothing(run_main, nano_run, tmp_path, options, message):
    code, _, err = run_main("compress", nano_run, "--out", tmp_path / "new", *options)
    assert code == 2
    assert message in err
    assert not (tmp_path / "new").exists()


def test_only_a_student_of_the_run_is_resumed(run_main, nano_run, distilled):
    code, _, err = run_main("compress", distilled[0], "--out", nano_run, "--resume")
    assert code == 2
    assert "it has no teacher" in err
