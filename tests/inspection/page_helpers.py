"""Open the page in a browser and read it; shared by the tests of the page."""

import json
import threading
import time
from urllib.parse import quote

import pytest

from glassgpt.generation.options import GenerationOptions
from glassgpt.inspection import server
from glassgpt.inspection.service import InspectionService, LoadedRun
from planted import LETTERS

TEXT = "kfmbqzxkfmbq"
Z = LETTERS.index("z")
"""The token that follows TEXT, by induction."""
HOSTILE = "<img src=x onerror=hurt=1>\u202eא\x00\x1b\U0001f469"
OPTIONS = GenerationOptions(top_k=5)


def address_of(*runs, text=TEXT):
    """Serve runs, given as arguments of `LoadedRun`, and return the address of the page."""
    return serve(InspectionService([LoadedRun(*run) for run in runs], text, OPTIONS))


def serve(service):
    """Serve in a thread, and return the address of the page."""
    pytest.importorskip("uvicorn")
    found, ready = [], threading.Event()

    def announce(where):
        found.append(where)
        ready.set()

    threading.Thread(target=server.serve, args=(service, announce), daemon=True).start()
    assert ready.wait(30)
    return found[0]


def panel(page, name):
    """Open a panel, scroll to it until it is drawn, and return its body; panels above it may move it meanwhile."""
    section, end = page.locator(f"#{name}"), time.monotonic() + 30
    section.wait_for()
    if section.locator(".fold[aria-expanded=false]").count():
        # A click by the pointer may miss while panels above are drawn.
        section.locator(".fold").evaluate("fold => fold.click()")
    while section.get_attribute("data-ready") is None:
        assert time.monotonic() < end, f"{name} is not drawn"
        section.scroll_into_view_if_needed()
        page.wait_for_timeout(20)
    section.scroll_into_view_if_needed()
    return section.locator(".body")


def rows(found):
    """Return the cell texts of a table, without its heading."""
    lines = found.locator("tbody tr").all()
    return [[cell.inner_text().strip() for cell in line.locator("td").all()] for line in lines]


def open_at(page, address, **selection):
    """Open the page with a selection in its address."""
    page.goto("about:blank")
    page.goto(f"{address}#{'&'.join(f'{name}={quote(json.dumps(value))}' for name, value in selection.items())}")


def format_number(value, places=4):
    return f"{value:.{places}f}".replace("-", "−")


def percent(chance):
    return "–" if chance == 0 else "< 0.1 %" if chance < 0.0005 else f"{100 * chance:.1f} %"
