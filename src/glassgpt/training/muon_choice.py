"""The choice between the classes of Muon: plain, captured in CUDA graphs, on Hopper, in bfloat16 on a CPU."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch

from glassgpt.training.captured_muon import CapturedMuon
from glassgpt.training.cpu_bfloat16 import CPUBFloat16Muon
from glassgpt.training.distributed import is_sharded
from glassgpt.training.muon import Muon

HOPPER = 9
"""Major compute capability of the H100 and the H200, for which the kernel of symmetric products was measured."""


def build_muon(group: dict[str, Any], *, compiled: bool, cpu_bfloat16: bool = False, **settings: Any) -> Muon:
    """Return the Muon for a group of matrices.

    It is captured in CUDA graphs if the matrices are whole, on a GPU, and its code is compiled. On Hopper its symmetric
    products are computed by halves.

    Args:
        group: parameter group, with the matrices under `params`.
        compiled: whether to compile the update.
        cpu_bfloat16: whether a CPU computes the products in bfloat16, unless they are compiled.
        settings: of `Muon`.
    """
    kind = Muon
    if compiled and all(matrix.is_cuda and not is_sharded(matrix) for matrix in group["params"]):
        kind = captured_kind(group["params"][0].device)
    elif cpu_bfloat16 and not compiled:
        kind = CPUBFloat16Muon
    return kind([group], compiled=compiled, **settings)


def captured_kind(device: torch.device) -> type[CapturedMuon]:
    """Return the class of captured Muon for matrices on a GPU."""
    capability, _ = torch.cuda.get_device_capability(device)
    is_hopper = capability == HOPPER and not torch.version.hip  # an AMD MI300 reports 9, too
    if not is_hopper or find_spec("triton") is None:
        return CapturedMuon
    from glassgpt.training.hopper_muon import HopperMuon  # imports Triton, which is for Linux

    return HopperMuon
