"""Outlier channels: found where they are planted, at the price that rounding really has."""

import pytest
import torch

from glassgpt.compression.rounding import round_to_int8
from glassgpt.diagnosis.catalogue import describe, describe_measurement
from glassgpt.diagnosis.checks.outliers import check_outlier_channels, find_outlier
from glassgpt.model.build import build_model
from glassgpt.model.config import ModelConfig
from glassgpt.training.checkpoint import TrainingState, save_checkpoint
from glassgpt.training.run_folder import RunFolder


def normal(rows=40, width=768):
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(0)) * 0.02


def planted():
    weight = normal()
    weight[:30, 138] = 1.0
    return weight


def test_normal_weights_have_none():
    assert find_outlier("w", normal()) is None
    assert find_outlier("w", torch.zeros(3, 600)) is None


def test_planted_channel_is_found_at_the_price_that_rounding_has():
    weight = planted()
    found = find_outlier("w", weight)
    assert (found.channel, found.outputs) == (138, 30)
    affected = weight[:30]
    error = round_to_int8(affected).dequantize() - affected
    assert found.error == pytest.approx(float(error.norm() / affected.norm()), rel=0.1)
    alone = affected.clone()
    alone[:, 138] = 0
    rest = round_to_int8(alone).dequantize() - alone
    assert found.without == pytest.approx(float(rest.norm() / affected.norm()), rel=0.1)
    assert found.error > 5 * found.without


@pytest.mark.parametrize("language", ["en", "ko"])
def test_check_names_the_channel_and_its_cost(tmp_path, language):
    torch.manual_seed(0)
    model = build_model(ModelConfig(vocab_size=257, context_length=8, n_layer=1, n_head=2, n_embd=320))
    run = RunFolder(tmp_path)
    save_checkpoint(run, model, (), TrainingState(step=7))
    clean = check_outlier_channels(run, [7])
    assert clean.passed
    assert describe_measurement(clean, language)
    with torch.no_grad():
        model.blocks[0].mlp.up.weight[:, 38] = 5.0
    save_checkpoint(run, model, (), TrainingState(step=8))
    check = check_outlier_channels(run, [7, 8])
    (finding,) = check.findings
    assert finding.severity == "note"
    text = describe(finding, language)
    assert "38" in text.title
    assert "blocks.0.mlp.up.weight" in text.title
    assert finding.evidence["error"] in text.means
    assert describe_measurement(check_outlier_channels(run, []), language)
