"""Models shared by the tests of text quality."""

import pytest
import torch

from glassgpt import api
from glassgpt.model.build import build_model
from glassgpt.model.config import ModelConfig


@pytest.fixture(scope="module")
def loaded(nano_run):
    return api.load(nano_run, device="cpu")


@pytest.fixture(scope="module")
def small():
    """Return an untrained model that generates random text and sometimes ends it."""
    torch.manual_seed(3)
    model = build_model(ModelConfig(vocab_size=257, context_length=32, n_layer=1, n_head=2, n_embd=16)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model
