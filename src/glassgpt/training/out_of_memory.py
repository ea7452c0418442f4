"""Handle running out of memory in a step, in one process or on one of several ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import nn

from glassgpt.device import is_out_of_memory
from glassgpt.training.distributed import DistributedContext

T = TypeVar("T")

CAUTIOUS_STEPS = 3
"""Steps in which ranks exchange gradients only after all have computed theirs. Whether a plan fits shows in the first
two steps (from the second on, the optimizer's moments exist from the beginning)."""


class OutOfMemoryGuard:
    """Computes gradients and reports if memory ran out, here or on another rank.

    DDP exchanges gradients while it computes them, so a rank that fails halfway leaves the others waiting where they
    cannot be reached. In the first steps, and after each change of the memory plan, gradients are therefore exchanged
    afterwards, once all ranks know that all succeeded. Sharded ranks compute every layer together
    and cannot do this.

    Args:
        dist: the processes that train together.
        is_sharded: whether parameters are sharded over them.
    """

    def __init__(self, dist: DistributedContext, *, is_sharded: bool) -> None:
        self._dist, self._is_sharded = dist, is_sharded
        self._steps_left = CAUTIOUS_STEPS

    def restart(self) -> None:
        """Defer the exchange again: the memory plan has changed."""
        self._steps_left = CAUTIOUS_STEPS

    @property
    def defers_exchange(self) -> bool:
        """True if the next step exchanges gradients after the backward pass instead of during it."""
        return self._dist.world_size > 1 and self._steps_left > 0 and not self._is_sharded

    @property
    def can_retry(self) -> bool:
        """True if all ranks will learn of a failure in the next step, so that it can be retried."""
        return self._dist.world_size == 1 or self.defers_exchange

    def attempt(self, work: Callable[[], T], model: nn.Module) -> T | str:
        """Run `work`, which accumulates gradients in `model`, and exchange them if that was deferred.

        Returns:
            What `work` returned, or the message of the first rank that ran out of memory; then there are no gradients.
        """
        result: T | None = None
        failure = ""
        try:
            result = work()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            failure = str(error).strip().partition("\n")[0] or "out of memory"
        # From here on, outside of the handler, the failed step's tensors are free: the exception held its frames.
        if failure:
            model.zero_grad(set_to_none=True)  # before telling the others, which takes memory too
        if self.defers_exchange:
            failures = self._dist.all_gather_objects(failure)
            failure = next((message for message in failures if message), "")
            if not failure:
                self._average_gradients(model)
                self._steps_left -= 1
        if failure or result is None:
            model.zero_grad(set_to_none=True)
            return failure
        return result

    def _average_gradients(self, model: nn.Module) -> None:
        """Average gradients over the ranks, as DDP does during the backward pass."""
        for parameter in model.parameters():
            if parameter.grad is not None:
                self._dist.all_reduce_sum(parameter.grad.mul_(1 / self._dist.world_size))
