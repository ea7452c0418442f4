"""The picture of the model, the entrance of the page."""

import pytest
from inspection_helpers import BYTES, LLAMA
from page_helpers import TEXT, Z, address_of, format_number, open_at, panel, percent

from glassgpt.inspection.details import detail
from glassgpt.model.config import ModelConfig
from small_models import shaken


def test_picture_shows_the_figures_and_opens_a_head(page, address, traced):
    open_at(page, address, layer=0, head=0, position=10)
    shown = panel(page, "model")
    found = detail(traced, "components", {"position": 10})
    head = found["heads"][1][1]
    label = page.locator("#part-head-1-1 title").text_content()
    assert f"norm {format_number(head['norm'], 2)}" in label
    assert f"{format_number(head['entropy'], 2)} nats" in label
    assert f"“{TEXT[head['to']]}”, {percent(head['weight'])}" in label
    best = found["predictions"][1][0]
    assert f"“{best['piece']}”" in page.locator("#part-after-1 title").text_content()
    shown.locator("#part-head-0-0").focus()  # the only tab stop
    assert shown.locator("[tabindex='0']").count() == 1
    page.keyboard.press("ArrowUp")
    assert page.evaluate("document.activeElement.id") == "part-mlp-0"
    page.locator("#part-head-1-1").click()
    page.locator("#at-head", has_text="head 1").wait_for()
    assert page.locator("#at-layer").inner_text() == "block 1"
    panel(page, "head").get_by_text("head 1.1", exact=True).wait_for()
    page.locator("#part-token-11").click()
    page.locator("#part-next-0 title", has_text="“z”").wait_for(state="attached")
    assert percent(float(traced["next.model"][Z])) in page.locator("#part-next-0 title").text_content()
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_norms_and_sums_of_the_picture_open_their_panels(page, address, traced):
    open_at(page, address, layer=0, head=0, position=10)
    shown = panel(page, "model")
    sums = detail(traced, "sums", {"layer": 1})
    label = shown.locator("#part-sum-1-1 title").text_content()
    assert f"norm {format_number(sums['norms'][1][10], 2)}" in label
    shown.locator("#part-norm-1-2").click()
    page.locator("#norm .fold[aria-expanded=true]").wait_for()
    page.locator("#at-layer", has_text="block 1").wait_for()
    panel(page, "model").locator("#part-sum-0-2").focus()
    page.keyboard.press("Enter")
    page.locator("#sum .fold[aria-expanded=true]").wait_for()
    page.locator("#at-layer", has_text="block 0").wait_for()


def test_panels_are_folded_and_the_address_keeps_what_is_open(page, address):
    page.goto(address)
    panel(page, "model")
    assert "null" not in page.locator("header").inner_text()
    opened = "all => all.map((each) => each.id)"
    assert page.locator("section:not(.folded)").evaluate_all(opened) == ["model", "next"]
    assert page.evaluate("document.documentElement.scrollHeight") < 3200
    page.locator("#lens .fold").click()
    page.locator("#next .fold").click()
    page.reload()
    panel(page, "lens")
    assert page.locator("section:not(.folded)").evaluate_all(opened) == ["model", "lens"]
    assert not page.locator("#lens-figures").is_visible()
    page.locator("#lens .source").click()
    assert page.locator("#lens-figures summary").first.is_visible()
    page.locator("#unfold-all").click()
    assert page.locator("section.folded").count() == 0
    page.locator("#fold-all").click()
    assert page.locator("section:not(.folded)").evaluate_all(opened) == ["model"]


@pytest.mark.slow
def test_picture_is_to_scale(page, address, traced):
    page.set_viewport_size({"width": 1280, "height": 800})
    page.goto(address_of(("llama", shaken(LLAMA), BYTES), text="the cat"))
    panel(page, "model")
    model = shaken(LLAMA)

    def drawn(name):
        return sum(
            float(each)
            for each in page.locator(name).evaluate_all("all => all.map(each => each.getAttribute('width'))")
        )

    attention, mlp = (
        sum(each.numel() for each in part.parameters()) for part in (model.blocks[1].attention, model.blocks[1].mlp)
    )
    heads = drawn("[id^=part-head-1-] rect") + 2 * LLAMA.n_head  # and the gaps
    assert heads / drawn("#part-mlp-1 rect") == pytest.approx(attention / mlp, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
def test_deep_model_is_folded(page, width):
    page.set_viewport_size({"width": width, "height": 800})
    deep = shaken(ModelConfig(vocab_size=257, context_length=16, n_layer=48, n_head=2, n_embd=8))
    page.goto(address_of(("deep", deep, BYTES), text="the cat"))
    panel(page, "model")
    assert page.locator("#picture [id^=part-after-]").count() == 49
    assert page.locator("#picture").bounding_box()["height"] < 1100
    assert page.locator("#part-norm-7-1").count() == 0
    page.locator("#part-mlp-7").click()
    page.locator("#part-norm-7-1").wait_for()
    assert page.locator("#at-layer").inner_text() == "block 7"
    assert page.evaluate("document.documentElement.scrollWidth") == width
