"""Random number generators: capture their state, restore it, or run a block that leaves them unchanged.

Training draws random numbers for dropout only, from PyTorch's generators. A checkpoint also holds those of Python and
NumPy, so that code added to a run (an augmentation, a probe) resumes exactly too.
"""

from __future__ import annotations

import base64
import random
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

TorchRngState = dict[str, Tensor]
"""State of PyTorch's generators by device type: `cpu`, and `cuda` or `mps` where that is used."""


def capture_torch_rng(device: torch.device) -> TorchRngState:
    """Return the state of PyTorch's CPU generator and, if `device` is an accelerator, of its generator."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    if device.type == "mps":
        states["mps"] = torch.mps.get_rng_state()
    return states


def restore_torch_rng(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Set the generators to a state from `capture_torch_rng` on the same device."""
    torch.set_rng_state(states["cpu"])
    if "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
    if "mps" in states:
        torch.mps.set_rng_state(states["mps"])


@contextmanager
def preserved_rng(device: torch.device) -> Generator[None]:
    """Run a `with` block and then restore every generator: those of Python, NumPy, and PyTorch on the CPU and on `device`."""
    python_state, numpy_state, torch_states = random.getstate(), np.random.get_state(), capture_torch_rng(device)
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        restore_torch_rng(torch_states, device)


def capture_rng() -> dict[str, Any]:
    """Return the state of every generator of this process (Python, NumPy, PyTorch) as JSON."""
    version, words, gauss = random.getstate()
    numpy_state = np.random.get_state(legacy=False)
    assert isinstance(numpy_state, dict)
    numpy_state["state"]["key"] = numpy_state["state"]["key"].tolist()
    torch_states = {name: _encode(state) for name, state in capture_torch_rng(_accelerator()).items()}
    return {
        "python": [version, list(words), gauss],
        "numpy": numpy_state,
        "torch": torch_states.pop("cpu"),
        **torch_states,
    }


def restore_rng(states: Mapping[str, Any]) -> None:
    """Set every generator to a state from `capture_rng`; states of devices that this machine lacks are ignored."""
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words), gauss))
    np.random.set_state(states["numpy"])
    device = _accelerator()
    torch_states = {"cpu": _decode(states["torch"])}
    if device.type in states:
        torch_states[device.type] = _decode(states[device.type])
    restore_torch_rng(torch_states, device)


def _accelerator() -> torch.device:
    """Return the accelerator of this process, or the CPU if there is none."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _encode(state: Tensor) -> str:
    return base64.b64encode(state.numpy().tobytes()).decode()


def _decode(text: str) -> Tensor:
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)
