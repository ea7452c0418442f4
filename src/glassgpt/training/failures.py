"""The errors that end training, with advice on how to continue."""

from __future__ import annotations

import shlex
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Protocol

from glassgpt.errors import CheckpointError, GlassGPTError, MemoryExhaustedError, TrainingDivergedError
from glassgpt.training.config import TrainConfig, divisors
from glassgpt.training.distributed import DistributedContext
from glassgpt.training.memory_plan import MemoryPlan
from glassgpt.training.outcomes import OutOfMemory
from glassgpt.training.run_folder import RunFolder


def diverged(step: int, what: str, train: TrainConfig, run: RunFolder, advice: str = "") -> TrainingDivergedError:
    """Return the error for training that diverged.

    Args:
        step: the step.
        what: what was seen, such as `the loss is nan`.
        train: the configuration.
        run: the run.
        advice: what to do, where more is known than that a lower learning rate often helps.
    """
    usual = (
        f"Resume from the last checkpoint with a lower learning rate: glassgpt train --resume --out {shlex.quote(str(run.path))} "
        f"--train.learning-rate {train.learning_rate / 2:g}"
    )
    return TrainingDivergedError(f"step {step:,}: {what}; nothing of it was saved. {advice or usual}")


def out_of_memory(
    outcome: OutOfMemory, plan: MemoryPlan, batch_size: int, run: RunFolder, dist: DistributedContext
) -> MemoryExhaustedError:
    """Return the error for training that does not fit into memory.

    Args:
        outcome: of the step.
        plan: the memory plan that failed.
        batch_size: sequences per step and rank.
        run: the run.
        dist: the processes that train together.
    """
    who = why = ""
    if not outcome.can_retry:
        who = f"process {dist.rank} of {dist.world_size} "
        why = "; the other processes wait in the middle of the step, so it cannot be retried"
    smaller = [n for n in divisors(batch_size) if n <= plan.micro_batch_size // 2]
    option = f"--train.micro-batch-size {smaller[-1]}" if smaller else "--train.recompute-activations true"
    advice = f"Resume with less: glassgpt train --resume --out {shlex.quote(str(run.path))} {option}"
    if not smaller and plan.recompute_activations:
        advice = "No option that takes less is left: use a smaller model, a shorter context, or more processes"
    return MemoryExhaustedError(
        f"step {outcome.step:,}: {who}ran out of memory with a micro-batch of {plan.micro_batch_size} "
        f"({outcome.message}){why}. {advice}",
        alone=not outcome.can_retry,
    )


class Closable(Protocol):
    """Has files, threads or a display to close."""

    def close(self) -> None:
        """Close them."""
        ...


@contextmanager
def closing_all(run: RunFolder, first: Closable, others: Sequence[Closable]) -> Generator[None]:
    """Close everything after a block, whatever fails; an error of closing never hides the one that ended the block.

    Args:
        run: the run, for the error message.
        first: closed first.
        others: closed in this order; some may be added within the block.

    Raises:
        GlassGPTError: the block succeeded, and something could not be closed.
    """
    try:
        yield
    except BaseException:
        _close_all(run, [first, *others])
        raise
    if (error := _close_all(run, [first, *others])) is not None:
        raise error


def _close_all(run: RunFolder, all_of_them: Sequence[Closable]) -> GlassGPTError | None:
    """Close everything and return the first error."""
    found: GlassGPTError | None = None
    for each in all_of_them:
        try:
            each.close()
        except GlassGPTError as error:
            found = found or error
        except OSError as error:
            found = found or CheckpointError(f"cannot close the files of {run.path}: {error.strerror}")
    return found
