"""Argument types that several commands share. Free of torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin

from cyclopts import App, CoercionError, Parameter, Token, UnknownOptionError

from glassgpt.errors import UsageError
from glassgpt.learn import bundled


def parse_integers(kind: Any, words: Sequence[Token]) -> Any:
    """Return integers as written. Cyclopts itself would round 1.5 without a message."""
    for word in words:
        if not re.fullmatch(r"[+-]?\d+", word.value):
            raise CoercionError(f"{word.value!r} is not an integer.", token=word)
    numbers = [int(word.value) for word in words]
    return tuple(numbers) if get_origin(kind) is tuple else numbers[0]


Texts = Annotated[str, Parameter(allow_leading_hyphen=True)]
"""Positional arguments; - means standard input."""
Overrides = Annotated[dict[str, str], Parameter(parse=False)]
"""Settings by dotted name (`--train.learning-rate 3e-4`); `dispatch` takes them from the command line."""
Flag = Annotated[bool, Parameter(negative="", show_default=False)]
"""An option without a value; off by default."""
Integer = Annotated[int, Parameter(converter=parse_integers)]
"""An integer; numbers with a fraction are rejected, not rounded."""
RUN_HELP = "Folder of a run, created by glassgpt train or import; bundled is the small model that comes with glassgpt."
BUNDLED = re.compile(r"bundled(?:-(en|ko))?")


def run_name(given: str) -> str:
    """Return a run as given; `bundled` and `bundled-ko` are those of the package, unless such a folder exists."""
    match = BUNDLED.fullmatch(given)
    return given if match is None or Path(given).exists() else str(bundled("ko" if match[1] == "ko" else "en"))


def shown_run(run: Path) -> str:
    """Return a run as its user names it; see `run_name`."""
    names = {bundled("en"): "bundled", bundled("ko"): "bundled-ko"}
    return names.get(run, str(run))


def parse_run(kind: Any, words: Sequence[Token]) -> Path:
    """Return the folder of a run; see `run_name`."""
    from glassgpt.data.remote.store import remote_url

    if (url := remote_url(words[0].value)) is not None:
        from glassgpt.cli.remote_runs import copied_run

        return copied_run(url)
    return Path(run_name(words[0].value))


Run = Annotated[Path, Parameter(help=RUN_HELP, converter=parse_run)]
Checkpoint = Annotated[str, Parameter(help="Checkpoint or snapshot to load: best, latest or step-NNNNNN.")]
Device = Annotated[Literal["auto", "cpu", "cuda", "mps"], Parameter(help="Device to run on.")]
Precision = Literal["auto", "float32", "bfloat16", "int8", "fp8", "fp8-kv"]
"""The same names as in `generation.precision`, which loads torch."""
PresetOption = Annotated[
    str | None,
    Parameter(help="Generation preset (chat, code, creative, technical) or a TOML file; options override its values."),
]


def reject_unknown_options(words: Sequence[str], command: Callable[..., None]) -> None:
    """Reject positional arguments that look like options: the user meant an option that the command does not have.

    Raises:
        UnknownOptionError: names the first of them.
    """
    for word in words:
        if re.match(r"--?[a-zA-Z]", word):
            options = App(default_command=command).assemble_argument_collection()
            token = Token(keyword=word, source="cli")
            chain = [command.__name__]
            raise UnknownOptionError(token=token, argument_collection=options, command_chain=chain, target=command)


def require_template_file(file: Path | None) -> None:
    """Check that the file of a chat template exists, if one is given.

    Raises:
        UsageError: it does not.
    """
    if file is not None and not file.is_file():
        raise UsageError(f"--chat-template {file} does not exist; give the file of a template, .toml or .jinja")
