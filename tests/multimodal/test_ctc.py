"""CTC on the positions of sounds: the loss of each document alone, and a model that learns what is said where."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from multimodal_helpers import GEOMETRY, document, write
from safetensors.torch import load_file

from forked import run_ranks
from glassgpt import api
from glassgpt.config import load_config
from glassgpt.errors import ConfigError
from glassgpt.multimodal.alignment import spoken_texts
from glassgpt.multimodal.batches import EncodedDataset
from glassgpt.multimodal.ctc import CTCHead, ctc_nats, ctc_nats_readable
from glassgpt.multimodal.dataset import MultimodalDataset
from glassgpt.multimodal.loss import SpeechLoss, texts_of_batch
from glassgpt.multimodal.media import MediaItem
from glassgpt.multimodal.model import MultimodalModel
from glassgpt.training.checkpoint import load_model
from glassgpt.training.observers import Observer
from glassgpt.training.run_folder import RunFolder, read_jsonl

VOCABULARY, WIDTH, END = 7, 8, 6
SPOKEN = ((0, 9, [1, 1, 2]), (14, 5, [3]), (22, 12, [5, 4, 5]))
"""Documents of a row of 48: where they begin, positions of sound, text."""
TOO_LONG = (40, 2, [2, 2])  # equal tokens need a position of nothing between them
LETTERS = "vwxyz"
SETTINGS = {
    "model.context_length": "64", "model.n_layer": "2", "model.n_head": "2", "model.n_embd": "32", "model.arch": "modern",
    "model.bias": "false", "train.batch_tokens": "512", "train.learning_rate": "1e-2", "schedule.warmup_steps": "5",
    "multimodal.mels": "16", "multimodal.augment_audio": "0", "multimodal.ctc_weight": "1", "train.eval_every_steps": "45",
}  # fmt: skip


def batch():
    """Return where sounds are, the learned ids, and where documents begin, (2, 48) each: a row of speech, and one of text."""
    heard, starts = np.zeros((2, 2, 48), dtype=bool)
    ids = np.full((2, 48), -100)
    starts[:, 0] = True
    for begin, positions, text in (*SPOKEN, TOO_LONG):
        end = begin + 1 + positions
        starts[0, begin], heard[0, begin + 1 : end] = True, True
        ids[0, end : end + len(text) + 1] = [*text, END]
    ids[1, 5:9] = 1
    return heard, ids, starts


def alone(head, features):
    """Return the loss of the documents of `batch`, each by PyTorch's loss of a sequence."""
    nats = []
    for begin, positions, text in SPOKEN:
        logits = head(features[0, begin + 1 : begin + 1 + positions])
        one = logits.log_softmax(-1)[:, None], torch.tensor([text]), [positions], [len(text)]
        nats.append(F.ctc_loss(*one, blank=VOCABULARY, reduction="sum"))
    return torch.stack(nats)


@pytest.fixture
def head():
    torch.manual_seed(1)
    return CTCHead(WIDTH, VOCABULARY)


def test_texts_of_a_batch_are_those_that_sounds_can_say():
    texts = spoken_texts(*batch(), [END])
    assert texts.lengths.tolist() == [9, 5, 12]
    assert [text[:n].tolist() for text, n in zip(texts.labels, texts.label_lengths, strict=True)] == [
        text for _, _, text in SPOKEN
    ]
    assert texts.places.tolist() == [at for begin, n, _ in SPOKEN for at in range(begin + 1, begin + 1 + n)]
    assert texts.skipped == 1


def test_sounds_of_a_document_say_its_text_together():
    heard = np.array([[0, 1, 1, 0, 1, 0, 0, 0]], dtype=bool)
    ids, starts = np.array([[-1, -1, -1, -1, -1, 3, 4, END]]), np.eye(1, 8, dtype=bool)
    texts = spoken_texts(heard, ids, starts, [END])
    assert (texts.places.tolist(), texts.lengths.tolist(), texts.labels.tolist()) == ([1, 2, 4], [3], [[3, 4]])


def test_loss_of_a_batch_is_that_of_each_document_alone(head):
    features = torch.randn(2, 48, WIDTH, requires_grad=True)
    found = ctc_nats(head, features, spoken_texts(*batch(), [END]))
    expected = alone(head, features).sum()
    torch.testing.assert_close(found, expected)
    wanted = [features, *head.parameters()]
    for one, other in zip(torch.autograd.grad(found, wanted), torch.autograd.grad(expected, wanted), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_loss_is_that_of_the_readable_reference(head, monkeypatch):
    features = torch.randn(2, 48, WIDTH, requires_grad=True)
    texts = spoken_texts(*batch(), [END])
    monkeypatch.setattr(
        F, "ctc_loss", lambda x, labels, n, of_labels, **_: ctc_nats_readable(x, labels, n, of_labels).sum()
    )
    found = ctc_nats(head, features, texts)
    monkeypatch.undo()
    expected = ctc_nats(head, features, texts)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(each, features)[0] for each in (found, expected)))


def test_batch_without_speech_gives_every_parameter_a_gradient_of_zero(head):
    features = torch.randn(1, 6, WIDTH, requires_grad=True)
    nothing = spoken_texts(np.zeros((1, 6), dtype=bool), np.ones((1, 6), dtype=np.int64), np.eye(1, 6, dtype=bool))
    nats = ctc_nats(head, features, nothing)
    nats.backward()
    assert nats.item() == 0
    assert all(not parameter.grad.any() for parameter in (features, *head.parameters()))


def tones(text, seed):
    """Return a sound that says a text by a tone of three positions for each letter, with noise."""
    n = 3 * GEOMETRY.frames_per_position * GEOMETRY.hop
    frequencies = np.repeat([400 * (2 + LETTERS.index(letter)) for letter in text], n)
    clear = 6000 * np.sin(2 * np.pi * frequencies * np.arange(len(frequencies)) / GEOMETRY.rate)
    return MediaItem("audio", (clear + np.random.default_rng(seed).normal(0, 300, len(clear))).astype(np.int16))


def spelled(media, repeat=1):
    """Return documents of random letters, each said by its tone."""
    chance = np.random.default_rng(0)
    texts = ["".join(chance.permutation(list(LETTERS))[:4]) for _ in range(150)]
    documents = [
        document(media, [tones(text, seed)], text * repeat, f"sound {seed}") for seed, text in enumerate(texts)
    ]
    return documents[:130], documents[130:]


def configured(data, **settings):
    changed = {name.replace("__", "."): str(value) for name, value in settings.items()}
    return load_config(None, {**SETTINGS, "data": str(data), **changed})


def weights(run, step):
    return load_file(RunFolder(run).checkpoints / f"step-{step:06d}" / "model.safetensors")


@pytest.fixture(scope="module")
def spoken_data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("spoken") / "data"
    write(folder, spelled)
    return folder


@pytest.fixture(scope="module")
def spoken_run(spoken_data, tmp_path_factory):
    out = tmp_path_factory.mktemp("spoken_run") / "run"
    api.train(configured(spoken_data, train__max_steps=90, train__ema_decay=0.9), out)
    return out


def decoded(model, dataset):
    """Return what the positions of the sounds of the validation split say: the best token of each, merged; and its text."""
    inputs, targets = dataset.split("validation").reader.read(np.array([0]))
    texts = texts_of_batch(inputs, targets, dataset.tokenizer.special_tokens.values())
    features = SpeechLoss(model).features(inputs, targets).flatten(0, 1)
    best = model.ctc_head(features[texts.places]).argmax(-1).split(texts.lengths.tolist())
    blank = dataset.vocab_size
    merged = [[int(t) for t in one.unique_consecutive() if t != blank] for one in best]
    labels = zip(texts.labels.tolist(), texts.label_lengths.tolist(), strict=True)
    return merged, [text[:n] for text, n in labels]


@torch.no_grad()
def test_a_model_learns_what_is_said_where(spoken_run, spoken_data):
    model = api.load(spoken_run, device="cpu").model
    assert isinstance(model, MultimodalModel)
    dataset = EncodedDataset(MultimodalDataset.open(spoken_data), model.multimodal)
    heard, said = decoded(model, dataset)
    assert len(said) >= 3
    assert heard == said


def test_both_losses_are_recorded(spoken_run):
    lines = read_jsonl(RunFolder(spoken_run).metrics)
    steps, validations = ([line for line in lines if name in line] for name in ("ctc_loss", "validation_ctc_loss"))
    assert len(steps) == 90
    assert {line["ctc_skipped"] for line in steps} == {0}
    assert steps[-1]["ctc_loss"] < 0.1 * steps[0]["ctc_loss"]
    assert validations[-1]["validation_ctc_loss"] < 0.2
    assert steps[0]["loss"] > steps[0]["ctc_loss"] > 1


def test_the_head_is_saved_but_is_no_part_of_the_language_model(spoken_run, spoken_data, tmp_path):
    names = {name for name in weights(spoken_run, 90) if ".ctc." in name}
    assert names == {"encoders.ctc.weight", "encoders.ctc.bias"}
    alone = load_model(RunFolder(spoken_run).checkpoints / "step-000090")
    assert not [name for name, _ in alone.named_parameters() if name.startswith("encoders.")]

    few = {"train__max_steps": 1, "init_from": spoken_run}
    api.train(configured(spoken_data, multimodal__ctc_weight=0, **few), tmp_path / "without")
    assert not [name for name in weights(tmp_path / "without", 1) if ".ctc." in name]
    api.train(configured(spoken_data, **{**few, "init_from": tmp_path / "without"}), tmp_path / "again")
    assert names < set(weights(tmp_path / "again", 1))


def test_a_resumed_run_ends_with_the_same_bits(spoken_data, tmp_path):
    settings = {"train__max_steps": 6, "checkpoint__every_steps": 3, "train__ema_decay": 0.9}
    config = configured(spoken_data, **settings, multimodal__augment_audio=1)
    api.train(config, tmp_path / "whole")

    class Stop(Exception):
        pass

    class StopAfter(Observer):
        def on_step(self, metrics):
            if metrics.step == 4:
                raise Stop

    with pytest.raises(Stop):
        api.train(config, tmp_path / "parts", observers=(StopAfter(),))
    api.train(config, tmp_path / "parts", resume=True)
    whole, parts = weights(tmp_path / "whole", 6), weights(tmp_path / "parts", 6)
    assert all(torch.equal(parts[name], whole[name]) for name in whole)


def test_data_that_cannot_be_aligned_are_refused(tmp_path, named_data):
    write(tmp_path / "long", lambda media: spelled(media, repeat=4))
    with pytest.raises(
        ConfigError, match=r"needs a position of sound for each token, but \d+% of the documents have more"
    ):
        api.train(configured(tmp_path / "long"), tmp_path / "run")
    with pytest.raises(ConfigError, match="multimodal.ctc_weight is -1.0; it must be between 0 and 10"):
        api.train(configured(named_data, multimodal__ctc_weight=-1), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_compiled_loss_is_the_same(spoken_data, spoken_run):
    model = api.load(spoken_run, device="cpu").model.train()
    dataset = EncodedDataset(MultimodalDataset.open(spoken_data), model.multimodal)
    inputs, targets = dataset.split("train").reader.read(np.array([0, 65, 130]))
    loss = SpeechLoss(model, 0, 0.2, tuple(dataset.tokenizer.special_tokens.values()))
    plain, compiled = loss(inputs, targets), torch.compile(loss)(inputs, targets)
    torch.testing.assert_close(compiled, plain)
    parameters = [p for p in model.parameters() if p.requires_grad]
    for one, other in zip(*(torch.autograd.grad(x, parameters) for x in (compiled, plain)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_two_processes_train_like_one(spoken_data, tmp_path):
    settings = {"train.max_steps": "4", "train.eval_every_steps": "2"}
    api.train(configured(spoken_data, train__max_steps=4, train__eval_every_steps=2), tmp_path / "one")
    (tmp_path / "empty.toml").write_text("")
    given = [part for name, value in {**SETTINGS, **settings}.items() for part in (f"--{name}", value)]
    ended = run_ranks(2, "train", tmp_path / "empty.toml", "--data", spoken_data, "--out", tmp_path / "two", *given)
    assert [process.returncode for process in ended] == [0, 0], ended[0].stderr
    one, two = weights(tmp_path / "one", 4), weights(tmp_path / "two", 4)
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-3, atol=1e-4)
    found = [
        [
            line["validation_ctc_loss"]
            for line in read_jsonl(RunFolder(tmp_path / run).metrics)
            if "validation_ctc_loss" in line
        ]
        for run in ("one", "two")
    ]
    assert found[1] == pytest.approx(found[0], rel=1e-3)
