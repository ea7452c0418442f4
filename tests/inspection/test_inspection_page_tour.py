"""The guided tour of the page: its stops, keys and address, and the text that it begins with."""

import math

import pytest
from page_helpers import open_at

from glassgpt.inspection.analysis import head_scores, token_losses
from glassgpt.inspection.telling import TEXTS, telling_text
from glassgpt.inspection.trace import trace
from planted import planted

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


def test_telling_text_is_the_known_one_with_the_strongest_induction():
    """Compared with the definition, computed from traces of all texts."""
    model, tokenizer = planted()
    texts = ("kfmbqzxkfmbq", "abcdefgh", "mbqxmbq")
    found = {text: trace(model, tokenizer, text) for text in texts}
    loss = {text: float(token_losses(each).sum()) / len(text) for text, each in found.items()}
    known = sorted(texts, key=loss.__getitem__)[:2]
    strength = {text: float(head_scores(found[text]).induction.nan_to_num(0.0).max()) for text in known}
    assert not any(math.isnan(each) for each in strength.values())
    assert telling_text(model, tokenizer, texts) == max(known, key=strength.__getitem__)


def test_texts_that_cannot_be_traced_are_left_out():
    model, tokenizer = planted()
    assert telling_text(model, tokenizer, ("a" * 5000, "kfmbqzxkfmbq")) == "kfmbqzxkfmbq"
    assert telling_text(model, tokenizer, ("a" * 5000,)) is None
    assert len(set(TEXTS)) == len(TEXTS)
