"""Muon whose update is captured in CUDA graphs: the host starts a few of them instead of some hundred kernels.

A graph reads and writes fixed addresses. Weights, momentum and the flag `found_inf` stay where they are from step to
step, so the graphs use them in place; gradients do not, so they are copied. What changes with the step (rate, decay and
momentum) is filled into scalars on the device. The exchange between ranks is not captured, only what is computed before
and after it. `Muon` is the readable reference implementation; both run the same kernels, so they compute the same bits.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from glassgpt.training.distributed import PendingGather
from glassgpt.training.muon import BatchUpdate, Muon, ShapeBatch

T = TypeVar("T")


class Capture(Protocol):
    """Captures the kernels that a function starts."""

    def __call__(self, function: Callable[[], T]) -> Callable[[], T]:
        """Return a function that runs these kernels and returns what `function` returned."""
        ...


class GraphCapture:
    """Captures functions in CUDA graphs that share their memory, so they must be replayed in the order of their capture.

    Args:
        device: of all tensors.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, function: Callable[[], T]) -> Callable[[], T]:
        """See `Capture`.

        Not `torch.cuda.graph`, which returns all unused memory to the driver first: some 20 GB, which the next forward
        pass would have to get again. Other threads (of NCCL, of a checkpoint being saved) may use the GPU meanwhile.
        """
        graph = torch.cuda.CUDAGraph()
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        with torch.cuda.stream(self._stream):
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                output = function()
            except BaseException:
                with suppress(RuntimeError):  # an incomplete graph may be invalid; the first error says why
                    graph.capture_end()
                raise
            graph.capture_end()
        torch.cuda.current_stream(self._stream.device).wait_stream(self._stream)

        def replay() -> T:
            graph.replay()
            return output

        return replay


class CapturedMuon(Muon):
    """Muon that replays its update.

    The first step, and every step after which a weight, a momentum or the set of gradients is not where it was in the
    step before (a restored checkpoint replaces the momentum), runs as in `Muon`; the next one is captured.

    Args:
        params, settings: of `Muon`; no matrix may be sharded.
        capture: captures a function; by default in a CUDA graph.
    """

    def __init__(
        self, *params: Any, capture: Callable[[torch.device], Capture] = GraphCapture, **settings: Any
    ) -> None:
        super().__init__(*params, **settings)
        self._new_capture = capture
        self._addresses: tuple[int, ...] = ()
        self._captured: list[CapturedUpdate] = []

    def _update(self, batches: Sequence[ShapeBatch]) -> None:
        """Update the matrices of each shape by the captured updates, if they are for these tensors."""
        addresses = self._addresses_of(batches)
        is_same, self._addresses = addresses == self._addresses, addresses
        if not is_same:
            self._captured = []  # before others are captured: they may hold much memory
            super()._update(batches)
            return
        if batches and not self._captured:
            capture = self._new_capture(batches[0].averages[0].device)
            self._captured = [CapturedUpdate(self, batch, capture) for batch in batches]
        for captured, batch in zip(self._captured, batches, strict=True):
            captured.set_inputs(batch)
        self._overlap(self._captured)

    def _addresses_of(self, batches: Sequence[ShapeBatch]) -> tuple[int, ...]:
        """Return the addresses of all that the graphs use in place."""
        tensors = [tensor for batch in batches for tensor in (*batch.parameters, *batch.averages)]
        flag = [] if self.found_inf is None else [self.found_inf]
        return tuple(tensor.data_ptr() for tensor in (*tensors, *flag))


class CapturedUpdate(BatchUpdate):
    """The update of matrices of one shape, captured when it is used for the first time.

    Args:
        muon: the optimizer.
        batch: the matrices.
        capture: captures a function.
    """

    def __init__(self, muon: Muon, batch: ShapeBatch, capture: Capture) -> None:
        super().__init__(muon, batch._replace(gradients=[torch.empty_like(each) for each in batch.gradients]))
        self._capture = capture
        self._replay_begin: Callable[[], Tensor] | None = None
        self._replay_finish: Callable[[], None] | None = None
        self._whole: Tensor | None = None

    def set_inputs(self, batch: ShapeBatch) -> None:
        """Copy the gradients and settings of a step to where the graphs read them."""
        # One kernel for all, which has no public name.
        torch._foreach_copy_(self._batch.gradients, batch.gradients)  # pyright: ignore
        for scalar, value in zip(self._settings, batch.settings, strict=True):
            scalar.fill_(value)

    def begin(self) -> PendingGather:
        """Compute the updates, and start to gather them into the same tensor each time."""
        if self._replay_begin is None:
            self._replay_begin = self._captured(self._directions)
        gather = self._muon.gather(self._replay_begin(), self._whole)
        self._whole = gather.whole
        return gather

    def finish(self, gather: PendingGather) -> None:
        """Apply the gathered updates."""
        gather.wait()
        if self._replay_finish is None:
            self._replay_finish = self._captured(self._apply)
        self._replay_finish()

    def _captured(self, function: Callable[[], T]) -> Callable[[], T]:
        """Capture a function; return it as it is, with a warning, if that fails, for which memory is the usual reason.

        A graph has memory of its own, and while one is captured PyTorch does not free what it keeps unused elsewhere.
        Capturing runs nothing, so nothing was changed.
        """
        try:
            return self._capture(function)
        except RuntimeError as error:  # also torch.OutOfMemoryError
            reason = str(error).partition("\n")[0]
            warnings.warn(
                f"Muon's update runs without a CUDA graph, because it was not captured: {reason}", stacklevel=2
            )
            return function

    def _directions(self) -> Tensor:
        return self._muon.directions(self._batch, self._settings.momentum)

    def _apply(self) -> None:
        assert self._whole is not None  # begin() comes first
        self._muon.apply(self._batch, self._whole, self._settings.rate, self._settings.decay)
