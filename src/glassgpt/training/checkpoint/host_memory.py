"""A block of host memory that tensors are copied to, again and again; pinned for copies from a GPU.

One block instead of a pinned tensor each: PyTorch rounds every pinned tensor up to a power of two, which would take
half as much again, and pinning takes long.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

ALIGNMENT = 64
"""Bytes: tensors begin at cache lines."""


class HostMemory:
    """Host memory for copies of tensors.

    Args:
        n_bytes: its size; the sum of `n_bytes` of the tensors.
        pin: whether copies from a GPU shall run beside its other work.

    Raises:
        RuntimeError: the memory cannot be pinned.
    """

    def __init__(self, n_bytes: int, *, pin: bool) -> None:
        self._bytes = np.empty(max(n_bytes, 1), np.uint8)
        self._used, self._is_pinned = 0, pin
        if pin:
            runtime: Any = torch.cuda.cudart()
            code = int(runtime.cudaHostRegister(self._bytes.ctypes.data, self._bytes.nbytes, 0))
            if code:
                raise RuntimeError(f"cannot pin {self._bytes.nbytes:,} bytes of memory: CUDA error {code}")

    @staticmethod
    def n_bytes(tensor: Tensor) -> int:
        """Return the memory that a tensor's copy takes."""
        return -(-tensor.numel() * tensor.element_size() // ALIGNMENT) * ALIGNMENT

    def clear(self) -> None:
        """Forget all copies: the next ones take their place."""
        self._used = 0

    def copy(self, tensor: Tensor) -> Tensor:
        """Return a contiguous copy; one from a GPU is queued on the current stream.

        Each has a storage of its own, so that a file that holds one does not hold all. A tensor that does not fit any more,
        because it is new, gets memory of its own, and is copied when this returns.
        """
        size = self.n_bytes(tensor)
        if size == 0 or self._used + size > self._bytes.nbytes:
            return tensor.to("cpu", copy=True).contiguous()
        part = self._bytes[self._used : self._used + tensor.numel() * tensor.element_size()]
        self._used += size
        copied = torch.frombuffer(part, dtype=tensor.dtype).view(tensor.shape)
        if tensor.is_cuda:
            # An optimizer that drops its state does not give the memory to others before it was copied.
            tensor.record_stream(torch.cuda.current_stream())
        return copied.copy_(tensor, non_blocking=self._is_pinned)

    def close(self) -> None:
        """Unpin the memory."""
        if self._is_pinned:
            self._is_pinned = False
            runtime: Any = torch.cuda.cudart()
            runtime.cudaHostUnregister(self._bytes.ctypes.data)
