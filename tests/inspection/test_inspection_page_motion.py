"""Attention in motion: the numbers of each step, playing, stopping and stepping."""

import math

import pytest
from inspection_helpers import BYTES, MODERN
from page_helpers import TEXT, address_of, format_number, open_at, panel

from glassgpt.inspection.analysis import telling_keys
from glassgpt.inspection.trace import trace
from small_models import shaken

CHOSEN = {"layer": 1, "head": 0, "position": 11, "key": 5, "channel": 3}


def lines(page, step):
    return page.locator(f"#motion-{step}-line span").all_inner_texts()


def test_motion_panel_shows_every_step_of_the_chosen_pair(page, address, traced):
    open_at(page, address, **CHOSEN)
    panel(page, "motion")
    at = {part: traced[f"blocks.1.attention.{part}"][0] for part in ("q", "k", "v", "scores", "weights", "mixed")}
    q, k, v = at["q"][11].double(), at["k"][5].double(), at["v"][5].double()
    product, width = float(q @ k), q.numel()
    pairs = zip("qkv", (q, k, v), strict=True)
    assert lines(page, "vectors") == [f"{name}[3] = {format_number(float(vector[3]))}" for name, vector in pairs]
    assert lines(page, "products")[1] == f"Σ of {width} / {width} channels = {format_number(product)}"
    assert lines(page, "scale")[1] == f"s = {format_number(float(at['scores'][11, 5]))}"
    assert lines(page, "scores") == ["0 of 12 keys masked", f"s = {format_number(product / math.sqrt(width))}"]
    assert lines(page, "weights") == [f"a = {format_number(float(at['weights'][11, 5]))}", "Σ a = 1.0000"]
    assert lines(page, "mixed")[1] == f"z[3] = {format_number(float(at['mixed'][11, 3]))}"
    terms = [float(term.replace("−", "-")) for term in lines(page, "mixed")[0].split(" + ")]
    assert sum(terms) == pytest.approx(float(at["mixed"][11, 3]), abs=5e-4 * len(terms))


@pytest.mark.slow
def test_motion_is_stepped_by_buttons_and_keys(page, address, traced):
    open_at(page, address, **CHOSEN | {"position": 7})
    panel(page, "motion")
    assert lines(page, "scores")[0] == "4 of 12 keys masked"
    page.locator("#motion-less").click()
    assert page.locator("#motion-at").inner_text() == "step 5 of 6"
    assert page.locator("#motion-mixed-step").get_attribute("class") == "waiting"
    page.keyboard.press("Home")
    assert page.locator(".steps .waiting").count() == 5
    assert page.locator("#motion-vectors-step").get_attribute("class") == "now"
    for step in (2, 3, 4, 5, 6):
        page.locator("#motion-more").focus()
        page.keyboard.press("ArrowRight")
        assert page.locator("#motion-at").inner_text() == f"step {step} of 6"
    assert page.locator(".steps .waiting").count() == 0
    sums = traced["blocks.1.attention.weights"][0, 7].double().sum()
    assert lines(page, "weights")[1] == f"Σ a = {format_number(float(sums))}"


@pytest.mark.slow
def test_motion_plays_and_stops(page, address):
    open_at(page, address, **CHOSEN)
    panel(page, "motion")
    play = page.locator("#motion-play")
    play.click()
    assert play.inner_text() == "Stop"
    page.locator("#motion-at", has_text="step 2 of 6").wait_for()
    play.click()
    assert play.inner_text() == "Play"
    assert page.locator(".steps .waiting").count() == 4
    stopped = lines(page, "products")
    page.wait_for_timeout(200)
    assert lines(page, "products") == stopped
    play.click()
    page.locator("#motion-at", has_text="step 6 of 6").wait_for()
    page.locator("#motion-play", has_text="Play").wait_for()


@pytest.mark.slow
def test_less_motion_shows_all_steps_and_only_steps(open_page, address):
    page = open_page(locale="en-US", reduced_motion="reduce", viewport={"width": 1280, "height": 800})
    open_at(page, address, **CHOSEN)
    panel(page, "motion")
    assert page.locator("#motion-play").count() == 0
    assert page.locator(".steps figure").count() == 6
    assert page.locator(".steps .waiting").count() == 0
    page.locator("#motion-less").click()
    assert page.locator(".steps .waiting").count() == 1


@pytest.mark.slow
def test_page_opens_on_the_most_telling_cell(page, address, traced):
    keys, weights = telling_keys(traced)
    layer, head = divmod(int(weights.argmax()), weights.size(1))
    page.goto(address)
    panel(page, "head")
    assert page.locator("#at-layer").inner_text() == f"block {layer}"
    assert page.locator("#at-head").inner_text() == f"head {head}"
    key = int(keys[layer, head])
    assert page.locator("#at-seen").inner_text() == f"second token {key} “{TEXT[key]}”"
    assert page.locator("#weights-told").inner_text().endswith(format_number(float(weights[layer, head])))


def test_columns_of_matrices_are_labelled_with_the_tokens(page, address):
    open_at(page, address, **CHOSEN)
    panel(page, "head")
    labels = page.locator("#head .matrix").nth(2).locator(".columns span").all()
    assert [label.inner_text() for label in labels] == list(TEXT)
    boxes = [label.bounding_box() for label in labels]
    cell = page.locator("#weights").bounding_box()
    for at, box in enumerate(boxes):
        center = cell["x"] + cell["width"] * (at + 0.5) / len(TEXT)
        assert abs(box["x"] + box["width"] / 2 - center) < cell["width"] / len(TEXT) / 2


@pytest.mark.slow
def test_motion_panel_names_the_window_of_the_mask(page):
    found = trace(shaken(MODERN), BYTES, "the cat saw it")
    layer = next(layer for layer in range(MODERN.n_layer) if MODERN.layer_window(layer))
    where = f"#layer={layer}&head=1&position=9&key=7"
    page.goto(address_of(("shaken", found.model, BYTES), text=found.text) + where)
    panel(page, "motion")
    hidden = int((~found[f"blocks.{layer}.attention.mask"][9]).sum())
    assert lines(page, "scores")[0] == f"{hidden} of 14 keys masked"
    assert page.locator("#motion-scores-step .formula").inner_text().endswith(f"j ≤ i − {MODERN.window}")
    assert lines(page, "weights")[1] == "Σ a = 1.0000"
