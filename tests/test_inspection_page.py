"""The page in a real browser: what it shows is the model's, no error is logged, and no text becomes markup."""

import json
import threading
from pathlib import Path

import pytest

from glassgpt.generation.options import GenerationOptions
from glassgpt.inspection import serve as room
from glassgpt.inspection.interventions import ScaleHead
from glassgpt.inspection.trace import trace
from planted import LETTERS, planted
from test_inspection_trace import BYTES, MODERN
from test_model import shaken

TEXT = "kfmbqzxkfmbq"
HOSTILE = "<img src=x onerror=hurt=1>\u202eא\x00\x1b\U0001f469"


@pytest.fixture
def page(open_page):
    """A page in English, at a telephone's width."""
    return open_page(locale="en-US", viewport={"width": 390, "height": 800})


def address_of(model, tokenizer, text):
    pytest.importorskip("uvicorn")
    found, ready = [], threading.Event()

    def announce(where):
        found.append(where)
        ready.set()

    desk = room.Desk(model, tokenizer, text, GenerationOptions())
    threading.Thread(target=room.serve, args=(desk, announce), daemon=True).start()
    assert ready.wait(30)
    return found[0]


@pytest.fixture(scope="module")
def address():
    return address_of(*planted(), TEXT)


def table(page):
    """The last table, the next token's, as rows of texts."""
    rows = page.locator("table").last.locator("tr").all()
    return [[cell.inner_text() for cell in row.locator("th, td").all()] for row in rows]


def test_the_figures_on_the_page_are_the_models(page, address):
    page.goto(address)
    page.wait_for_selector("#large")
    traced = trace(*planted(), TEXT)
    heading, first, *_ = table(page)
    assert heading == ["piece", *(stage.removeprefix("next.") for stage in traced.stages())]
    z = LETTERS.index("z")
    assert first == ["z", *(f"{100 * float(traced[stage][z]):.1f} %" for stage in traced.stages())]
    page.get_by_label("block 1").click()
    page.locator("#large").focus()
    page.keyboard.press("ArrowRight")  # from the last row's first cell
    weight = float(traced["blocks.1.attention.weights"][0, 11, 1])
    assert page.locator("#cell").inner_text() == f"11 “q” → 1 “f”: {weight:.4f}"
    assert "induction" in page.locator("button.map").first.inner_text()


def test_a_head_is_switched_off_and_on(page, address):
    page.goto(address + "#" + json.dumps({"block": 1, "head": 1}))
    page.locator("#off").click()
    page.wait_for_selector("#changes")
    traced = trace(*planted(), TEXT)
    changed = traced.intervene(ScaleHead(1, 1))
    z = LETTERS.index("z")
    row = next(row for row in table(page) if row[0] == "z")
    assert row[1:3] == [f"{100 * float(each['next.model'][z]):.1f} %" for each in (traced, changed)]
    page.reload()  # what was chosen is in the address
    page.wait_for_selector("#changes")
    page.locator("#undo").click()
    page.wait_for_selector("#changes", state="detached")


def test_a_slider_changes_the_choice(page, address):
    page.goto(address)
    page.wait_for_selector("#large")
    page.locator("#top_k").focus()
    page.keyboard.press("ArrowRight")
    page.locator("th", has_text="top_k").wait_for()
    assert "top_k" in table(page)[0]
    assert table(page)[1][-2] == "100.0 %"


def test_a_hostile_text_is_only_text(page):
    page.goto(address_of(shaken(MODERN), BYTES, "ab"))
    page.wait_for_selector("#large")
    page.locator("textarea").fill(HOSTILE)
    page.locator("form button").click()
    page.locator(".token").nth(30).wait_for()
    assert page.evaluate("window.hurt") is None
    assert page.locator("main img").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_what_cannot_be_followed_is_said(browser, address):
    page = browser.new_page()
    page.goto(address)
    page.wait_for_selector("#large")
    page.locator("textarea").fill("a" * 99)
    page.locator("form button").click()
    assert "99 tokens; allowed are 1 to 40" in page.get_by_role("alert").inner_text()
    assert page.locator("#large").count() == 1  # what was there stays
    page.close()


def test_a_saved_page_needs_neither_program_nor_network(open_page, tmp_path):
    file = Path(tmp_path) / "page.html"
    room.save_page(trace(*planted(), TEXT), file)
    page = open_page(locale="ko-KR", offline=True)
    page.goto(file.as_uri())
    page.wait_for_selector("#large")
    assert page.locator("h1").inner_text() == "안을 들여다보기"
    page.get_by_label("블록 1").click()
    page.locator("#large").focus()
    page.keyboard.press("ArrowRight")
    weight = float(trace(*planted(), TEXT)["blocks.1.attention.weights"][0, 11, 1])
    assert page.locator("#cell").inner_text().endswith(f": {weight:.4f}")
    assert page.locator("textarea, #off, #top_k").count() == 0
