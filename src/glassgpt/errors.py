"""The one exception tree. Everything a user can cause or mend derives from `GlassGPTError`.

The command line prints such an error in one or two lines and exits with `exit_code`; a traceback is
shown only with `--debug`. A bug of ours is any other exception.
"""


class GlassGPTError(Exception):
    """Something the user can understand and mend; the message names the way out."""

    exit_code = 1


class UsageError(GlassGPTError):
    """The command was asked for in a way that cannot work (a bad option, a missing argument)."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration that cannot run. Lists every problem at once, not only the first.

    Attributes:
        problems: one line each, saying what was given, what is allowed and the nearest name.
    """

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))


class DataError(GlassGPTError):
    """A source or data set that cannot be read; the message names the file and, where known, the line."""


class TokenizerError(GlassGPTError):
    """A tokenizer that cannot be loaded, trained or used, or that differs from the one expected."""


class CheckpointError(GlassGPTError):
    """A checkpoint or run folder that is missing, torn, or belongs to another model."""


class GenerationError(GlassGPTError):
    """A prompt or sampling setting with which no text can be generated."""


class RequestError(GenerationError):
    """One of several requests cannot be written on; it is over, and the others are not touched.

    Attributes:
        request: its number, as the engine gave it.
    """

    def __init__(self, message: str, request: int) -> None:
        super().__init__(message)
        self.request = request


class InspectionError(GlassGPTError):
    """A text, a tensor's name or an intervention that a model cannot be looked into with."""


class TrainingDivergedError(GlassGPTError):
    """The loss or the gradient is no longer a finite number."""


class MemoryExhaustedError(GlassGPTError):
    """A training does not fit into memory, whatever was traded for it.

    Attributes:
        alone: whether this is one of several processes, and the others do not know of it.
    """

    def __init__(self, message: str, *, alone: bool = False) -> None:
        super().__init__(message)
        self.alone = alone


class LostRankError(GlassGPTError):
    """One of several processes that trained together is gone."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code if exit_code > 0 else 128 - exit_code


class InterchangeError(GlassGPTError):
    """Weights or files of another program that do not fit this model."""


class MissingExtraError(GlassGPTError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package}, which is not installed. "
            f"Install it with: pip install 'glassgpt[{extra}]'"
        )


class Interrupted(GlassGPTError):  # noqa: N818 - not an error, a request that was honoured
    """The user stopped the work (Ctrl-C or SIGTERM) and it was left in order."""

    def __init__(self, message: str, signal_number: int = 2) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number
