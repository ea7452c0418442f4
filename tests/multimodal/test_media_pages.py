"""Pictures and sounds in the pages of a browser: the playground of the server."""

import pytest
from live_server import live_server
from multimodal_helpers import picture, sound
from named_media import NAMES
from test_media_serving import png, wav

from glassgpt.api.serving import load_weights


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
