"""The checks of data and models on conversations, preferences, source code and media: each with its own batches and loss."""

import hashlib
import itertools
import json
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from diagnosis_helpers import codes
from hypothesis import given, settings
from hypothesis import strategies as st

from glassgpt import api
from glassgpt.adaptation.conversations import prepare_source, read_source
from glassgpt.adaptation.replay import open_training_data
from glassgpt.api.preference_data import open_data
from glassgpt.api.runs import save_as_run
from glassgpt.api.sweep_checks import SweepOptions, new_setup
from glassgpt.compression.calibration import calibration_windows
from glassgpt.config import load_config, resolve_config, to_toml
from glassgpt.data import PrepareOptions, load_tokenizer, prepare
from glassgpt.data.batches import build_batches
from glassgpt.data.chat.batches import NEXT_STARTS
from glassgpt.data.chat.dataset import ConversationDataset
from glassgpt.diagnosis import doctor
from glassgpt.diagnosis.checks import data as data_checks
from glassgpt.diagnosis.checks.first_batch import MIN_LEARNED, cut, first_batch
from glassgpt.errors import WrongDataError
from glassgpt.model.build import build_model
from glassgpt.model.config import ModelConfig
from glassgpt.sweep.space import Range

SHAPE = ModelConfig(n_layer=2, n_head=2, n_embd=32, vocab_size=257, context_length=48, init_std=0.08)
SMALL = {
    "model.context_length": 48, "model.n_layer": 2, "model.n_head": 2, "model.n_embd": 32, "model.init_std": 0.08,
    "train.batch_tokens": 384, "train.max_steps": 20, "train.learning_rate": 5e-3, "schedule.warmup_steps": 2,
    "train.device": "cpu",
}  # fmt: skip


def options(**more):
    """Return settings as arguments of a command."""
    given = {name: value for name, value in (SMALL | more).items() if value is not None}
    return [part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", value)]


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A run with random weights; tests must not modify it."""
    torch.manual_seed(0)
    return save_as_run(build_model(SHAPE), load_tokenizer("bytes"), tmp_path_factory.mktemp("base") / "run").path


@pytest.fixture(scope="module")
def chat_data(base, tmp_path_factory):
    """Conversations whose rows begin with a question, packed into rows of 49 tokens, 48 of which are read."""
    folder = tmp_path_factory.mktemp("chat")
    words = [f"{'abcde'[n % 5]}{'fghij'[n // 5 % 5]}{n}" for n in range(150)]
    rows = [
        {"messages": [{"role": "user", "content": f"{word}?"}, {"role": "assistant", "content": word.upper()}]}
        for word in words
    ]
    source = read_source(base, write_rows(folder / "chat.jsonl", rows))
    return prepare_source(source, folder / "data", 48, 48).folder


@pytest.fixture(scope="module")
def pairs_file(tmp_path_factory):
    words = [f"{'abcde'[n % 5]}{'fghij'[n // 5 % 5]}{n}" for n in range(60)]
    rows = [{"prompt": word, "chosen": f"{word} ok", "rejected": word.upper()} for word in words]
    return write_rows(tmp_path_factory.mktemp("pairs") / "pairs.jsonl", rows)


@pytest.fixture(scope="module")
def code_data(tmp_path_factory):
    """Functions, prepared with the special tokens of fill-in-the-middle."""
    folder = tmp_path_factory.mktemp("code")
    for n in range(60):
        (folder / f"f{n}.py").write_text(f"def f{n}(x):\n    y = x + {n}\n    return y * {n * n}\n" * 4)
    prepare(PrepareOptions(sources=(str(folder),), out=folder / "data", tokenizer="bpe:280", format="code", workers=1))
    return folder / "data"


@pytest.fixture
def preferences(base, pairs_file):
    return {
        "init_from": base, "preference.data": pairs_file, "lora.rank": 4, "model.vocab_size": 257,
        "preference.validation_share": 0.2, "train.learning_rate": 3e-3,
    }  # fmt: skip


def checked(run_main, *arguments):
    """Return the checks of the command by name, the codes found, and its exit code."""
    code, out, err = run_main("doctor", *arguments, "--json")
    assert "Traceback" not in err
    checks = json.loads(out)["checks"]
    return {check["check"]: check["seen"] for check in checks}, {f["code"] for c in checks for f in c["findings"]}, code


def nats_one_by_one(model, dataset, starts):
    """The mean loss of the learned tokens of some rows, each conversation by itself: the formula, without packing."""
    tokens = dataset.split("train")
    sums, count = 0.0, 0
    for start in starts:
        ids = torch.from_numpy(tokens.read(int(start), tokens.row_length))
        flags = tokens.flags(int(start), tokens.row_length)
        firsts = [at for at in range(len(ids)) if flags[at] & 2] + [len(ids)]
        for first, end in itertools.pairwise(firsts):
            learned = [at for at in range(first + 1, end) if flags[at] & 1]
            if learned:
                logprobs = model(ids[None, first : end - 1])[0].log_softmax(-1)
                sums -= sum(logprobs[at - first - 1, ids[at]].item() for at in learned)
                count += len(learned)
    return sums / count


def test_initial_loss_of_conversations_is_that_of_the_answers(chat_data, run_main):
    seen, found, code = checked(run_main, "nano", "--data", chat_data, *options())
    assert (found, code) == (set(), 0)
    dataset = ConversationDataset.open(chat_data)
    batches = build_batches(dataset.split("train"), 48, load_config("nano").seed)
    torch.manual_seed(load_config("nano").seed)
    shape = resolve_config(load_config("nano", {**SMALL, "data": str(chat_data)}), None).model
    with torch.no_grad():
        expected = nats_one_by_one(build_model(shape).eval(), dataset, batches.starts_at(0, 512 // 48))
    assert seen["initial loss"]["loss"] == pytest.approx(expected, abs=1e-4)
    assert seen["one batch"]["last"] < 0.1


def test_untrained_rows_are_not_learned_by_the_check_of_one_batch(chat_data, monkeypatch):
    """Only the answers are: what the model says of the questions stays as unlikely as it was."""
    config = resolve_config(load_config("nano", {**SMALL, "data": str(chat_data)}), None)
    kept = []
    real = doctor.model_checks.train_once
    monkeypatch.setattr(
        doctor.model_checks, "train_once", lambda loss, *rest: (kept.append((loss, *rest[:2])), real(loss, *rest))[1]
    )
    list(api.doctor("nano", data=chat_data, overrides=SMALL))
    loss, inputs, targets = kept[-1]
    logits = loss.model(inputs)
    nats = F.cross_entropy(logits[:, :-1].transpose(1, 2), inputs[:, 1:], reduction="none")
    assert nats[targets[:, :-1] >= 0].mean() < 1 < nats[(targets[:, :-1] < 0)].mean()
    assert config.model.context_length == 48


def test_preferences_are_checked_as_pairs(preferences, run_main, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a picture is written there
    given = options(**preferences, **{"preference.chosen_weight": 0})
    seen, found, code = checked(run_main, "nano", *given, "--rate-range")
    assert (found - {"GG-LRT-001"}, code) == ({"GG-INI-003"}, 0)  # the base has random weights
    assert seen["one batch"]["first"] == pytest.approx(math.log(2), abs=1e-6)  # the policy is the reference
    assert seen["one batch"]["last"] < 0.5
    assert seen["gradients"] == {"reached": 16, "all": 16}  # of the adapter alone: two matrices of eight layers
    assert seen["batches"]["shifted"] == 1
    assert seen["learning-rate range"]["limit"] > 1e-6


def test_preferences_of_a_reference_are_checked(base, preferences, run_main):
    given = options(**preferences | {"lora.rank": 0, "preference.reference": base})
    seen, found, code = checked(run_main, "nano", *given)
    assert (found, code) == ({"GG-INI-003"}, 0)
    assert seen["gradients"]["reached"] == 28


def test_invalid_preferences_are_findings(preferences, run_main):
    _, found, code = checked(run_main, "nano", *options(**preferences | {"lora.rank": 0}))
    assert (found, code) == ({"GG-CFG-001"}, 1)  # neither an adapter nor a reference


def shifted(kind):
    """Return batches whose targets are one token too far."""

    class Shifted(kind):
        def read(self, starts):
            inputs, targets = super().read(starts)
            return inputs, targets.roll(-1, dims=-1)

    return Shifted


def same_rows(kind):
    class Same(kind):
        def starts_at(self, position, batch_size):
            return super().starts_at(position, batch_size)[:1].repeat(batch_size)

    return Same


@pytest.mark.parametrize(("broken", "code"), [(shifted, "GG-DAT-002"), (same_rows, "GG-DAT-003")])
@pytest.mark.parametrize("data", ["chat", "pairs", "code"])
def test_wrong_batches_are_found(broken, code, data, chat_data, code_data, preferences):
    changes = {
        "chat": {"data": chat_data}, "code": {"data": code_data, "fim.rate": 0.5}, "pairs": preferences,
    }[data]  # fmt: skip
    config = resolve_config(load_config("nano", {**SMALL, **{k: str(v) for k, v in changes.items()}}), None)
    batches = build_batches(open_data(config).split("train"), 48, 1)
    assert codes(data_checks.check_batches(batches, 8)) == []
    batches.__class__ = broken(type(batches))
    assert codes(data_checks.check_batches(batches, 8)) == [code]


def test_code_is_checked_as_it_is_trained_on(code_data, run_main, monkeypatch):
    """Rearranged documents hold sentinels; the text on disk has none."""
    read = []
    real = doctor.first_batch
    monkeypatch.setattr(doctor, "first_batch", lambda *given: (read.append(given[0]), real(*given))[1])
    _, found, code = checked(run_main, "nano", "--data", code_data, *options(**{"fim.rate": 0.9}))
    assert ("GG-DAT-002" in found, code) == (False, 0)
    (batches,) = read
    sentinels = set(open_training_data(code_data, load_config(None).replay).tokenizer.special_tokens.values())
    inputs, _ = batches.read(batches.starts_at(0, 8))
    assert len(sentinels & set(inputs.flatten().tolist())) >= 3
    assert len(sentinels & set(batches.tokens.read(0, len(batches.tokens)).tolist())) <= 1  # the end of a document


def test_replayed_text_is_in_the_checked_batches(grammar_data, chat_data, tmp_path, monkeypatch):
    text = tmp_path / "new.txt"
    text.write_text("".join(f"{n * n:o};" for n in range(3000)))
    prepare(PrepareOptions(sources=(str(text),), out=tmp_path / "data", tokenizer="bytes", workers=1))
    seen = []
    monkeypatch.setattr(doctor, "first_batch", lambda batches, *_: (seen.append(batches), first_batch(batches, 512))[1])
    given = {**SMALL, "replay.data": str(grammar_data), "replay.share": 0.5}
    list(api.doctor("nano", data=tmp_path / "data", overrides=given))
    ids = seen[0].tokens.read(0, len(seen[0].tokens))
    assert ((ids >= ord("a")) & (ids <= ord("z"))).mean() > 0.2  # the new text has none


def test_a_starting_run_checks_preferences_and_finds_an_attention_that_looks_ahead(preferences, base, tmp_path):
    """The checks at the start find in preferences what they find in a text."""
    from diagnosis_helpers import attend_to_everything

    from glassgpt.api.initialization import model_to_train
    from glassgpt.api.runs import trainer_config

    config = resolve_config(load_config("nano", {**SMALL, **{k: str(v) for k, v in preferences.items()}}), None)
    dataset = open_data(config)
    model = model_to_train(config, None, dataset)
    plan = doctor.TrainingPlan(config.model, trainer_config(config), dataset, tmp_path, base)
    rng = torch.get_rng_state()
    assert set(codes(*doctor.run_startup_checks(plan, model))) == {"GG-INI-003"}
    assert torch.equal(rng, torch.get_rng_state())
    for block in model.blocks:
        block.attention.attend = attend_to_everything
    assert "GG-CAU-001" in codes(*doctor.run_startup_checks(plan, model))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=70, max_size=70), min_size=1, max_size=4), st.integers(2, 90))
def test_cut_batches_keep_enough_of_what_is_learned(flags, length):
    learned = torch.tensor(flags)
    targets = torch.where(learned, 7, -100)
    inputs = torch.arange(learned.numel()).view(learned.shape)
    kept_inputs, kept = cut(inputs, targets, length)
    assert torch.equal(kept_inputs, inputs[:, : kept.size(1)])
    assert torch.equal(kept, targets[:, : kept.size(1)])
    assert kept.size(1) >= min(length, 70)
    counts = [min(MIN_LEARNED, sum(row)) for row in flags]
    assert all(int((row >= 0).sum()) >= count for row, count in zip(kept, counts, strict=True))
    if kept.size(1) > length:  # and not more than that
        assert any(sum(row[: kept.size(1) - 1]) < count for row, count in zip(flags, counts, strict=True))


def test_rows_that_teach_nothing_are_passed_over(chat_data):
    """The first rows may be all question."""
    batches = build_batches(ConversationDataset.open(chat_data).split("train"), 48, 1)
    real = batches.read
    first = set(batches.starts_at(0, 10).tolist())

    def read(starts):
        inputs, targets = real(starts)
        return inputs, targets.where(torch.tensor([start not in first for start in starts.tolist()])[:, None], -100)

    batches.read = read
    inputs, targets = first_batch(batches, 512)
    assert (targets >= 0).any()
    assert torch.equal(inputs, real(batches.starts_at(10, 10))[0][:, : inputs.size(1)])
    assert NEXT_STARTS in targets


def test_coordinates_of_conversations_are_those_of_their_loss(chat_data, run_main, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a picture is written there
    code, out, _ = run_main("doctor", "nano", "--data", chat_data, *options(), "--coordinates", "--json")
    rows = [check for check in json.loads(out)["checks"] if check["check"] == "coordinates"]
    assert code == 0
    assert [row["outcome"] for row in rows[1:]] == ["embedding", "attention", "block", "mlp", "logits"]
    assert all(math.isfinite(row["seen"]["slope"]) for row in rows[1:])


def test_calibration_is_of_text_only(chat_data, grammar_dataset):
    assert calibration_windows(grammar_dataset, 16, 64).shape == (4, 16)
    with pytest.raises(WrongDataError, match="conversations; give a dataset of text"):
        calibration_windows(ConversationDataset.open(chat_data), 48, 96)


@pytest.mark.parametrize("method", [["--int4"], ["--sparsity", "0.5"], ["--sensitivity"], ["--drop-layers", "1"]])
def test_compression_refuses_conversations(method, base, chat_data, run_main, tmp_path):
    code, _, err = run_main("compress", base, "--data", chat_data, *method, "--out", tmp_path / "out")
    assert (code, "Traceback" in err) == (2, False)
    assert "conversations" in err or "drop-layers" in err


def test_bench_trains_what_a_run_trains(chat_data, preferences, monkeypatch, run_main, tmp_path):
    def bench(**changes):
        file = tmp_path / "config.toml"
        file.write_text(to_toml(load_config("nano", {**SMALL, **{name: str(v) for name, v in changes.items()}})))
        return run_main("bench", "train", file, "--steps", 2)

    seen = []
    real = api.training_speed.measure_training
    monkeypatch.setattr(
        api.training_speed,
        "measure_training",
        lambda model, config, **more: (seen.append((model, more["tokens"])), real(model, config, **more))[1],
    )
    for what in ({"data": chat_data}, preferences):
        assert bench(**what)[0] == 0
    (_, conversations), (adapted, pairs) = seen
    assert (type(conversations).__name__, type(pairs).__name__) == ("ConversationTokens", "PairTokens")
    assert any("lora_A" in name for name, _ in adapted.named_parameters())
    code, _, err = bench(**preferences | {"lora.rank": 0})
    assert (code, "need a reference" in err) == (1, True)


def test_evaluating_a_run_tuned_on_preferences_names_the_reason(base, preferences, tmp_path, run_main):
    tuned = tmp_path / "tuned"
    save_as_run(build_model(SHAPE), load_tokenizer("bytes"), tuned)
    config = load_config("nano", {**SMALL, **{k: str(v) for k, v in preferences.items()}})
    (tuned / "config.toml").write_text(to_toml(replace(config, model=SHAPE)))
    code, _, err = run_main("evaluate", tuned)
    assert (code, "was tuned on preferences and names no dataset" in err) == (2, True)


def test_a_sweep_over_preferences_knows_their_file(preferences, pairs_file, tmp_path):
    """It is no dataset, but another one must not continue the same sweep."""
    config = load_config("nano", {**SMALL, "train.eval_every_steps": 10, **{k: str(v) for k, v in preferences.items()}})
    options = SweepOptions(sampler="random", trials=1)
    setup = new_setup(config, tmp_path / "sweep", (Range("train.learning_rate", 1e-3, 1e-2, log=True),), options)
    assert setup.data == hashlib.sha256(pairs_file.read_bytes()).hexdigest()


def test_the_current_folder_is_no_dataset(base, run_main, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    code, _, err = run_main("evaluate", base, "--data", ".")
    assert (code, ". is not a prepared dataset" in err, "Traceback" in err) == (2, True, False)
    assert f"--out {tmp_path}-data" in err
