"""Checks of a model before its first step."""

import copy
import dataclasses
import math
import time
from pathlib import Path

import pytest
import torch
from diagnosis_helpers import CPU, SHAPES, attend_to_everything, codes, small_batch_config
from hypothesis import given, settings
from hypothesis import strategies as st

from glassgpt import api
from glassgpt.api import runs
from glassgpt.config import load_config
from glassgpt.diagnosis import doctor
from glassgpt.diagnosis.catalogue import describe_measurement
from glassgpt.diagnosis.checks import model as model_checks
from glassgpt.diagnosis.doctor import TrainingPlan, run_startup_checks
from glassgpt.model.attention import attend, causal_mask
from glassgpt.model.build import build_model
from glassgpt.model.config import ModelConfig
from glassgpt.training.checkpoint import find_checkpoint
from glassgpt.training.config import OptimizerConfig
from glassgpt.training.hardware import Hardware
from glassgpt.training.loss import TrainingLoss
from glassgpt.training.optimizers import build_optimizers
from glassgpt.training.run_folder import RunFolder


def test_healthy_model_passes_all_checks_unchanged(model, batch):
    before = copy.deepcopy(model.state_dict())
    rng = torch.get_rng_state()
    optimizer = OptimizerConfig(name="muon" if model.config.arch == "modern" else "adamw")
    rate = 0.02 if model.config.arch == "modern" else 5e-3
    assert codes(
        model_checks.check_initial_weights(model),
        model_checks.check_initial_loss(TrainingLoss(model), *batch, CPU, is_fresh=True),
        model_checks.check_causality(model, batch[0]),
        model_checks.check_attention_kernel(model.blocks[0].attention.attend, CPU),
        model_checks.check_gradients(TrainingLoss(model), *batch, CPU),
        model_checks.check_parameter_groups(model, build_optimizers(model, optimizer)),
        model_checks.check_one_batch(TrainingLoss(model), *batch, optimizer, rate),
    ) == []  # fmt: skip
    assert model.training
    assert torch.equal(rng, torch.get_rng_state())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


@given(
    st.sampled_from(["gpt2", "modern", "llama"]),
    st.integers(1, 6),
    st.sampled_from([8, 16, 64]),
    st.floats(0.005, 0.2),
    st.integers(0, 999),
)
@settings(max_examples=40, deadline=None)
def test_regular_initialization_passes_for_any_shape(arch, layers, width, std, seed):
    torch.manual_seed(seed)
    model = build_model(ModelConfig(arch, 40, 8, layers, n_head=2, n_embd=width, init_std=std, bias=arch == "gpt2"))
    assert codes(model_checks.check_initial_weights(model)) == []
    residual = [p.std().item() for name, p in model.named_parameters() if name.endswith(("out.weight", "down.weight"))]
    expected = 0.0 if arch == "modern" else std / math.sqrt(2 * layers)
    assert residual == pytest.approx([expected] * 2 * layers, rel=0.5)


@pytest.mark.parametrize("layers", [2, 12])
def test_unscaled_residual_projections_are_reported(layers):
    model = build_model(dataclasses.replace(SHAPES["gpt2"], n_layer=layers))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith((".out.weight", ".down.weight")):
                parameter.mul_(math.sqrt(2 * layers))
    (finding,) = model_checks.check_initial_weights(model).findings
    assert (finding.code, finding.evidence["count"], finding.evidence["layers"]) == ("GG-INI-005", 2 * layers, layers)
    assert finding.evidence["std"] == pytest.approx(finding.evidence["due"] * math.sqrt(2 * layers), rel=0.1)


def test_nonzero_matrix_that_should_start_at_zero_is_reported():
    model = build_model(SHAPES["modern"])
    torch.nn.init.normal_(model.blocks[1].mlp.down.weight, std=0.02)
    (finding,) = model_checks.check_initial_weights(model).findings
    assert finding.evidence["parameter"] == "blocks.1.mlp.down.weight"


def test_loaded_weights_skip_the_initialization_check(grammar_dataset, nano_run, tmp_path):
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


def test_expected_initial_loss_matches_the_formula(batch):
    """The loss of logits drawn from N(0, σ²) is ln V + σ²/2."""
    torch.manual_seed(0)
    logits = torch.randn(200, 5000) * 1.2
    loss = torch.nn.functional.cross_entropy(logits, torch.randint(5000, (200,)))
    assert loss.item() == pytest.approx(math.log(5000) + 1.2**2 / 2, abs=0.25)


def test_too_large_initial_weights_are_reported(batch):
    model = build_model(dataclasses.replace(SHAPES["gpt2"], init_std=0.9))
    assert codes(model_checks.check_initial_loss(TrainingLoss(model), *batch, CPU, is_fresh=True)) == ["GG-INI-001"]


def test_too_large_output_head_is_reported(batch):
    model = build_model(SHAPES["gpt2"])
    with torch.no_grad():
        model.token_embedding.weight.mul_(20)
    assert codes(model_checks.check_initial_loss(TrainingLoss(model), *batch, CPU, is_fresh=True)) == ["GG-INI-001"]


def test_too_low_initial_loss_is_reported(batch, nano_run):
    """Trained weights are presented as untrained ones."""
    trained = api.load(nano_run).model
    assert codes(model_checks.check_initial_loss(TrainingLoss(trained), *batch, CPU, is_fresh=True)) == ["GG-INI-002"]
    assert codes(model_checks.check_initial_loss(TrainingLoss(trained), *batch, CPU, is_fresh=False)) == []


def test_loaded_untrained_weights_are_reported(model, batch):
    check = model_checks.check_initial_loss(TrainingLoss(model), *batch, CPU, is_fresh=False)
    assert codes(check) == ["GG-INI-003"]
    assert check.findings[0].severity == "note"  # they learn as new ones do


@pytest.mark.parametrize(("known_loss", "severity"), [(0.6, "note"), (5.5, "warning"), (None, "note")])
def test_trained_weights_on_foreign_text_are_not_fatal(nano_run, known_loss, severity):
    """A model of English bytes is worse than guessing on Korean bytes, yet a good start for fine-tuning."""
    tokens = torch.tensor(list("글을 배우는 아이는 누구나 문을 연다. ".encode()))[:49]
    model = api.load(nano_run).model
    check = model_checks.check_initial_loss(
        TrainingLoss(model), tokens[None, :-1], tokens[None, 1:], CPU, is_fresh=False, known_loss=known_loss
    )
    assert codes(check) == ["GG-INI-003"]
    assert check.findings[0].severity == severity


def test_non_finite_loss_names_the_module(batch):
    model = build_model(SHAPES["gpt2"])
    with torch.no_grad():
        model.blocks[1].mlp.up.weight[3, 3] = math.nan
    check = model_checks.check_initial_loss(TrainingLoss(model), *batch, CPU, is_fresh=True)
    assert codes(check) == ["GG-NAN-001"]
    assert check.findings[0].evidence["module"] == "blocks.1.mlp.up"
    assert "GG-NAN-001" in codes(model_checks.check_gradients(TrainingLoss(model), *batch, CPU))


def attend_one_ahead(q, k, v, mask, dropout, window=0):
    visible = causal_mask(q.size(2), k.size(2)).roll(1, dims=-1) | causal_mask(q.size(2), k.size(2))
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=visible, enable_gqa=True)


def attend_to_nothing(q, k, v, mask, dropout, window=0):
    return v.repeat_interleave(q.size(1) // v.size(1), dim=1)


@pytest.mark.parametrize("arch", SHAPES)
@pytest.mark.parametrize(
    ("wrong", "code"),
    [(attend_to_everything, "GG-CAU-001"), (attend_one_ahead, "GG-CAU-001"), (attend_to_nothing, "GG-CAU-002")],
)
def test_wrong_mask_is_reported_even_if_blocks_start_as_identity(arch, wrong, code, batch):
    model = build_model(SHAPES[arch], wrong)
    assert codes(model_checks.check_causality(model, batch[0])) == [code]


def make_all_weights_equal(model):
    for parameter in model.parameters():
        parameter.fill_(0.03)


def zero_final_gain(model):
    model.norm.weight.zero_()


@pytest.mark.parametrize("spoil", [make_all_weights_equal, zero_final_gain])
def test_constant_logits_are_not_blamed_on_the_mask(spoil, batch):
    model = build_model(SHAPES["gpt2"])
    with torch.no_grad():
        spoil(model)
    assert codes(model_checks.check_causality(model, batch[0])) == ["GG-INI-004"]


def attend_inexactly(q, k, v, mask, dropout, window=0):
    return attend(q * 1.01, k, v, mask, dropout, window)


@pytest.mark.parametrize(
    ("kernel", "precision", "expected"),
    [
        (attend, "fp32", []),
        (attend, "bf16", []),
        (attend_inexactly, "fp32", ["GG-KER-001"]),
        (attend_to_everything, "fp32", ["GG-KER-001"]),
        (attend_to_everything, "bf16", ["GG-KER-001"]),
    ],
)
def test_broken_attention_kernel_is_reported(kernel, precision, expected):
    hardware = Hardware(torch.device("cpu"), precision, compile=False)
    assert codes(model_checks.check_attention_kernel(kernel, hardware)) == expected


class DetachedLinear(torch.nn.Linear):
    def forward(self, x):
        return super().forward(x).detach()


def test_detached_layer_is_reported(batch):
    model = build_model(SHAPES["gpt2"])
    model.blocks[0].mlp.up = DetachedLinear(32, 128)
    check = model_checks.check_gradients(TrainingLoss(model), *batch, CPU)
    assert codes(check) == ["GG-GRD-001"]
    assert (
        check.findings[0].evidence["parameter"] == "blocks.0.norm2.weight"
    )  # every parameter before the detached layer


def test_frozen_layer_is_reported(batch):
    model = build_model(SHAPES["gpt2"])
    model.blocks[0].attention.qkv.weight.requires_grad_(False)
    assert codes(model_checks.check_gradients(TrainingLoss(model), *batch, CPU)) == ["GG-GRD-002"]


def test_optimizer_groups_must_partition_the_parameters(model):
    some = list(model.parameters())[1:]
    assert codes(model_checks.check_parameter_groups(model, [torch.optim.SGD(some, lr=0.1)])) == ["GG-GRD-003"]
    twice = [torch.optim.SGD(model.parameters(), lr=0.1), torch.optim.SGD(some, lr=0.1)]
    assert codes(model_checks.check_parameter_groups(model, twice)) == ["GG-GRD-003"]


def test_weight_decay_on_vectors_and_embeddings_is_reported(model):
    everything = [torch.optim.AdamW(model.parameters(), weight_decay=0.1)]
    assert codes(model_checks.check_parameter_groups(model, everything)) == ["GG-GRD-004"]


@pytest.mark.parametrize("rate", [5e-6, pytest.param(50.0, marks=pytest.mark.slow)])
def test_batch_that_cannot_be_fitted_is_reported(batch, rate):
    model = build_model(SHAPES["gpt2"])
    assert codes(model_checks.check_one_batch(TrainingLoss(model), *batch, OptimizerConfig(), rate)) == ["GG-BAT-001"]


@pytest.mark.parametrize(
    ("rate", "code"), [(1e-6, "GG-CFG-004"), pytest.param(1e3, "GG-CFG-003", marks=pytest.mark.slow)]
)
def test_learning_rate_is_blamed_if_the_typical_rate_fits_the_batch(grammar_dataset, rate, code):
    plan = TrainingPlan(SHAPES["gpt2"], small_batch_config(learning_rate=rate), grammar_dataset, Path("runs"))
    (check,) = [check for check in doctor.diagnose_training(plan) if check.name == "one batch"]
    assert codes(check) == [code]
    assert (check.findings[0].severity, check.findings[0].ruled_out) == ("fatal", ("GG-BAT-001",))


def test_one_batch_check_stops_after_its_time_limit(batch):
    model = build_model(SHAPES["gpt2"])
    start = time.monotonic()
    check = model_checks.check_one_batch(TrainingLoss(model), *batch, OptimizerConfig(), 5e-3, seconds=0.0)
    assert time.monotonic() - start < 5
    assert "2 steps" in describe_measurement(check)


def test_causality_of_one_position_is_not_checked(model, batch):
    result = model_checks.check_causality(model, batch[0][:, :1])
    assert (result.outcome, codes(result)) == ("too short", [])
