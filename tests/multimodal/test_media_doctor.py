"""The checks before training, of data and of models with encoders: on media, not on a text in their place."""

import itertools
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from named_media import NAMES, SETTINGS

from glassgpt import api
from glassgpt.api.initialization import model_to_train
from glassgpt.api.preference_data import open_data
from glassgpt.api.runs import trainer_config
from glassgpt.config import load_config, resolve_config
from glassgpt.data.batches import build_batches
from glassgpt.diagnosis import doctor
from glassgpt.diagnosis.checks import data as data_checks
from glassgpt.diagnosis.checks import model as model_checks
from glassgpt.diagnosis.checks.first_batch import first_batch
from glassgpt.diagnosis.replay import _decode
from glassgpt.multimodal.model import MultimodalModel
from glassgpt.training.conversations import ConversationLoss
from glassgpt.training.hardware import Hardware

CPU = Hardware(torch.device("cpu"), "fp32", compile=False)


def codes(*checks):
    return {finding.code for check in checks for finding in check.findings}


@pytest.fixture
def config(named_data):
    return resolve_config(load_config(None, {**SETTINGS, "data": str(named_data)}), None)


@pytest.fixture
def plan(config, tmp_path):
    dataset = open_data(config)
    return doctor.TrainingPlan(
        config.model, trainer_config(config), dataset, tmp_path,
        build=lambda shape: model_to_train(replace(config, model=shape), None, dataset),
    )  # fmt: skip


def arguments(**more):
    given = SETTINGS | more
    return [part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", value)]


def test_command_checks_encoders_and_learns_the_names(named_data, run_main, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # pictures are written there
    code, out, err = run_main(
        "doctor", "nano", "--data", named_data, *arguments(), "--json", "--rate-range", "--coordinates"
    )
    checks = json.loads(out)["checks"]
    seen = {check["check"]: check["seen"] for check in checks}
    assert (code, "Traceback" in err) == (0, False)
    assert {f["code"] for check in checks for f in check["findings"]} <= {"GG-CFG-006", "GG-WID-001", "GG-LRT-001"}
    assert seen["gradients"] == {"reached": 38, "all": 38}  # 28 of the language model, 10 of the encoders
    assert seen["optimizer"]["parameters"] == 38
    assert seen["one batch"]["last"] < 0.1
    assert seen["batches"]["shifted"] == 1
    assert [check["outcome"] for check in checks].count("not shifted") == 0


def test_checked_loss_is_that_of_the_texts_with_their_media(plan, config):
    """Against the logits of whole rows, one document at a time."""
    torch.manual_seed(plan.settings.seed)
    model = plan.build(plan.model).eval()
    inputs, targets = first_batch(plan.batches(), 256)
    loss = plan.loss(model)
    assert isinstance(model, MultimodalModel)
    assert isinstance(loss, ConversationLoss)
    result = model_checks.check_initial_loss(loss, inputs, targets, CPU, is_fresh=True)
    nats, count = 0.0, 0
    for row, due in zip(inputs, targets, strict=True):
        firsts = [0, *((due == -101).nonzero()[:, 0] + 1).tolist(), len(due)]
        for first, end in itertools.pairwise(firsts):
            with torch.no_grad():
                logprobs = model.head(model.features(row[None, first:end]))[0].log_softmax(-1)
            own = due[first:end]
            learned = (own >= 0).nonzero()[:, 0]
            nats -= logprobs[learned, own[learned]].sum().item()
            count += len(learned)
    assert result.measurements["loss"] == pytest.approx(nats / count, abs=1e-4)


def test_encoder_without_gradient_is_found(named_data, monkeypatch):
    """A check of the language model alone cannot know it."""
    real = MultimodalModel.vectors

    def vectors(self, inputs):
        x = real(self, inputs)
        return torch.where((inputs[..., 0] == -1)[..., None], x.detach(), x)  # of pictures

    assert "GG-GRD-001" not in codes(*api.doctor("nano", data=named_data, overrides=SETTINGS))
    monkeypatch.setattr(MultimodalModel, "vectors", vectors)
    assert "GG-GRD-001" in codes(*api.doctor("nano", data=named_data, overrides=SETTINGS))


def test_starting_run_checks_its_media(plan):
    """The checks at the start of a run read its rows, and change neither model nor generators."""
    torch.manual_seed(1)
    model = plan.build(plan.model)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    rng = torch.get_rng_state()
    checks = list(doctor.run_startup_checks(plan, model))
    assert codes(*checks) <= {"GG-CFG-006"}
    assert {"batches", "initial loss", "causality"} <= {check.name for check in checks}
    assert torch.equal(rng, torch.get_rng_state())
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())


def test_wrong_targets_of_media_are_found(plan, config):
    batches = build_batches(plan.training_tokens(), 64, 1)
    assert codes(data_checks.check_batches(batches, 8)) == set()
    real = batches.read
    batches.read = lambda starts: (real(starts)[0], real(starts)[1].roll(1, dims=1))
    assert codes(data_checks.check_batches(batches, 8)) == {"GG-DAT-002"}


@pytest.mark.parametrize(
    "changes", [{"multimodal.freeze": True}, {"lora.rank": 4}, {"multimodal.attention": "bidirectional"}]
)
def test_frozen_adapted_and_bidirectional_models_are_checked(changes, named_data, named_run, run_main):
    given = arguments(**changes)
    start = [] if "multimodal.attention" in changes else ["--init-from", named_run]
    code, out, err = run_main("doctor", "nano", "--data", named_data, *start, *given, "--json")
    checks = json.loads(out)["checks"]
    found = {f["code"] for check in checks for f in check["findings"]}
    assert (code, "Traceback" in err, found - {"GG-CFG-006"}) == (0, False, set())
    reached = {check["check"]: check["seen"] for check in checks}["gradients"]
    expected = {"multimodal.freeze": 10, "lora.rank": 26, "multimodal.attention": 38}[next(iter(changes))]
    assert reached == {"reached": expected, "all": expected}


def test_ctc_head_receives_a_gradient(plan, config, named_data):
    """Its loss is one of training only; texts here are longer than sounds, so that the settings refuse it."""
    model = model_to_train(replace(config, multimodal=replace(config.multimodal, ctc_weight=0.5)), None, plan.dataset)
    loss, inputs, targets = plan.loss(model), *first_batch(plan.batches(), 512)
    targets = targets.clone()
    for row in targets:  # one token for each sound
        learned = (row >= 0).nonzero()[:, 0]
        row[learned[1:]] = -100
    result = model_checks.check_gradients(loss, inputs, targets, CPU)
    assert "GG-GRD-001" not in codes(result)
    assert result.measurements["reached"] == 40


def test_a_stretch_with_media_is_quoted_as_its_text(plan):
    """A replay that found a bad sequence quotes it; positions of media have no token."""
    trainer = SimpleNamespace(dataset=plan.dataset)
    length = plan.training_tokens().row_length
    quoted = _decode(trainer, 0, length)
    assert "tokens that the tokenizer does not know" not in quoted
    assert any(name in quoted for name in NAMES)


@pytest.mark.parametrize(("strength", "expected"), [(0.0, ["GG-CFG-006"]), (0.5, [])])
def test_many_epochs_of_media_that_change_each_time_are_healthy(strength, expected, named_data, run_main):
    strengths = {"multimodal.augment_image": strength, "multimodal.augment_audio": strength}
    settings = arguments(**{"train.max_steps": 20_000, **strengths})
    _, out, _ = run_main("doctor", "nano", "--data", named_data, "--json", *settings)
    found = [finding["code"] for check in json.loads(out)["checks"] for finding in check["findings"]]
    assert [code for code in found if code == "GG-CFG-006"] == expected
