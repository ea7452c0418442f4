"""The choice between the classes of Muon: plain, captured in CUDA graphs, in bfloat16 on a CPU."""

from __future__ import annotations

from typing import Any

from glassgpt.training.captured_muon import CapturedMuon
from glassgpt.training.cpu_bfloat16 import CPUBFloat16Muon
from glassgpt.training.distributed import is_sharded
from glassgpt.training.muon import Muon


def build_muon(group: dict[str, Any], *, compiled: bool, cpu_bfloat16: bool = False, **settings: Any) -> Muon:
    """Return the Muon for a group of matrices.

    It is captured in CUDA graphs if the matrices are whole, on a GPU, and its code is compiled.

    Args:
        group: parameter group, with the matrices under `params`.
        compiled: whether to compile the update.
        cpu_bfloat16: whether a CPU computes the products in bfloat16, unless they are compiled.
        settings: of `Muon`.
    """
    kind = Muon
    if compiled and all(matrix.is_cuda and not is_sharded(matrix) for matrix in group["params"]):
        kind = CapturedMuon
    elif cpu_bfloat16 and not compiled:
        kind = CPUBFloat16Muon
    return kind([group], compiled=compiled, **settings)
