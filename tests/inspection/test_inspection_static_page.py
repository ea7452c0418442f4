"""The exported page in a browser."""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from inspection_helpers import BYTES, MODERN
from page_helpers import Z, format_number, panel, percent, rows

import glassgpt
from glassgpt.inspection import static_page
from glassgpt.inspection.checkpoint_traces import trace_checkpoints
from glassgpt.inspection.static_page import save_page
from glassgpt.inspection.trace import trace
from small_models import shaken


def test_static_page_works_offline(open_page, tmp_path, traced):
    file = Path(tmp_path) / "page.html"
    save_page(traced, file)
    page = open_page(locale="ko-KR", offline=True)
    page.goto(f"{file.as_uri()}#layer=1&key=5")
    panel(page, "tokens")
    assert page.locator("h1").inner_text() == "안을 들여다보기"
    for name in page.locator("section").evaluate_all("all => all.map(each => each.id)"):
        panel(page, name)
        assert page.locator(f"#{name} .failed").count() == 0
    weight = float(traced["blocks.1.attention.weights"][0, 11, 5])
    assert page.locator("#weight span").last.inner_text() == f"= {format_number(weight)}"
    z = next(row for row in rows(panel(page, "next")) if row[0] == "z")
    assert z[2] == percent(float(traced["next.model"][Z]))
    page.locator("#block .source").click()
    page.locator("#block summary").first.click()
    page.locator("#block pre", has_text="def attention_weights").wait_for()
    assert page.locator("#prompt, #sample, #off-head, #top_k").count() == 0


@pytest.mark.slow
def test_static_page_reports_what_is_left_out(open_page, tmp_path, traced, monkeypatch):
    monkeypatch.setattr(static_page, "MAX_SAVED_VALUES", 6 * len(traced) ** 2)
    monkeypatch.setattr(static_page, "MAX_SAVED_UNITS", 1)
    save_page(traced, tmp_path / "page.html")
    page = open_page(locale="en-US", offline=True)
    page.goto((tmp_path / "page.html").as_uri())
    panel(page, "tokens")
    assert "Left out because of size: embedding.token, " in page.locator("#offline").inner_text()
    for name in ("head", "mlp"):
        assert "Left out of this file" in panel(page, name).inner_text()
    assert panel(page, "block").locator(".map").count() == 2


@pytest.mark.slow
def test_static_page_shows_a_head_without_scores(open_page, tmp_path, monkeypatch):
    found = trace(shaken(MODERN), BYTES, "the cat saw it")
    with monkeypatch.context() as patched:
        patched.setattr(static_page, "GROUPS", static_page.GROUPS[:2])
        save_page(found, tmp_path / "page.html")
    page = open_page(locale="en-US", offline=True)
    page.goto(f"{(tmp_path / 'page.html').as_uri()}#layer=2&head=3&position=9&key=6")
    shown = panel(page, "head")
    assert "Left out of this file" in shown.inner_text()
    weight = float(found["blocks.2.attention.weights"][3, 9, 6])
    assert shown.locator("#weight span").all_inner_texts() == [f"= {format_number(weight)}"]


@pytest.mark.slow
def test_static_page_pages_through_a_long_lens(open_page, tmp_path):
    model = shaken(replace(MODERN, context_length=160))
    found = trace(model, BYTES, "the cat sat. " * 11)
    save_page(found, tmp_path / "page.html")
    page = open_page(locale="en-US", offline=True)
    page.goto(f"{(tmp_path / 'page.html').as_uri()}#position=0")
    for shown in ("0 to 63", "64 to 127", "79 to 142"):
        panel(page, "lens")
        assert page.locator("#lens-shown").inner_text() == f"tokens {shown} of 143"
        assert page.locator("#lens .note").count() == 0
        if shown != "79 to 142":
            page.locator("#lens-later").click()
            page.locator("#lens-shown", has_text=f"tokens {shown}").wait_for(state="detached")


@pytest.mark.slow
def test_static_page_includes_checkpoints_that_fit(open_page, tmp_path, nano_run, monkeypatch):
    text, loaded = "the old king", glassgpt.load(nano_run, device="cpu")
    traces, found = trace_checkpoints(nano_run, text), trace(loaded.model, loaded.tokenizer, text)
    first = traces[traces.steps[0]]
    save_page(found, tmp_path / "all.html", traces)
    page = open_page(locale="en-US", offline=True)
    page.goto(f"{(tmp_path / 'all.html').as_uri()}#layer=0&head=0&key=0")
    panel(page, "history").locator("#step").focus()
    page.keyboard.press("Home")
    page.locator("#history output", has_text=f"step {traces.steps[0]:,}").wait_for()
    assert rows(panel(page, "next"))[0][2] == percent(float(first["next.model"].max()))
    panel(page, "head")
    weight = float(first["blocks.0.attention.weights"][0, -1, 0])
    assert page.locator("#weight span").last.inner_text() == f"= {format_number(weight)}"
    panel(page, "film").locator("#film-play").click()
    page.locator("#film-at", has_text=f"step {traces.steps[-1]}").wait_for()
    page.locator("#film-play", has_text="Play").wait_for()
    assert [row[0] for row in rows(page.locator("#learned"))][:4] == [f"{step:,}" for step in traces.steps[:4]]
    panel(page, "block")
    page.locator("#block .source").click()
    page.locator("#block summary").first.click()
    page.locator("#block pre", has_text="def attention_weights").wait_for()
    size = sum(math.prod(each["shape"]) for each in static_page._arrays(found)[0].values())
    monkeypatch.setattr(static_page, "MAX_SAVED_VALUES", size * 3)
    save_page(found, tmp_path / "two.html", traces)
    page.goto((tmp_path / "two.html").as_uri())
    assert panel(page, "history").locator("#step").get_attribute("max") == "2"
    left_out = ", ".join(f"checkpoint {step}" for step in traces.steps[1:-1])
    assert page.locator("#offline").inner_text().endswith(f"of size: {left_out}.")
    monkeypatch.setattr(static_page, "MAX_SAVED_VALUES", size * 2 - 1)
    save_page(found, tmp_path / "one.html", traces)
    page.goto((tmp_path / "one.html").as_uri())
    assert "contains no earlier steps" in panel(page, "film").inner_text()
    assert page.locator("#offline").inner_text().endswith("of size: all checkpoints.")
    page.locator("#language").click()
    page.locator("#offline", has_text="담지 않은 것: 모든 체크포인트.").wait_for()


@pytest.mark.slow
def test_static_page_reports_a_damaged_checkpoint(open_page, tmp_path, nano_run):
    shutil.copytree(nano_run, tmp_path / "run", symlinks=True)
    loaded, run = glassgpt.load(nano_run, device="cpu"), tmp_path / "run"
    traces = trace_checkpoints(run, "the king")
    weights = run / "snapshots" / f"step-{traces.steps[0]:06d}" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    save_page(trace(loaded.model, loaded.tokenizer, "the king"), tmp_path / "page.html", traces)
    page = open_page(locale="en-US", offline=True)
    page.goto((tmp_path / "page.html").as_uri())
    assert f"checkpoint {traces.steps[0]} (" in page.locator("#offline").inner_text()
    assert panel(page, "history").locator("#step").get_attribute("max") == str(len(traces.steps) - 1)
