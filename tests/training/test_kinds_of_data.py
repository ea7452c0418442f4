"""A kind of data that the package does not know brings its batches, its held-out windows and its loss with it."""

import numpy as np
import pytest
import torch

from glassgpt.data.batches import Batches, build_batches
from glassgpt.data.chat.batches import ConversationTokens
from glassgpt.data.preferences.batches import PairTokens
from glassgpt.data.shards import TokenArray
from glassgpt.data.token_view import TokenView
from glassgpt.data.validation import validation_windows
from glassgpt.model.build import build_model
from glassgpt.model.config import ModelConfig
from glassgpt.training.batch_loader import build_batch_loader
from glassgpt.training.bench import random_tokens
from glassgpt.training.config import TrainConfig, TrainerConfig
from glassgpt.training.distributed import DistributedContext
from glassgpt.training.hardware import Hardware
from glassgpt.training.loss import TrainingLoss
from glassgpt.training.losses import build_loss
from glassgpt.training.step import TrainStep
from glassgpt.training.validation import build_validator


class BackwardTokens(TokenView):
    """A text that is learned from its end to its start."""


class BackwardBatches(Batches):
    def read(self, starts):
        inputs, targets = super().read(starts)
        return targets.flip(1), inputs.flip(1)


class BackwardLoss(TrainingLoss):
    pass


build_batches.register(BackwardTokens, BackwardBatches)


@validation_windows.register
def _(tokens: BackwardTokens, context_length, *, batch_size=1, limit=None):
    for inputs, targets in validation_windows.dispatch(TokenArray)(tokens, context_length, limit=limit):
        yield targets.flip(1), inputs.flip(1)


@build_loss.register
def _(tokens: BackwardTokens, model, config):
    return BackwardLoss(model, config.train.loss_chunk_tokens)


def test_new_kind_of_data_is_trained_on_its_batches_with_its_loss():
    text = random_tokens(100, 400)
    model = build_model(ModelConfig(vocab_size=100, context_length=8, n_layer=1, n_head=1, n_embd=8))
    settings = TrainerConfig(train=TrainConfig(batch_tokens=16, max_steps=1), seed=3)
    cpu = Hardware(torch.device("cpu"), "fp32", compile=False)
    step = TrainStep(model, BackwardTokens(text), settings, cpu, DistributedContext())
    plain, _ = Batches(text, 8, seed=3).next(2)
    inputs, targets = step.loader.next(2)
    assert torch.equal(targets, plain.flip(1))
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    assert type(build_loss(BackwardTokens(text), model, settings)) is BackwardLoss
    windows = list(validation_windows(BackwardTokens(text), 8, limit=8))
    assert torch.equal(windows[0][1][0], torch.from_numpy(text.read(0, 8)).flip(0))


def test_view_is_where_its_text_is():
    text = random_tokens(100, 400)
    assert TokenView(text).is_local
    text.is_local = False
    view = TokenView(text)
    assert not view.is_local
    assert np.array_equal(view.read_many([5, 50], 7), [text.read(5, 7), text.read(50, 7)])


@pytest.mark.parametrize("change", [{"is_local": False}, {}])
def test_device_holds_the_text_only_if_it_is_cheap_to_read_and_plain(monkeypatch, change):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1 << 30, 1 << 30))
    monkeypatch.setattr("glassgpt.training.batch_loader.DeviceResidentLoader", lambda *given: "resident")
    monkeypatch.setattr("glassgpt.training.batch_loader.PrefetchingLoader", lambda *given: "prefetching")
    text = random_tokens(100, 400)
    for name, value in change.items():
        setattr(text, name, value)
    cuda = torch.device("cuda")
    assert build_batch_loader(Batches(text, 8, seed=1), cuda) == ("prefetching" if change else "resident")
    assert build_batch_loader(BackwardBatches(text, 8, seed=1), cuda) == "prefetching"


def test_kinds_of_the_package_are_registered():
    for kind in (ConversationTokens, PairTokens):
        assert build_batches.dispatch(kind) is not build_batches.dispatch(TokenArray)
        assert build_loss.dispatch(kind) is not build_loss.dispatch(TokenArray)
    assert build_validator.dispatch(PairTokens) is not build_validator.dispatch(TokenArray)
