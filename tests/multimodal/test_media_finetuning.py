"""Fine-tuned models of pictures and sound: merged and imported adapters, and what fine-tuning keeps of the encoders."""

import pytest
import torch
from named_media import SETTINGS

from glassgpt import api
from glassgpt.config import load_config


@pytest.fixture(scope="module")
def adapter(named_data, named_run, tmp_path_factory):
    """An adapter of a run that sees and hears; tests must not modify it."""
    few = {"train.max_steps": "2", "train.eval_every_steps": "2", "lora.rank": "2", "init_from": str(named_run)}
    out = tmp_path_factory.mktemp("adapter") / "run"
    api.train(load_config(None, {**SETTINGS, **few, "data": str(named_data)}), out)
    return out


def assert_equal_models(one, other):
    theirs = dict(other.named_parameters())
    for name, parameter in one.named_parameters():
        torch.testing.assert_close(theirs[name], parameter, msg=name)
    assert len(theirs) == len(list(one.parameters()))


def test_a_merged_adapter_sees_and_hears(adapter, tmp_path):
    api.merge(adapter, tmp_path / "merged")
    assert load_config(tmp_path / "merged").multimodal == load_config(adapter).multimodal
    ours, theirs = (api.load(run, device="cpu").model for run in (tmp_path / "merged", adapter))
    assert ours.multimodal.names == ("image", "audio")
    assert_equal_models(ours, theirs)


def test_an_imported_adapter_sees_and_hears_as_its_base(adapter, named_run, tmp_path):
    api.export(adapter, tmp_path / "peft", format="peft")
    api.import_adapter(tmp_path / "peft", named_run, tmp_path / "imported")
    ours, base = (api.load(run, device="cpu").model for run in (tmp_path / "imported", named_run))
    assert ours.multimodal == base.multimodal
    assert_equal_models(ours.encoders, base.encoders)
