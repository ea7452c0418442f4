"""Safetensors files whose tensors begin at multiples of 64 bytes, so that a model can use them where they are.

`load_file` maps a file into memory. To copy half a gigabyte from there takes a quarter of a second, nearly all of it to
get new pages from the system, and twice the memory. Matrix products may round differently where memory is aligned otherwise
than PyTorch's own, which begins at multiples of 64, but the format only pads its header to 8 bytes. So files are written
with a comment of the right length in the header; tensors of other files, and small ones, are copied.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor, nn

ALIGNMENT = 64
"""Bytes."""
HEADER_LENGTH_BYTES = 8
COMMENT = "padding"
LEAST_MAPPED_BYTES = 64 << 20
"""Smaller models are copied, which takes no time."""
DTYPES = {1: "I8", 2: "F16", 4: "F32", 8: "F64"}
"""Names of types by bytes, all of the length that counts here."""


def save_aligned(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Write a safetensors file whose first tensor is aligned, and all others too if their sizes are multiples of 64.

    Raises:
        SafetensorError: the file system refused.
    """
    unpadded = HEADER_LENGTH_BYTES + len(json.dumps(_header(tensors, ""), separators=(",", ":")))
    save_file(dict(tensors), file, metadata={COMMENT: " " * (-unpadded % ALIGNMENT)})


def _header(tensors: Mapping[str, Tensor], comment: str) -> dict[str, object]:
    """Return the header that the library writes, but for names of types."""
    header: dict[str, object] = {"__metadata__": {COMMENT: comment}}
    start = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0])):
        dtype = "BF16" if str(tensor.dtype) == "torch.bfloat16" else DTYPES.get(tensor.element_size(), "")
        end = start + tensor.nbytes
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [start, end]}
        start = end
    return header


def use_mapped(model: nn.Module, weights: Mapping[str, Tensor]) -> bool:
    """Let a model on the CPU use tensors where they are instead of copies, but for those that are not aligned.

    A model that changes its weights changes copies of the pages that it changes; the file stays as it is.

    Args:
        model: its parameters hold nothing yet.
        weights: all of the model's, as `load_file` returns them.

    Returns:
        False, and nothing was done, if they are not of that model or not large.
    """
    own = model.state_dict(keep_vars=True)
    is_large = sum(each.nbytes for each in weights.values()) >= LEAST_MAPPED_BYTES
    if (
        not is_large
        or os.name != "posix"
        or {n: t.shape for n, t in own.items()} != {n: t.shape for n, t in weights.items()}
    ):
        return False
    for name, tensor in weights.items():
        if tensor.dtype == own[name].dtype and tensor.data_ptr() % ALIGNMENT == 0:
            own[name].data = tensor
        else:
            own[name].data.copy_(tensor)
    return True
