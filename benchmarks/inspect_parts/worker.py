"""Run one round of one system in a fresh process, and print the measurements as JSON."""

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
EMBEDDINGS = "embeddings of all tokens, nearest tokens"
BLOCK = "all heads of a block, side by side"
HEAD = "one further head"
LENS = "logit lens, all depths"
IN_BROWSER = "first picture, in the browser"
HEAD_IN_BROWSER = "one further head, in the browser"
PICTURE_DRAWN = """async () => {
    while (!document.querySelector("#model[data-ready] #picture")) await new Promise(requestAnimationFrame);
}"""
"""JavaScript that waits until the picture of the model is drawn."""
NEXT_HEAD = """async () => {
    const isReady = () => document.querySelector("#head").dataset.ready;
    document.querySelector("#head-more").click();
    while (isReady()) await new Promise(requestAnimationFrame); // until the click takes effect
    while (!isReady()) await new Promise(requestAnimationFrame);
}"""
"""JavaScript that selects the next head and waits until it is drawn."""

Measurement = dict[str, Any]


def text_of(count: int, seed: int = 1) -> str:
    """Return a text of this many GPT-2 tokens."""
    tokenizer = load_tokenizer("gpt2")
    tokens = tokenizer.encode(grammar_text(count, seed=seed))[:count]
    text = tokenizer.decode(tokens)
    if tokenizer.encode(text) != tokens:
        raise SystemExit("the decoded text does not encode to the same tokens")
    return text


def measure(what: str, system: str, work: Callable[[], int], *, is_wall: bool = False) -> Measurement:
    """Time a function that returns the bytes it produced: CPU time on one thread, wall time otherwise."""
    is_single = torch.get_num_threads() == 1 and not is_wall
    clock = time.process_time if is_single else time.perf_counter
    start = clock()
    size = work()
    timed = "processor time" if is_single else "wall time"
    labels = {"what": what, "system": system, "threads": torch.get_num_threads(), "clock": timed}
    return {**labels, "seconds": clock() - start, "bytes": size}


def measure_ours(count: int) -> list[Measurement]:
    """Measure the requests of the page, answered as the server answers them."""
    model, _ = matching_models()
    texts = [text_of(count, seed) for seed in (1, 2)]
    requests = PageRequests(
        InspectionService([LoadedRun("", model.eval(), load_tokenizer("gpt2"))], texts[0], GenerationOptions())
    )
    system = "glassgpt"
    return [
        measure(FIRST, system, lambda: requests.first_picture(None)),
        measure(AGAIN, system, lambda: requests.first_picture(texts[1])),
        measure(EMBEDDINGS, system, requests.embeddings),
        measure(BLOCK, system, lambda: requests.block(7)),
        measure(HEAD, system, lambda: requests.head(7, 3)),
        measure(LENS, system, requests.lens),
    ]


class PageRequests:
    """The page's requests, panel by panel; each method returns the bytes of the responses.

    A test compares them with what a browser requests.

    Args:
        service: answers the requests.
    """

    def __init__(self, service: InspectionService) -> None:
        self._service, self._trace = service, dict[str, Any]()

    def first_picture(self, text: str | None) -> int:
        """Request the forward pass and the picture of the model, with which the page opens."""
        self._trace = self._service.trace({} if text is None else {"text": text})
        last = len(self._trace["overview"]["tokens"]) - 1
        details = self._detail("sizes") + self._detail("components", position=last) + self._detail("stream")
        return _n_bytes(self._trace) + details

    def embeddings(self) -> int:
        """Request the panel of embeddings: the largest one, with the vectors of all tokens."""
        overview = self._trace["overview"]
        last, names = len(overview["tokens"]) - 1, {each["name"] for each in overview["tensors"]}
        pictures = ("embedding.token", "embedding.position", "rotary.cos", "embedding")
        return (
            sum(self._array(name) for name in pictures if name in names)
            + self._detail("nearest", position=last)
            + sum(
                self._array(name, at)
                for name in ("embedding.token", "embedding", "blocks.0.output")
                for at in (last, 0)
            )
        )

    def block(self, layer: int) -> int:
        """Request another block: its head scores and attention weights."""
        at = f"blocks.{layer}.attention"
        heads = range(self._trace["overview"]["model"]["n_head"])
        return (
            self._detail("heads")
            + self._array(f"{at}.mask")
            + sum(self._array(f"{at}.weights", head) for head in heads)
        )

    def head(self, layer: int, head: int) -> int:
        """Request a head of the open block in detail; its weights are loaded already."""
        model = self._trace["overview"]["model"]
        shared = head // (model["n_head"] // model["kv_heads"])
        parts = {"scores": head, "mixed": head, "q": head, "k": shared, "v": shared}
        return sum(self._array(f"blocks.{layer}.attention.{part}", number) for part, number in parts.items())

    def lens(self) -> int:
        """Request the logit lens at all depths, for the positions displayed at once."""
        overview = self._trace["overview"]
        first = max(0, len(overview["tokens"]) - LENS_TOKENS)
        return sum(self._detail("lens", depth=depth, first=first) for depth in range(overview["model"]["n_layer"] + 1))

    def _detail(self, what: str, **arguments: int) -> int:
        return _n_bytes(self._service.detail({"id": self._trace["id"], "what": what, "arguments": arguments}))

    def _array(self, name: str, *index: int) -> int:
        return len(self._service.tensor_bytes(self._trace["id"], name, *index)[0])


def _n_bytes(answer: dict[str, Any]) -> int:
    """Return the size of a response as the server serializes it."""
    return len(json.dumps(answer, ensure_ascii=False, separators=(",", ":")).encode())


def measure_page(count: int, threads: int) -> list[Measurement]:
    """Measure in Chromium: from opening the address to the picture of the model, with the page's files; then from head to head."""
    from playwright.sync_api import sync_playwright

    text = text_of(count)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        run = save_as_run(matching_models()[0], load_tokenizer("gpt2"), Path(folder) / "gpt2").path
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page()
        sizes: list[int] = []
        page.on("requestfinished", lambda request: sizes.append(request.sizes()["responseBodySize"]))
        with _served(run, text, threads) as address:

            def open_page() -> int:
                page.goto(address)
                return page.evaluate(PICTURE_DRAWN) or 0

            first = measure(IN_BROWSER, "glassgpt", open_page, is_wall=True)
            page.wait_for_load_state("networkidle")
            first["bytes"] = sum(sizes)
            page.goto("about:blank")
            page.goto(f'{address}#layer=7&open=["head"]')
            _scroll_to(page, "head")
            sizes.clear()
            head = measure(HEAD_IN_BROWSER, "glassgpt", lambda: page.evaluate(NEXT_HEAD) or 0, is_wall=True)
            page.wait_for_load_state("networkidle")
        browser.close()
    return [first, {**head, "bytes": sum(sizes)}]


def _scroll_to(page: Any, panel: str) -> None:
    """Scroll until a panel is drawn and visible, and the panels around it, which move it, are drawn too."""
    section = page.locator(f"#{panel}")
    while section.get_attribute("data-ready") is None:
        section.scroll_into_view_if_needed()
        page.wait_for_timeout(20)
    page.wait_for_load_state("networkidle")
    section.scroll_into_view_if_needed()


@contextmanager
def _served(run: Path, text: str, threads: int) -> Generator[str]:
    """Serve the page from the command line as a user does, and yield its address."""
    command = [sys.executable, "-m", "glassgpt", "inspect", str(run), "--prompt", text, "--no-browser"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        output = ""
        while not (found := re.search(r"http://127\S+/", output)):
            line = process.stderr.readline() if process.stderr else ""
            if not line:
                raise SystemExit(f"the page was not served: {output}")
            output += line
        yield found[0]
    finally:
        process.terminate()
        process.wait()


def measure_bertviz(count: int) -> list[Measurement]:
    """Measure BertViz's views of all heads, including the forward pass."""
    from bertviz import head_view, model_view  # pyright: ignore

    _, theirs = matching_models()
    theirs.eval().set_attn_implementation("eager")
    tokenizer = load_tokenizer("gpt2")
    tokens = tokenizer.encode(text_of(count))
    pieces = [tokenizer.decode([token]) for token in tokens]

    @torch.no_grad()
    def view(render: Callable[..., Any]) -> int:
        attention = theirs(torch.tensor([tokens]), output_attentions=True).attentions
        return len(render(attention, pieces, html_action="return").data.encode())

    return [
        measure("first picture: head view", "BertViz", lambda: view(head_view)),
        measure("first picture: model view", "BertViz", lambda: view(model_view)),
    ]


def main() -> None:
    """Measure the system named on the command line."""
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
