"""`glassgpt serve` and `glassgpt replay`."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, TypedDict

from cyclopts import Group, Parameter

from glassgpt import console
from glassgpt.cli.shared import Checkpoint, Device, Flag, Integer, Precision, require_template_file, run_name
from glassgpt.errors import UsageError, require_extra
from glassgpt.schema import Setting, settings_of
from glassgpt.serving.limits import SIZES, TIMES, ServerLimits

KEY_VARIABLE = "GLASSGPT_API_KEY"
MIN_KEY_CHARACTERS = 16
GROUPS = {name: Group(name, sort_key=at) for at, name in enumerate((SIZES, TIMES))}


def _flag(each: Setting) -> Any:
    shown = each.default if isinstance(each.default, int) else f"{each.default:g}"
    described = f"{each.help} [default: {shown}]"
    parameter = Parameter(help=described, group=GROUPS[each.details.group], show_default=False, negative="")
    return Annotated[each.type, parameter]


# Not total: what was not given is absent, and keeps its default.
LimitFlags = TypedDict("LimitFlags", {each.name: _flag(each) for each in settings_of(ServerLimits)}, total=False)  # type: ignore[misc]  # pyright: ignore
"""The flags of `ServerLimits`, as a type that cyclopts reads."""


def serve(
    run: str,
    *runs: str,
    host: str = "127.0.0.1",
    port: Integer = 8000,
    api_key: Path | None = None,
    allow_host: Annotated[tuple[str, ...], Parameter(negative="", show_default=False)] = (),
    slots: Integer | None = None,
    chat_template: Path | None = None,
    index: Annotated[tuple[Path, ...], Parameter(negative="", show_default=False)] = (),
    follow: Flag = False,
    record: Path | None = None,
    media_folder: Path | None = None,
    limits: Annotated[LimitFlags, Parameter(name="*")] | None = None,
    checkpoint: Checkpoint = "best",
    device: Device = "auto",
    precision: Precision = "auto",
) -> None:
    """Serve runs over HTTP with OpenAI's API (extra: serve).

    Parameters
    ----------
    run:
        Folder of the run to serve, or NAME=FOLDER; its name in requests is the folder's by default. FOLDER@step-000100
        selects a checkpoint.
    runs:
        Further runs, or other checkpoints of one, given in the same way. An adapter of a run that is served is called
        RUN:NAME; on a CPU and without --follow it shares the weights of RUN.
    host:
        Address to listen on. One that other machines can reach needs --api-key.
    port:
        Port to listen on; 0 means a free one.
    api_key:
        File with API keys, one per line; requests must send one of them, except to /health. GLASSGPT_API_KEY does the same.
    allow_host:
        Further host name that requests may name, such as that of a proxy; may be repeated.
    slots:
        Texts generated at once; 8 on a CPU and 64 on a GPU by default.
    chat_template:
        File of a chat template, .toml or .jinja; by default that of the run, or a plain transcript.
    index:
        Folder of an index of documents, created by glassgpt index; the chat model RUN+INDEX answers with quotations from
        it. May be repeated.
    follow:
        Serve the newest checkpoint of a run that is still training; running requests finish on their own.
    record:
        Append answers to this file, for glassgpt replay.
    media_folder:
        Folder of pictures and sounds that requests may name with file: URLs. Without it, requests bring their own.
    precision:
        Precision of the weights; see glassgpt generate --help.
    """
    from glassgpt.data.files import check_output_path
    from glassgpt.retrieval.index import Index
    from glassgpt.serving.media_folder import MediaFolder
    from glassgpt.training.checksums import require_checkpoint_and_hash
    from glassgpt.training.garbage import manual_garbage_collection
    from glassgpt.training.run_folder import RunFolder

    named = [_named_run(each) for each in (run, *runs)]
    names = [name for name, _, _ in named]
    pinned = next((own for _, _, own in named if own is not None), None)
    if follow and pinned is not None:
        raise UsageError(f"--follow serves the newest checkpoint, so that @{pinned} cannot be combined with it")
    if follow and index:
        raise UsageError("--follow serves a model that changes; it cannot be combined with --index")
    if len(set(names)) < len(names):
        raise UsageError(f"two models are called {_repeated(names)}; give them names, as in NAME=FOLDER")
    if slots is not None and slots < 1:
        raise UsageError(f"--slots is {slots}; it must be at least 1")
    if not 0 <= port < 1 << 16:
        raise UsageError(f"--port must be from 1 to 65535, or 0 for a free one, not {port}")
    chosen = ServerLimits(**(limits or {}))
    chosen.check()
    keys = read_api_keys(api_key)
    for _, folder, _ in named:
        RunFolder(folder).require()
    require_template_file(chat_template)
    for folder in index:
        Index.open(folder)
    indexes = [folder.resolve().name for folder in index]
    if len(set(indexes)) < len(indexes):
        raise UsageError(f"two indexes are called {_repeated(indexes)}; rename the folder of one of them")
    if media_folder is not None:
        MediaFolder.open(media_folder)
    if record is not None and not record.exists():
        check_output_path("--record", record)
    for package in ("starlette", "uvicorn"):
        require_extra(package, "serve", "serving over HTTP")
    for _, folder, own in named:
        require_checkpoint_and_hash(RunFolder(folder), own or checkpoint)

    with manual_garbage_collection():  # nearly all of the objects that importing creates will stay
        from glassgpt import api  # loads torch, which takes seconds
        from glassgpt.serving.run import ServerSettings
        from glassgpt.serving.run import serve as run_server

        used_slots = slots or api.default_slots(device)
        settings = ServerSettings(host, port, used_slots, chosen, keys, allow_host, record, media_folder)
        settings.check()
        given = [api.NamedRun(name, folder, own or checkpoint) for name, folder, own in named]
        sources = api.model_sources(
            given, device=device, precision=precision, slots=used_slots, template=chat_template, follow=follow,
            indexes=index,
        )  # fmt: skip
    for source in sources:
        for name in source.adapters:
            console.info(
                f"{name} is an adapter of {source.name}, whose weights it shares; request it as {source.name}:{name}"
            )
    run_server(sources, settings, console.info)


def _named_run(given: str) -> tuple[str, Path, str | None]:
    """Return the name, folder and checkpoint in NAME=FOLDER@CHECKPOINT, of which only the folder must be given."""
    name, separator, rest = given.partition("=")
    if not separator or not name or "/" in name:
        name, rest = "", given
    pinned = None if Path(rest).exists() else re.fullmatch(r"(.+)@(best|latest|step-\d+)", rest)
    folder, checkpoint = (Path(pinned[1]), pinned[2]) if pinned else (Path(rest), None)
    if (found := run_name(str(folder))) != str(folder):  # the model of the package, under the name that was given
        return name or rest, Path(found), checkpoint
    return name or folder.resolve().name + (f"@{checkpoint}" if checkpoint else ""), folder, checkpoint


def _repeated(names: list[str]) -> str:
    return next(name for name in names if names.count(name) > 1)


def read_api_keys(file: Path | None) -> tuple[str, ...]:
    """Return the API keys in a file, or in the environment variable if no file is given.

    Raises:
        UsageError: the file cannot be read, or a key is too short.
    """
    try:
        text = os.environ.get(KEY_VARIABLE, "") if file is None else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--api-key {file} cannot be read: {error}") from error
    keys = tuple(line.strip() for line in text.splitlines() if line.strip())
    if file is not None and not keys:
        raise UsageError(f"--api-key {file} contains no key; write one per line")
    if any(len(key) < MIN_KEY_CHARACTERS for key in keys):
        raise UsageError(f"an API key is too short; it must have at least {MIN_KEY_CHARACTERS} characters")
    return keys


def replay(file: Path, run: Path | None = None, *, device: Device = "auto", precision: Precision = "auto") -> None:
    """Generate the answers that glassgpt serve --record wrote again, and compare every bit.

    Parameters
    ----------
    file:
        Written by glassgpt serve --record.
    run:
        Folder of the run, if it is not where it was.
    precision:
        Precision of the weights, as given to glassgpt serve.
    """
    from glassgpt.training.run_folder import RunFolder

    if not file.is_file():
        if file.is_dir():
            raise UsageError(f"{file} is a folder; give a file that glassgpt serve --record wrote")
        raise UsageError(f"{file} does not exist; give a file that glassgpt serve --record wrote")
    if run is not None:
        RunFolder(run).require()

    from glassgpt import api  # loads torch, which takes seconds
    from glassgpt.errors import GenerationError

    count, different = 0, 0
    changes: dict[str, None] = {}
    for each in api.replay(file, run, device=device, precision=precision):
        count += 1
        different += bool(each.differences)
        changes |= dict.fromkeys(each.changes)
        for difference in each.differences:
            console.result(f"line {each.line} ({each.request}): {difference}")
    for change in changes:
        console.result(f"changed since: {change}")
    if different:
        raise GenerationError(f"{different} of {count} answers differ")
    console.result(f"{count} of {count} answers are the same to the bit")
