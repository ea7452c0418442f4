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
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from cpu_parts.models import matching_models
from glassgpt.api import save_as_run
from glassgpt.data import load_tokenizer
from glassgpt.data.grammar import grammar_text
from glassgpt.generation.options import GenerationOptions
from glassgpt.inspection.details import LENS_TOKENS
from glassgpt.inspection.service import InspectionService, LoadedRun

FIRST = "first picture"
AGAIN = "first picture of another text"
BLOCK = "all heads of a block, side by side"
HEAD = "one further head"
LENS = "logit lens, all depths"
IN_BROWSER = "first picture, in the browser"
HEAD_IN_BROWSER = "one further head, in the browser"
DRAWN = """() => [...document.querySelectorAll("canvas")].some(canvas => canvas.width && canvas.height && canvas
    .getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.some(value => value))"""
"""Whether a page shows a matrix."""
NEXT_HEAD = """async () => {
    const isReady = () => document.querySelector("#head").dataset.ready;
    document.querySelector("#head-more").click();
    while (isReady()) await new Promise(requestAnimationFrame); // until the press has been taken notice of
    while (!isReady()) await new Promise(requestAnimationFrame);
}"""
"""Presses the button and waits until the next head is drawn."""

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
    """What the page is sent, asked in its own words and answered as the server answers."""
    model, _ = matching_models()
    texts = [text_of(count, seed) for seed in (1, 2)]
    questions = Questions(
        InspectionService([LoadedRun("", model.eval(), load_tokenizer("gpt2"))], texts[0], GenerationOptions())
    )
    system = "glassgpt"
    return [
        figure(FIRST, system, lambda: questions.first_picture(None)),
        figure(AGAIN, system, lambda: questions.first_picture(texts[1])),
        figure(BLOCK, system, lambda: questions.block(7)),
        figure(HEAD, system, lambda: questions.head(7, 3)),
        figure(LENS, system, questions.lens),
    ]


class Questions:
    """A page's questions to a desk, panel by panel; each gives the bytes of its answers.

    A test holds them against what a browser asks.

    Args:
        desk: that answers.
    """

    def __init__(self, desk: InspectionService) -> None:
        self._desk, self._trace = desk, dict[str, Any]()

    def first_picture(self, text: str | None) -> int:
        """The run itself, bytes and tokens, and the embeddings: what comes before the first matrix is drawn."""
        self._trace = self._desk.ask({} if text is None else {"text": text})
        told = self._trace["overview"]
        last, names = len(told["tokens"]) - 1, {each["name"] for each in told["tensors"]}
        pictures = ("embedding.token", "embedding.position", "rotary.cos", "embedding")
        return (
            _n_bytes(self._trace)
            + self._detail("losses")
            + sum(self._array(name) for name in pictures if name in names)
            + self._detail("nearest", position=last)
            + sum(
                self._array(name, at)
                for name in ("embedding.token", "embedding", "blocks.0.output")
                for at in (last, 0)
            )
        )

    def block(self, layer: int) -> int:
        """Another block opened: what its heads are, and where they look."""
        at = f"blocks.{layer}.attention"
        heads = range(self._trace["overview"]["model"]["n_head"])
        return (
            self._detail("heads")
            + self._array(f"{at}.mask")
            + sum(self._array(f"{at}.weights", head) for head in heads)
        )

    def head(self, layer: int, head: int) -> int:
        """A head of the open block made large; its weights are there, beside the others'."""
        model = self._trace["overview"]["model"]
        shared = head // (model["n_head"] // model["kv_heads"])
        parts = {"scores": head, "mixed": head, "q": head, "k": shared, "v": shared}
        return sum(self._array(f"blocks.{layer}.attention.{part}", number) for part, number in parts.items())

    def lens(self) -> int:
        """What the model would say after each block, at the tokens that are shown side by side."""
        told = self._trace["overview"]
        first = max(0, len(told["tokens"]) - LENS_TOKENS)
        return sum(self._detail("lens", depth=depth, first=first) for depth in range(told["model"]["n_layer"] + 1))

    def _detail(self, what: str, **arguments: int) -> int:
        return _n_bytes(self._desk.detail({"id": self._trace["id"], "what": what, "arguments": arguments}))

    def _array(self, name: str, *index: int) -> int:
        return len(self._desk.array(self._trace["id"], name, *index)[0])


def _n_bytes(answer: dict[str, Any]) -> int:
    """As the server writes JSON."""
    return len(json.dumps(answer, ensure_ascii=False, separators=(",", ":")).encode())


def measure_page(count: int, threads: int) -> list[Figure]:
    """In Chromium: from the address to a drawn matrix, the page's own files in it; then from one head to the next."""
    from playwright.sync_api import sync_playwright

    text = text_of(count)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        run = save_as_run(matching_models()[0], load_tokenizer("gpt2"), Path(folder) / "gpt2").path
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page()
        sizes: list[int] = []
        page.on("requestfinished", lambda request: sizes.append(request.sizes()["responseBodySize"]))
        with _served(run, text, threads) as address:

            def opened() -> int:
                page.goto(address)
                page.wait_for_function(DRAWN)
                return 0

            first = figure(IN_BROWSER, "glassgpt", opened, is_wall=True)
            page.wait_for_load_state("networkidle")
            first["bytes"] = sum(sizes)
            page.goto(f"{address}#layer=7")
            _scroll_to(page, "head")
            sizes.clear()
            head = figure(HEAD_IN_BROWSER, "glassgpt", lambda: page.evaluate(NEXT_HEAD) or 0, is_wall=True)
            page.wait_for_load_state("networkidle")
        browser.close()
    return [first, {**head, "bytes": sum(sizes)}]


def _scroll_to(page: Any, panel: str) -> None:
    """Until a panel stands drawn in sight, and those around it, which push it about, are drawn too."""
    section = page.locator(f"#{panel}")
    while section.get_attribute("data-ready") is None:
        section.scroll_into_view_if_needed()
        page.wait_for_timeout(20)
    page.wait_for_load_state("networkidle")
    section.scroll_into_view_if_needed()


@contextmanager
def _served(run: Path, text: str, threads: int) -> Generator[str]:
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

    _, theirs = matching_models()
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
