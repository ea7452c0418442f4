"""The page for those who do not see it: names of controls, texts of pictures, and what is announced."""

import pytest
from page_helpers import TEXT, open_at, panel

from pages import controls

OPEN = ["tokens", "head", "next", "changes"]


@pytest.mark.parametrize(
    ("language", "asked", "told"),
    [("en", "text to trace", "Traced 12 tokens."), ("ko", "따라갈 글", "토큰 12개를 따라갔습니다.")],
)
def test_controls_have_names_and_a_trace_is_announced(page, address, language, asked, told):
    open_at(page, address, language=language, open=OPEN)
    for name in ("model", *OPEN):
        panel(page, name)
    assert page.locator("#status").inner_text() == told
    found = controls(page)
    assert ("textbox", asked) in found
    assert [each for each in found if not each[1] or "undefined" in each[1]] == []
    assert not [name for role, name in found if role == "button" and name.startswith(("▸", "▾"))]


def test_pictures_say_what_is_selected(page, address):
    open_at(page, address, layer=0, head=0, position=11, key=3, open=["head"])
    panel(page, "head")
    canvas = page.locator("#head canvas").first
    described = page.locator(f"#{canvas.get_attribute('aria-describedby')}")
    assert described.inner_text().startswith(f"“{TEXT[11]}” → “{TEXT[3]}”")
    canvas.focus()
    page.keyboard.press("ArrowLeft")
    page.locator(f"#{canvas.get_attribute('aria-describedby')}", has_text=f"→ “{TEXT[2]}”").wait_for()
    assert page.evaluate("document.activeElement.id") == canvas.get_attribute("id")


def test_stops_of_the_tour_are_announced(page, address):
    open_at(page, address)
    panel(page, "model")
    page.locator("#tour-start").click()
    page.locator("#status", has_text="1/8 · Tokens").wait_for(state="attached")
    page.locator("#tour-on").click()
    page.locator("#status", has_text="2/8 · Vectors").wait_for(state="attached")
