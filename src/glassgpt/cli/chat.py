"""`glassgpt chat`."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from glassgpt import console
from glassgpt.cli.shared import Checkpoint, Device, Precision, require_template_file
from glassgpt.errors import GlassGPTError, UsageError
from glassgpt.lazy import import_for_good

if TYPE_CHECKING:
    from glassgpt.serving.chat_session import ChatBackend, ChatSession

HISTORY_LINES = 1000
PROMPT = "> "


def chat(
    model: str,
    *,
    name: str | None = None,
    system: str = "",
    chat_template: Path | None = None,
    checkpoint: Checkpoint = "best",
    device: Device = "auto",
    precision: Precision = "auto",
) -> None:
    """Chat with a run's model, or with a model behind an OpenAI-compatible server, in the terminal.

    Lines that begin with / are commands: /help lists them. Ctrl-C stops an answer. A server's API key is read from the
    environment variable GLASSGPT_API_KEY.

    Parameters
    ----------
    model:
        Folder of a run, which is loaded in this process, or a server's URL, such as http://127.0.0.1:8000.
    name:
        With a URL: name of the model; the server's first by default.
    system:
        System message; /system changes it.
    chat_template:
        With a run: file of a chat template, .toml or .jinja; by default that of the run, or a plain transcript.
    precision:
        With a run: precision of the weights; see glassgpt generate --help.
    """
    from glassgpt.serving.chat_session import ChatSession

    if re.match(r"https?://", model):
        if chat_template is not None:
            raise UsageError("--chat-template needs a run: a server has its own template")
        backend = _server(model, name)
    else:
        if name is not None:
            raise UsageError("--name needs a server's URL: a run has one model")
        backend = _run(model, chat_template, checkpoint, device, precision)
    session = ChatSession(backend)
    session.system = system
    is_interactive = console.can_ask() and sys.stdout.isatty()
    if is_interactive:
        console.info(f"{backend.name}: type a message, or /help; Ctrl-D ends the chat")
    with _history() if is_interactive else contextlib.nullcontext():
        _converse(session, is_interactive=is_interactive)


def _server(url: str, name: str | None) -> ChatBackend:
    from glassgpt.cli.serve import KEY_VARIABLE
    from glassgpt.serving.chat_client import RemoteChat

    keys = [line.strip() for line in os.environ.get(KEY_VARIABLE, "").splitlines() if line.strip()]
    if keys and not (keys[0].isascii() and keys[0].isprintable()):
        raise UsageError(f"{KEY_VARIABLE} has characters that HTTP cannot send; a key must be printable ASCII")
    return RemoteChat(url, name, keys[0] if keys else "")


def _run(model: str, template: Path | None, checkpoint: str, device: str, precision: str) -> ChatBackend:
    from glassgpt.training.checksums import require_checkpoint_and_hash
    from glassgpt.training.run_folder import RunFolder

    if re.fullmatch(r"[\w.-]+:\d+(/.*)?", model) and not Path(model).exists():
        raise UsageError(f"{model} is not a run; for a server, write http://{model}")
    RunFolder(Path(model)).require()
    require_template_file(template)
    require_checkpoint_and_hash(RunFolder(Path(model)), checkpoint)
    import_for_good("glassgpt.api.loading")  # loads torch, which takes seconds

    from glassgpt.api.chat import load_chat

    return load_chat(
        Path(model),
        template=template,
        checkpoint=checkpoint,
        device=device,
        precision=precision,  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    )


def _converse(session: ChatSession, *, is_interactive: bool) -> None:
    """Answer line after line; errors end the chat only if nobody is there to react."""
    while not session.is_over:
        try:
            line = console.read_line(PROMPT if is_interactive else "")
        except KeyboardInterrupt:
            if not is_interactive:
                raise
            console.info("\n(Ctrl-D or /quit ends the chat)")
            continue
        if line is None:
            break
        try:
            _react(session, line, is_interactive=is_interactive)
        except GlassGPTError as error:
            if not is_interactive:
                raise
            console.error(str(error))
    if is_interactive and not session.is_over:
        console.info("")


def _react(session: ChatSession, line: str, *, is_interactive: bool) -> None:
    if line.startswith("/") and not line.startswith("//"):
        if said := session.command(line):
            console.info(said)
    elif line.strip():
        _print_answer(session, line.removeprefix("/"), is_interactive=is_interactive)


def _print_answer(session: ChatSession, text: str, *, is_interactive: bool) -> None:
    pieces = session.ask(text)
    try:
        for piece in pieces:
            console.output(piece, end="")
    except KeyboardInterrupt:
        if not is_interactive:
            raise
        console.output(" …", end="")
    finally:
        pieces.close()
        console.output("")


@contextlib.contextmanager
def _history():
    """Edit lines with readline, and keep them for the next chat in a file that only the user can read."""
    try:
        import readline
    except ImportError:  # Windows
        yield
        return
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "glassgpt"
    file = state / "chat_history"
    readline.set_history_length(HISTORY_LINES)
    with contextlib.suppress(OSError):  # there is none yet
        readline.read_history_file(file)
    try:
        yield
    finally:
        try:
            state.mkdir(mode=0o700, parents=True, exist_ok=True)
            readline.write_history_file(file)
            file.chmod(0o600)
        except OSError as error:
            console.warn(f"the history of lines cannot be saved in {file}: {error.strerror}")
