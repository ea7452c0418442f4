"""The command `inspect`."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlencode, urlsplit

from cyclopts import Parameter

from glassgpt import console
from glassgpt.cli.generation_flags import LogitsProcessorArguments, options_from_flags
from glassgpt.cli.media_prompts import check_media
from glassgpt.cli.shared import (
    RUN_HELP,
    Checkpoint,
    Device,
    Flag,
    Integer,
    PresetOption,
    parse_run,
    shown_run,
)
from glassgpt.errors import GlassGPTError, UsageError, require_extra
from glassgpt.lazy import import_for_good

if TYPE_CHECKING:
    from glassgpt.api import LoadedModel
    from glassgpt.inspection.service import InspectionService
    from glassgpt.inspection.telling import TextCandidate
    from glassgpt.inspection.trace import Trace
    from glassgpt.model.config import ModelConfig
    from glassgpt.model.transformer import LanguageModel


def inspect(
    run: Annotated[Path | None, Parameter(help=RUN_HELP, converter=parse_run)] = None,
    *,
    prompt: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    image: Annotated[tuple[Path, ...], Parameter(negative="", show_default=False)] = (),
    audio: Annotated[tuple[Path, ...], Parameter(negative="", show_default=False)] = (),
    text: Flag = False,
    save: Path | None = None,
    compare: Path | None = None,
    port: Integer = 0,
    browser: bool = True,
    head: str | None = None,
    tour: Flag = False,
    ablate: Annotated[tuple[str, ...], Parameter(negative="", show_default=False)] = (),
    patch: Annotated[tuple[str, ...], Parameter(negative="", show_default=False)] = (),
    settings: PresetOption = None,
    options: LogitsProcessorArguments | None = None,
    checkpoint: Checkpoint = "best",
    device: Device = "auto",
) -> None:
    """Inspect what a run's model computes on a text, from bytes to the next token, in the browser or as printed text.

    Without a run it opens the small model that comes with glassgpt.

    Parameters
    ----------
    prompt:
        Text to inspect; defaults to the token that begins a document. - reads standard input.
    image:
        Picture before the text; the page shows attention and predictions on it. May be repeated.
    audio:
        Sound before the text, shown as its spectrogram. May be repeated.
    text:
        Print a summary: merges, logit lens, head types, the attention of one head, and the next-token candidates.
    save:
        Write the page to one HTML file that works offline, instead of serving it.
    compare:
        Folder of another run to compare with on the page.
    port:
        Local port of the page; 0 means a free one (extra: serve).
    browser:
        Open the page in the browser.
    head:
        LAYER.HEAD whose attention is shown; defaults to the one with the clearest pattern.
    tour:
        Open the page at the first stop of the guided tour; without --prompt, on a text that shows something on this model.
    ablate:
        With --text: ablate a component and show what changes: head:LAYER.HEAD, attention:LAYER, mlp:LAYER, block:LAYER or
        position:POSITION; append =SCALE to scale it instead. May be repeated.
    patch:
        With --text: replace an activation by that of another text: NAME=TEXT, or NAME@POSITION=TEXT for some positions
        (comma-separated), such as blocks.0.output@5=the old queen. May be repeated.
    """
    from glassgpt.data.files import check_output_path
    from glassgpt.learn import bundled
    from glassgpt.locale import user_language
    from glassgpt.training.checksums import require_checkpoint_and_hash
    from glassgpt.training.run_folder import RunFolder

    _check_combination(text, save, compare, port, ablate=ablate, patch=patch, head=head, tour=tour)
    run = run or bundled(user_language())
    RunFolder(run).require()
    if image or audio:
        check_media(run, image, audio)
    if compare:
        RunFolder(compare).require()
    if save:
        check_output_path("--save", save, force=True)
    generation_options = options_from_flags({}, settings, options or {})
    if not text and not save:
        for package in ("starlette", "uvicorn"):
            require_extra(package, "serve", "the page in the browser")
    require_checkpoint_and_hash(RunFolder(run), checkpoint)
    import_for_good("glassgpt.api.loading")  # loads torch, which takes seconds

    from glassgpt import api
    from glassgpt.api.multimodal import media_before
    from glassgpt.data.remarks import spelled_special_tokens
    from glassgpt.inspection.checkpoint_traces import CheckpointTraces
    from glassgpt.inspection.hook_points import require_attention
    from glassgpt.inspection.service import InspectionService, LoadedRun
    from glassgpt.inspection.static_page import save_page
    from glassgpt.inspection.trace import trace

    if prompt == "-":
        prompt = sys.stdin.read()
    loaded = api.load(run, checkpoint=checkpoint, device=device)
    require_attention(loaded.model)
    if found := spelled_special_tokens([prompt or ""], loaded.tokenizer.special_tokens):
        console.info(f"note: {' and '.join(found)} in the text to inspect is ordinary text")
    media = media_before(loaded.model, image, audio)
    candidates = list["TextCandidate"]()
    if prompt is None and media is None and (tour or run in (bundled("en"), bundled("ko"))):
        candidates = _telling_texts(run, loaded)
        prompt = candidates[0].text if candidates else None
    if text:
        traced = trace(loaded.model, loaded.tokenizer, prompt, generation_options, media=media)
        print_trace(traced, ablate=ablate, patch=patch, head=head)
    elif save:
        load = None if media is None else functools.partial(_model_at, run)
        checkpoints = CheckpointTraces(RunFolder(run), loaded.tokenizer, prompt, generation_options, media, load)
        save_page(trace(loaded.model, loaded.tokenizer, prompt, generation_options, media=media), save, checkpoints)
        console.info(f"wrote {save}; open it in any browser")
    else:
        runs = [(run, loaded)] + ([(compare, api.load(compare, device=device))] if compare else [])
        loaded_runs = [
            LoadedRun(shown_run(path), each.model, each.tokenizer, RunFolder(path), functools.partial(_model_at, path))
            for path, each in runs
        ]
        service = InspectionService(loaded_runs, prompt, generation_options, candidates, media)
        serve_page(service, port=port, browser=browser, fragment=_fragment(loaded.model.config, head, tour))


def _model_at(run: Path, step: int) -> LanguageModel:
    """Return the model of a run at a training step, with its encoders if it has any."""
    from glassgpt import api
    from glassgpt.training.checkpoint import checkpoint_name

    return api.load(run, checkpoint=checkpoint_name(step), device="cpu").model


def _telling_texts(run: Path, loaded: LoadedModel) -> list[TextCandidate]:
    """Return texts to begin with, best first, also from the run's dataset if there is one that can be read."""
    from glassgpt import api
    from glassgpt.inspection.telling import choose_text

    try:
        return choose_text(loaded.model, loaded.tokenizer, api.held_out_dataset(run, loaded.tokenizer))
    except GlassGPTError as error:
        console.warn(f"no text is chosen from the run's dataset: {error}")
        return choose_text(loaded.model, loaded.tokenizer)


def _check_combination(
    text: bool,
    save: Path | None,
    compare: Path | None,
    port: int,
    *,
    ablate: Sequence[str],
    patch: Sequence[str],
    head: str | None,
    tour: bool,
) -> None:
    if (ablate or patch) and not text:
        raise UsageError("--ablate and --patch require --text; on the page, use its controls")
    if (head or tour) and save:
        raise UsageError("--head and --tour cannot be combined with --save; select in the saved page")
    if tour and text:
        raise UsageError("--tour works on the page only; omit --text")
    if compare and (text or save):
        raise UsageError("--compare works on the page only; omit --text and --save")
    if text and save:
        raise UsageError("--text and --save cannot be combined")
    if not 0 <= port < 1 << 16:
        raise UsageError(f"--port must be from 1 to 65535, or 0 for a free one, not {port}")


def print_trace(
    trace: Trace, *, ablate: Sequence[str] = (), patch: Sequence[str] = (), head: str | None = None
) -> None:
    """Apply the interventions of the command line to a trace and print it.

    Args:
        trace: without interventions.
        ablate: see `parse_intervention`.
        patch: see `parse_patch`; applied after those of `ablate`.
        head: `LAYER.HEAD` whose attention is shown; defaults to the one with the clearest pattern.

    Raises:
        UsageError: an intervention or the head is invalid.
        InspectionError: an intervention does not fit the model or the text.
    """
    from glassgpt.inspection.analysis import head_scores, probe
    from glassgpt.inspection.interventions import parse_intervention, parse_patch
    from glassgpt.inspection.show import show_trace

    interventions = [*map(parse_intervention, ablate), *map(parse_patch, patch)]
    chosen = None if head is None else _parse_head(trace.model.config, head)
    changed = trace.intervene(*interventions) if interventions else trace
    can_repeat = trace.model.config.context_length > 1
    kinds = head_scores(probe(trace.model, trace.tokenizer)) if can_repeat else None
    show_trace(changed, changes=[*ablate, *patch], head=chosen, kinds=kinds)


def _fragment(config: ModelConfig, head: str | None, tour: bool) -> str:
    """Return the part of the address that opens a head, or the first stop of the tour; see page/state.js."""
    layer, number = (None, None) if head is None else _parse_head(config, head)
    chosen = {} if head is None else {"layer": layer, "head": number, "open": '["head"]'}
    return urlencode({**chosen, **({"tour": 0} if tour else {})})


def _parse_head(config: ModelConfig, given: str) -> tuple[int, int]:
    layer, _, head = given.partition(".")
    if layer.isdecimal() and head.isdecimal() and int(layer) < config.n_layer and int(head) < config.n_head:
        return int(layer), int(head)
    last = f"{config.n_layer - 1}.{config.n_head - 1}"
    raise UsageError(f"--head must be LAYER.HEAD from 0.0 to {last}, not {given!r}")


def serve_page(service: InspectionService, *, port: int = 0, browser: bool = True, fragment: str = "") -> None:
    """Serve the page until interrupted, print its address and open it in the browser.

    Args:
        service: answers the page's requests.
        port: on 127.0.0.1; 0 means a free one.
        browser: open the page in the browser.
        fragment: of the address, what is selected.

    Raises:
        InspectionError: the initial text cannot be traced, or the port is in use.
        MissingExtraError: starlette or uvicorn is not installed.
    """
    from tempfile import TemporaryDirectory

    from glassgpt.inspection import server

    service.trace({})  # the page's first request: computed before the browser opens, so that errors appear here
    with TemporaryDirectory(prefix="glassgpt-") as folder:  # readable by this user only

        def announce(address: str) -> None:
            address += f"#{fragment}" if fragment else ""
            console.info(f"page served at {address} (press Ctrl-C to stop)")
            if browser and not _open_browser(_redirect_file(Path(folder), address).as_uri()):
                number = urlsplit(address).port
                console.info(
                    f"no browser could be opened here; open the address yourself, from another machine after: "
                    f"ssh -L {number}:127.0.0.1:{number} HOST"
                )

        server.serve(service, announce, port)


def _redirect_file(folder: Path, address: str) -> Path:
    """Write a page that leads to the address, and return its path.

    A browser's command line can be read by every user of the machine, and the address contains the key; a file can be
    kept from them.
    """
    file = folder / "inspect.html"
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w", encoding="utf-8") as page:
        page.write(
            f'<!doctype html><meta charset="utf-8"><meta name="referrer" content="no-referrer">'
            f'<meta http-equiv="refresh" content="0; url={address}"><a href="{address}">glassgpt inspect</a>\n'
        )
    return file


def _open_browser(address: str) -> bool:
    """Open a graphical browser and return whether there is one; text browsers would take over the terminal."""
    import webbrowser

    try:
        found = webbrowser.get()
    except webbrowser.Error:
        return False
    return type(found) is not webbrowser.GenericBrowser and found.open(address)
