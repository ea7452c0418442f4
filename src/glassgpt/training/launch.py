"""`--gpus N`: run the same command in N processes with torchrun. Does not import torch until it launches."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from glassgpt.errors import Interrupted, LostRankError

if TYPE_CHECKING:
    from argparse import ArgumentParser

SHUTDOWN_SECONDS = 600
"""The time that ranks get to finish their step and save when they are asked to stop."""


def launched_by_torchrun() -> bool:
    """Return whether `torchrun` started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def restarted_by_torchrun() -> bool:
    """Return whether `torchrun` restarted this process after a rank was lost."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


def exit_process(exit_code: int) -> NoReturn:
    """End this process. With several ranks, skip Python's cleanup: everything is written and closed by now.

    Gloo's threads were seen to keep a finished rank alive for half a minute while the interpreter shut down, about
    once in five times.
    """
    if launched_by_torchrun():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)
    sys.exit(exit_code)


def torchrun_options(parser: ArgumentParser, processes: int) -> list[str]:
    """Return the options of `torchrun` for a number of processes; PyTorch 2.11's has no `--shutdown-timeout`."""
    options = ["--standalone", f"--nproc-per-node={processes}"]
    if "shutdown_timeout" in vars(parser.parse_args(["script"])):
        options.append(f"--shutdown-timeout={SHUTDOWN_SECONDS}")
    return options


def launch(processes: int, arguments: Sequence[str], advice: str = "") -> None:
    """Run `glassgpt ARGUMENTS` in several processes on this machine and wait for them.

    Args:
        processes: how many.
        arguments: of the command line, without the program's name.
        advice: command that resumes after a lost process, for the error message.

    Raises:
        LostRankError: one of them failed; the others were stopped.
        Interrupted: the user stopped them.
    """
    import logging

    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import get_args_parser, run

    from glassgpt.openmp import set_openmp_defaults

    parser = get_args_parser()
    options = [*torchrun_options(parser, processes), "-m", "glassgpt", *arguments]
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # we report failures ourselves
    set_openmp_defaults(processes)  # torchrun would otherwise give each process one thread, with a warning
    try:
        run(parser.parse_args(options))
    except SignalException as stop:
        raise Interrupted("stopped", int(stop.sigval)) from stop
    except ChildFailedError as error:
        # A process that was killed (negative exit code) comes before those that noticed and ended for that reason.
        rank, failure = min(error.failures.items(), key=lambda item: item[1].exitcode)
        raise LostRankError(
            f"process {rank} of {processes} ended with {_reason(failure.exitcode)} and the others were stopped"
            + (f"; {advice} --gpus {processes}" if advice else ""),
            failure.exitcode,
        ) from error


def _reason(exit_code: int) -> str:
    return f"signal {-exit_code}" if exit_code < 0 else f"exit code {exit_code}"
