"""Pictures and sounds in the pages of a browser: the playground of the server, and inspection."""

import re

import pytest
from live_server import live_server
from multimodal_helpers import picture, sound
from named_media import NAMES
from page_helpers import panel, rows, serve
from test_media_serving import png, wav

from glassgpt import api
from glassgpt.api.multimodal import media_before
from glassgpt.api.serving import load_weights
from glassgpt.generation.options import GenerationOptions
from glassgpt.inspection.service import InspectionService, LoadedRun
from glassgpt.inspection.static_page import save_page
from pages import controls


@pytest.fixture(scope="module")
def address(named_run):
    with live_server(load_weights(named_run, "best", "cpu", "float32", 4), names=("named",)) as address:
        yield address


def files(*items):
    return [
        {"name": f"{at}.png", "mimeType": "image/png", "buffer": png(item)}
        if item.modality == "image"
        else {"name": f"{at}.wav", "mimeType": "audio/wav", "buffer": wav(item)}
        for at, item in enumerate(items)
    ]


@pytest.mark.slow
def test_a_picture_is_attached_shown_and_named(open_page, address):
    page, asked = open_page(locale="en-US", viewport={"width": 390, "height": 800}), []
    page.on("request", lambda request: asked.append(request.post_data_json) if request.method == "POST" else None)
    page.goto(
        f'{address}/#panes=[{{"model":"named","settings":{{"temperature":0,"max_tokens":12}}}},{{"model":null,"settings":{{}}}}]'
    )
    page.locator("#attach-file").set_input_files(files(picture(1), sound(0, 720)))
    page.locator(".chip").nth(1).wait_for()
    assert page.locator(".chip img").get_attribute("alt") == "0.png"
    assert page.locator(".chip img").evaluate("image => image.decode().then(() => image.naturalWidth)") == 8
    assert page.locator(".chip audio").evaluate(
        "sound => new Promise((done) => { sound.ondurationchange = () => done(sound.duration); if (sound.duration) done(sound.duration); })"
    ) == pytest.approx(0.09)
    page.locator(".chip button").nth(1).click()
    assert page.locator("#status").text_content() == "Removed: 1.wav"
    page.locator("#send").click()
    page.locator("#pane-0-body .note", has_text="seed").wait_for()
    assert page.locator("#pane-0-body .said").text_content() == NAMES[1]
    page.keyboard.press("Escape")
    page.locator("h1").click()
    page.keyboard.press("m")
    page.locator("#prompt").fill("what is it?")
    page.locator("#send").click()
    page.locator("#pane-0-body .message.user img").wait_for()
    page.locator("#pane-0-body .note", has_text="seed").wait_for()
    assert page.locator(".chip").count() == 0
    content = asked[-1]["messages"][0]["content"]
    assert [part["type"] for part in content] == ["image_url", "text"]
    page.locator("#prompt").fill("and now?")
    page.locator("#send").click()
    page.locator("#pane-0-body .message.user").nth(1).wait_for()
    assert asked[-1]["messages"][0]["content"] == content
    page.locator("#attach-file").set_input_files([{"name": "a.pdf", "mimeType": "application/pdf", "buffer": b"%PDF"}])
    assert "does not know this kind of file: a.pdf" in page.locator("#error").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth") == 390


@pytest.fixture(scope="module")
def named(named_run):
    return api.load(named_run, device="cpu")


@pytest.fixture(scope="module")
def inspected(named):
    media = media_before(named.model, [picture(1).data], [(sound(0, 720).data, 8000)])
    run = LoadedRun("named", named.model, named.tokenizer)
    return serve(InspectionService([run], "a blue", GenerationOptions(), media=media))


def percent(value):
    return "–" if not value else "< 0.1 %" if value < 0.0005 else f"{100 * value:.1f} %"


@pytest.mark.slow
def test_attention_and_predictions_are_shown_on_the_picture(open_page, inspected, named):
    page = open_page(locale="en-US", viewport={"width": 1000, "height": 900})
    page.goto(f"{inspected}#layer=1&head=1")
    shown = panel(page, "media")
    traced = named.trace("a blue", images=[picture(1).data], audio=[(sound(0, 720).data, 8000)])
    weights = traced["blocks.1.attention.weights"][1, -1]
    share = percent(float(weights[2:6].sum()))
    assert f"Picture {share}" in shown.inner_text()
    inside = sorted([2, 3, 4, 5, 7, 8, 9], key=lambda at: -float(weights[at]))
    listed = rows(shown.locator("#media-looks"))
    assert [int(re.match(r"\s*(\d+)", name)[1]) for name, _ in listed] == inside[: len(listed)]
    assert [value for _, value in listed] == [percent(float(weights[at])) for at in inside[: len(listed)]]
    assert shown.locator("img.plain").first.evaluate("image => [image.naturalWidth, image.alt]") == [8, "Picture"]
    shown.locator("#media-0").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.id") == "media-0"
    assert page.locator("#media-0-told").inner_text() == f"▦1,1 · {percent(float(weights[5]))}"
    page.locator("#seen-1").click()
    page.locator("#media-said").wait_for()
    page.locator("#media-0").focus()
    page.keyboard.press("ArrowLeft")
    page.locator("#media-own").wait_for()
    depth = traced.model.config.n_layer
    told = page.locator("#media-0-told").inner_text()
    position = int(re.search(r"position=(\d+)", page.url)[1])
    assert position in range(2, 6)
    chances = traced.model.head(traced.model.norm(traced[f"blocks.{depth - 1}.output"][position])).softmax(-1)
    assert told.endswith(percent(float(chances.detach().max())))
    assert page.locator("#part-told").count() == 1
    assert page.locator("#picture svg image").count() >= 4  # the patches among the tokens
    tokens = panel(page, "tokens")
    assert tokens.locator(".part-of-picture").count() == 7
    assert tokens.locator(".part-of-picture").first.get_attribute("aria-label") == "▦0,0"
    page.locator("#unfold-all").click()
    for name in ("embeddings", "block", "lines", "head", "lens", "changes"):
        panel(page, name)
    found = controls(page)
    assert [each for each in found if not each[1] or "undefined" in each[1]] == []
    assert ("application", "Picture: what each position would say; arrow keys move between positions") in found
    assert page.evaluate("document.documentElement.scrollWidth") <= 1000


@pytest.mark.slow
def test_a_saved_page_shows_pictures_in_korean_on_a_telephone(open_page, named, tmp_path):
    save_page(named.trace(images=[picture(1).data]), tmp_path / "page.html")
    page = open_page(locale="ko-KR", viewport={"width": 390, "height": 800})
    page.goto((tmp_path / "page.html").as_uri())
    shown = panel(page, "media")
    assert "그림" in shown.inner_text()
    page.locator("#seen-1").click()
    page.locator("#media-said").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") == 390


@pytest.mark.slow
def test_a_text_alone_has_no_panel_of_pictures(open_page, named):
    page = open_page(locale="en-US")
    page.goto(
        serve(InspectionService([LoadedRun("named", named.model, named.tokenizer)], "a blue", GenerationOptions()))
    )
    panel(page, "model")
    assert page.locator("#media").count() == 0
