"""The doctor: each check fires on the fault that it is made for, and stays silent on what is healthy."""

import copy
import dataclasses
import errno
import hashlib
import json
import math
import os
import platform
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from glassgpt import api, device
from glassgpt.api import runs
from glassgpt.config import load_config, preset_names
from glassgpt.data.batches import Batches
from glassgpt.data.grammar import grammar_text
from glassgpt.data.prepare import PrepareOptions, prepare
from glassgpt.data.shards import HEADER, ShardHeader, TokenArray, TokenDataset
from glassgpt.diagnosis import doctor
from glassgpt.diagnosis.catalogue import LANGUAGES, check_name, describe, done, measured, ruled_out
from glassgpt.diagnosis.checks import data as data_checks
from glassgpt.diagnosis.checks import memory, rate_range
from glassgpt.diagnosis.checks import model as model_checks
from glassgpt.diagnosis.checks import run as run_checks
from glassgpt.diagnosis.checks import settings as settings_checks
from glassgpt.diagnosis.checks import text as text_checks
from glassgpt.diagnosis.doctor import TrainingPlan, run_startup_checks
from glassgpt.diagnosis.findings import CheckResult, Finding
from glassgpt.diagnosis.run_log import RunLog
from glassgpt.diagnosis.series import NGramBaseline
from glassgpt.errors import CheckpointError, TokenizerError, TrainingDivergedError
from glassgpt.generation.engine.engine import Sample
from glassgpt.generation.options import GenerationOptions
from glassgpt.model.attention import attend, causal_mask
from glassgpt.model.build import build_model
from glassgpt.model.config import ModelConfig
from glassgpt.training.checkpoint import _seal, find_checkpoint
from glassgpt.training.config import CheckpointConfig, OptimizerConfig, ScheduleConfig, TrainConfig
from glassgpt.training.distributed import DistributedContext
from glassgpt.training.hardware import Hardware
from glassgpt.training.optimizers import build_optimizers
from glassgpt.training.run_folder import RunFolder
from glassgpt.training.step import TrainerConfig, TrainStep

CPU = Hardware(torch.device("cpu"), "fp32", compile=False)
SHAPES = {
    "gpt2": ModelConfig(vocab_size=257, context_length=32, n_layer=2, n_head=2, n_embd=32, init_std=0.08),
    "modern": ModelConfig("modern", vocab_size=257, context_length=32, n_layer=2, n_head=2, n_embd=32, bias=False),
}


def codes(*checks: CheckResult) -> list[str]:
    """Codes of the findings; on the way every text is filled in both languages, which fails where a figure lacks."""
    findings = [finding for check in checks for finding in check.findings]
    for finding in findings:
        for language in LANGUAGES:
            assert "{" not in describe(finding, language).means
            done(finding, language), ruled_out(finding, language)
    for check in checks:
        assert all(check_name(check, language) and measured(check, language) for language in LANGUAGES)
    return [finding.code for finding in findings]


@pytest.fixture(params=SHAPES)
def model(request):
    torch.manual_seed(0)
    return build_model(SHAPES[request.param])


@pytest.fixture
def batch(grammar_dataset):
    return Batches(grammar_dataset.split("train"), 32, seed=0).next(8)


# --- settings


def trainer_config(preset: str) -> tuple[ModelConfig, TrainerConfig]:
    config = load_config(preset)
    model = dataclasses.replace(config.model, vocab_size=config.model.vocab_size or 4096)
    return model, TrainerConfig(config.train, config.optimizer, config.schedule, config.checkpoint, config.seed)


@pytest.mark.parametrize("preset", preset_names())
def test_no_preset_raises_an_alarm(preset, tmp_path):
    model, settings = trainer_config(preset)
    fresh = not preset.startswith("finetune")
    assert codes(
        settings_checks.check_learning_rate(model, settings, is_fresh=fresh),
        settings_checks.check_warmup(model, settings, is_fresh=fresh),
        settings_checks.check_weight_decay(model, settings),
        settings_checks.check_epochs(model, settings, settings.train.max_steps * settings.train.batch_tokens // 30),
    ) == []  # fmt: skip


def with_train(settings: TrainerConfig, **changes) -> TrainerConfig:
    return dataclasses.replace(settings, train=dataclasses.replace(settings.train, **changes))


@pytest.mark.parametrize("preset", ["nano", "demo", "gpt2", "textbooks-124m"])
@pytest.mark.parametrize(("factor", "code"), [(30, "GG-CFG-003"), (1e-3, "GG-CFG-004")])
def test_a_slip_of_the_decimal_point_is_noticed(preset, factor, code):
    model, settings = trainer_config(preset)
    wrong = with_train(settings, learning_rate=settings.train.learning_rate * factor)
    assert codes(settings_checks.check_learning_rate(model, wrong, is_fresh=True)) == [code]


def test_loaded_weights_may_be_tuned_at_a_low_rate():
    model, settings = trainer_config("gpt2")
    assert (
        codes(settings_checks.check_learning_rate(model, with_train(settings, learning_rate=1e-6), is_fresh=False))
        == []
    )


def test_adamw_without_warmup_is_noticed():
    model, settings = trainer_config("nano")
    cold = dataclasses.replace(settings, schedule=ScheduleConfig(warmup_steps=0))
    assert codes(settings_checks.check_warmup(model, cold, is_fresh=True)) == ["GG-CFG-005"]
    assert codes(settings_checks.check_warmup(model, with_train(cold, max_steps=30), is_fresh=True)) == []


def test_a_warmup_longer_than_training_says_what_was_done():
    model, settings = trainer_config("nano")
    check = settings_checks.check_warmup(model, with_train(settings, max_steps=20), is_fresh=True)
    assert codes(check) == ["GG-CFG-002"]
    assert done(check.findings[0]) == ["Training takes a warmup of 2 steps instead."]


def test_reading_a_text_too_often_is_noticed_unless_something_guards():
    model, settings = trainer_config("nano")
    asked = settings.train.max_steps * settings.train.batch_tokens
    assert codes(settings_checks.check_epochs(model, settings, asked // 50)) == ["GG-CFG-006"]
    assert codes(settings_checks.check_epochs(dataclasses.replace(model, dropout=0.2), settings, asked // 50)) == []
    stopping = with_train(settings, early_stop_evaluations=3)
    assert codes(settings_checks.check_epochs(model, stopping, asked // 50)) == []


@pytest.mark.parametrize(("decay", "expected"), [(0.0, []), (0.1, []), (1.0, []), (10.0, ["GG-CFG-007"])])
def test_a_decay_that_makes_weights_forget_is_noticed(decay, expected):
    model, settings = trainer_config("nano")
    decayed = dataclasses.replace(settings, optimizer=OptimizerConfig(weight_decay=decay))
    assert codes(settings_checks.check_weight_decay(model, decayed)) == expected
    # A rate that is too high is said to be that.
    assert codes(settings_checks.check_weight_decay(model, with_train(decayed, learning_rate=1.0))) == expected


def test_a_full_disk_is_noticed(tmp_path, monkeypatch):
    model, settings = trainer_config("nano")
    assert codes(settings_checks.check_disk(model, settings, tmp_path / "not" / "yet")) == []
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    assert codes(settings_checks.check_disk(model, settings, tmp_path)) == ["GG-DSK-001"]


def test_sixteen_bits_on_a_cpu_without_them(monkeypatch):
    model, settings = trainer_config("nano")
    check = settings_checks.check_hardware
    assert codes(check(model, settings.train, CPU)) == []
    monkeypatch.setattr(settings_checks, "cpu_has_16_bit_matmul", lambda: False)
    train = dataclasses.replace(settings.train, precision="bf16")
    assert codes(check(model, train, Hardware(torch.device("cpu"), "bf16", compile=False))) == ["GG-HW-001"]


def test_what_the_processor_says_of_itself(tmp_path):
    (tmp_path / "old").write_text("flags : avx avx2 fma")
    (tmp_path / "new").write_text("flags : avx2 avx512_bf16 amx_bf16")
    assert not settings_checks.cpu_has_16_bit_matmul(tmp_path / "old")
    assert settings_checks.cpu_has_16_bit_matmul(tmp_path / "new")
    assert settings_checks.cpu_has_16_bit_matmul(tmp_path / "unknown")


def test_attention_that_falls_back_on_a_gpu(monkeypatch):
    model, settings = trainer_config("nano")
    monkeypatch.setattr(Hardware, "attention_kernel", lambda *_: "math")
    monkeypatch.setattr(Hardware, "describe", lambda _: "a GPU")
    gpu = Hardware(torch.device("cuda"), "fp32", compile=False)
    assert codes(settings_checks.check_hardware(model, settings.train, gpu)) == ["GG-HW-002"]


# --- data


@pytest.fixture
def prepared(tmp_path):
    """Prepare texts as a data set: training text and held-out text."""

    def make(train: str, validation: str, tokenizer: str = "bytes") -> TokenDataset:
        (tmp_path / "train.txt").write_text(train)
        (tmp_path / "validation.txt").write_text(validation)
        out = tmp_path / "data"
        options = PrepareOptions(
            sources=(str(tmp_path / "train.txt"),),
            validation_sources=(str(tmp_path / "validation.txt"),),
            out=out,
            tokenizer=tokenizer,
            workers=1,
            force=True,
        )
        prepare(options)
        return TokenDataset.open(out)

    return make


def all_data_checks(dataset: TokenDataset) -> list[str]:
    return codes(
        data_checks.check_shards(dataset),
        data_checks.check_token_ids(dataset, dataset.vocab_size),
        data_checks.check_tokenizer_fit(dataset),
        data_checks.check_duplicates(dataset),
        data_checks.check_overlap(dataset),
        data_checks.check_split_similarity(dataset),
    )


def test_healthy_data_raise_no_alarm(grammar_dataset):
    assert all_data_checks(grammar_dataset) == []


def test_validation_text_in_the_training_text_is_found(prepared):
    ours, theirs = grammar_text(2000, seed=1), grammar_text(300, seed=2)
    half = theirs[: len(theirs) // 3]
    dataset = prepared(ours + half, theirs)
    check = data_checks.check_overlap(dataset)
    assert codes(check) == ["GG-DAT-005"]
    assert check.findings[0].seen["share"] == pytest.approx(33, abs=3)
    assert check.findings[0].severity == "warning"
    assert codes(data_checks.check_duplicates(dataset)) == []


def test_wholly_known_validation_text_is_fatal(prepared):
    ours = grammar_text(500, seed=1)
    check = data_checks.check_overlap(prepared(ours + "x", ours))
    assert codes(check) == ["GG-DAT-005"]
    assert check.findings[0].severity == "fatal"


def test_duplicated_training_text_is_found(prepared):
    ours = grammar_text(500, seed=1)
    check = data_checks.check_duplicates(prepared(ours + ours, grammar_text(200, seed=2)))
    assert codes(check) == ["GG-DAT-006"]
    assert check.findings[0].seen["share"] == pytest.approx(50, abs=1)


def test_a_damaged_shard_is_found(prepared):
    dataset = prepared(grammar_text(300, seed=1), grammar_text(100, seed=2))
    shard = dataset.folder / "train-00000.bin"
    raw = bytearray(shard.read_bytes())
    raw[-3] ^= 1
    shard.write_bytes(raw)
    assert codes(data_checks.check_shards(dataset)) == ["GG-DAT-007"]
    shard.write_bytes(raw[:-2])
    assert codes(*api.doctor(dataset.folder)) == ["GG-DAT-007"]


def test_an_exchanged_tokenizer_is_found(prepared, tmp_path):
    dataset = prepared(grammar_text(300, seed=1), grammar_text(100, seed=2), tokenizer="bpe:300")
    (tmp_path / "more.txt").write_text(grammar_text(100, seed=3).upper())
    options = PrepareOptions(
        sources=(str(tmp_path / "more.txt"),), out=tmp_path / "other", tokenizer="bpe:300", workers=1
    )
    prepare(options)
    shutil.copy(tmp_path / "other" / "tokenizer.json", dataset.folder)
    with pytest.raises(TokenizerError):
        _ = dataset.tokenizer
    assert codes(data_checks.check_shards(dataset)) == ["GG-DAT-010"]
    assert codes(*api.doctor(dataset.folder)) == ["GG-DAT-010"]
    assert codes(data_checks.check_tokenizer("another", dataset)) == ["GG-DAT-010"]
    assert codes(data_checks.check_tokenizer(dataset.tokenizer_fingerprint, dataset)) == []


def test_an_id_without_a_row_is_found(grammar_dataset):
    assert codes(data_checks.check_token_ids(grammar_dataset, 100)) == ["GG-DAT-001"]


def test_ids_without_a_row_end_the_examination(prepared, capsys):
    """A model cannot be computed with them; the doctor says so instead of failing at it."""
    dataset = prepared(grammar_text(400, seed=1), grammar_text(100, seed=2))
    shard = dataset.folder / "train-00000.bin"
    header = ShardHeader.read(shard)
    tokens = np.frombuffer(shard.read_bytes(), "<u2", offset=HEADER.size).copy()
    tokens[100] = 300
    checksum = hashlib.sha256(tokens.tobytes()).digest()
    shard.write_bytes(dataclasses.replace(header, checksum=checksum).pack() + tokens.tobytes())
    found = list(api.doctor("nano", data=dataset.folder))
    assert codes(*found) == ["GG-DAT-001"]
    assert "model" not in [check.name for check in found]
    plan = TrainingPlan(SHAPES["gpt2"], memory_settings(), TokenDataset.open(dataset.folder), Path("runs"))
    assert codes(*run_startup_checks(plan, build_model(plan.model))) == ["GG-DAT-001"]


def test_a_tokenizer_for_other_text_is_found(prepared):
    korean = "글을 배우는 아이는 누구나 아무도 다시 닫을 수 없는 문을 연다. " * 50
    dataset = prepared(korean, korean[:400], tokenizer="gpt2")
    check = data_checks.check_tokenizer_fit(dataset)
    assert codes(check) == ["GG-DAT-008", "GG-DAT-009"]


def test_validation_text_of_another_kind_is_found(prepared):
    dataset = prepared(grammar_text(500, seed=1), "0123456789 %&/() " * 300)
    assert codes(data_checks.check_split_similarity(dataset)) == ["GG-DAT-011"]


def test_noise_is_known_from_text(prepared):
    """Pairs of tokens say nothing in it, in whatever tokens it is; in a small text little, which is not held against it."""
    chance = random.Random(0)
    noise = "".join(chance.choice("abcdefghijklmnop ") for _ in range(50_000))
    assert codes(data_checks.check_split_similarity(prepared(noise[5000:], noise[:5000]))) == ["GG-DAT-012"]
    assert codes(data_checks.check_split_similarity(prepared(noise[:9000], noise[9000:10_000]))) == []
    speech = grammar_text(2000, seed=9)
    for tokenizer in ("bytes", "bpe:400"):
        assert codes(data_checks.check_split_similarity(prepared(speech, grammar_text(300, seed=8), tokenizer))) == []


def test_a_text_that_repeats_one_passage_is_told_from_a_reader_that_stands_still(prepared):
    batches = Batches(prepared(" " * 5000, grammar_text(20, seed=1)).split("train"), 32, seed=0)
    assert codes(data_checks.check_batches(batches, 8)) == ["GG-DAT-006"]


class Shifted(Batches):
    def next(self, rows):
        inputs, targets = super().next(rows)
        return inputs, targets.roll(-1, dims=1)


class Unmoving(Batches):
    def next(self, rows):
        inputs, targets = super().next(rows)
        return inputs[:1].expand_as(inputs).contiguous(), targets[:1].expand_as(targets).contiguous()


class Unshuffled(Batches):
    def _plan(self, epoch):
        return np.sort(super()._plan(epoch))


class StandingStill(Batches):
    """Each batch is sound, and the first one again."""

    def starts_at(self, position, rows):
        return super().starts_at(0, rows)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (Batches, []),
        (Shifted, ["GG-DAT-002"]),
        (Unmoving, ["GG-DAT-003"]),
        (StandingStill, ["GG-DAT-003"]),
        (Unshuffled, ["GG-DAT-004"]),
    ],
)
def test_batches(grammar_dataset, kind, expected):
    batches = kind(grammar_dataset.split("train"), 32, seed=0)
    batches.seek(5)
    assert codes(data_checks.check_batches(batches, 16)) == expected
    assert batches.position == 5


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(1, 6))
def test_equal_passages_have_equal_hashes_and_others_do_not(tokens, n):
    hashes = data_checks.passage_hashes(np.array(tokens), n)
    passages = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    assert len(hashes) == len(passages)
    assert len(set(hashes.tolist())) == len(set(passages))
    assert len(set(zip(passages, hashes.tolist(), strict=True))) == len(set(passages))


@given(st.integers(1, 400_000))
def test_a_sample_has_the_size_asked_for(length):
    tokens = TokenArray([np.zeros(length, dtype=np.uint16)])
    assert len(data_checks.sample(tokens, 200_000)) == min(length, 200_000)


# --- the model


def test_a_healthy_model_raises_no_alarm(model, batch):
    before = copy.deepcopy(model.state_dict())
    rng = torch.get_rng_state()
    optimizer = OptimizerConfig(name="muon" if model.config.arch == "modern" else "adamw")
    rate = 0.02 if model.config.arch == "modern" else 5e-3
    assert codes(
        model_checks.check_initial_weights(model),
        model_checks.check_initial_loss(model, *batch, CPU, is_fresh=True),
        model_checks.check_causality(model, batch[0]),
        model_checks.check_attention_kernel(model.blocks[0].attention.attend, CPU),
        model_checks.check_gradients(model, *batch, CPU),
        model_checks.check_parameter_groups(model, build_optimizers(model, optimizer)),
        model_checks.check_one_batch(model, *batch, optimizer, rate),
    ) == []  # fmt: skip
    assert model.training
    assert torch.equal(rng, torch.get_rng_state())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


@given(
    st.sampled_from(["gpt2", "modern"]),
    st.integers(1, 6),
    st.sampled_from([8, 16, 64]),
    st.floats(0.005, 0.2),
    st.integers(0, 999),
)
@settings(max_examples=100, deadline=None)
def test_what_is_drawn_by_the_rule_is_as_wide_as_is_due(arch, layers, width, std, seed):
    torch.manual_seed(seed)
    model = build_model(ModelConfig(arch, 40, 8, layers, n_head=2, n_embd=width, init_std=std, bias=arch == "gpt2"))
    assert codes(model_checks.check_initial_weights(model)) == []
    residual = [p.std().item() for name, p in model.named_parameters() if name.endswith(("out.weight", "down.weight"))]
    expected = std / math.sqrt(2 * layers) if arch == "gpt2" else 0.0
    assert residual == pytest.approx([expected] * 2 * layers, rel=0.5)


@pytest.mark.parametrize("layers", [2, 12])
def test_residual_projections_that_are_not_scaled_down_are_seen(layers):
    model = build_model(dataclasses.replace(SHAPES["gpt2"], n_layer=layers))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith((".out.weight", ".down.weight")):
                parameter.mul_(math.sqrt(2 * layers))
    (finding,) = model_checks.check_initial_weights(model).findings
    assert (finding.code, finding.seen["count"], finding.seen["layers"]) == ("GG-INI-005", 2 * layers, layers)
    assert finding.seen["std"] == pytest.approx(finding.seen["due"] * math.sqrt(2 * layers), rel=0.1)


def test_a_matrix_that_does_not_begin_at_zero_is_seen():
    model = build_model(SHAPES["modern"])
    torch.nn.init.normal_(model.blocks[1].mlp.down.weight, std=0.02)
    (finding,) = model_checks.check_initial_weights(model).findings
    assert finding.seen["parameter"] == "blocks.1.mlp.down.weight"


def test_loaded_weights_may_be_as_wide_as_they_like(grammar_dataset, nano_run, tmp_path):
    config = load_config(nano_run)
    plan = TrainingPlan(
        config.model,
        runs.trainer_config(config),
        grammar_dataset,
        tmp_path,
        find_checkpoint(RunFolder(nano_run), "best"),
    )
    checks = list(run_startup_checks(plan, build_model(config.model)))
    assert "initial weights" not in [check.name for check in checks]


def test_the_expected_initial_loss_is_the_formulas(batch):
    """Logits drawn from N(0, σ²) by hand."""
    torch.manual_seed(0)
    logits = torch.randn(200, 5000) * 1.2
    loss = torch.nn.functional.cross_entropy(logits, torch.randint(5000, (200,)))
    assert loss.item() == pytest.approx(math.log(5000) + 1.2**2 / 2, abs=0.25)


def test_weights_that_are_too_large_begin_too_hot(batch):
    model = build_model(dataclasses.replace(SHAPES["gpt2"], init_std=0.9))
    assert codes(model_checks.check_initial_loss(model, *batch, CPU, is_fresh=True)) == ["GG-INI-001"]


def test_an_exploding_head_is_noticed(batch):
    model = build_model(SHAPES["gpt2"])
    with torch.no_grad():
        model.token_embedding.weight.mul_(20)
    assert codes(model_checks.check_initial_loss(model, *batch, CPU, is_fresh=True)) == ["GG-INI-001"]


def test_a_loss_that_begins_too_low_is_noticed(batch, nano_run):
    """Trained weights that are said to be fresh."""
    trained = api.load(nano_run).model
    assert codes(model_checks.check_initial_loss(trained, *batch, CPU, is_fresh=True)) == ["GG-INI-002"]
    assert codes(model_checks.check_initial_loss(trained, *batch, CPU, is_fresh=False)) == []


def test_loaded_weights_that_know_nothing_are_noticed(model, batch):
    assert codes(model_checks.check_initial_loss(model, *batch, CPU, is_fresh=False)) == ["GG-INI-003"]


def test_a_loss_that_is_not_finite_names_the_module(batch):
    model = build_model(SHAPES["gpt2"])
    with torch.no_grad():
        model.blocks[1].mlp.up.weight[3, 3] = math.nan
    check = model_checks.check_initial_loss(model, *batch, CPU, is_fresh=True)
    assert codes(check) == ["GG-NAN-001"]
    assert check.findings[0].seen["module"] == "blocks.1.mlp.up"
    assert "GG-NAN-001" in codes(model_checks.check_gradients(model, *batch, CPU))


def see_all(q, k, v, mask, dropout, window=0):
    return torch.nn.functional.scaled_dot_product_attention(q, k, v)


def see_one_ahead(q, k, v, mask, dropout, window=0):
    visible = causal_mask(q.size(2), k.size(2)).roll(1, dims=-1) | causal_mask(q.size(2), k.size(2))
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=visible)


def see_nothing(q, k, v, mask, dropout, window=0):
    return v


@pytest.mark.parametrize("arch", SHAPES)
@pytest.mark.parametrize(
    ("wrong", "code"), [(see_all, "GG-CAU-001"), (see_one_ahead, "GG-CAU-001"), (see_nothing, "GG-CAU-002")]
)
def test_a_wrong_mask_is_found_even_where_blocks_begin_as_identity(arch, wrong, code, batch):
    model = build_model(SHAPES[arch], wrong)
    assert codes(model_checks.check_causality(model, batch[0])) == [code]


def same_everywhere(model):
    for parameter in model.parameters():
        parameter.fill_(0.03)


def without_gain(model):
    model.norm.weight.zero_()


@pytest.mark.parametrize("spoil", [same_everywhere, without_gain])
def test_logits_that_depend_on_nothing_are_no_matter_of_the_mask(spoil, batch):
    model = build_model(SHAPES["gpt2"])
    with torch.no_grad():
        spoil(model)
    assert codes(model_checks.check_causality(model, batch[0])) == ["GG-INI-004"]


def slightly_off(q, k, v, mask, dropout, window=0):
    return attend(q * 1.01, k, v, mask, dropout, window)


@pytest.mark.parametrize(
    ("kernel", "precision", "expected"),
    [
        (attend, "fp32", []),
        (attend, "bf16", []),
        (slightly_off, "fp32", ["GG-KER-001"]),
        (see_all, "fp32", ["GG-KER-001"]),
        (see_all, "bf16", ["GG-KER-001"]),
    ],
)
def test_a_broken_kernel_is_found(kernel, precision, expected):
    hardware = Hardware(torch.device("cpu"), precision, compile=False)
    assert codes(model_checks.check_attention_kernel(kernel, hardware)) == expected


class Detached(torch.nn.Linear):
    def forward(self, x):
        return super().forward(x).detach()


def test_a_detached_layer_is_found(batch):
    model = build_model(SHAPES["gpt2"])
    model.blocks[0].mlp.up = Detached(32, 128)
    check = model_checks.check_gradients(model, *batch, CPU)
    assert codes(check) == ["GG-GRD-001"]
    assert check.findings[0].seen["parameter"] == "blocks.0.norm2.weight"  # all on the way there are cut off


def test_a_frozen_layer_is_found(batch):
    model = build_model(SHAPES["gpt2"])
    model.blocks[0].attention.qkv.weight.requires_grad_(False)
    assert codes(model_checks.check_gradients(model, *batch, CPU)) == ["GG-GRD-002"]


def test_optimizer_groups_that_do_not_divide_the_parameters(model):
    some = list(model.parameters())[1:]
    assert codes(model_checks.check_parameter_groups(model, [torch.optim.SGD(some, lr=0.1)])) == ["GG-GRD-003"]
    twice = [torch.optim.SGD(model.parameters(), lr=0.1), torch.optim.SGD(some, lr=0.1)]
    assert codes(model_checks.check_parameter_groups(model, twice)) == ["GG-GRD-003"]


def test_weight_decay_on_everything_is_found(model):
    everything = [torch.optim.AdamW(model.parameters(), weight_decay=0.1)]
    assert codes(model_checks.check_parameter_groups(model, everything)) == ["GG-GRD-004"]


@pytest.mark.parametrize("rate", [5e-6, 50.0])
def test_a_batch_that_is_not_learned(batch, rate):
    model = build_model(SHAPES["gpt2"])
    assert codes(model_checks.check_one_batch(model, *batch, OptimizerConfig(), rate)) == ["GG-BAT-001"]


@pytest.mark.parametrize(("rate", "code"), [(1e-6, "GG-CFG-004"), (1e3, "GG-CFG-003")])
def test_a_batch_that_is_learned_at_the_usual_rate_blames_the_rate(grammar_dataset, rate, code):
    plan = TrainingPlan(SHAPES["gpt2"], memory_settings(learning_rate=rate), grammar_dataset, Path("runs"))
    (check,) = [check for check in doctor.diagnose_training(plan) if check.name == "one batch"]
    assert codes(check) == [code]
    assert (check.findings[0].severity, check.findings[0].ruled_out) == ("fatal", ("GG-BAT-001",))


def test_one_batch_is_bounded_in_time(batch):
    model = build_model(SHAPES["gpt2"])
    start = time.monotonic()
    check = model_checks.check_one_batch(model, *batch, OptimizerConfig(), 5e-3, seconds=0.0)
    assert time.monotonic() - start < 5
    assert "2 steps" in measured(check)


# --- memory


def test_live_bytes_are_counted():
    present = torch.zeros(1000)
    with memory.LiveTensorBytes([present]) as counter:
        a = torch.zeros(1000)
        b = a + 1
        del a
        c = b.view(10, 100)  # shares its storage
        d = c * 2
    assert counter.peak == 4 * 3000
    assert d.shape == (10, 100)


def memory_settings(**train) -> TrainerConfig:
    return TrainerConfig(
        TrainConfig(batch_tokens=8 * 32, **train), OptimizerConfig(), ScheduleConfig(), CheckpointConfig()
    )


def test_the_measured_line_predicts_another_size():
    """M₀ + k·b from b = 1 and 2 against a measurement at b = 6."""
    need = memory.measured(SHAPES["gpt2"], memory_settings(), CPU)
    assert need.at(6) == pytest.approx(memory._peak(SHAPES["gpt2"], memory_settings(), CPU, 6), rel=0.03)
    weights = sum(p.numel() for p in build_model(SHAPES["gpt2"]).parameters()) * 4
    assert need.fixed > 2.9 * weights  # with both of AdamW's averages


def test_what_does_not_fit_is_found_with_what_does(monkeypatch):
    need = memory.measured(SHAPES["gpt2"], memory_settings(), CPU)
    assert codes(memory.check_memory(SHAPES["gpt2"], memory_settings(), CPU)) == []
    monkeypatch.setattr(memory, "free_memory", lambda _: int(need.at(4) / memory.USABLE) + 10)
    monkeypatch.setattr(memory, "predicted", lambda _: memory.MemoryRequirement(0, 0, is_measured=False))
    check = memory.check_memory(SHAPES["gpt2"], memory_settings(), CPU)
    assert codes(check) == ["GG-MEM-001"]
    assert check.findings[0].seen["fits"] == 4
    assert codes(memory.check_memory(SHAPES["gpt2"], memory_settings(micro_batch_size=4), CPU)) == []


def test_where_nothing_tells_what_is_free(monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda _: None)
    check = memory.check_memory(SHAPES["gpt2"], memory_settings(), CPU)
    assert codes(check) == []
    assert "not known" in measured(check)


def test_the_limit_of_a_container_counts(tmp_path):
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("100\n")
    assert device._cgroup_headroom(tmp_path) is None
    (tmp_path / "memory.max").write_text("1000\n")
    assert device._cgroup_headroom(tmp_path) == 900
    assert device._cgroup_headroom(tmp_path / "none") is None
    (tmp_path / "meminfo").write_text("MemTotal: 10 kB\nMemAvailable: 7 kB\n")
    assert device._available_memory(tmp_path / "meminfo") == 7 * 1024
    assert device._available_memory(tmp_path / "none") is None


# --- learning rates


def stepper_of(dataset, *, optimizer="adamw", rate=5e-3) -> TrainStep:
    torch.manual_seed(0)
    model = build_model(dataclasses.replace(SHAPES["gpt2"], dropout=0.1))
    train = TrainConfig(batch_tokens=256, learning_rate=rate, ema_decay=0.9)
    settings = TrainerConfig(train, OptimizerConfig(name=optimizer), ScheduleConfig(), CheckpointConfig())
    train_step = TrainStep(model, dataset.split("train"), settings, CPU, DistributedContext())
    train_step.model.train()
    return train_step


def trained_on(train_step: TrainStep, first: int, steps: int) -> list[float]:
    return [train_step.step(number, 5e-3)[0].item() for number in range(first, first + steps)]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("before", [0, 3])
def test_a_range_test_leaves_no_trace(grammar_dataset, optimizer, before):
    """Training goes on with the same bits as if nobody had tried anything."""
    undisturbed, tried = (stepper_of(grammar_dataset, optimizer=optimizer) for _ in range(2))
    torch.manual_seed(7)
    trained_on(undisturbed, 1, before)
    after = trained_on(undisturbed, before + 1, 3)
    torch.manual_seed(7)
    trained_on(tried, 1, before)
    rate_range.find_rate_range(tried, CPU, steps=12)
    assert trained_on(tried, before + 1, 3) == after
    for one, other in zip(undisturbed.model.parameters(), tried.model.parameters(), strict=True):
        assert torch.equal(one, other)
    averages = (train_step.average.named().values() for train_step in (undisturbed, tried))
    assert all(torch.equal(a, b) for a, b in zip(*averages, strict=True))
    states = [str(train_step.optimizers[0].state_dict()["state"]) for train_step in (undisturbed, tried)]
    assert states[0] == states[1]


def test_the_range_test_finds_a_rate_that_is_too_high(grammar_dataset, tmp_path):
    train_step = stepper_of(grammar_dataset)
    picture = tmp_path / "rates.png"
    check = rate_range.check_rate_range(train_step, CPU, 5e-3, picture)
    assert codes(check) == []
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert codes(rate_range.check_rate_range(train_step, CPU, 3.0, None)) == ["GG-LRT-001"]


# --- a run from its files


@pytest.fixture
def run(nano_run, tmp_path) -> RunFolder:
    """A copy of a healthy run, to be damaged."""
    shutil.copytree(nano_run, tmp_path / "run")
    return RunFolder(tmp_path / "run")


def doctored(run: RunFolder) -> list[str]:
    """What the doctor finds, but for the speed: the machine is shared."""
    return [code for code in codes(*api.doctor(run.path)) if code != "GG-SPD-001"]


def rewrite(run: RunFolder, change) -> None:
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in change(lines)))


def age(run: RunFolder) -> None:
    for file in (run.metrics, run.events):
        os.utime(file, (1e9, 1e9))


def test_a_healthy_run_raises_no_alarm(run):
    assert doctored(run) == []


def test_a_killed_run_is_known_from_one_that_goes_on(run):
    rewrite(run, lambda lines: [line for line in lines if line["step"] <= 250])
    assert doctored(run) == []  # written a moment ago: it runs
    age(run)
    assert doctored(run) == ["GG-END-001"]
    with run.events.open("a") as file:
        file.write(json.dumps({"step": 250, "event": "interrupted", "signal": 2}) + "\n")
    assert doctored(run) == []


def test_a_run_that_was_resumed_is_judged_by_its_last_end(run):
    with run.events.open("a") as file:
        for event in ("interrupted", "resume"):
            file.write(json.dumps({"step": 250, "event": event}) + "\n")
    age(run)
    assert RunLog.read(run).end(300) == "finished"


def test_a_run_that_diverged_says_so(run):
    rewrite(run, lambda lines: [line for line in lines if line["step"] <= 250])
    with run.events.open("a") as file:
        line = {"step": 250, "event": "diverged", "at": 251, "loss": "nan", "grad_norm": "inf"}
        file.write(json.dumps(line) + "\n")
    assert doctored(run) == ["GG-NAN-002"]


def test_a_real_run_that_diverges_is_explained(grammar_data, tmp_path):
    """An absurd rate in a real training; what it leaves behind is enough."""
    config = load_config("nano", {"data": str(grammar_data), "train.learning_rate": 1e30, "train.max_steps": 40})
    with pytest.raises(TrainingDivergedError):
        api.train(config, tmp_path / "run")
    found = doctored(RunFolder(tmp_path / "run"))
    assert {"GG-NAN-014", "GG-CFG-003"} <= set(found)
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    noticed = [Finding.from_json(event).code for event in events if event["event"] == "finding"]
    assert noticed[0] == "GG-CFG-003"  # before its first step
    assert set(noticed[1:]) == {"GG-NAN-014"}  # three rewinds did not help


def test_a_full_disk_is_written_down(grammar_data, tmp_path, monkeypatch):
    def refuse(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("glassgpt.training.checkpoint.save_file", refuse)
    config = load_config("nano", {"data": str(grammar_data), "train.max_steps": 12, "checkpoint.every_steps": 8})
    with pytest.raises(CheckpointError):
        api.train(config, tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    assert {"GG-DSK-002", "GG-CKP-002"} <= set(doctored(run))
    assert "GG-END-001" not in doctored(run)
    assert (tmp_path / "run" / "report.html").is_file()


def test_an_error_that_ended_a_run_is_named(grammar_data, tmp_path, monkeypatch):
    def fail(*arguments):
        raise IndexError("index out of range in self")

    monkeypatch.setattr("glassgpt.training.step.TrainStep._accumulate", fail)
    config = load_config("nano", {"data": str(grammar_data), "train.max_steps": 12})
    with pytest.raises(IndexError):
        api.train(config, tmp_path / "run")
    (end,) = [check for check in api.doctor(tmp_path / "run") if check.name == "end"]
    assert codes(end) == ["GG-END-003"]
    assert end.findings[0].seen == {"step": 0, "error": "IndexError", "problem": "index out of range in self"}


def newest(run: RunFolder) -> Path:
    return run.checkpoints / (run.checkpoints / "latest").read_text().strip()


def test_a_damaged_checkpoint_is_found(run):
    weights = newest(run) / "model.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-1] ^= 1
    weights.write_bytes(raw)
    assert "GG-CKP-001" in doctored(run)


def test_a_run_without_a_whole_checkpoint(run):
    for manifest in run.checkpoints.glob("*/manifest.json"):
        manifest.unlink()
    assert "GG-CKP-002" in doctored(run)


def test_a_checkpoint_that_was_being_written(run):
    (run.checkpoints / ".staging-123").mkdir()
    assert doctored(run) == ["GG-CKP-003"]


def test_weights_that_are_not_finite_are_found(run):
    file = newest(run) / "model.safetensors"
    weights = load_file(file)
    weights["norm.weight"][3] = math.inf
    save_file(weights, file)
    (newest(run) / "manifest.json").unlink()
    _seal(newest(run))
    assert "GG-NAN-003" in doctored(run)


def test_lines_that_are_no_json_are_counted(run):
    with run.metrics.open("a") as file:
        file.write('{"step": 3\nnonsense\n[1]\n')
    found = [check for check in api.doctor(run.path) if check.name == "files"]
    assert codes(*found) == ["GG-END-002"]
    assert found[0].findings[0].seen["count"] == 3


def test_what_a_run_noticed_itself_is_told_once(run):
    finding = Finding("GG-INI-001", "warning", {"loss": 9, "expected": 5, "sigma": 2, "vocab_size": 257, "guessing": 5})
    with run.events.open("a") as file:
        for step in (0, 200):
            file.write(json.dumps(finding.to_event(step)) + "\n")
        file.write(json.dumps({"step": 1, "event": "finding", "code": "torn"}) + "\n")
        file.write(json.dumps(Finding("GG-XXX-999", "note").to_event(1)) + "\n")
    assert doctored(run) == ["GG-END-002", "GG-INI-001"]
    assert RunLog.read(run).unreadable == {"events.jsonl": 2}


def test_spikes_are_found(run):
    def spoil(lines):
        return [
            {**line, "loss": line["loss"] + 2} if line.get("step") in (200, 201) and "loss" in line else line
            for line in lines
        ]

    rewrite(run, spoil)
    assert doctored(run) == ["GG-SPK-001"]


def test_overfitting_is_found(run):
    def spoil(lines):
        steps = [line for line in lines if "loss" in line]
        rising = [{"step": 50 * i, "validation_loss": 0.4 + 0.1 * i, "validation_tokens": 16384} for i in range(1, 7)]
        return steps + rising

    rewrite(run, spoil)
    assert doctored(run) == ["GG-OVF-001"]


def stub_record(run: RunFolder, losses, *, rate=1.0, norm=0.5, seconds=0.1) -> RunLog:
    seconds_each = np.broadcast_to(seconds, len(losses))
    steps = [
        {"step": i, "loss": float(loss), "learning_rate": rate, "grad_norm": norm, "seconds": float(done)}
        for i, (loss, done) in enumerate(zip(losses, np.cumsum(seconds_each), strict=True), start=1)
    ]
    return RunLog(run, steps, [], [], {}, time.time())


FLAT = 2.9 + np.random.default_rng(2).normal(0, 0.05, 800)


@pytest.mark.parametrize(("level", "code"), [(5.55, "GG-LAD-001"), (2.9, "GG-LAD-002"), (2.1, "GG-LAD-003")])
def test_a_run_stuck_on_a_rung(run, level, code):
    ladder = NGramBaseline(5.55, 2.9, 2.1)
    record = stub_record(run, FLAT - 2.9 + level)
    assert codes(run_checks.check_ngram_baselines(record, memory_settings(max_steps=800), ladder)) == [code]


def test_a_run_stuck_between_two_rungs_has_not_reached_the_lower(run):
    ladder = NGramBaseline(5.55, 2.9, 2.1)
    check = run_checks.check_ngram_baselines(stub_record(run, FLAT - 0.4), memory_settings(max_steps=800), ladder)
    assert codes(check) == ["GG-LAD-003"]
    assert check.findings[0].severity == "warning"


def test_a_run_that_is_over_and_knows_no_frequencies(run):
    """It still falls, but it is over."""
    losses = np.linspace(6, 4.5, 800)
    ladder = NGramBaseline(5.55, 2.9, 2.1)
    check = run_checks.check_ngram_baselines
    assert codes(check(stub_record(run, losses), memory_settings(max_steps=800), ladder)) == ["GG-LAD-002"]
    assert codes(check(stub_record(run, losses), memory_settings(max_steps=2000), ladder)) == []


def test_dropout_does_not_make_a_good_model_look_stuck(run):
    record = dataclasses.replace(stub_record(run, FLAT), validations=[{"step": 700, "validation_loss": 1.5}])
    assert (
        codes(run_checks.check_ngram_baselines(record, memory_settings(max_steps=800), NGramBaseline(5.55, 2.9, 2.1)))
        == []
    )


def test_a_plateau_clipping_and_a_slowdown_in_a_record(run):
    settings = memory_settings(max_steps=800)
    assert codes(run_checks.check_plateau(stub_record(run, FLAT), settings)) == ["GG-PLT-001"]
    assert codes(run_checks.check_clipping(stub_record(run, FLAT, norm=12.0), settings)) == ["GG-CLP-001"]
    assert codes(run_checks.check_clipping(stub_record(run, FLAT, norm=3.0), settings)) == []
    slow = np.concatenate([np.full(500, 0.1), np.full(300, 0.2)])
    assert codes(run_checks.check_speed(stub_record(run, FLAT, seconds=slow))) == ["GG-SPD-001"]
    assert codes(run_checks.check_speed(stub_record(run, FLAT))) == []


@given(st.binary(max_size=300))
@settings(max_examples=50)
def test_any_bytes_can_stand_in_the_files(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("torn")
    run = RunFolder(folder)
    run.metrics.write_bytes(content)
    record = RunLog.read(run)
    assert record.end(10) in ("running", "killed", "finished")


# --- the quick part and the command


def test_the_quick_part_sees_a_leak_and_leaves_no_trace(grammar_dataset):
    plan = TrainingPlan(SHAPES["gpt2"], memory_settings(learning_rate=5e-3), grammar_dataset, Path("runs"))
    torch.manual_seed(0)
    model = build_model(plan.model)
    rng = torch.get_rng_state()
    assert codes(*run_startup_checks(plan, model)) == []
    assert torch.equal(rng, torch.get_rng_state())
    assert codes(*run_startup_checks(plan, build_model(plan.model, see_all))) == ["GG-CAU-001"]
    resumed = dataclasses.replace(plan, weights=Path("somewhere"))
    assert "causality" not in [check.name for check in run_startup_checks(resumed, None)]


@pytest.mark.parametrize("preset", ["nano", "tiny", "small", "demo"])
def test_no_preset_starts_with_an_alarm(preset, grammar_dataset):
    model, settings = trainer_config(preset)
    model = dataclasses.replace(model, vocab_size=grammar_dataset.vocab_size)
    torch.manual_seed(settings.seed)
    plan = TrainingPlan(model, settings, grammar_dataset, Path("runs"))
    assert codes(*run_startup_checks(plan, build_model(model))) == []


def test_averaged_weights_that_are_not_finite_are_found(run):
    weights = load_file(newest(run) / "model.safetensors")
    weights["norm.weight"][0] = math.nan
    save_file(weights, newest(run) / "average.safetensors")
    (newest(run) / "manifest.json").unlink()
    _seal(newest(run))
    check = run_checks.check_weights(run, [300])
    assert codes(check) == ["GG-NAN-003"]
    assert check.findings[0].seen["parameter"] == "norm.weight (average)"


def test_a_large_model_is_looked_at_with_its_first_blocks(monkeypatch):
    monkeypatch.setattr(doctor, "LARGE_PARAMETERS", 1000)
    shape = dataclasses.replace(SHAPES["gpt2"], n_layer=5)
    checks = list(
        doctor.diagnose_training(TrainingPlan(shape, memory_settings(learning_rate=5e-3), None, Path("runs")))
    )
    assert codes(*checks) == []
    (told,) = [measured(check) for check in checks if check.name == "model"]
    assert "2 of 5 blocks" in told


def test_a_resumed_run_is_looked_at_again(grammar_data, run, capsys):
    api.train(
        api.resumed_config(run.path, {"train.max_steps": "302", "train.learning_rate": "0.5"}), run.path, resume=True
    )
    assert "GG-CFG-003" in capsys.readouterr().err


def test_the_command_on_a_preset(run_main, grammar_data):
    code, out, err = run_main("doctor", "nano", "--data", grammar_data, "--json")
    assert code == 0
    found = json.loads(out)
    assert found["verdict"] == "fine"
    assert {"initial loss", "causality", "one batch", "memory", "overlap"} <= {c["check"] for c in found["checks"]}
    assert "initial loss" in err  # lines about the work


def test_the_command_on_a_preset_that_cannot_work(run_main, grammar_data):
    code, out, _ = run_main("doctor", "nano", "--data", grammar_data, "--model.n-head", "7", "--language", "ko")
    assert code == 1
    assert "GG-CFG-001" in out
    assert "해결 방법" in out


def test_the_command_on_data_and_without_data(run_main, grammar_data):
    assert run_main("doctor", grammar_data)[0] == 0
    code, out, _ = run_main("doctor", "nano", "--model.vocab-size", 300)
    assert code == 0
    assert "causality" in out


def test_the_command_on_a_dead_run(run_main, run):
    for manifest in run.checkpoints.glob("*/manifest.json"):
        manifest.unlink()
    code, out, _ = run_main("doctor", run.path)
    assert code == 1
    assert "GG-CKP-002" in out
    assert "what to do" in out


def test_the_command_explains_a_code(run_main):
    code, out, _ = run_main("doctor", "GG-CAU-001")
    assert code == 0
    assert out.startswith("GG-CAU-001: the model sees the future")
    assert run_main("doctor", "GG-XXX-999")[0] == 2


def test_the_command_on_nothing_that_exists(run_main):
    code, _, err = run_main("doctor", "nanoo")
    assert code == 2
    assert "did you mean nano" in err


def test_fine_tuning_begins_with_what_is_known(grammar_data, nano_run):
    """Loaded weights are held against guessing, not against ln V + σ²/2."""
    overrides = {"init_from": str(nano_run), "train.learning_rate": "1e-4"}
    checks = list(api.doctor("nano", data=grammar_data, overrides=overrides))
    assert codes(*checks) == []
    assert any("loaded weights" in measured(check) for check in checks)


# --- generated text


@pytest.mark.parametrize(
    ("tokens", "loop"),
    [
        ([1, 2, 3] * 6, [1, 2, 3]),
        ([9, 8, 7, *[5] * 16], [5]),
        ([9, 8, 7, *[5] * 15], []),
        ([1, 2, 3, 4, 5] * 3, []),
        (list(range(50)), []),
        ([*[1, 2] * 20, 3], []),
        ([], []),
    ],
)
def test_a_loop_is_the_shortest_passage_that_repeats_to_the_end(tokens, loop):
    assert text_checks.find_loop(tokens) == loop


@given(st.lists(st.integers(0, 1), max_size=80))
def test_a_loop_really_repeats(tokens):
    loop = text_checks.find_loop(tokens)
    times = max(4, math.ceil(16 / len(loop))) if loop else 0
    assert tokens[len(tokens) - times * len(loop) :] == loop * times


def texts_of(run, run_main, *options) -> list[str]:
    code, out, _ = run_main("doctor", run, "--text", "--json", *options)
    assert code == 0
    codes = [f["code"] for check in json.loads(out)["checks"] for f in check["findings"]]
    return [code for code in codes if "-SPD-" not in code]  # the machine is shared


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), []),
        (("--settings", "creative"), []),
        (("--temperature", 3, "--top-p", 1), ["GG-TXT-003"]),
        (("--stop", "e"), ["GG-TXT-004"]),
        (("--repetition-penalty", 4), ["GG-TXT-003"]),
    ],
)
def test_the_setting_that_spoils_a_good_models_text_is_found(nano_run, run_main, options, expected):
    assert texts_of(nano_run, run_main, *options) == expected


def test_an_undertrained_model_is_not_blamed_on_a_setting(grammar_data, tmp_path, run_main):
    overrides = {"data": str(grammar_data), "train.max_steps": 3, "schedule.warmup_steps": 0}
    api.train(load_config("nano", overrides), tmp_path / "run")
    assert "GG-TXT-002" in texts_of(tmp_path / "run", run_main)


def test_the_models_own_surprise_is_its_loss(nano_run):
    """Against cross-entropy computed by hand."""
    loaded = api.load(nano_run)
    prompt, text = "today the", " cat is eating bread"
    written = Sample(0, text, loaded.tokenizer.encode(text))
    tokens = torch.tensor(loaded.tokenizer.encode(prompt + text))
    loss = torch.nn.functional.cross_entropy(loaded.model(tokens[None, :-1])[0], tokens[1:], reduction="none")
    found = text_checks.mean_surprisal(loaded.model, loaded.tokenizer, [prompt], [written])
    assert found == pytest.approx(loss[-len(text) :].mean().item(), rel=1e-5)


def written(loops=0.0, early=0.0, reason="length") -> text_checks.GeneratedTexts:
    return text_checks.GeneratedTexts([Sample(0, "", [], reason)], loops, early, 1.0, "“x”")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (GenerationOptions(temperature=0.1), "--temperature"),
        (GenerationOptions(top_p=0.1), "--top-p"),
        (GenerationOptions(top_k=1), "--top-k"),
        (GenerationOptions(top_k=3), "--top-k"),
        (GenerationOptions(min_p=0.6), "--min-p"),
        (GenerationOptions(), "--temperature"),
    ],
)
def test_the_setting_behind_a_loop_is_named(options, named):
    check = text_checks.check_loops(written(0.9), written(1.0), written(0.0), options, 1.0, is_trained=True)
    assert codes(check) == ["GG-TXT-001"]
    assert check.findings[0].seen["setting"] == named
    GenerationOptions(**{named[2:].replace("-", "_"): check.findings[0].seen["wanted"]}).check()


def test_a_model_that_always_loops_is_named_itself():
    arguments = (written(0.9), written(1.0), written(0.9), GenerationOptions(), 1.0)
    assert codes(text_checks.check_loops(*arguments, is_trained=True)) == ["GG-TXT-006"]
    assert codes(text_checks.check_loops(*arguments, is_trained=False)) == []


def test_a_model_that_ends_its_texts_is_named_itself():
    one = written(early=0.9, reason="end_of_text")
    assert codes(text_checks.check_early_ends(one, one, one, GenerationOptions())) == ["GG-TXT-005"]
    stopped = written(early=0.9, reason="stop")
    check = text_checks.check_early_ends(stopped, written(), written(), GenerationOptions(stop_tokens=(3,)))
    assert codes(check) == ["GG-TXT-004"]
    assert codes(text_checks.check_early_ends(written(), one, one, GenerationOptions())) == []


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (GenerationOptions(temperature=1.5), "--temperature"),
        (GenerationOptions(repetition_penalty=2.0), "--repetition-penalty"),
        (GenerationOptions(frequency_penalty=3.0), "--frequency-penalty"),
        (GenerationOptions(presence_penalty=3.0), "--presence-penalty"),
        (GenerationOptions(), "--top-p"),
    ],
)
def test_the_setting_behind_noise_is_named(options, named):
    check = text_checks.check_improbable_text(written(), options, -1.0, is_trained=True)
    assert codes(check) == ["GG-TXT-003"]
    assert check.findings[0].seen["setting"] == named


def test_text_is_asked_of_runs_only(run_main, grammar_data, run):
    assert run_main("doctor", "nano", "--text")[0] == 2
    assert run_main("doctor", run.path, "--temperature", "1")[0] == 2
    text = run.config.read_text().replace(str(grammar_data), str(run.path / "gone"))
    run.config.write_text(text)
    code, _, err = run_main("doctor", run.path, "--text")
    assert code == 2
    assert "--data" in err
    assert run_main("doctor", run.path, "--text", "--data", grammar_data)[0] == 0


# --- what is named is none of these


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder.mkdir(), "is neither a run (config.toml) nor a data set (dataset.json)"),
        (lambda folder: folder.write_text("some text"), "then glassgpt doctor DIR"),
        (lambda folder: (folder.mkdir(), (folder / "metrics.jsonl").write_text("{}")), "but not its config.toml"),
    ],
)
def test_what_is_nothing_to_look_at_is_a_mistake_of_use(tmp_path, run_main, make, message):
    make(tmp_path / "it")
    code, out, err = run_main("doctor", tmp_path / "it")
    assert (code, out) == (2, "")
    assert message in " ".join(err.split())


def test_a_run_without_its_tokenizer_is_still_looked_at(run, tmp_path):
    copied = tmp_path / "copied"
    shutil.copytree(run.path, copied)
    (copied / "tokenizer.json").unlink()
    checks = list(api.doctor(copied))
    assert codes(*checks)[0] == "GG-DAT-010"
    assert "end" in [check.name for check in checks]


def test_a_process_that_is_gone_is_known_at_once(run):
    """Where it ran on this machine; elsewhere a minute of silence tells."""
    record = RunLog.read(run)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for host, process, expected in (
        (platform.node(), gone.pid, "killed"),
        (platform.node(), os.getpid(), "running"),
        ("another", gone.pid, "running"),
        (platform.node(), "?", "running"),
    ):
        began = [{"step": 0, "event": "start", "host": host, "pid": process}]
        written = dataclasses.replace(record, events=began, written=time.time())
        assert written.end(10**6) == expected


def test_a_cause_that_a_replay_named_is_not_guessed_again(run, tmp_path):
    copied = RunFolder(tmp_path / "copied")
    shutil.copytree(run.path, copied.path)
    known = Finding(
        "GG-NAN-011", "fatal", {"step": 9, "why": "every-row-fails", "text": "x", "start": 1, "module": "y"}
    )
    ended = {"step": 9, "event": "diverged", "at": 9, "loss": "nan", "grad_norm": "nan"}
    with open(copied.events, "a") as file:
        file.write(json.dumps(ended) + "\n")
    assert "GG-NAN-002" in doctored(copied)
    with open(copied.events, "a") as file:
        file.write(json.dumps(known.to_event(9)) + "\n")
    assert "GG-NAN-002" not in doctored(copied)
    assert "GG-NAN-011" in doctored(copied)


def test_of_what_was_said_again_of_a_step_the_last_is_told(run):
    memory = [
        Finding("GG-MEM-012", "warning", {"step": 5, "micro_rows": rows}, done=("less-memory",)) for rows in (8, 4)
    ]
    later = Finding("GG-MEM-012", "warning", {"step": 7, "micro_rows": 2}, done=("less-memory",))
    record = dataclasses.replace(RunLog.read(run), events=[one.to_event(5) for one in (*memory, later)])
    assert [finding.seen["micro_rows"] for finding in run_checks.check_live_findings(record, []).findings] == [4, 2]
