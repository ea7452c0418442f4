"""Take the pictures of the inspect page in docs/images: of the bundled models, and of a run with snapshots for the film.

    python tools/page_pictures.py --run runs/demo     # without --run, the film's picture stays as it is
    python tools/page_pictures.py --seeing runs/seeing --image a.png --audio b.wav     # and that of a picture and a sound

It needs Chromium and playwright (`make browser`). The pictures are PNG files with few colors, 20 to 70 kB each.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import threading
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from glassgpt import api
from glassgpt.api.multimodal import media_before
from glassgpt.generation.options import GenerationOptions
from glassgpt.inspection import server
from glassgpt.inspection.service import InspectionService, LoadedRun
from glassgpt.inspection.telling import choose_text
from glassgpt.learn import bundled
from glassgpt.training.run_folder import RunFolder

IMAGES = Path(__file__).parents[1] / "docs" / "images"
COLORS = 128
WIDE, PHONE = {"width": 1240, "height": 900}, {"width": 390, "height": 844}
PICTURES: dict[str, dict[str, Any]] = {
    "inspect": {"open": [], "shown": ("header", "#model"), "scale": 1.5},
    "inspect-head": {"open": ["block", "head"], "shown": ("#block", "#head")},
    "inspect-motion": {"open": ["lines", "motion"], "shown": ("#lines", "#motion"), "together": [1, 2]},
    "inspect-lens": {"open": ["stream", "lens"], "shown": ("#stream", "#lens")},
    "inspect-next": {"open": ["next", "cache"], "shown": ("#next", "#cache")},
    "inspect-change": {
        "open": ["changes"],
        "shown": ("#changes",),
        "scheme": "dark",
        "interventions": [{"kind": "attention", "layer": 0, "scale": 0}],
    },
    "inspect-phone": {"open": [], "language": "ko", "size": PHONE},
    "inspect-film": {"open": ["film"], "shown": ("#film",), "run": True},
    "inspect-media": {"open": ["media"], "shown": ("#media",), "seeing": True},
}
"""By name: the open panels, the elements that are shown (the whole window without any), and other settings."""


def main() -> None:
    """Take all pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="run with snapshots, for the film")
    parser.add_argument("--seeing", type=Path, help="run that sees and hears")
    parser.add_argument("--image", type=Path, help="picture for it")
    parser.add_argument("--audio", type=Path, help="sound for it")
    parser.add_argument("--prompt", default="This is a", help="text after them")
    given = parser.parse_args()
    run = given.run
    addresses = {"en": serve(bundled("en"), "bundled"), "ko": serve(bundled("ko"), "bundled-ko")}
    if run:
        addresses["run"] = serve(run, str(run))
    if given.seeing:
        addresses["seeing"] = serve_media(given.seeing, given.image, given.audio, given.prompt)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name, settings in PICTURES.items():
            language = settings.get("language", "en")
            own = next((kind for kind in ("run", "seeing") if settings.get(kind)), language)
            address = addresses.get(own)
            if address is None:
                continue
            context = browser.new_context(
                locale="ko-KR" if language == "ko" else "en-US",
                viewport=settings.get("size", WIDE),
                color_scheme=settings.get("scheme", "light"),
                device_scale_factor=settings.get("scale", 1),
                reduced_motion="no-preference" if settings.get("run") else "reduce",
            )
            write(IMAGES / f"{name}.png", take(context.new_page(), address, settings))
            context.close()


def serve(run: Path, name: str) -> str:
    """Serve the page of a run in a thread, and return its address."""
    loaded = api.load(run, device="cpu")
    texts = choose_text(loaded.model, loaded.tokenizer, api.held_out_dataset(run, loaded.tokenizer))
    runs = [LoadedRun(name, loaded.model, loaded.tokenizer, RunFolder(run))]
    return begin(InspectionService(runs, texts[0].text, GenerationOptions(), texts))


def serve_media(run: Path, image: Path | None, audio: Path | None, prompt: str) -> str:
    """Serve the page of a picture, a sound and a text, and return its address."""
    loaded = api.load(run, checkpoint="latest", device="cpu")
    media = media_before(loaded.model, [image] if image else [], [audio] if audio else [])
    runs = [LoadedRun("runs/seeing", loaded.model, loaded.tokenizer)]
    return begin(InspectionService(runs, prompt, GenerationOptions(), media=media))


def begin(service: InspectionService) -> str:
    """Serve a page in a thread, and return its address."""
    found, is_ready = list[str](), threading.Event()

    def announce(address: str) -> None:
        found.append(address)
        is_ready.set()

    threading.Thread(target=server.serve, args=(service, announce), daemon=True).start()
    is_ready.wait()
    return found[0]


def take(page: Page, address: str, settings: dict[str, Any]) -> bytes:
    """Return a screenshot of the elements that a picture shows."""
    chosen = {name: settings[name] for name in ("open", "together", "interventions") if name in settings}
    page.goto(f"{address}#{'&'.join(f'{name}={json.dumps(value)}' for name, value in chosen.items())}")
    for panel in ("model", *settings["open"]):
        while page.locator(f"#{panel}").get_attribute("data-ready") is None:
            page.locator(f"#{panel}").scroll_into_view_if_needed()
            page.wait_for_timeout(50)
    if "film" in settings["open"]:
        page.locator("#film-speed").select_option("4")
        page.locator("#film-play").click()
        page.locator("#film-play", has_text="Stop").wait_for()
        page.locator("#film-play", has_text="Play").wait_for()
    if "shown" not in settings:
        page.evaluate("scrollTo(0, 0)")
        return page.screenshot()
    page.add_style_tag(content="nav { display: none !important } section:not(.shown), #folds, footer { display: none }")
    for selector in settings["shown"]:
        page.locator(selector).evaluate("element => element.classList.add('shown')")
    boxes = [box for selector in settings["shown"] if (box := page.locator(selector).bounding_box())]
    top, bottom = min(box["y"] for box in boxes), max(box["y"] + box["height"] for box in boxes)
    offset = page.evaluate("scrollY")
    return page.screenshot(
        full_page=True, clip={"x": 0, "y": top + offset, "width": WIDE["width"], "height": bottom - top + 8}
    )


def write(file: Path, screenshot: bytes) -> None:
    """Write a screenshot with few colors."""
    picture = Image.open(io.BytesIO(screenshot)).convert("RGB")
    picture.quantize(COLORS, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(file, optimize=True)


if __name__ == "__main__":
    main()
