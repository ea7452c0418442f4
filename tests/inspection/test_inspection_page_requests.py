"""Requests of the page, errors, and hostile input."""

from pathlib import Path

import pytest
import torch
from inspection_helpers import BYTES, MODERN
from page_helpers import HOSTILE, OPTIONS, TEXT, address_of, panel, serve

from glassgpt.inspection.service import InspectionService, LoadedRun
from glassgpt.inspection.trace import trace
from pages import listened
from planted import planted
from small_models import shaken


@pytest.mark.slow
def test_data_is_fetched_only_when_needed(page, address):
    asked = []
    page.on("request", lambda request: asked.append(request.url.removeprefix(address)))
    page.goto(address)
    panel(page, "tokens")
    assert not [url for url in asked if "attention" in url]
    panel(page, "head")
    page.locator("#head-more").click()
    page.locator("#at-head", has_text="head 1").wait_for()
    panel(page, "head")
    heads = [url for url in asked if "attention.scores" in url]
    assert [url.split("index=")[1] for url in heads] == ["0", "1"]
    assert all(not url.startswith("http") for url in asked)
    count = len(asked)
    page.locator("#head-less").click()
    page.locator("#at-head", has_text="head 0").wait_for()
    panel(page, "head")
    assert len(asked) == count  # what was seen once is kept


class RecordingService(InspectionService):
    """Records the requests it gets, without the id of the trace."""

    def __init__(self, *given):
        super().__init__(*given)
        self.requests = []

    def detail(self, request):
        self.requests.append((request["what"], *request["arguments"].values()))
        return super().detail(request)

    def tensor_bytes(self, trace_id, name, *index):
        self.requests.append((name, *index))
        return super().tensor_bytes(trace_id, name, *index)

    def take_requests(self):
        taken, self.requests = self.requests, []
        return taken


@pytest.mark.slow
def test_benchmark_makes_the_same_requests_as_the_page(page, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    from inspect_parts.worker import PageRequests

    services = [RecordingService([LoadedRun("planted", *planted())], TEXT, OPTIONS) for _ in range(2)]
    page.goto(f"{serve(services[0])}#layer=0&head=0&key=0")
    for name in ("model", "tokens", "embeddings", "block", "head", "mlp", "stream", "lens"):
        panel(page, name)
    page.wait_for_load_state("networkidle")
    browser, asked = services[0].take_requests(), PageRequests(services[1])
    assert asked.first_picture(None) > 0
    assert asked.embeddings() > 0
    assert asked.block(0) > 0
    assert asked.lens() > 0
    assert set(services[1].take_requests()) <= set(browser)
    page.locator("#head-more").click()
    page.locator("#at-head", has_text="head 1").wait_for()
    panel(page, "head")
    assert asked.head(0, 1) > 0
    assert sorted(map(str, services[0].take_requests())) == sorted(map(str, services[1].take_requests()))


def test_hostile_text_is_displayed_as_text(page):
    page.goto(address_of(("shaken", shaken(MODERN), BYTES), text="ab"))
    panel(page, "tokens")
    page.locator("#prompt").fill(HOSTILE)
    page.locator("#run").click()
    page.locator("#token-30").wait_for()
    for name in page.locator("section").evaluate_all("all => all.map(each => each.id)"):
        panel(page, name)
        assert page.locator(f"#{name} .failed").count() == 0
    panel(page, "changes").locator("#patch-text").fill(HOSTILE)
    page.locator("#patch").click()
    page.locator(".chip").wait_for()
    assert page.evaluate("window.hurt") is None
    assert page.locator("img").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") == 390


@pytest.mark.slow
def test_invalid_values_in_the_address_are_ignored(page, address):
    page.goto(
        address
        + "#layer=99&head=-1&position=1e9&key=%22x%22&options=[]&interventions=3&language=%22xx%22&written=[1.5]"
    )
    panel(page, "head")
    assert page.locator("#at-layer").inner_text() == "block 1"
    assert page.locator("#at-head").inner_text() == "head 0"
    assert page.locator("#at-position").inner_text() == "token 11 “q”"


@pytest.mark.slow
def test_refused_request_keeps_the_view_and_shows_the_error(browser, address):
    context = browser.new_context(locale="en-US")
    page, _ = listened(context)  # the browser itself logs the refusal
    page.goto(address)
    panel(page, "tokens")
    for text, message in (
        ("a" * 99, "99 tokens; it must have from 1 to 40"),
        ("a" * 100_001, "at most 100,000"),
        ("", "empty"),
    ):
        page.locator("#prompt").fill(text)
        page.locator("#run").click()
        page.locator("#error", has_text=message).wait_for()
        assert page.locator("#tokens .token").count() == len(TEXT)  # what was there stays
    page.goto("about:blank")
    page.goto(f"{address}#text={'a' * 99}&layer=1")
    page.locator("#error", has_text="99 tokens").wait_for()
    panel(page, "tokens")
    assert page.locator("#prompt").input_value() == TEXT
    assert page.locator("#at-layer").inner_text() == "block 1"
    panel(page, "changes").locator("#patch-text").fill("k")
    page.locator("#patch").click()
    page.locator("#error", has_text="there is no position 11").wait_for()
    assert page.locator(".chip").count() == 0
    context.close()


class FailingService(InspectionService):
    """Fails on one request, as a bug would."""

    def detail(self, request):
        if request["what"] == "cache":
            raise RuntimeError("planted")
        return super().detail(request)


@pytest.mark.slow
def test_refusals_and_failures_are_in_the_language_of_the_page(browser):
    context = browser.new_context(locale="en-US")
    page, _ = listened(context)  # the browser itself logs the refusal
    page.goto(serve(FailingService([LoadedRun("planted", *planted())], TEXT, OPTIONS)))
    panel(page, "tokens")
    page.locator("#language").click()
    page.get_by_role("heading", name="바이트와 토큰").wait_for()
    page.locator("#prompt").fill("a" * 99)
    page.locator("#run").click()
    page.locator("#error", has_text="글이 99토큰입니다").wait_for()
    panel(page, "cache").locator(".failed", has_text="프로그램이 답하지 못했습니다").wait_for()
    page.locator("#language").click()
    page.locator("#prompt").fill("a" * 99)
    page.locator("#run").click()
    page.locator("#error", has_text="the text has 99 tokens").wait_for()
    panel(page, "cache").locator(".failed", has_text="The program could not answer").wait_for()
    context.close()


def test_browser_history_restores_earlier_requests(page, address, traced):
    page.goto(address)
    panel(page, "tokens")
    page.locator("#prompt").fill("kfm")
    page.locator("#run").click()
    page.locator("#at-position", has_text="token 2 ").wait_for()
    page.locator("#head-more").click()
    page.go_back()
    page.locator("#at-position", has_text="token 11 ").wait_for()
    assert page.locator("#prompt").input_value() == TEXT
    page.go_forward()
    page.locator("#at-position", has_text="token 2 ").wait_for()
    assert page.locator("#at-head").inner_text() == "head 1"


@pytest.mark.slow
def test_stopped_server_is_reported(browser, address):
    context = browser.new_context(locale="en-US")
    page, _ = listened(context)  # the browser itself logs the refusal
    page.goto(address)
    panel(page, "tokens")
    context.set_offline(True)
    page.locator("#prompt").fill("kfm")
    page.locator("#run").click()
    page.locator("#error", has_text="no longer responds").wait_for()
    panel(page, "mlp").locator(".failed", has_text="no longer responds").wait_for()
    assert page.locator("#tokens .token").count() == len(TEXT)
    context.close()


def test_serving_does_not_change_traces(address, traced):
    assert torch.equal(trace(*planted(), TEXT)["logits"], traced["logits"])
