"""All exceptions of this package. Every error that a user can cause or fix derives from `GlassGPTError`.

The command line prints such an error in one or two lines and exits with its `exit_code`; it shows a traceback only
with `--debug`. Any other exception is a bug. A base module: it imports nothing of this package.

One rule gives the exit code. 2: the command line is wrong, or what it names does not exist or is something else, and
nothing was done (`UsageError` and what derives from it). 1: the command line is right, but the work failed.
"""

from importlib.util import find_spec


class GlassGPTError(Exception):
    """An error that the user can fix; its message says how."""

    exit_code = 1


class UsageError(GlassGPTError):
    """An invalid command line, or something it names that does not exist or is of another kind."""

    exit_code = 2


WRONG_PATH = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
"""Errors of the system for a wrong path. Others, such as a full disk, are not a mistake of usage."""


class ConfigError(UsageError):
    """An invalid configuration. Lists all problems, not only the first.

    Attributes:
        problems: one line each: what was given, what is expected and the closest match.
    """

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))


def problem_of(error: GlassGPTError, others: list[str]) -> str:
    """Return the message of a dataset's error, to be listed with other problems.

    Without other problems, an error that is not a mistake of usage is raised: a damaged file keeps its exit code, 1.

    Raises:
        GlassGPTError: the error itself.
    """
    if not others and not isinstance(error, UsageError):
        raise error
    return str(error)


class DataError(GlassGPTError):
    """A source or dataset that cannot be read. The message names the file and, if known, the line."""


class WrongDataError(DataError, UsageError):
    """A source or dataset, named by the user, that does not exist or is something else."""


class UnsafeFileError(GlassGPTError):
    """A symbolic link, FIFO or device where a run or dataset must have a regular file or folder."""


class TokenizerError(GlassGPTError):
    """A tokenizer that cannot be loaded, trained or used, or is not the expected one."""


class WrongTokenizerError(TokenizerError, UsageError):
    """A tokenizer, named by the user, that does not exist or is not the one that is needed."""


class CheckpointError(GlassGPTError):
    """A checkpoint or run folder that is missing, incomplete, damaged, or belongs to another model."""


class WrongRunError(CheckpointError, UsageError):
    """A run or checkpoint, named by the user, that does not exist or is something else."""


class GenerationError(UsageError):
    """A prompt or generation setting with which no text can be generated."""


class GenerationFailedError(GenerationError):
    """Generation that began and could not be completed."""

    exit_code = 1


class RequestError(GenerationFailedError):
    """One of several requests to the engine failed and was removed; the others continue.

    Attributes:
        request: id of the request, as returned by the engine.
    """

    def __init__(self, message: str, request: int) -> None:
        super().__init__(message)
        self.request = request


class InspectionError(UsageError):
    """A text, activation name or intervention that does not work with a model."""


class TrainingDivergedError(GlassGPTError):
    """The loss or the gradient norm is no longer finite."""


class MemoryExhaustedError(GlassGPTError):
    """Training does not fit into memory even with every memory-saving measure.

    Attributes:
        alone: True if this happened on one of several ranks and the others do not know.
    """

    def __init__(self, message: str, *, alone: bool = False) -> None:
        super().__init__(message)
        self.alone = alone


class LostRankError(GlassGPTError):
    """One of the processes of a distributed training ended unexpectedly."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code if exit_code > 0 else 128 - exit_code


class InterchangeError(GlassGPTError):
    """Weights or files of another program that do not match this model."""


class WrongModelError(InterchangeError, UsageError):
    """A folder or name, given by the user, that is not a model of another program."""


class MissingExtraError(GlassGPTError):
    """An optional dependency that is not installed.

    Args:
        package: its name.
        extra: the extra that it belongs to.
        purpose: what needs it.
        command: installs it, if it belongs to no extra.
    """

    def __init__(self, package: str, extra: str, purpose: str, command: str = "") -> None:
        command = command or f"pip install 'glassgpt[{extra}]'"
        super().__init__(f"{purpose} needs the package {package}, which is not installed. Install it with: {command}")


def require_extra(package: str, extra: str, purpose: str) -> None:
    """Check that an optional dependency is installed, without importing it: before any work is done that needs it.

    Raises:
        MissingExtraError: it is not.
    """
    if find_spec(package) is None:
        raise MissingExtraError(package, extra, purpose)


class Interrupted(GlassGPTError):  # noqa: N818 - a request, not an error
    """The user interrupted the program (Ctrl-C or SIGTERM) and it shut down cleanly."""

    def __init__(self, message: str, signal_number: int = 2) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number
