"""Runs that train an adapter or all weights of another run: files, resuming, merging, mistakes."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from forked import run_ranks
from glassgpt import api
from glassgpt.adaptation.recipe import Finetuning
from glassgpt.adaptation.replay import open_training_data
from glassgpt.api.initialization import model_to_train
from glassgpt.api.runs import trainer_config
from glassgpt.api.serving import load_weights as load_served
from glassgpt.config import load_config
from glassgpt.data.shards import TokenDataset
from glassgpt.diagnosis import doctor
from glassgpt.diagnosis.report import render_report
from glassgpt.diagnosis.run_log import RunLog
from glassgpt.errors import CheckpointError, GlassGPTError, Interrupted, UsageError
from glassgpt.evaluation.loss_changes import read_changes
from glassgpt.model.config import ModelConfig
from glassgpt.model.lora import adapter_of, trainable_parameters
from glassgpt.training.checkpoint import build_as_trained, find_checkpoint, load_weights, read_state, resolve_pointer
from glassgpt.training.hardware import resolve_hardware
from glassgpt.training.observers import Observer
from glassgpt.training.run_folder import RunFolder

TOKENS = torch.randint(0, 257, (2, 12), generator=torch.Generator().manual_seed(3))


class StopAt(Observer):
    """Asks for a stop after a step, as Ctrl-C does."""

    def __init__(self, step):
        self._step = step

    def on_step(self, metrics):
        if metrics.step == self._step:
            raise Interrupted("stopped by the test", 2)


def test_checkpoint_holds_the_adapter_alone_and_names_its_base(adapter_run, base_run):
    checkpoint = find_checkpoint(RunFolder(adapter_run), "latest")
    tensors = load_file(checkpoint / "model.safetensors")
    assert all(".lora_A" in name or ".lora_B" in name for name in tensors)
    assert sum(tensor.numel() for tensor in tensors.values()) == 2 * 4 * ((16 + 48) + (16 + 16) + 2 * (16 + 64))
    assert (checkpoint / "optimizer.pt").stat().st_size < 80_000
    manifest = json.loads((find_checkpoint(RunFolder(base_run), "best") / "manifest.json").read_text())
    assert read_state(checkpoint).adapter["base"] == manifest["files"]["model.safetensors"]["sha256"]
    assert json.loads((adapter_run / "base.json").read_text())["run"] == str(base_run)


def test_loaded_model_is_merged_and_equals_the_one_that_was_trained(adapter_run, base_run):
    checkpoint = find_checkpoint(RunFolder(adapter_run), "latest")
    trained = build_as_trained(checkpoint)
    load_weights(trained, checkpoint)
    loaded = api.load(adapter_run, checkpoint="latest", device="cpu").model
    assert adapter_of(trained) is not None
    assert adapter_of(loaded) is None
    trained.eval()
    torch.testing.assert_close(loaded(TOKENS), trained(TOKENS), atol=1e-5, rtol=1e-5)
    base = api.load(base_run, device="cpu").model
    assert (loaded(TOKENS) - base(TOKENS)).abs().max() > 0.1


def test_resumed_adapter_ends_with_the_same_bits(adapter_config, adapter_run, tmp_path):
    config = adapter_config(checkpoint__every_steps=5)
    with pytest.raises(Interrupted):
        api.train(config, tmp_path / "run", observers=(StopAt(8),))
    assert resolve_pointer(RunFolder(tmp_path / "run"), "latest").name == "step-000006"
    api.train(config, tmp_path / "run", resume=True)
    for name in ("model.safetensors",):
        one, other = (load_file(run / "checkpoints" / "step-000012" / name) for run in (tmp_path / "run", adapter_run))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_average_is_that_of_the_adapter(adapter_config, tmp_path):
    api.train(adapter_config(train__ema_decay=0.5, train__max_steps=3), tmp_path / "run")
    checkpoint = find_checkpoint(RunFolder(tmp_path / "run"), "latest")
    average, weights = (load_file(checkpoint / f"{name}.safetensors") for name in ("average", "model"))
    assert average.keys() == weights.keys()
    trained = build_as_trained(checkpoint)
    load_weights(trained, checkpoint, averaged=True)
    loaded = api.load(tmp_path / "run", device="cpu").model
    torch.testing.assert_close(loaded(TOKENS), trained.eval()(TOKENS), atol=1e-5, rtol=1e-5)


def test_audited_adapter_has_no_findings(adapter_config, tmp_path):
    """Gradients, updates, averages and optimizer settings of every step are computed again by the audits."""
    config = adapter_config(diagnosis__watch="full", diagnosis__sample_every_steps=2, train__ema_decay=0.5)
    api.train(config, tmp_path / "run")
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    # Only that the base, which knows the grammar, is no better than a guess on the other text at first.
    assert {event["code"] for event in events if event["event"] == "finding"} <= {"GG-INI-003"}
    layers = [json.loads(line) for line in (tmp_path / "run" / "layers.jsonl").read_text().splitlines()]
    assert layers
    assert all("lora_" in name for name in layers[-1]["gradients"])
    assert all(norm for norm in layers[-1]["gradients"].values())


def test_merge_makes_a_run_of_its_own(adapter_run, run_main, tmp_path):
    code, _, errors = run_main("merge", adapter_run, "--out", tmp_path / "merged")
    assert (code, "changes nothing" in errors) == (0, False)
    merged, unmerged = (api.load(run, device="cpu").model for run in (tmp_path / "merged", adapter_run))
    assert torch.equal(merged(TOKENS), unmerged(TOKENS))
    assert load_config(tmp_path / "merged").init_from == str(adapter_run)
    assert not (tmp_path / "merged" / "base.json").exists()
    code, _, errors = run_main("merge", tmp_path / "merged", "--out", tmp_path / "again")
    assert (code, "is not an adapter" in errors) == (2, True)


def test_merge_of_an_untrained_adapter_says_that_it_changes_nothing(adapter_config, run_main, tmp_path):
    api.train(adapter_config(train__max_steps=1, train__learning_rate=1e-30), tmp_path / "run")
    code, _, errors = run_main("merge", tmp_path / "run", "--out", tmp_path / "merged")
    assert (code, "changes nothing: it was not trained" in errors) == (0, True)


@pytest.mark.parametrize("full", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_finetune_measures_both_texts_before_and_after(base_run, other_data, grammar_data, full, run_main, tmp_path):
    given = ["--full"] if full else ["--lora.rank", 2]
    code, output, errors = run_main(
        "finetune", base_run, "--data", other_data, "--out", tmp_path / "run", "--replay", f"{grammar_data}=0.25",
        "--train.max-steps", 4, *given,
    )  # fmt: skip
    assert code == 0, errors
    new, old = json.loads((tmp_path / "run" / "forgetting.json").read_text())
    assert (new["text"], old["text"]) == ("new", "old")
    assert new["after"] < new["before"]
    assert f"{new['before']:.4f}" in output
    assert ("predicted memory" in errors, "parameters (" in errors) == (True, True)
    report = (tmp_path / "run" / "report.html").read_text()
    assert all(f">{value:.4f}</div>" in report for one in (new, old) for value in (one["before"], one["after"]))
    assert f"<td>{new['after'] - new['before']:+.4f}</td>" in report
    config = load_config(tmp_path / "run")
    assert (config.lora.rank, config.replay.share) == (0 if full else 2, 0.25)
    trained = build_as_trained(find_checkpoint(RunFolder(tmp_path / "run"), "latest"))
    assert (adapter_of(trained) is None) == full
    assert all("lora" in name for name in trainable_parameters(trained)) != full


def test_moved_base_is_found_beside_the_adapter_or_after_editing_its_file(adapter_run, base_run, tmp_path):
    shutil.copytree(base_run, tmp_path / "runs" / "base")
    shutil.copytree(adapter_run, tmp_path / "runs" / "adapter")
    file = tmp_path / "runs" / "adapter" / "base.json"
    file.write_text(json.dumps({"run": str(tmp_path / "gone"), "relative": "../base"}))
    expected = api.load(adapter_run, device="cpu").model(TOKENS)
    assert torch.equal(api.load(tmp_path / "runs" / "adapter", device="cpu").model(TOKENS), expected)
    shutil.move(tmp_path / "runs" / "base", tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match=r'if it was moved, write its new folder as "run" into .*base\.json'):
        api.load(tmp_path / "runs" / "adapter")
    file.write_text(json.dumps({"run": str(tmp_path / "elsewhere"), "relative": "../base"}))
    assert torch.equal(api.load(tmp_path / "runs" / "adapter", device="cpu").model(TOKENS), expected)


def test_changed_base_is_refused(adapter_run, grammar_data, base_run, tmp_path):
    shutil.copytree(adapter_run, tmp_path / "adapter")
    other = load_config(base_run.parent / "run", {"seed": 5, "train.max_steps": 1})
    api.train(other, tmp_path / "base")
    (tmp_path / "adapter" / "base.json").write_text(json.dumps({"run": str(tmp_path / "base"), "relative": ""}))
    with pytest.raises(CheckpointError, match="adapts weights .* does not have: it is another run, or was trained"):
        api.load(tmp_path / "adapter")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"run": 3}'])
def test_damaged_base_file(content, adapter_run, tmp_path):
    shutil.copytree(adapter_run, tmp_path / "adapter")
    (tmp_path / "adapter" / "base.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"is an adapter, but base\.json, .* cannot be read"):
        api.load(tmp_path / "adapter")


def test_adapter_of_an_adapter_is_refused(adapter_run, adapter_config, tmp_path):
    with pytest.raises(UsageError, match=r"is an adapter; make it a model first with: glassgpt merge"):
        api.train(adapter_config(init_from=str(adapter_run)), tmp_path / "run")
    assert not (tmp_path / "run" / "config.toml").exists()


def test_resumed_run_keeps_its_adapter(adapter_run):
    with pytest.raises(UsageError, match="cannot change its adapter"):
        api.resumed_config(adapter_run, {"lora.alpha": "3"})


def test_replay_mixes_whole_texts(other_data, grammar_data):
    config = load_config("nano", {"replay.data": str(grammar_data), "replay.share": 0.75}).replay
    new = TokenDataset.open(other_data).split("train")
    old = TokenDataset.open(grammar_data).split("train")
    mixed = open_training_data(other_data, config).split("train")
    assert len(mixed) == 4 * len(new)
    assert mixed.read(0, len(new)).tolist() == new.read(0, len(new)).tolist()
    everything = mixed.read(0, len(mixed))
    for start, count in ((len(new) - 3, 10), (len(new) + 1000, 3000), (len(mixed) - 5, 5)):
        assert mixed.read(start, count).tolist() == everything[start : start + count].tolist()
    pieces = everything[len(new) :].tolist()
    assert pieces[:50] == old.read(0, 50).tolist()
    piece = len(pieces) // 64
    assert bytes(pieces[-piece:]) in bytes(old.read(63 * len(old) // 64 - 10, len(old) // 64).tolist())
    validation = open_training_data(other_data, config).split("validation")
    assert len(validation) == len(TokenDataset.open(other_data).split("validation"))


def test_old_text_shorter_than_its_share_is_repeated(other_data, grammar_data):
    config = load_config("nano", {"replay.data": str(other_data), "replay.share": 0.9}).replay
    short = TokenDataset.open(other_data).split("train")
    long = TokenDataset.open(grammar_data).split("train")
    mixed = open_training_data(grammar_data, config).split("train")
    assert len(mixed) == round(len(long) * 10)
    again = mixed.read(len(long) + len(short), 100)
    assert again.tolist() == short.read(0, 100).tolist()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--lora.rank 0", "lora.rank is 0; it must be at least 1; to train all weights, add --full"),
        ("--lora.targets head", "lora.targets names head, which no layer has; the layers are attention.qkv"),
        ("--full --lora.rank 4", "--full trains no adapter; leave out --full or --lora.rank"),
        ("--lora.rank 2.5", "lora.rank is '2.5'"),
        ("--epochs 0", "--epochs is 0.0; it must be positive"),
        ("--replay 0.2", "--replay is 0.2; it must be DATA=SHARE"),
        ("--replay {data}=2", "it must be DATA=SHARE with a share between 0 and 1"),
        ("--replay none=0.2", "none does not exist"),
        ("--resume", "nothing to resume in"),
        (
            "--model.n-layer 5",
            "has a model of another shape: model.n_layer is 5 here and 2 there; leave out these settings",
        ),
    ],
)
def test_mistakes_create_nothing(arguments, message, base_run, other_data, run_main, tmp_path):
    words = arguments.format(data=other_data).split()
    code, _, errors = run_main("finetune", base_run, "--data", other_data, "--out", tmp_path / "run", *words)
    assert code != 0
    assert message in errors
    assert not (tmp_path / "run" / "config.toml").exists()


def test_text_of_another_tokenizer_is_refused(base_run, tmp_path, run_main):
    text = tmp_path / "a.txt"
    text.write_text("some text, some more of it. " * 200)
    assert run_main("prepare", text, "--out", tmp_path / "d", "--tokenizer", "bpe:260")[0] == 0
    code, _, errors = run_main("finetune", base_run, "--data", tmp_path / "d", "--out", tmp_path / "run")
    assert (code, "prepare the text again with --tokenizer" in errors) == (2, True)


def test_doctor_inspect_and_generate_work_on_an_adapter(adapter_run, run_main):
    code, output, _ = run_main("doctor", adapter_run)
    assert (code, "fatal" in output) == (0, False)
    assert run_main("inspect", adapter_run, "--prompt", "12", "--text")[0] == 0
    assert run_main("generate", adapter_run, "--prompt", "12", "--max-tokens", "3", "--seed", "1")[0] == 0


def test_failed_step_of_an_adapter_is_replayed(adapter_config, tmp_path):
    """The doctor rebuilds base and adapter to repeat the step that ended a run."""
    config = adapter_config(train__learning_rate=1e30, train__clip_norm=0, diagnosis__recover=False)
    with pytest.raises(GlassGPTError):
        api.train(config, tmp_path / "run")
    outcomes = {check.name: check.outcome for check in api.doctor(str(tmp_path / "run"))}
    assert "replay" in outcomes


@pytest.mark.slow
def test_interrupted_finetuning_is_resumed_and_measured(base_run, other_data, run_main, tmp_path):
    arguments = ["finetune", base_run, "--out", tmp_path / "run", "--train.max-steps", 6, "--checkpoint.every-steps", 2]
    code, _, errors = run_main(*arguments, "--data", other_data)
    assert code == 0, errors
    (tmp_path / "run" / "forgetting.json").unlink()
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-000006")
    code, output, errors = run_main("finetune", base_run, "--out", tmp_path / "run", "--resume")
    assert code == 0, errors
    assert "resuming from step-000004" in errors
    assert "new text" in output
    assert len(json.loads((tmp_path / "run" / "forgetting.json").read_text())) == 2


def test_server_identifies_an_adapter_by_its_weights_and_those_of_its_base(adapter_run, base_run):
    adapter, base = (
        load_served(run, "latest", "cpu", "float32", 2).identity["weights"] for run in (adapter_run, base_run)
    )
    own, _, of_base = adapter.partition("+")
    assert own not in base
    assert read_state(find_checkpoint(RunFolder(adapter_run), "latest")).adapter["base"].startswith(of_base)
    assert len(of_base) == 16


def test_rate_range_is_that_of_the_adapter(adapter_config, base_run, monkeypatch):
    """`doctor --rate-range` trains what the run would train."""
    seen = []
    monkeypatch.setattr(doctor, "check_rate_range", lambda step, *_: seen.append(step.model))
    config = adapter_config()
    weights = find_checkpoint(RunFolder(base_run), "best")
    shape = load_config(base_run).model
    resolved = replace(config, model=shape)
    plan = doctor.TrainingPlan(
        shape, trainer_config(config), None, base_run, weights, build=lambda _: model_to_train(resolved, None, None)
    )
    doctor._check_rate_range(plan, resolve_hardware(config.train), lambda total: None)
    assert adapter_of(seen[0]).lora == config.lora


def test_damaged_base_is_refused_and_a_damaged_neighbor_is_not(adapter_run, base_run, tmp_path):
    shutil.copytree(base_run, tmp_path / "base")
    shutil.copytree(adapter_run, tmp_path / "adapter")
    (tmp_path / "adapter" / "base.json").write_text(json.dumps({"run": str(tmp_path / "base"), "relative": "../base"}))
    best = find_checkpoint(RunFolder(tmp_path / "base"), "best")
    shutil.copytree(best, best.with_name("step-000001"))
    (best.with_name("step-000001") / "manifest.json").write_text("{")
    expected = api.load(adapter_run, device="cpu").model(TOKENS)
    optimizer = best / "optimizer.pt"  # is not read
    optimizer.write_bytes(optimizer.read_bytes()[:-1] + b"!")
    assert torch.equal(api.load(tmp_path / "adapter", device="cpu").model(TOKENS), expected)
    weights = best / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    with pytest.raises(CheckpointError, match="does not have: .* changed or damaged; restore them"):
        api.load(tmp_path / "adapter")


@pytest.mark.slow
def test_several_processes_train_an_adapter_like_one(base_run, other_data, run_main, tmp_path, monkeypatch):
    def launch(processes, arguments, advice):
        """Like torchrun, without importing PyTorch in each process."""
        assert f"glassgpt finetune {base_run} --resume --out {tmp_path / 'two'}" in advice
        for rank in run_ranks(processes, *command):
            assert rank.returncode == 0, rank.stderr

    monkeypatch.setattr("glassgpt.training.launch.launch", launch)
    fixed = ["--data", other_data, "--train.max-steps", 4, "--train.batch-tokens", 128, "--train.device", "cpu"]
    changes = []
    for name, more in {
        "one": ["--train.micro-batch-size", 8],
        "two": ["--train.micro-batch-size", 4, "--gpus", 2],
    }.items():
        command = ["finetune", base_run, *fixed, "--out", tmp_path / name, *more]
        code, _, errors = run_main(*command)
        assert code == 0, errors
        changes.append(json.loads((tmp_path / name / "forgetting.json").read_text())[0])
        assert "Learned and forgotten" in (tmp_path / name / "report.html").read_text()
    assert changes[0]["after"] < changes[0]["before"] == changes[1]["before"]
    assert changes[1]["after"] == pytest.approx(changes[0]["after"], rel=1e-3)
    for step in ("step-000004",):
        one, two = (load_file(tmp_path / name / "checkpoints" / step / "model.safetensors") for name in ("one", "two"))
        assert all(torch.allclose(one[key], two[key], rtol=0.02, atol=2e-3) for key in one)


@pytest.mark.slow
def test_finetune_launches_processes(base_run, other_data, glassgpt_command, tmp_path):
    done = glassgpt_command(
        "finetune", base_run, "--data", other_data, "--out", tmp_path / "run", "--gpus", 2, "--train.device", "cpu",
        "--train.max-steps", 2,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "new text" in done.stdout
    assert (tmp_path / "run" / "checkpoints" / "step-000002").is_dir()


def test_recipe_gives_each_process_whole_sequences(tmp_path):
    for processes in (1, 2, 3):
        plan = Finetuning(
            tmp_path, ModelConfig(vocab_size=257, context_length=100), tmp_path, 130_000, processes=processes
        )
        recipe = plan.recipe()
        assert recipe["train.batch_tokens"] == 100 * processes * (32 // processes)
        assert (recipe["train.batch_tokens"] // (100 * processes)) % recipe["train.micro_batch_size"] == 0


@pytest.mark.parametrize("content", ["", "{}", "[3]", '[{"text": "new"}]'])
def test_damaged_file_of_losses_is_named_in_the_report(content, adapter_run, tmp_path):
    run = RunFolder(tmp_path)
    (tmp_path / "forgetting.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"forgetting\.json cannot be read"):
        read_changes(run.path)
    assert "forgetting.json cannot be read" in render_report(RunLog.read(run), [])
