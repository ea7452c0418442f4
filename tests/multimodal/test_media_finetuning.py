"""Fine-tuned models of pictures and sound: merged and imported adapters, and what fine-tuning keeps of the encoders."""

import pytest
import torch
from multimodal_helpers import write
from named_media import NAMES, SETTINGS, named_documents

from glassgpt import api
from glassgpt.config import load_config
from glassgpt.data import PrepareOptions, prepare
from glassgpt.errors import UsageError
from glassgpt.evaluation.loss_changes import read_changes


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


def finetuned(run_main, run, data, out, *arguments):
    fixed = ("finetune", str(run), "--data", str(data), "--out", str(out), "--train.device", "cpu")
    code, output, errors = run_main(*fixed, "--train.max-steps", "2", "--full", *arguments)
    assert code == 0, errors
    return output, errors


def test_finetuning_keeps_the_encoders_and_reads_both_texts_with_media(named_data, tmp_path, run_main):
    changed = {"train.max_steps": "2", "multimodal.mels": "24", "multimodal.attention": "bidirectional"}
    api.train(load_config(None, {**SETTINGS, **changed, "data": str(named_data)}), tmp_path / "base")
    finetuned(run_main, tmp_path / "base", named_data, tmp_path / "run")
    kept, base = (load_config(tmp_path / name).multimodal for name in ("run", "base"))
    assert (kept.mels, kept.attention, kept.names) == (24, "bidirectional", base.names)
    new, old = read_changes(tmp_path / "run")
    assert (new.before, new.after) == (old.before, old.after)  # it is the same dataset


def test_finetuning_on_text_leaves_the_encoders_out(named_run, tmp_path, run_main):
    (tmp_path / "text.txt").write_text("\n".join(f"{NAMES[at % 2]} {at}" for at in range(400)))
    options = PrepareOptions((str(tmp_path / "text.txt"),), tmp_path / "data", tokenizer=str(named_run))
    prepare(options)
    _, errors = finetuned(run_main, named_run, tmp_path / "data", tmp_path / "run")
    assert errors.count("the encoders of pictures and sound are left out") == 1
    assert [change.text for change in read_changes(tmp_path / "run")] == ["new"]


def test_finetuning_refuses_other_encoders(named_data, named_run, tmp_path):
    settings = {**SETTINGS, "data": str(named_data), "init_from": str(named_run), "multimodal.overlap": "1"}
    with pytest.raises(UsageError, match="multimodal.overlap is 1 with .*, but 0 in .*, whose encoders are fine-tuned"):
        api.finetune(load_config(None, settings), tmp_path / "run")


def pictures_alone(media):
    return [[each for each in split if each.media[0].modality == "image"] for split in named_documents(media)]


def test_training_on_one_modality_starts_from_the_encoder_of_that(named_run, tmp_path, capsys):
    write(tmp_path / "data", pictures_alone)
    few = {"train.max_steps": "1", "train.learning_rate": "1e-9", "init_from": str(named_run)}
    api.train(load_config(None, {**SETTINGS, **few, "data": str(tmp_path / "data")}), tmp_path / "run")
    ours, theirs = (api.load(run, device="cpu").model for run in (tmp_path / "run", named_run))
    assert ours.multimodal.names == ("image",)
    assert_equal_models(ours.encoders["image"], theirs.encoders["image"])
    assert (
        f"the audio encoder of {named_run} is left out: there is no audio in the training data"
        in capsys.readouterr().err
    )


def test_encoders_that_cannot_be_taken_over_are_named(named_run, named_data, tmp_path, capsys):
    write(tmp_path / "data", pictures_alone)
    few = {**SETTINGS, "train.max_steps": "1"}
    pictures = {**few, "data": str(tmp_path / "data"), "init_from": str(named_run), "multimodal.overlap": "1"}
    api.train(load_config(None, pictures), tmp_path / "pictures")
    assert (
        f"the image encoder starts with random weights: multimodal.overlap is 1 here and 0 in {named_run}"
        in capsys.readouterr().err
    )
    both = {**few, "data": str(named_data), "init_from": str(tmp_path / "pictures"), "multimodal.overlap": "1"}
    api.train(load_config(None, both), tmp_path / "both")
    errors = capsys.readouterr().err
    assert f"the audio encoder starts with random weights: {tmp_path / 'pictures'} has none" in errors
    assert "image encoder" not in errors
