"""The coordinate check: how much activations change in a few steps, over the width."""

import dataclasses
import json
import math

import pytest
import torch
from diagnosis_helpers import SHAPES, codes, small_batch_config, with_train

from glassgpt.config import load_config, to_toml
from glassgpt.diagnosis.checks import coordinates
from glassgpt.diagnosis.checks.coordinates import check_coordinates, shapes_over_width
from glassgpt.model.build import build_model
from glassgpt.model.config import ModelConfig
from glassgpt.training.config import OptimizerConfig

SMALL = ModelConfig(vocab_size=64, context_length=16, n_layer=2, n_head=4, n_embd=64, init_std=0.08)
ARCHITECTURES = {"gpt2": {}, "modern": {"arch": "modern", "bias": False}}


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.randint(64, (4, 17), generator=torch.Generator().manual_seed(1))
    return tokens[:, :-1], tokens[:, 1:]


def check(shape, picture=None, *, rate=2e-3, optimizer="adamw"):
    settings = with_train(small_batch_config(), learning_rate=rate)
    settings = dataclasses.replace(settings, optimizer=OptimizerConfig(name=optimizer))
    return check_coordinates(shape, settings, *batch(), picture)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_change_depends_on_the_width_only_without_a_base_width(arch, tmp_path):
    shape = dataclasses.replace(SMALL, **ARCHITECTURES[arch])
    header, *rows = check(shape, tmp_path / "coordinates.png")
    assert (tmp_path / "coordinates.png").read_bytes().startswith(b"\x89PNG")
    assert header.measurements["widths"] == "16 32 64 128 256"
    assert [row.outcome for row in rows] == ["embedding", "attention", "block", "mlp", "logits"]
    slopes = {row.outcome: row.measurements["slope"] for row in rows}
    assert slopes["attention"] > 1
    assert slopes["mlp"] > 0.8
    assert codes(header, *rows) == ["GG-WID-001"]

    scaled = check(dataclasses.replace(shape, base_width=64))
    slopes = {row.outcome: row.measurements["slope"] for row in scaled[1:]}
    assert all(abs(slopes[name]) < 0.3 for name in ("embedding", "attention", "mlp", "block"))
    assert codes(*scaled) == []


def test_measured_change_is_that_of_a_model_trained_by_hand():
    """One row of the table against steps that are written out here."""
    settings = with_train(small_batch_config(), learning_rate=2e-3)
    inputs, targets = batch()
    shape = shapes_over_width(SMALL, 4, None)[2]
    rows = check_coordinates(SMALL, settings, inputs, targets, None)
    measured = {row.outcome: row.measurements["width_64"] for row in rows[1:]}

    torch.manual_seed(settings.seed)
    model = build_model(shape)
    config = settings.optimizer
    groups = [
        {"params": [p for p in model.blocks.parameters() if p.ndim == 2], "weight_decay": config.weight_decay},
        {"params": [*model.parameters()][:2], "weight_decay": 0.0},  # the embeddings
        {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=2e-3, betas=(config.beta1, config.beta2), eps=config.epsilon)
    with torch.no_grad():
        before = model(inputs)
    for _ in range(coordinates.STEPS):
        adamw.zero_grad()
        torch.nn.functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten()).backward()
        adamw.step()
    with torch.no_grad():
        expected = (model(inputs) - before).square().mean().sqrt().item()
    assert measured["logits"] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("arch", SHAPES)
def test_heads_keep_their_width_and_their_groups(arch):
    shape = dataclasses.replace(SHAPES[arch], n_layer=5, dropout=0.1)
    shapes = shapes_over_width(shape, 4, None)
    assert len(shapes) >= 3
    for scaled in shapes:
        assert scaled.head_width == shape.head_width
        assert scaled.n_head / scaled.kv_heads == shape.n_head / shape.kv_heads
        assert (scaled.n_layer, scaled.dropout) == (2, 0.0)
        assert scaled.problems() == []


def test_widths_that_do_not_fit_into_memory_are_left_out(monkeypatch):
    assert [shape.n_embd for shape in shapes_over_width(SMALL, 4, 12_000_000)] == [16, 32, 64]
    monkeypatch.setattr(coordinates, "free_memory", lambda device: 1000)
    (result,) = check(SMALL)
    assert (result.outcome, codes(result)) == ("too few widths", [])


def test_divergence_is_reported(monkeypatch):
    """The last of the widths is not finite."""
    real = coordinates._changes
    monkeypatch.setattr(
        coordinates,
        "_changes",
        lambda loss, *a: real(loss, *a) | ({"logits": math.inf} if loss.model.config.n_embd == 256 else {}),
    )
    assert codes(*check(SMALL)) == ["GG-WID-002"]


def test_a_rate_of_zero_changes_nothing_and_has_no_slope():
    rows = check(SMALL, rate=0.0)
    assert codes(*rows) == []
    assert all(math.isnan(row.measurements["slope"]) for row in rows[1:])


def test_command_prints_a_table(run_main, grammar_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = ("--model.n-head", 4, "--model.n-embd", 32, "--model.context-length", 16)
    code, out, err = run_main("doctor", "nano", "--data", grammar_data, "--coordinates", "--json", *small)
    assert code == 0
    found = [check for check in json.loads(out)["checks"] if check["check"] == "coordinates"]
    assert [check["outcome"] for check in found] == ["plotted", "embedding", "attention", "block", "mlp", "logits"]
    assert found[1]["seen"]["width_32"] > 0
    assert "training models of the widths 8, 16, 32, 64, 128: about" in err
    assert (tmp_path / "coordinates.png").exists()


def test_what_cannot_be_trained_is_refused(run_main, grammar_data, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.toml").write_text(to_toml(load_config("nano")))
    for refused, reason in (
        (["--coordinates"], "instead of nothing"),
        ([grammar_data, "--rate-range"], "give a preset"),
        ([run, "--coordinates", "--text"], "cannot be combined"),
        (["nano", "--data", grammar_data, "--init-from", run, "--coordinates"], "several widths"),
    ):
        code, out, err = run_main("doctor", *refused)
        assert (code, out) == (2, "")
        assert reason in err
