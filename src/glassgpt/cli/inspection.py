"""Look inside."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from glassgpt import console
from glassgpt.cli.shared import Checkpoint, Device, Flag, Integer, LogitsProcessorArguments, PresetOption, Run
from glassgpt.errors import UsageError


def inspect(
    run: Run,
    *,
    prompt: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    text: Flag = False,
    save: Path | None = None,
    compare: Path | None = None,
    port: Integer = 0,
    browser: bool = True,
    head: str | None = None,
    ablate: Annotated[tuple[str, ...], Parameter(negative="", show_default=False)] = (),
    patch: Annotated[tuple[str, ...], Parameter(negative="", show_default=False)] = (),
    settings: PresetOption = None,
    options: LogitsProcessorArguments | None = None,
    checkpoint: Checkpoint = "best",
    device: Device = "auto",
) -> None:
    """Follow a text through a run's model, from its bytes to the next token: in the browser, or printed.

    Parameters
    ----------
    prompt:
        Text to look at; without it, the token that begins a document. - reads standard input.
    text:
        Print the essentials: merges, logit lens, kinds of heads, one head's attention, the next token's candidates.
    save:
        Write one HTML file that shows it without a network, instead of serving a page.
    compare:
        Folder of another run, to put beside this one on the page.
    port:
        Of the page, on this machine alone; 0 takes a free one (extra: serve).
    browser:
        Open the page in the browser.
    head:
        With --text: LAYER.HEAD whose attention is drawn; by default the one with the clearest pattern.
    ablate:
        With --text: switch a part off and show what changes: head:LAYER.HEAD, attention:LAYER, mlp:LAYER, block:LAYER or
        position:NUMBER; scaled instead with =NUMBER; may be repeated.
    patch:
        With --text: put in place of an activation that of another text, NAME=TEXT everywhere or NAME@POSITION=TEXT
        (several with commas), as blocks.0.output@5=the old queen; may be repeated.
    """
    from glassgpt import api
    from glassgpt.cli.generation_flags import options_from_flags
    from glassgpt.inspection.checkpoint_traces import History
    from glassgpt.inspection.server import serve_page
    from glassgpt.inspection.service import InspectionService, LoadedRun
    from glassgpt.inspection.show import show_trace
    from glassgpt.inspection.static_page import save_page
    from glassgpt.inspection.trace import trace
    from glassgpt.training.run_folder import RunFolder

    if (ablate or head or patch) and not text:
        raise UsageError("--ablate, --patch and --head are of --text; on the page, one clicks")
    if compare and (text or save):
        raise UsageError("--compare is of the page; leave --text and --save out")
    if text and save:
        raise UsageError("--text and --save exclude each other")
    if not 0 <= port < 1 << 16:
        raise UsageError(f"--port is {port}; allowed is 1 to 65535, or 0 for a free one")
    if prompt == "-":
        prompt = sys.stdin.read()
    asked = options_from_flags({}, settings, options or {})
    loaded = api.load(run, checkpoint=checkpoint, device=device)
    if text:
        show_trace(trace(loaded.model, loaded.tokenizer, prompt, asked), ablate=ablate, patch=patch, head=head)
    elif save:
        told = History(RunFolder(run), loaded.tokenizer, prompt, asked)
        save_page(trace(loaded.model, loaded.tokenizer, prompt, asked), save, told)
        console.info(f"wrote {save}; open it in any browser")
    else:
        runs = [(run, loaded)] + ([(compare, api.load(compare, device=device))] if compare else [])
        subjects = [LoadedRun(str(path), each.model, each.tokenizer, RunFolder(path)) for path, each in runs]
        serve_page(InspectionService(subjects, prompt, asked), port=port, browser=browser)
