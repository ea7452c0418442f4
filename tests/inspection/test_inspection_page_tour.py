"""The guided tour of the page: its stops, keys and address."""

import pytest
from page_helpers import open_at

STOPS = ("tokens", "embeddings", "block", "head", "mlp", "stream", "lens", "next")


def test_tour_steps_through_its_stops_with_keys(page, address):
    open_at(page, address, tour=0)
    for at, stop in enumerate(STOPS, 1):
        page.locator("#tour", has_text=f"{at}/8").wait_for()
        assert page.locator(f"#{stop} .fold").get_attribute("aria-expanded") == "true"
        assert f"tour={at - 1}" in page.evaluate("location.hash")
        page.locator("body").press("n")
    page.locator("body").press("p")
    page.locator("#tour", has_text="7/8").wait_for()
    page.locator("body").press("Escape")
    page.locator("#tour").wait_for(state="detached")


@pytest.mark.slow
def test_tour_is_begun_and_ended_by_buttons(page, address):
    open_at(page, address)
    page.locator("#tour-start").click()
    page.locator("#tour", has_text="1/8").wait_for()
    page.locator("#tour-on").click()
    page.locator("#tour", has_text="2/8").wait_for()
    page.locator("#tour-end").click()
    page.locator("#tour").wait_for(state="detached")
