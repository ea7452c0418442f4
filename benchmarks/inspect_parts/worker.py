"""One round of one system, in a fresh process: prints JSON, a figure for each thing that was asked for."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from cpu_parts.models import same_models
from glassgpt.api import save_as_run
from glassgpt.data import load_tokenizer
from glassgpt.data.grammar import grammar_text
from glassgpt.inspection.trace import trace
from glassgpt.inspection.wire import array, overview

FIRST = "first picture"
AGAIN = "first picture of another text"
HEAD = "one further head"
IN_BROWSER = "first picture, in the browser"
DRAWN = """() => [...document.querySelectorAll("canvas")].some(canvas => canvas.width && canvas.height && canvas
    .getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.some(value => value))"""
"""Whether a page shows a matrix."""

Figure = dict[str, Any]


def text_of(count: int, seed: int = 1) -> str:
    """A text of so many tokens of GPT-2's."""
    tokenizer = load_tokenizer("gpt2")
    tokens = tokenizer.encode(grammar_text(count, seed=seed))[:count]
    text = tokenizer.decode(tokens)
    if tokenizer.encode(text) != tokens:
        raise SystemExit("the text does not give the same tokens when it is read again")
    return text


def figure(what: str, system: str, work: Callable[[], int], *, is_wall: bool = False) -> Figure:
    """Time of a work that returns the bytes that it made: the wall's, or on one thread the process's own."""
    is_own = torch.get_num_threads() == 1 and not is_wall
    clock = time.process_time if is_own else time.perf_counter
    start = clock()
    size = work()
    timed = "processor time" if is_own else "wall time"
    told = {"what": what, "system": system, "threads": torch.get_num_threads(), "clock": timed}
    return {**told, "seconds": clock() - start, "bytes": size}


def measure_ours(count: int) -> list[Figure]:
    """What the page is sent, made as the server makes it: the overview and one head; then a further one."""
    model, _ = same_models()
    model.eval()
    tokenizer = load_tokenizer("gpt2")
    texts = [text_of(count, seed) for seed in (1, 2)]
    kept: list[Any] = []

    def first(text: str) -> int:
        kept.append(trace(model, tokenizer, text))
        told = json.dumps(overview(kept[-1])).encode()
        return len(told) + len(array(kept[-1], "blocks.0.attention.weights", 0)[0])

    def head(name: str, *index: int) -> int:
        return len(array(kept[-1], name, *index)[0])

    return [
        figure(FIRST, "glassgpt", lambda: first(texts[0])),
        figure(AGAIN, "glassgpt", lambda: first(texts[1])),
        figure(HEAD, "glassgpt", lambda: head("blocks.7.attention.weights", 3)),
        figure("logits of a token", "glassgpt", lambda: head("logits", 7)),
    ]


def measure_page(count: int, threads: int) -> list[Figure]:
    """From the address to a drawn matrix, in Chromium; the page's own files and their requests are in it."""
    from playwright.sync_api import sync_playwright

    text = text_of(count)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        run = save_as_run(same_models()[0], load_tokenizer("gpt2"), Path(folder) / "gpt2").path
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page()
        sizes: list[int] = []
        page.on("requestfinished", lambda request: sizes.append(request.sizes()["responseBodySize"]))
        with _served(run, text, threads) as address:

            def opened() -> int:
                page.goto(address)
                page.wait_for_function(DRAWN)
                return 0

            found = figure(IN_BROWSER, "glassgpt", opened, is_wall=True)
            page.wait_for_load_state("networkidle")
        browser.close()
    return [{**found, "bytes": sum(sizes)}]


@contextmanager
def _served(run: Path, text: str, threads: int) -> Iterator[str]:
    """The page's address, served by the command line as for a user."""
    command = [sys.executable, "-m", "glassgpt", "inspect", str(run), "--prompt", text, "--no-browser"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        said = ""
        while not (found := re.search(r"http://127\S+/", said)):
            line = process.stderr.readline() if process.stderr else ""
            if not line:
                raise SystemExit(f"the page was not served: {said}")
            said += line
        yield found[0]
    finally:
        process.terminate()
        process.wait()


def measure_bertviz(count: int) -> list[Figure]:
    """The views of all heads as BertViz's own function returns them, the model's run included."""
    from bertviz import head_view, model_view  # pyright: ignore

    _, theirs = same_models()
    theirs.eval().set_attn_implementation("eager")
    tokenizer = load_tokenizer("gpt2")
    tokens = tokenizer.encode(text_of(count))
    pieces = [tokenizer.decode([token]) for token in tokens]

    @torch.no_grad()
    def view(made_by: Callable[..., Any]) -> int:
        attention = theirs(torch.tensor([tokens]), output_attentions=True).attentions
        return len(made_by(attention, pieces, html_action="return").data.encode())

    return [
        figure("first picture: head view", "BertViz", lambda: view(head_view)),
        figure("first picture: model view", "BertViz", lambda: view(model_view)),
    ]


def main() -> None:
    """Measure what the command line names."""
    system, count, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(threads)
    if system == "glassgpt":
        found = measure_ours(count)
    elif system == "BertViz":
        found = measure_bertviz(count)
    else:
        found = measure_page(count, threads)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
