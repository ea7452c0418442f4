"""The film over the steps of training: its figures, and its player."""

import itertools
import re
import shutil

import pytest
from page_helpers import address_of, open_at, panel, percent, rows

import glassgpt
from glassgpt.inspection.analysis import token_losses
from glassgpt.inspection.checkpoint_traces import trace_checkpoints
from glassgpt.training.run_folder import RunFolder
from pages import listened

TEXT = "the old king"
CHOSEN = {"layer": 0, "head": 1, "position": 2, "key": 1}


def frames_of(steps):
    """Return the steps that the film shows: all but those close to the one before, and the last."""
    frames = steps[:1]
    for step in steps[1:]:
        if step**2 >= 2 * frames[-1] ** 2:
            frames.append(step)
    return frames if frames[-1] == steps[-1] else [*frames[:-1], steps[-1]]


def address_for(run):
    loaded = glassgpt.load(run, device="cpu")
    return address_of(("nano", loaded.model, loaded.tokenizer, RunFolder(run)), text=TEXT)


def test_film_shows_each_step_of_training(open_page, nano_run):
    """Stepped from the last frame to the first, as those do who prefer less motion."""
    traces = trace_checkpoints(nano_run, TEXT)
    page = open_page(locale="en-US", reduced_motion="reduce", viewport={"width": 390, "height": 800})
    open_at(page, address_for(nano_run), **CHOSEN)
    panel(page, "film")
    assert page.locator("#film-play, #film-speed").count() == 0
    frames = frames_of(traces.steps)
    count = len(frames)
    seen = frames[-4:]
    for at, step in reversed([*enumerate(frames, 1)][-4:]):
        page.locator("#film-at", has_text=f"step {step} ({at} of {count})").wait_for()
        page.locator(f"#frame-{step}[aria-pressed=true]").wait_for()
        weight = float(traces[step]["blocks.0.attention.weights"][1, 2, 1])
        assert page.locator("#film-weights-told").inner_text().endswith(f" {weight:.4f}")
        page.locator("#film-less").press("ArrowLeft")
    page.locator(f"#frame-{frames[-5]}[aria-pressed=true]").wait_for()
    assert page.locator("#film-curve circle").count() == 5  # the last key went to one more
    for row, step in zip(rows(page.locator("#learned")), frames[-5:], strict=True):
        assert row[0] == f"{step:,}"
        assert float(row[1]) == pytest.approx(float(token_losses(traces[step]).mean()), abs=1e-3)
        assert row[3] == percent(float(traces[step]["next.model"].max()))
    page.locator(f"#frame-{seen[1]}").click()
    page.locator("#film-at", has_text=f"step {seen[1]} ").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.locator("#film-whole").click()
    page.wait_for_url(f"**step={seen[1]}**")


@pytest.mark.slow
def test_film_plays_stops_and_reports_a_damaged_step(browser, nano_run, tmp_path):
    context, run = browser.new_context(locale="en-US"), tmp_path / "run"
    page, _ = listened(context)  # the browser itself logs the refusal
    shutil.copytree(nano_run, run, symlinks=True)
    traces = trace_checkpoints(run, TEXT)
    open_at(page, address_for(run), **CHOSEN)
    panel(page, "film")
    weights = run / "snapshots" / f"step-{traces.steps[1]:06d}" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    play = page.locator("#film-play")
    page.locator("#film-speed").select_option("2")
    play.click()
    assert play.inner_text() == "Stop"
    page.locator("#film-at", has_text=re.compile(r"\([3-6] of")).wait_for()
    play.click()
    stopped = page.locator("#film-at").inner_text()
    page.wait_for_timeout(600)
    assert page.locator("#film-at").inner_text() == stopped
    page.locator("#film-speed").select_option("4")
    play.click()
    page.locator("#film-at", has_text=f"step {traces.steps[-1]} ").wait_for()
    page.locator("#film-play", has_text="Play").wait_for()
    assert len(rows(page.locator("#learned"))) == len(frames_of(traces.steps)) - 1
    page.locator("#film-less").focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    page.locator("#film-screen .failed", has_text=f"step-{traces.steps[1]:06d}").wait_for()
    context.close()


def test_frames_are_at_equal_ratios(page, address):
    page.goto(address)
    code = "async (steps) => (await import('./film.js')).framesOf(steps)"
    assert page.evaluate(code, [0, 1, 2, 4, 8, 10, 16]) == [0, 1, 2, 4, 8, 16]
    every = [*range(100, 3001, 100)]
    frames = page.evaluate(code, every)
    assert frames[0] == 100
    assert frames[-1] == 3000
    assert len(frames) <= 11
    assert all(later / earlier > 1.4 for earlier, later in itertools.pairwise(frames))
    assert page.evaluate(code, [200, 250]) == [200, 250]
    assert page.evaluate(code, [5]) == [5]
    assert page.evaluate(code, []) == []


def test_run_without_steps_says_how_to_get_them(page, address):
    page.goto(address)
    assert "glassgpt train saves the weights at steps 0, 1, 2, 4" in panel(page, "film").inner_text()
