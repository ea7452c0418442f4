"""Waiting for free memory of a GPU that other programs use, with a GPU that is made up."""

import importlib
from types import SimpleNamespace

import pytest
import torch

from glassgpt.training.outcomes import OutOfMemory
from scripts import load_script


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch):
    """A GPU whose free memory in GB is the next of a list, or its last, and which is slept beside without time passing."""
    load_script("gpu_fp8_gate", monkeypatch)
    memory = importlib.import_module("gpu_parts.memory")
    state = SimpleNamespace(free=[], allocated=[], now=0.0, memory=memory)

    def mem_get_info():
        free = state.free.pop(0) if len(state.free) > 1 else state.free[0]
        return int(1e9 * free), 0

    def sleep(seconds):
        state.now += seconds

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", mem_get_info)
    monkeypatch.setattr(memory.torch, "empty", lambda size, **_: state.allocated.append(size))
    monkeypatch.setattr(memory, "time", SimpleNamespace(monotonic=lambda: state.now, sleep=sleep))
    return state


def test_waits_until_memory_is_free(gpu, capsys):
    gpu.free = [5.0, 5.0, 30.0]
    gpu.memory.reserve_memory(16, 8, seconds=60)
    assert gpu.allocated == [16_000_000_000]  # what belongs to others is only left free
    assert gpu.now == 2 * gpu.memory.POLL_SECONDS
    assert capsys.readouterr().out == "waiting for memory, 0 of 60 s: 24 GB of GPU memory needed, 5.0 GB free\n"


def test_says_what_to_do_after_a_bounded_time(gpu, capsys):
    gpu.free = [5.0]
    with pytest.raises(SystemExit, match=r"16 GB of GPU memory needed, 5.0 GB free after 65 s. End other programs"):
        gpu.memory.reserve_memory(16, seconds=65)
    assert not gpu.allocated
    assert len(capsys.readouterr().out.splitlines()) == 3  # after 0, 30 and 60 s


def test_memory_that_another_process_took_meanwhile_is_waited_for(gpu, monkeypatch):
    gpu.free = [20.0]
    takes = iter([torch.OutOfMemoryError("taken"), None])

    def empty(size, **_):
        if error := next(takes):
            raise error
        gpu.allocated.append(size)

    monkeypatch.setattr(gpu.memory.torch, "empty", empty)
    gpu.memory.reserve_memory(16, seconds=60)
    assert gpu.allocated == [16_000_000_000]


def test_nothing_is_waited_for_without_a_gpu(gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    gpu.memory.reserve_memory(16, seconds=60)
    assert not gpu.allocated


def test_a_step_without_memory_says_how_to_continue(monkeypatch):
    gate = load_script("gpu_fp8_gate", monkeypatch)
    outcome = OutOfMemory(1, "CUDA out of memory. Tried to allocate 1.54 GiB." + "x" * 1000)
    step = SimpleNamespace(model=torch.nn.Identity(), run=lambda number, rate: outcome)
    branches = SimpleNamespace(_step=step, _given=SimpleNamespace(variant="head"))
    with pytest.raises(SystemExit, match=r"step 1 of head: out of GPU memory.*start again") as raised:
        gate.Branches._steps(branches, 3, lambda i: 1e-3)
    assert len(str(raised.value)) < 400
