"""The checks of a model with encoders, on a run that has learned the names of its pictures and sounds."""

import numpy as np
import pytest
import torch

from glassgpt.api import load
from glassgpt.api.diagnosis import doctor
from glassgpt.diagnosis.checks.data import counted_tokens, dataset_baseline
from glassgpt.multimodal import run_checks
from glassgpt.multimodal.audio import AudioEncoder
from glassgpt.multimodal.batches import EncodedDataset
from glassgpt.multimodal.dataset import MultimodalDataset
from glassgpt.multimodal.image import ImageEncoder
from glassgpt.multimodal.model import medium_id


@pytest.fixture
def model(named_run):
    return load(named_run, device="cpu").model


@pytest.fixture
def dataset(named_data, model):
    return EncodedDataset(MultimodalDataset.open(named_data), model.multimodal)


@pytest.fixture
def rows(dataset):
    return run_checks.read_rows(dataset.split("train"), 1024)


def codes(result):
    return [finding.code for finding in result.findings]


@pytest.mark.parametrize("modality", ["image", "audio"])
def test_ignored_media_are_found_and_used_ones_are_not(model, rows, modality):
    used = run_checks.check_use(model, rows, modality)
    assert codes(used) == []
    assert used.measurements["gain"] > 3 * used.measurements["error"] > 0
    with torch.no_grad():
        model.encoder(modality).gain.zero_()  # every medium looks alike
    assert codes(run_checks.check_use(model, rows, modality)) == ["GG-MED-008"]


def test_few_rows_say_nothing(model, rows):
    few = run_checks.Rows(rows.inputs[:5], rows.targets[:5])
    result = run_checks.check_use(model, few, "image")
    assert (result.outcome, codes(result)) == ("too few", [])


def test_media_are_exchanged_for_others_of_their_kind(rows):
    changed = run_checks.exchange_media(rows.inputs, "image")
    is_image = rows.inputs[..., 0] == medium_id("image")
    assert torch.equal(changed[..., 0], rows.inputs[..., 0])
    assert torch.equal(changed[~is_image], rows.inputs[~is_image])
    before, after = (x[is_image].view(-1, 4, x.size(-1)).numpy() for x in (rows.inputs, changed))
    assert not any(np.array_equal(one, other) for one, other in zip(before, after, strict=True))
    assert sorted(x.tobytes() for x in before) == sorted(x.tobytes() for x in after)


def _patches_by_column(data, config, original=ImageEncoder.payload):
    side = config.image_size // config.patch_size
    return np.ascontiguousarray(original(data, config).reshape(side, side, -1).swapaxes(0, 1)).reshape(side**2, -1)


def _one_late(data, config, original=AudioEncoder.payload):
    return np.roll(original(data, config), 1, axis=0)


@pytest.mark.parametrize(
    ("encoder", "modality", "payload"),
    [(ImageEncoder, "image", _patches_by_column), (AudioEncoder, "audio", _one_late)],
)
def test_positions_in_another_order_are_found(model, dataset, monkeypatch, encoder, modality, payload):
    assert codes(run_checks.check_encoder(model, dataset, modality)) == []
    monkeypatch.setattr(encoder, "payload", staticmethod(payload))
    assert codes(run_checks.check_encoder(model, dataset, modality)) == ["GG-MED-010"]


@pytest.mark.parametrize("factor", [100, 0.01])
def test_vectors_of_another_length_than_the_text_are_found(model, rows, factor):
    assert codes(run_checks.check_vector_lengths(model, rows)) == []
    with torch.no_grad():
        model.encoder("audio").gain.mul_(factor)
    result = run_checks.check_vector_lengths(model, rows)
    assert [(finding.code, finding.evidence["what"]) for finding in result.findings] == [("GG-MED-009", "sounds")]


def test_doctor_checks_the_encoders_of_a_run(named_run):
    results = {check.name: check for check in doctor(named_run)}
    assert {"encoder", "use of pictures", "use of sounds", "lengths of vectors"} <= set(results)
    assert "n-gram baselines" not in results or not results["n-gram baselines"].findings
    found = {finding.code for check in results.values() for finding in check.findings}
    assert not any(code.startswith(("GG-MED", "GG-DAT")) for code in found)


def test_ngram_models_count_learned_tokens_only(dataset):
    """The monitor of a run asks for them when the loss stalls; positions without a token are no ids."""
    counted = counted_tokens(dataset.split("train"), 10**6)
    assert len(counted) == dataset.multimodal.train.supervised
    assert counted.min() >= 0
    baseline = dataset_baseline(dataset)
    assert 0 < baseline.bigram < baseline.unigram < baseline.uniform
