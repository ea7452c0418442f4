"""Runs that are trained on preferences: files, resuming, stopping, recovery, the report, mistakes."""

import json
import math
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from glassgpt import api
from glassgpt.api.initialization import model_to_train
from glassgpt.api.preference_data import checked_lineage, open_preferences
from glassgpt.api.runs import save_as_run, trainer_config
from glassgpt.config import load_config
from glassgpt.data.chat.plain import PLAIN_TEMPLATE
from glassgpt.data.tokenizers import load_tokenizer
from glassgpt.diagnosis.monitor import TrainingMonitor
from glassgpt.errors import CheckpointError, ConfigError, Interrupted, TrainingDivergedError, UsageError, WrongDataError
from glassgpt.generation.options import GenerationOptions
from glassgpt.model.attention import attend
from glassgpt.training import preference_validation
from glassgpt.training.checkpoint import find_checkpoint, weights_fingerprint
from glassgpt.training.lineage import read_lineage
from glassgpt.training.loop import Trainer
from glassgpt.training.observers import Observer
from glassgpt.training.preference import PreferenceLoss
from glassgpt.training.run_folder import RunFolder
from small_models import attentive_model

SETTINGS = {
    "model.context_length": 48, "model.n_embd": 24, "model.n_layer": 2, "model.n_head": 3, "model.vocab_size": 257,
    "lora.rank": 4, "train.batch_tokens": 8 * 48, "train.micro_batch_size": 4, "train.max_steps": 12,
    "train.eval_every_steps": 6, "train.learning_rate": 3e-3, "train.snapshots": "off", "train.device": "cpu",
    "preference.validation_share": 0.2, "diagnosis.sample_every_steps": 0,
}  # fmt: skip


class StopAt(Observer):
    def __init__(self, step):
        self._step = step

    def on_step(self, metrics):
        if metrics.step == self._step:
            raise Interrupted("stopped by the test", 2)


@pytest.fixture(scope="module")
def chat_base(tmp_path_factory):
    """A run with random weights; tests must not modify it."""
    out = tmp_path_factory.mktemp("base") / "run"
    save_as_run(attentive_model(), load_tokenizer("bytes"), out)
    return out


@pytest.fixture(scope="module")
def pairs_file(tmp_path_factory):
    """Forty prompts whose chosen reply is the one in small letters."""
    file = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    words = [f"{'abcde'[n % 5]}{'fghij'[n // 5 % 5]}{n}" for n in range(40)]
    rows = [{"prompt": word, "chosen": f"{word} ok", "rejected": word.upper()} for word in words]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture(scope="module")
def tuning_config(chat_base, pairs_file):
    """Return the configuration of a tuning on the pairs, with changes."""

    def make(**changes):
        changed = {name.replace("__", "."): value for name, value in changes.items()}
        return load_config(
            None, {**SETTINGS, "init_from": str(chat_base), "preference.data": str(pairs_file), **changed}
        )

    return make


@pytest.fixture(scope="module")
def tuned(tuning_config, tmp_path_factory):
    """A tuned run, and the result; tests must not modify it."""
    out = tmp_path_factory.mktemp("tuned") / "run"
    return out, api.tune_preferences(tuning_config(diagnosis__watch="full", diagnosis__sample_every_steps=2), out)


def lines(run, name):
    return [json.loads(line) for line in (run / name).read_text().splitlines()]


def weights(run, step):
    return load_file(run / "checkpoints" / f"step-{step:06d}" / "model.safetensors")


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_tuning_learns_the_preference_and_logs_what_it_does(tuned):
    run, result = tuned
    steps = [line for line in lines(run, "metrics.jsonl") if "loss" in line]
    assert steps[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert (steps[0]["reward_margin"], steps[0]["chosen_change"]) == (0, 0)
    assert steps[-1]["loss"] < 0.6
    assert steps[-1]["reward_margin"] > 0.1
    assert steps[-1]["chosen_change"] > steps[-1]["rejected_change"]
    held_out = [line for line in lines(run, "metrics.jsonl") if "validation_loss" in line]
    assert [line["step"] for line in held_out] == [6, 12]
    assert held_out[-1]["validation_accuracy"] == pytest.approx(result.held_out.accuracy)
    assert held_out[-1]["validation_chosen_loss"] == pytest.approx(result.held_out.chosen_loss, abs=1e-4)
    assert result.held_out.accuracy > 0.8
    assert json.loads((run / "preferences.json").read_text())["validation_accuracy"] == result.held_out.accuracy
    assert 0 < steps[-1]["tokens"] < 12 * 8 * 2 * 48  # of the conversations, not of their slots


def test_audited_and_sampled_run_has_no_findings(tuned):
    """Batches, gradients and updates are computed again by the audits, from a loss of their own."""
    run, _ = tuned
    found = [event["code"] for event in lines(run, "events.jsonl") if event["event"] == "finding"]
    assert found == ["GG-INI-003"]  # the base has random weights
    assert len(lines(run, "layers.jsonl")) >= 5


def test_doctor_reads_the_run(tuned):
    checks = {check.name: check for check in api.doctor(tuned[0])}
    assert "n-gram baselines" not in checks
    assert [finding.code for check in checks.values() for finding in check.findings] == ["GG-INI-003"]  # random weights
    assert checks["end"].outcome == "finished"


def test_report_draws_accuracy_margin_and_changes(tuned):
    page = (tuned[0] / "report.html").read_text()
    for caption in ("Share of pairs whose chosen", "Reward of the chosen reply minus", "Change of log-probability"):
        assert caption in page
    assert page.count('class="plot"') == 7


def test_lineage_names_the_base_and_the_file(tuned, chat_base, pairs_file):
    lineage = read_lineage(RunFolder(tuned[0]))
    assert lineage.source == str(chat_base)
    assert [step.partition(":")[0] for step in lineage.steps] == ["preferences", "chat template", "reference"]
    assert "SHA-256 of the file" in lineage.steps[0]
    assert load_config(tuned[0]).preference.data == str(pairs_file)


def test_resumed_run_ends_with_the_same_bits(tuned, tuning_config, tmp_path):
    with pytest.raises(Interrupted):
        api.train(tuning_config(checkpoint__every_steps=5), tmp_path / "run", observers=(StopAt(8),))
    api.train(tuning_config(), tmp_path / "run", resume=True)
    assert same(weights(tmp_path / "run", 12), weights(tuned[0], 12))


def test_resuming_with_other_preferences_is_refused(tuning_config, pairs_file, tmp_path):
    file = tmp_path / "pairs.jsonl"
    file.write_text(pairs_file.read_text())
    with pytest.raises(Interrupted):
        api.train(
            tuning_config(preference__data=str(file), checkpoint__every_steps=2),
            tmp_path / "run",
            observers=(StopAt(4),),
        )
    file.write_text(pairs_file.read_text().replace(" ok", " no"))
    with pytest.raises(WrongDataError, match="began with other preferences"):
        api.train(load_config(tmp_path / "run"), tmp_path / "run", resume=True)


def test_resuming_with_another_chat_template_is_refused(tuning_config, chat_base, tmp_path):
    base = shutil.copytree(chat_base, tmp_path / "base")
    (base / "chat_template.jinja").write_text(PLAIN_TEMPLATE)
    config = tuning_config(
        init_from=str(base), checkpoint__every_steps=2, train__max_steps=4, train__eval_every_steps=2
    )
    with pytest.raises(Interrupted):
        api.train(config, tmp_path / "run", observers=(StopAt(2),))
    (base / "chat_template.jinja").write_text(PLAIN_TEMPLATE.replace("User", "Human"))
    with pytest.raises(WrongDataError, match="began with another chat template .* start a new run .* --init-from"):
        api.train(load_config(tmp_path / "run"), tmp_path / "run", resume=True)
    (base / "chat_template.jinja").write_text(PLAIN_TEMPLATE)
    api.train(load_config(tmp_path / "run"), tmp_path / "run", resume=True)


def test_lineage_of_an_earlier_version_names_the_preferences_only(tuning_config, tmp_path):
    config, run = tuning_config(), RunFolder(tmp_path / "run")
    dataset = open_preferences(config)
    now = checked_lineage(config, run, dataset)
    assert now is not None
    run.path.mkdir()
    for kept in (now.steps, now.steps[:1], ("merge: an adapter", *now.steps[:1])):
        before = replace(now, steps=kept)
        run.config.write_text(before.to_toml())
        assert checked_lineage(config, run, dataset) == before
    for kept in ((), now.steps[1:], (now.steps[0].replace("held out", "kept"), *now.steps[1:])):
        run.config.write_text(replace(now, steps=kept).to_toml())
        with pytest.raises(WrongDataError, match="began with other preferences"):
            checked_lineage(config, run, dataset)


def test_lineage_names_the_first_weights_and_the_reference(tuning_config, chat_base, tmp_path):
    for seed, name in enumerate(("first", "reference", "other")):
        save_as_run(attentive_model(seed), load_tokenizer("bytes"), tmp_path / name)
    config = tuning_config(
        init_from=str(tmp_path / "first"), preference__reference=str(tmp_path / "reference"), lora__rank=0,
        checkpoint__every_steps=2, train__max_steps=4, train__eval_every_steps=2,
    )  # fmt: skip
    with pytest.raises(Interrupted):
        api.train(config, tmp_path / "run", observers=(StopAt(2),))
    lineage = read_lineage(RunFolder(tmp_path / "run"))
    first, reference = (
        weights_fingerprint(find_checkpoint(RunFolder(tmp_path / name), "best")) for name in ("first", "reference")
    )
    assert (lineage.source, lineage.weights_sha256) == (str(tmp_path / "first"), first)
    assert lineage.steps[-1].startswith("reference: ")
    assert str(tmp_path / "reference") in lineage.steps[-1]
    assert lineage.steps[-1].endswith(reference)
    changed = load_config(tmp_path / "run", {"preference.reference": str(tmp_path / "other")})
    with pytest.raises(CheckpointError, match="began with another reference than the weights in .*other; restore"):
        api.train(changed, tmp_path / "run", resume=True)
    (tmp_path / "reference").rename(tmp_path / "moved")
    moved = load_config(tmp_path / "run", {"preference.reference": str(tmp_path / "moved")})
    api.train(moved, tmp_path / "run", resume=True)


def test_full_tuning_keeps_a_frozen_copy_as_reference(tuning_config, chat_base, tmp_path):
    config = tuning_config(
        lora__rank=0, preference__reference=str(chat_base), checkpoint__every_steps=2, train__max_steps=6
    )
    with pytest.raises(Interrupted):
        api.train(config, tmp_path / "cut", observers=(StopAt(4),))
    api.train(config, tmp_path / "cut", resume=True)
    api.train(config, tmp_path / "whole")
    assert same(weights(tmp_path / "cut", 6), weights(tmp_path / "whole", 6))
    last = [line for line in lines(tmp_path / "cut", "metrics.jsonl") if "loss" in line][-1]
    assert last["reward_margin"] > 0  # not zero, as it would be against itself


def test_training_stops_when_the_chosen_replies_become_too_unlikely(tuning_config, tuned, tmp_path):
    """For the tuned run as reference, they are too unlikely from the start, and hardly anything is learned."""
    assert tuned[1].held_out.chosen_change > 0.05
    config = tuning_config(
        preference__reference=str(tuned[0]), preference__max_chosen_drop=0.01, lora__rank=0, train__learning_rate=4e-9,
        train__max_steps=30,
    )  # fmt: skip
    with pytest.raises(
        TrainingDivergedError, match="became less likely by .* more than preference.max_chosen_drop 0.01"
    ) as caught:
        api.train(config, tmp_path / "run")
    assert "the best one validated. Or start again in another folder with --train.learning-rate 1e-09" in str(
        caught.value
    )
    events = {event["event"]: event for event in lines(tmp_path / "run", "events.jsonl")}
    assert events["preference stop"]["drop"] > 0.01
    assert find_checkpoint(RunFolder(tmp_path / "run"), "best")
    checks = {check.name: check for check in api.doctor(tmp_path / "run")}
    assert checks["end"].outcome == "stopped early"


def test_pair_that_is_not_finite_is_quarantined(tuning_config, pairs_file, tmp_path):
    """Recovery replays the step, finds the pair, and training continues without it."""
    file = tmp_path / "pairs.jsonl"
    file.write_text(pairs_file.read_text() + json.dumps({"prompt": "Z%", "chosen": "z", "rejected": "y"}) + "\n")
    config = tuning_config(preference__data=str(file), preference__validation_share=0.1, train__max_steps=8)
    dataset = open_preferences(config)
    pairs = dataset.split("train")
    assert (pairs.ids == ord("%")).any()
    trainer = Trainer(
        model_to_train(config, None, dataset), dataset, trainer_config(config), RunFolder(tmp_path / "run")
    )
    api.attach_diagnosis(trainer, config.diagnosis)

    def overflow(module, inputs, output):
        return output.masked_fill((inputs[0] == ord("%"))[..., None], math.inf)

    trainer.model.token_embedding.register_forward_hook(overflow)
    assert trainer.run().step == 8
    [(start, end)] = trainer.train_step.batches.quarantined
    assert end - start == pairs.row_length
    assert (pairs.read(start, end - start) == ord("%")).any()


def test_doctor_says_why_a_run_has_no_text(tuned):
    with pytest.raises(UsageError, match="was tuned on preferences; give a dataset of text with --data DIR"):
        list(api.doctor(tuned[0], text=GenerationOptions()))


def test_doctor_replays_the_step_that_ended_a_run(tuning_config, pairs_file, tmp_path, monkeypatch):
    file = tmp_path / "pairs.jsonl"
    file.write_text(pairs_file.read_text() + json.dumps({"prompt": "Z%", "chosen": "z", "rejected": "y"}) + "\n")

    def build(*arguments, **more):
        trainer = Trainer(*arguments, **more)
        trainer.model.token_embedding.register_forward_hook(
            lambda module, inputs, output: output.masked_fill((inputs[0] == ord("%"))[..., None], math.inf)
        )
        return trainer

    monkeypatch.setattr("glassgpt.api.training.Trainer", build)
    monkeypatch.setattr("glassgpt.diagnosis.post_mortem.Trainer", build)
    changes = {"diagnosis.recover": False, "diagnosis.most_replays": 0, "checkpoint.every_steps": 1}
    config = tuning_config(preference__data=str(file), preference__validation_share=0.1, **changes)
    with pytest.raises(TrainingDivergedError):
        api.train(config, tmp_path / "run")
    check = next(check for check in api.doctor(tmp_path / "run") if check.name == "replay")
    assert (check.outcome, check.measurements["cause"]) == ("replayed", "data")
    file.write_text(pairs_file.read_text())
    check = next(check for check in api.doctor(tmp_path / "run") if check.name == "replay")
    assert (check.outcome, "began with other preferences" in check.measurements["problem"]) == ("failed", True)


def test_validation_of_pairs_has_small_batches(tuning_config, tuned, monkeypatch):
    sizes = []
    monkeypatch.setattr(preference_validation, "pairs_in_order", lambda pairs, size: sizes.append(size) or iter(()))
    trained = SimpleNamespace(
        micro_batch_size=64, average=None, model=None, hardware=SimpleNamespace(device="cpu", autocast=lambda: None),
        loss=SimpleNamespace(memory_options=(0, 0), of=lambda model, chunk: PreferenceLoss.__new__(PreferenceLoss)),
    )  # fmt: skip
    monkeypatch.setattr(preference_validation, "validate_preferences", lambda *args, **more: None)
    preference_validation.PreferenceValidator(trained, None).run()
    assert sizes == [preference_validation.MAX_PAIRS]


def test_finetune_command_tunes_and_tells_what_changed(chat_base, pairs_file, run_main, tmp_path):
    code, output, errors = run_main(
        "finetune", chat_base, "--format", "preference", "--data", pairs_file, "--out", tmp_path / "run", "--epochs", 1,
        "--train.max-steps", 4, "--train.device", "cpu", "--preference.validation-share", 0.2,
    )  # fmt: skip
    assert code == 0, errors
    assert "loss on held-out replies, nats per token" in output
    assert "held-out preference accuracy:" in output
    assert "accuracy" in errors
    config = load_config(tmp_path / "run")
    assert (config.lora.rank, config.data, config.train.compile) == (16, "", "off")
    code, _, errors = run_main("finetune", chat_base, "--out", tmp_path / "run", "--resume", "--gpus", 2)
    assert (code, "--gpus cannot be combined" in errors) == (2, True)
    code, _, errors = run_main("finetune", chat_base, "--out", tmp_path / "run", "--resume")
    assert (code, "all 4 steps are done" in errors) == (0, True)
    code, _, errors = run_main("merge", tmp_path / "run", "--out", tmp_path / "merged")
    assert code == 0, errors


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"lora__rank": 0}, "preference.data needs a reference"),
        ({"init_from": ""}, "preference.data needs the run to start from"),
        ({"data": "d"}, "data cannot be combined with preference.data"),
        ({"train__teacher": "t"}, "train.teacher cannot be combined"),
        ({"train__micro_batch_size": "auto"}, "train.micro_batch_size auto cannot be combined"),
        ({"train__sharding": "full"}, "train.sharding full cannot be combined"),
        ({"fim__rate": 0.5}, "fim.rate cannot be combined with preference.data"),
        ({"preference__data": "none.jsonl"}, "preference.data is none.jsonl, which is not a file"),
        ({"preference__beta": 0}, "preference.beta is 0.0; it must be positive"),
        ({"preference__validation_share": 1}, "preference.validation_share is 1.0"),
        ({"preference__chosen_weight": -1}, "preference.chosen_weight is -1.0"),
        ({"preference__skip_bad": -1}, "preference.skip_bad is -1"),
    ],
)
def test_impossible_settings_are_refused(changes, problem, tuning_config, tmp_path):
    with pytest.raises(ConfigError, match=problem):
        api.check(tuning_config(**changes), tmp_path / "run")


@pytest.mark.parametrize("fault", ["loss", "attention"])
def test_audits_of_pairs_name_a_fault(tuning_config, tmp_path, monkeypatch, fault):
    """Their hypotheses about a wrong loss cut pairs along their positions, not between the two replies."""
    config = tuning_config(diagnosis__watch="full")
    dataset = open_preferences(config)
    trainer = Trainer(model_to_train(config, None, dataset), dataset, trainer_config(config), RunFolder(tmp_path / "r"))
    if fault == "loss":
        original = trainer.train_step.loss.train
        monkeypatch.setattr(trainer.train_step.loss, "train", lambda *batch: 1.5 * original(*batch))
    else:
        for block in trainer.model.blocks:
            block.attention.attend = lambda q, k, v, mask, dropout: attend(q, k, v, mask, dropout) * 0.5
    monitor = TrainingMonitor(trainer, replace(config.diagnosis, recover=False, sample_every_steps=4))
    monitor.attach()
    trainer.run()
    found = {finding.code: finding.evidence for finding in monitor.findings}
    assert found["GG-LOS-001" if fault == "loss" else "GG-MOD-001"]
    if fault == "loss":
        assert found["GG-LOS-001"]["why"] == "another-loss"
