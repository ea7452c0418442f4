"""Captured Muon against the plain one: the same bits, whatever changes between steps. A recorder stands for CUDA graphs."""

import copy
import itertools

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from glassgpt.training.captured_muon import CapturedMuon
from glassgpt.training.muon import Muon
from glassgpt.training.muon_choice import build_muon

SHAPES = [(6, 6), (12, 4), (6, 6), (4, 12)]
SETTINGS = {"lr": 0.1, "weight_decay": 0.1, "momentum_warmup_steps": 5}


class Recorder(TorchDispatchMode):
    """Records operations as a CUDA graph does: with the memory that they used, and without their effects.

    Operations run while they are recorded, because later ones need their shapes, so `undo` puts old values back.
    """

    def __init__(self, device=None):
        super().__init__()
        self.captured = 0
        self._calls, self._old = [], []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function._schema.is_mutable:
            self._old += [
                (each, each.clone()) for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)
            ]
        output = function(*args, **kwargs)
        self._calls.append((function, args, kwargs, output))
        return output

    def __call__(self, function):
        self._calls, self._old = [], []
        with self:
            output = function()
        for tensor, value in reversed(self._old):
            tensor.copy_(value)
        calls, self.captured = self._calls, self.captured + 1

        def replay():
            for operation, args, kwargs, before in calls:
                after = operation(*args, **kwargs)
                for old, new in zip(tree_leaves(before), tree_leaves(after), strict=True):
                    if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                        old.copy_(new)
            return output

        return replay


def captured_muon(*params, **settings):
    """Return a Muon whose update is recorded and replayed."""
    return CapturedMuon(*params, capture=Recorder, **settings)


class Pair:
    """Equal matrices, one set updated by plain Muon and the other by a captured one."""

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.plain = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]
        self.captured = [torch.nn.Parameter(each.detach().clone()) for each in self.plain]
        self.recorders = []
        self.optimizers = [Muon(self.plain, **SETTINGS), CapturedMuon(self.captured, capture=self._capture, **SETTINGS)]
        for optimizer in self.optimizers:
            optimizer.found_inf = torch.zeros(())
        self._generator, self.kept = generator, []

    def _capture(self, device):
        self.recorders.append(Recorder())
        return self.recorders[-1]

    def step(self, *, rate=0.1, skip=False, without=()):
        for optimizer in self.optimizers:
            optimizer.param_groups[0]["lr"] = rate
            optimizer.found_inf.fill_(float(skip))
        for number, (one, other) in enumerate(zip(self.plain, self.captured, strict=True)):
            gradient = torch.randn(one.shape, generator=self._generator) * (float("nan") if skip else 1.0)
            one.grad = None if number in without else gradient
            other.grad = None if number in without else gradient.clone()
            self.kept.append(other.grad)  # so that no gradient lies where one lay before
        for optimizer in self.optimizers:
            optimizer.step()

    def assert_equal(self):
        for one, other in zip(self.plain, self.captured, strict=True):
            assert torch.equal(one, other)
            momenta = [
                optimizer.state[p]["momentum"] for optimizer, p in zip(self.optimizers, (one, other), strict=True)
            ]
            assert torch.equal(*momenta)
        assert self.optimizers[0].param_groups[0]["steps"] == self.optimizers[1].param_groups[0]["steps"]


def test_replayed_steps_have_the_bits_of_plain_ones():
    pair = Pair()
    for rate in (0.1, 0.1, 0.05, 0.02, 0.0, 0.3):
        pair.step(rate=rate)
        pair.assert_equal()
    assert [recorder.captured for recorder in pair.recorders] == [6]  # two parts of three shapes, all captured once


def test_skipped_step_is_replayed_without_effect():
    pair = Pair()
    pair.step()
    pair.step()
    before = [each.detach().clone() for each in pair.captured]
    pair.step(skip=True)
    assert all(torch.equal(*each) for each in zip(before, pair.captured, strict=True))
    pair.step()
    pair.assert_equal()
    assert len(pair.recorders) == 1


def test_a_matrix_without_gradient_runs_the_plain_update_until_the_set_is_stable():
    pair = Pair()
    pair.step()
    pair.step()
    pair.step(without=[2])
    pair.assert_equal()
    assert len(pair.recorders) == 1
    for _ in range(3):
        pair.step()
        pair.assert_equal()
    assert len(pair.recorders) == 2


@pytest.mark.parametrize("restore", ["state", "nothing"])
def test_restored_momentum_is_used_and_not_the_captured_one(restore):
    pair = Pair()
    pair.step()
    pair.step()
    saved = copy.deepcopy(pair.optimizers[0].state_dict())
    weights = [each.detach().clone() for each in pair.plain]
    pair.step()
    pair.step()
    for optimizer, parameters in zip(pair.optimizers, (pair.plain, pair.captured), strict=True):
        if restore == "state":
            optimizer.load_state_dict(copy.deepcopy(saved))
        else:  # a rollback to the initial weights
            optimizer.state.clear()
        for parameter, value in zip(parameters, weights, strict=True):
            parameter.data.copy_(value)
    for _ in range(3):
        pair.step()
        pair.assert_equal()


def test_a_moved_weight_is_updated_where_it_is_now():
    pair = Pair()
    pair.step()
    pair.step()
    pair.captured[1].data = pair.captured[1].detach().clone()
    for _ in range(3):
        pair.step()
        pair.assert_equal()


class FailingCapture:
    """Fails to capture, as where memory is too small."""

    def __init__(self, device):
        pass

    def __call__(self, function):
        raise torch.OutOfMemoryError("no memory for a graph")


def test_an_update_that_is_not_captured_runs_as_it_is():
    pair = Pair()
    pair.optimizers[1]._new_capture = FailingCapture
    pair.step()
    with pytest.warns(UserWarning, match="no memory for a graph"):
        pair.step()
    for _ in range(2):
        pair.assert_equal()
        pair.step()
    pair.assert_equal()


@pytest.mark.parametrize(("compiled", "is_cuda", "is_whole"), list(itertools.product((True, False), repeat=3)))
def test_whole_compiled_matrices_of_a_gpu_are_captured(monkeypatch, compiled, is_cuda, is_whole):
    monkeypatch.setattr(torch.Tensor, "is_cuda", is_cuda)
    monkeypatch.setattr("glassgpt.training.muon_choice.is_sharded", lambda matrix: not is_whole)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    muon = build_muon({"params": [torch.nn.Parameter(torch.zeros(2, 2))]}, compiled=compiled, lr=0.5)
    assert isinstance(muon, CapturedMuon) == (compiled and is_cuda and is_whole)
    assert muon.param_groups[0]["lr"] == 0.5
