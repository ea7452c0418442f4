"""Lines between words: one line per weight, in both directions, by pointer and by keys."""

from dataclasses import replace

import pytest
from inspection_helpers import BYTES, MODERN
from page_helpers import TEXT, address_of, open_at, panel, percent, rows

from glassgpt.inspection.trace import trace
from small_models import shaken

CHOSEN = {"layer": 1, "head": 0, "position": 11, "key": 5}
FAINTEST = 0.01
STEP = 22  # height of a row


def drawn(page, which="line"):
    """Return (query, key) of each line with its width."""
    lines = page.locator(f".lines {which}").evaluate_all(
        "all => all.map((each) => ['y1', 'y2', 'stroke-width'].map((name) => Number(each.getAttribute(name))))"
    )
    return {(round(y1 / STEP - 0.5), round(y2 / STEP - 0.5)): width for y1, y2, width in lines}


def test_lines_are_as_wide_as_the_weights(page, address, traced):
    open_at(page, address, **CHOSEN)
    panel(page, "lines")
    weights = traced["blocks.1.attention.weights"][0]
    visible = (weights >= FAINTEST).nonzero().tolist()
    assert drawn(page) == {
        (query, key): pytest.approx(1 + 6 * float(weights[query, key]), abs=1e-4) for query, key in visible
    }
    assert drawn(page, ".lit").keys() == {pair for pair in drawn(page) if pair[0] == 11}
    page.locator("#line-key-5").hover()
    assert drawn(page, ".lit").keys() == {pair for pair in drawn(page) if pair[1] == 5}
    best = int(weights[:, 5].argmax())
    assert rows(page.locator("#seen-by"))[0] == [f"{best} {TEXT[best]}", percent(float(weights[best, 5]))]
    told = page.locator("#line-position-11 title").text_content()
    key = int(weights[11].argmax())
    assert told == f"“{TEXT[11]}” attends to “{TEXT[key]}” {percent(float(weights[11, key]))}"


def test_lines_of_several_heads_are_drawn_in_colors(page):
    model = shaken(MODERN)
    found = trace(model, BYTES, "the cat saw")
    open_at(page, address_of(("shaken", model, BYTES), text=found.text), layer=1, head=2, position=9, key=4)
    panel(page, "lines")
    weights = found["blocks.1.attention.weights"]
    stroke = "all => [...new Set(all.map((each) => getComputedStyle(each).stroke))]"
    assert len(page.locator(".lines .lit").evaluate_all(stroke)) == 1
    page.locator("#line-with-0").click()
    page.locator("#line-with-0[aria-pressed=true]").wait_for()
    page.locator("#line-with-3").click()
    page.locator("#line-with-3[aria-pressed=true]").wait_for()
    visible = (weights[[2, 0, 3]] >= FAINTEST).sum()
    assert page.locator(".lines line").count() == int(visible)
    assert len(page.locator(".lines .lit").evaluate_all(stroke)) == 3
    told = page.locator("#line-position-9 title").text_content()
    for head in (2, 0, 3):
        key = int(weights[head, 9].argmax())
        assert f"1.{head} “{found.text[key]}” {percent(float(weights[head, 9, key]))}" in told
    first = int(weights[[2, 0, 3]][:, :, 4].amax(0).argmax())
    expected = [percent(float(weights[head, first, 4])) for head in (2, 0, 3)]
    assert rows(page.locator("#seen-by"))[0][1:] == expected
    page.locator("#line-with-none").click()
    page.locator("#line-with-0[aria-pressed=false]").wait_for()
    assert page.locator(".lines line").count() == int((weights[2] >= FAINTEST).sum())


@pytest.mark.slow
def test_both_sides_are_moved_in_by_keys(page, address):
    open_at(page, address, **CHOSEN)
    panel(page, "lines")
    for side, start in (("position", 11), ("key", 5)):
        assert page.locator(f"[id^=line-{side}-][tabindex='0']").count() == 1
        page.locator(f"#line-{side}-{start}").focus()
        page.keyboard.press("ArrowUp")
        page.locator(f"#line-{side}-{start - 1}[aria-pressed=true]").wait_for()
        panel(page, "lines")
        assert page.evaluate("document.activeElement.id") == f"line-{side}-{start - 1}"
    assert drawn(page, ".lit").keys() == {pair for pair in drawn(page) if pair[1] == 4}
    page.locator("#line-head-1").click()
    page.locator("#at-head", has_text="head 1").wait_for()
    page.locator("#line-position-3").click()
    page.locator("#at-position", has_text="token 3 ").wait_for()


@pytest.mark.slow
def test_lines_of_a_long_text_are_those_around_the_selection(page):
    model = shaken(replace(MODERN, context_length=160))
    found = trace(model, BYTES, "the cat sat. " * 11)
    page.goto(address_of(("shaken", model, BYTES), text=found.text) + "#position=100&key=99&layer=0&head=0")
    panel(page, "lines")
    assert page.locator("[id^=line-position-]").count() == 48
    assert page.locator("#line-position-100[aria-pressed=true]").count() == 1
    assert "tokens 76 to 123 of 143" in page.locator("#lines .note").inner_text()
