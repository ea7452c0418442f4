"""Random number generators are captured, restored and left unchanged; also on a device that this machine lacks."""

import json
import random

import numpy as np
import pytest
import torch

from glassgpt.training.rng import capture_rng, capture_torch_rng, preserved_rng, restore_rng, restore_torch_rng

CPU = torch.device("cpu")


@pytest.fixture
def mps(monkeypatch):
    """A machine with an MPS generator, whose state is a tensor in a list."""
    state = [torch.arange(16, dtype=torch.uint8)]
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: state[0].clone())
    monkeypatch.setattr(torch.mps, "set_rng_state", lambda new: state.__setitem__(0, new.clone()))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    return state


def draw():
    return random.random(), np.random.rand(), torch.rand(()).item()


def test_restored_generators_draw_the_same_numbers_again():
    states = json.loads(json.dumps(capture_rng()))
    first = draw()
    restore_rng(states)
    assert draw() == first


def test_torch_rng_draws_the_same_numbers_again():
    states = capture_torch_rng(CPU)
    first = torch.rand(3)
    restore_torch_rng(states, CPU)
    assert torch.equal(torch.rand(3), first)


def test_preserved_rng_leaves_every_generator_unchanged():
    states = capture_rng()
    with preserved_rng(CPU):
        draw()
    assert capture_rng() == states


def test_preserved_rng_restores_after_an_error():
    states = capture_rng()

    def fail():
        with preserved_rng(CPU):
            draw()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert capture_rng() == states


def test_mps_generator_is_captured_and_restored(mps):
    before = mps[0].clone()
    states, torch_states = capture_rng(), capture_torch_rng(torch.device("mps"))
    assert torch.equal(torch_states["mps"], before)
    mps[0] += 1
    restore_torch_rng(torch_states, torch.device("mps"))
    assert torch.equal(mps[0], before)
    mps[0] += 1
    restore_rng(states)
    assert torch.equal(mps[0], before)


def test_preserved_rng_leaves_the_mps_generator_unchanged(mps):
    before = mps[0].clone()
    with preserved_rng(torch.device("mps")):
        mps[0] += 1
    assert torch.equal(mps[0], before)


def test_states_of_missing_devices_are_ignored(mps, monkeypatch):
    states = capture_rng()
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    mps[0] += 1
    changed = mps[0].clone()
    restore_rng(states)
    assert torch.equal(mps[0], changed)
