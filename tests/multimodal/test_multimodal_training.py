"""Training on documents with media: the loss is that of each document alone, and a resumed run ends with the same bits."""

import dataclasses
import shutil
from itertools import pairwise

import numpy as np
import pytest
import torch
from multimodal_helpers import GEOMETRY, document, picture, sound, write
from named_media import SETTINGS, named_documents
from safetensors.torch import load_file

from forked import run_ranks
from glassgpt import api
from glassgpt.config import load_config, to_toml
from glassgpt.data import PrepareOptions, prepare
from glassgpt.data.batches import build_batches
from glassgpt.data.tokenizers import train_tokenizer
from glassgpt.diagnosis.audit.gradients import _hypotheses, _is_random
from glassgpt.diagnosis.audit.record import MicroBatch
from glassgpt.errors import CheckpointError, ConfigError, DataError, UsageError
from glassgpt.model.build import build_model
from glassgpt.model.config import ModelConfig
from glassgpt.multimodal import batches
from glassgpt.multimodal.audio import encode_audio_readable
from glassgpt.multimodal.batches import EncodedDataset, Payloads
from glassgpt.multimodal.config import MultimodalConfig
from glassgpt.multimodal.dataset import SUPERVISED, MultimodalDataset
from glassgpt.multimodal.image import encode_image_readable
from glassgpt.multimodal.inputs import assemble, payload_of
from glassgpt.multimodal.model import MultimodalModel
from glassgpt.training.conversations import ConversationLoss
from glassgpt.training.observers import Observer
from glassgpt.training.run_folder import RunFolder, read_jsonl


def options(**settings):
    changed = {name.replace("__", "."): str(value) for name, value in settings.items()}
    return [part for name, value in {**SETTINGS, **changed}.items() for part in (f"--{name.replace('_', '-')}", value)]


def configured(data, **settings):
    changed = {name.replace("__", "."): str(value) for name, value in settings.items()}
    return load_config(None, {**SETTINGS, "data": str(data), **changed})


def weights(run, step):
    return load_file(RunFolder(run).checkpoints / f"step-{step:06d}" / "model.safetensors")


def document_loss(model, row_ids, row_flags, media):
    """Return the summed loss of the documents of a row, one forward pass each, with media encoded by the references."""
    functions = {"image": encode_image_readable, "audio": encode_audio_readable}
    vectors = model.token_embedding(torch.from_numpy(np.maximum(row_ids, 0)))
    for first, item in media:
        encoded = functions[item.modality](model.encoder(item.modality), item.data)
        vectors[first : first + len(encoded)] = encoded
    starts = [*np.flatnonzero(row_flags & 2).tolist(), len(row_ids)]
    total, count = 0.0, 0
    for start, end in pairwise(starts):
        logits = model.language_model(vectors[None, start:end])[0].log_softmax(-1)
        for at in range(start + 1, end):
            if row_flags[at] & SUPERVISED:
                total -= logits[at - 1 - start, row_ids[at]].item()
                count += 1
    return total, count


@torch.no_grad()
def test_validation_loss_is_that_of_each_document_alone(named_data, named_run):
    dataset, loaded = MultimodalDataset.open(named_data), api.load(named_run, device="cpu")
    rows, losses = dataset.split("validation"), []
    for start in range(0, len(rows), rows.row_length):
        ids, flags = rows.read(start, rows.row_length), rows.flags(start, rows.row_length)
        losses.append(document_loss(loaded.model, ids, flags, rows.media(start)))
    total, count = (sum(values) for values in zip(*losses, strict=True))
    logged = [line for line in read_jsonl(RunFolder(named_run).metrics) if "validation_loss" in line][-1]
    assert count == logged["validation_tokens"] == dataset.multimodal.validation.supervised
    assert logged["validation_loss"] == pytest.approx(total / count, rel=1e-4)


def test_a_run_learns_to_name_what_it_sees_and_hears(named_run):
    lines = [line for line in read_jsonl(RunFolder(named_run).metrics) if "validation_loss" in line]
    assert lines[-1]["validation_loss"] < 0.1
    resolved = load_config(named_run).multimodal
    assert (resolved.names, resolved.geometry) == (("image", "audio"), GEOMETRY)


def test_a_loaded_model_has_the_encoders_that_were_trained(named_run):
    loaded = api.load(named_run, device="cpu")
    assert isinstance(loaded.model, MultimodalModel)
    saved = weights(named_run, 60)
    assert {name for name in saved if name.startswith("encoders.")} == {
        name for name, _ in loaded.model.named_parameters() if name.startswith("encoders.")
    }
    assert all(torch.equal(parameter, saved[name]) for name, parameter in loaded.model.named_parameters())
    assert not loaded.model.training


def test_a_resumed_run_ends_with_the_same_bits(named_data, tmp_path):
    strong = {"multimodal__augment_image": 1, "multimodal__restyle_image": 0.5, "multimodal__augment_audio": 1}
    settings = {**strong, "model__dropout": 0.1, "checkpoint__every_steps": 4, "train__eval_every_steps": 8}
    api.train(configured(named_data, train__max_steps=8, **settings), tmp_path / "whole")
    config = configured(named_data, train__max_steps=8, **settings)

    class Stop(Exception):
        pass

    class StopAfter(Observer):
        def on_step(self, metrics):
            if metrics.step == 6:
                raise Stop

    with pytest.raises(Stop):
        api.train(config, tmp_path / "parts", observers=(StopAfter(),))
    api.train(config, tmp_path / "parts", resume=True)
    expected, found = weights(tmp_path / "whole", 8), weights(tmp_path / "parts", 8)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_wrong_loss_is_explained_with_media_in_the_inputs(named_data, named_run):
    model = api.load(named_run, device="cpu").model
    tokens = EncodedDataset(MultimodalDataset.open(named_data), configured_media(named_data)).split("train")
    inputs, targets = build_batches(tokens, 64, 3).next(2)
    loss = ConversationLoss(model)
    hypotheses = list(_hypotheses(MicroBatch(inputs, targets, torch.tensor(0.0)), model.config.vocab_size))
    assert {why for why, _, _ in hypotheses} == {"targets-too-far", "targets-of-other-rows", "part-of-the-window"}
    assert all(loss(x, y).isfinite() for _, x, y in hypotheses)


@pytest.mark.parametrize(
    ("changed", "is_random"),
    [
        ({}, False),
        ({"augment_image": 1}, True),
        ({"restyle_image": 1}, True),
        ({"filter_image": 1}, True),
        ({"hide_patches": 1}, True),
        ({"augment_audio": 1}, True),
    ],
)
def test_audits_know_whether_media_are_changed_at_random(named_data, changed, is_random):
    off = {"augment_image": 0, "augment_audio": 0, "restyle_image": 0, "flip_image": False}
    config = dataclasses.replace(configured_media(named_data), **{**off, **changed})
    assert (
        _is_random(MultimodalModel(build_model(ModelConfig(vocab_size=300, n_layer=1, n_head=1, n_embd=8)), config))
        is is_random
    )


def test_media_are_changed_in_float32_whatever_the_precision(named_data, tmp_path):
    strong = {f"multimodal__{name}": 2 for name in ("augment_image", "restyle_image", "augment_audio")}
    strong |= {"multimodal__filter_image": 1, "multimodal__hide_patches": 0.5}
    result = api.train(configured(named_data, train__max_steps=6, train__precision="bf16", **strong), tmp_path / "run")
    assert result.step == 6


def test_rows_are_permuted_by_the_seed_and_shared_by_ranks(named_data):
    dataset = EncodedDataset(MultimodalDataset.open(named_data), configured_media(named_data))
    tokens = dataset.split("train")
    whole = build_batches(tokens, 64, 3)
    inputs, targets = whole.next(4)
    assert inputs.shape == (4, 64, 1 + 12)  # 3 · 4² = 48 bytes of a patch, 3 · 16 · 2 = 96 of frames
    shares = [build_batches(tokens, 64, 3, rank=rank, world_size=2).next(2) for rank in range(2)]
    assert torch.equal(torch.cat([share[0] for share in shares]), inputs)
    assert torch.equal(torch.cat([share[1] for share in shares]), targets)
    whole.seek(4)
    following, _ = whole.next(4)
    assert not torch.equal(following, inputs)
    whole.seek(0)
    assert torch.equal(whole.next(4)[0], inputs)


def configured_media(data):
    return MultimodalConfig(mels=16).fitted(("image", "audio"), MultimodalDataset.open(data).geometry)


def test_kept_payloads_are_bounded():
    payloads = Payloads(MultimodalConfig(mels=16).fitted(("audio",), GEOMETRY), kept_bytes=2000)
    first = payloads.of(sound(0), 0)
    for number in range(1, 9):
        payloads.of(sound(number), number)
    assert payloads.of(sound(0), 0) is first  # what is kept stays
    last = payloads.of(sound(8), 8)
    assert payloads.of(sound(8), 8) is not last
    assert np.array_equal(payloads.of(sound(8), 8), last)
    assert sum(payloads.of(sound(number), number) is payloads.of(sound(number), number) for number in range(9)) == (
        2000 // first.nbytes
    )


def test_splits_and_processes_share_the_memory_that_is_kept(named_data, monkeypatch):
    monkeypatch.setattr(batches, "free_memory", lambda device: 64 << 30)
    assert batches.kept_bytes_of_a_process() == 4 << 30
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert batches.kept_bytes_of_a_process() == 4 << 27
    monkeypatch.setattr(batches, "free_memory", lambda device: None)
    assert batches.kept_bytes_of_a_process() == 1 << 27
    dataset = EncodedDataset(MultimodalDataset.open(named_data), configured_media(named_data))
    made = []
    for name in ("train", "validation", "train"):
        tokens = dataset.split(name)
        tokens.reader.read(np.arange(0, len(tokens), tokens.row_length))
        made.append(tokens.reader._payloads)
    assert made[0] is made[1] is made[2]
    numbers = {number for name in ("train", "validation") for number in dataset._dataset.media_of(name)}
    sounds = {number for number in numbers if dataset.store.read(number).modality == "audio"}
    assert made[0]._kept.keys() == sounds
    for number in sounds:
        assert np.array_equal(made[0]._kept[number], payload_of(dataset.store.read(number), made[0].config))


def test_several_threads_read_the_same_payloads():
    config = MultimodalConfig(mels=16).fitted(("image", "audio"), GEOMETRY)
    media = [(sound(number % 5), number % 5) for number in range(8)] + [(picture(), 9)]
    payloads, alone = Payloads(config), Payloads(config)
    for _ in range(2):  # computed, then kept
        for found, (item, number) in zip(payloads.of_many(media), media, strict=True):
            assert np.array_equal(found, alone.of(item, number))


def test_a_medium_that_a_row_cuts_keeps_its_first_positions():
    config = MultimodalConfig(mels=16).fitted(("image",), GEOMETRY)
    payload = Payloads(config).of(picture(), 0)
    inputs = assemble(np.arange(4), [(2, picture(), payload)], 6)
    assert inputs[:, 0].tolist() == [0, 1, -1, -1]
    assert np.array_equal(inputs[2:, 1:].view(np.uint8).reshape(2, -1), payload[:2])


@pytest.mark.slow
def test_two_processes_train_like_one(named_data, tmp_path):
    settings = {"train__max_steps": 4, "multimodal__augment_image": 0, "multimodal__augment_audio": 0}
    api.train(configured(named_data, **settings), tmp_path / "one")
    (tmp_path / "empty.toml").write_text("")
    ended = run_ranks(
        2, "train", tmp_path / "empty.toml", "--data", named_data, "--out", tmp_path / "two", *options(**settings)
    )
    assert [process.returncode for process in ended] == [0, 0], ended[0].stderr
    one, two = weights(tmp_path / "one", 4), weights(tmp_path / "two", 4)
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-3, atol=1e-4)


def test_a_run_can_start_from_a_language_model_frozen_or_with_an_adapter(named_data, named_run, tmp_path):
    before = weights(named_run, 60)
    few = {"train__max_steps": 2, "train__eval_every_steps": 2, "init_from": named_run}
    api.train(configured(named_data, multimodal__freeze=True, **few), tmp_path / "frozen")
    frozen = weights(tmp_path / "frozen", 2)
    changed = {name for name in before if not torch.equal(frozen[name], before[name])}
    assert changed
    assert all(name.startswith("encoders.") for name in changed)

    api.train(configured(named_data, lora__rank=2, **few), tmp_path / "adapter")
    saved = weights(tmp_path / "adapter", 2)
    assert {name.split(".")[0] for name in saved} == {"blocks", "encoders"}
    loaded = api.load(tmp_path / "adapter", device="cpu").model
    name = "encoders.image.patch.weight"
    assert torch.equal(dict(loaded.named_parameters())[name], saved[name])


def test_a_run_of_text_is_continued_although_it_lacks_the_begin_tokens(tmp_path):
    words = ["a red apple and a blue bird, 빨간 사과"] * 50  # those of which `multimodal_helpers.tokenizer` is made
    (tmp_path / "text.txt").write_text("\n".join(words * 20))
    text_tokenizer = train_tokenizer("bpe:270", words)
    text_tokenizer.save(tmp_path / "tokenizer.json")
    prepare(
        PrepareOptions(
            (str(tmp_path / "text.txt"),),
            tmp_path / "text",
            tokenizer=str(tmp_path / "tokenizer.json"),
            deduplicate=False,
        )
    )
    few = {"train__max_steps": 2, "train__eval_every_steps": 2}
    api.train(configured(tmp_path / "text", **few), tmp_path / "run")
    write(tmp_path / "data", named_documents)

    continued = configured(tmp_path / "data", init_from=tmp_path / "run", multimodal__freeze=True, **few)
    api.train(continued, tmp_path / "seeing")
    before, after = weights(tmp_path / "run", 2), weights(tmp_path / "seeing", 2)
    assert (len(before["token_embedding.weight"]), len(after["token_embedding.weight"])) == (270, 272)
    assert all(torch.equal(after[name][: len(before[name])], before[name]) for name in before)

    adapter = configured(tmp_path / "data", init_from=tmp_path / "run", lora__rank=2, **few)
    with pytest.raises(UsageError, match="train the encoders first, with --multimodal.freeze true"):
        api.train(adapter, tmp_path / "adapter")
    api.train(configured(tmp_path / "data", init_from=tmp_path / "seeing", lora__rank=2, **few), tmp_path / "adapter")


def test_mistakes_are_reported_before_anything_runs(named_data, named_run, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(ConfigError, match="rows of 64 positions, but train.sequence_length is 32; set it to 64"):
        api.train(configured(named_data, train__sequence_length=32), out)
    with pytest.raises(ConfigError, match="model.arch is gated_deltanet, whose memory would mix the documents"):
        api.train(configured(named_data, model__arch="gated_deltanet", model__bias=False), out)
    with pytest.raises(ConfigError, match="fim.rate cannot be combined with pictures and sound"):
        api.train(configured(named_data, fim__rate=0.5), out)
    assert not out.exists()


def test_text_of_a_multimodal_run_is_that_of_its_language_model(named_run, run_main):
    code, text, _ = run_main(
        "generate", named_run, "--prompt", "a red", "--temperature", "0", "--max-tokens", "4", "--device", "cpu"
    )
    assert code == 0
    assert text.startswith("a red")


def test_encoders_that_do_not_fit_the_configuration_are_refused(named_run, tmp_path):
    shutil.copytree(named_run, tmp_path / "run")
    path = tmp_path / "run" / "config.toml"
    lines = [
        line for line in path.read_text().replace("patch_size = 4", "patch_size = 2").splitlines() if "seal" not in line
    ]
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises((CheckpointError, ConfigError)):
        api.load(tmp_path / "run", device="cpu")


@pytest.mark.parametrize("name", ["media-00000.bin", "train.flags"])
def test_damaged_media_are_found_while_training_runs(named_data, tmp_path, name):
    data = shutil.copytree(named_data, tmp_path / "data", ignore=shutil.ignore_patterns(".verified.json"))
    content = bytearray((data / name).read_bytes())
    content[-1] ^= 1
    (data / name).write_bytes(content)
    with pytest.raises(DataError, match=name):
        api.train(configured(data, train__max_steps=1), tmp_path / "run")


def test_a_run_keeps_the_chat_template_of_its_conversations(named_data, tmp_path):
    data = shutil.copytree(named_data, tmp_path / "data")
    (data / "chat_template.jinja").write_text("{# as prepared #}")
    api.train(configured(data, train__max_steps=1), tmp_path / "run")
    assert RunFolder(tmp_path / "run").chat_template.read_text() == "{# as prepared #}"


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [("stem_width", "8", "0"), ("overlap", "2", "0"), ("mels", "24", "16"), ("attention", "bidirectional", "causal"),
     ("ctc_weight", "0.5", "0.0"), ("freeze", "true", "False")],
)  # fmt: skip
def test_resuming_with_another_model_of_media_names_the_setting(name, value, kept, named_run):
    with pytest.raises(UsageError, match=f"multimodal.{name} is .*, but a resumed run keeps {kept}: its model depends"):
        api.resumed_config(named_run, {f"multimodal.{name}": value})


def test_resuming_command_names_the_setting(named_run, tmp_path, run_main):
    run = shutil.copytree(named_run, tmp_path / "run")
    code, _, err = run_main("train", "--resume", "--out", run, "--multimodal.stem-width", 8)
    assert (code, "multimodal.stem_width is 8, but a resumed run keeps 0" in err) == (2, True)


def test_resuming_may_change_how_media_are_altered(named_run, tmp_path):
    run = shutil.copytree(named_run, tmp_path / "run")
    changed = {"multimodal.augment_image": "0.7", "train.max_steps": "62", "train.eval_every_steps": "0"}
    assert api.train(api.resumed_config(run, changed), run, resume=True).step == 62


def test_resuming_on_data_of_another_geometry_names_the_setting(named_run, tmp_path):
    run = shutil.copytree(named_run, tmp_path / "run")
    config = load_config(run)
    other = dataclasses.replace(config, multimodal=dataclasses.replace(config.multimodal, frames_per_position=4))
    (run / "config.toml").write_text(to_toml(other))  # as if the run had been trained on such data
    with pytest.raises(UsageError, match=r"frames_per_position is 3, but a resumed run keeps 4"):
        api.train(load_config(run), run, resume=True)


def test_a_modality_of_the_validation_split_alone_is_refused_before_training(tmp_path, run_main):
    def documents(media):
        seen = [document(media, [picture(seed)], "a red apple") for seed in range(20)]
        return seen, [document(media, [sound(0)], "a blue bird")]

    write(tmp_path / "data", documents)
    length = ("--train.sequence-length", "64", "--model.context-length", "64", "--train.batch-tokens", "64")
    code, _, errors = run_main("train", "nano", "--data", tmp_path / "data", "--out", tmp_path / "run", *length)
    assert code == 2
    assert "the validation documents have media of the kind audio" in " ".join(errors.split())
    assert not (tmp_path / "run").exists()
