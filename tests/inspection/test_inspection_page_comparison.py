"""Checkpoints and a second run on the page."""

import pytest
from inspection_helpers import BYTES, MODERN
from page_helpers import OPTIONS, address_of, format_number, panel, percent, rows

import glassgpt
from glassgpt.inspection.analysis import nearest_tokens, token_losses, token_vectors
from glassgpt.inspection.checkpoint_traces import checkpoint_steps, load_checkpoint_model, trace_checkpoints
from glassgpt.inspection.details import detail
from glassgpt.inspection.trace import trace
from glassgpt.training.run_folder import RunFolder
from planted import planted
from small_models import shaken


@pytest.mark.slow
def test_earlier_checkpoint_is_shown(page, nano_run):
    loaded = glassgpt.load(nano_run, device="cpu")
    text = "the old king"
    page.goto(address_of(("nano", loaded.model, loaded.tokenizer, RunFolder(nano_run)), text=text))
    traces = trace_checkpoints(nano_run, text)
    panel(page, "history").locator("#step").focus()
    page.keyboard.press("Home")
    page.wait_for_url(f"**step={traces.steps[0]}**")
    first = traces[traces.steps[0]]
    assert rows(panel(page, "next"))[0][2] == percent(float(first["next.model"].max()))
    page.reload()
    panel(page, "history").locator("output", has_text=f"step {traces.steps[0]:,}").wait_for()


def test_two_runs_are_compared(page, nano_run):
    loaded = glassgpt.load(nano_run, device="cpu")
    folder = RunFolder(nano_run)
    earlier = load_checkpoint_model(folder, loaded.tokenizer, checkpoint_steps(folder)[0])
    text = "the old king"
    runs = [("nano", loaded.model, loaded.tokenizer, folder), ("earlier", earlier, loaded.tokenizer)]
    page.goto(f"{address_of(*runs, text=text)}#layer=0&head=0&key=0")
    panel(page, "history").locator("#compare").check()
    page.locator("#runs table").wait_for()
    both = [trace(model, loaded.tokenizer, text, OPTIONS) for model in (loaded.model, earlier)]
    for row, (name, *_), found in zip(rows(page.locator("#runs")), runs, both, strict=True):
        losses, n_bytes = token_losses(found), len(found["bytes"]) - len(found.tokenizer.token_bytes(found.tokens[0]))
        assert row[:2] == [name, str(len(found))]
        assert [float(each) for each in row[2:4]] == pytest.approx(
            [float(losses.mean()), float(losses.sum()) / n_bytes], abs=1e-3
        )
    best = int(both[0]["next.model"].argmax())
    chances = [percent(float(each["next.model"][best])) for each in reversed(both)]
    assert rows(panel(page, "next"))[0][1:4] == [str(best), *chances]
    panel(page, "head")
    difference = both[0]["blocks.0.attention.weights"][0] - both[1]["blocks.0.attention.weights"][0]
    assert page.locator("#weight-change span").inner_text() == f"= {format_number(float(difference[-1, 0]))}"


@pytest.mark.slow
def test_runs_with_different_tokenizers_are_compared(page, traced):
    page.goto(address_of(("planted", *planted()), ("bytes", shaken(MODERN), BYTES)) + "#compare=true&written=[25]")
    panel(page, "history")
    assert [row[:2] for row in rows(page.locator("#runs"))] == [["planted", "13"], ["bytes", "12"]]
    assert len(rows(panel(page, "next"))[0]) == 2 + len(traced.stages())
    for name in ("head", "lens"):
        panel(page, name)
        assert page.locator(f"#{name} .failed").count() == 0


@pytest.mark.slow
def test_embeddings_and_hidden_units_of_both_runs_are_shown(page, nano_run):
    loaded = glassgpt.load(nano_run, device="cpu")
    folder = RunFolder(nano_run)
    earlier = load_checkpoint_model(folder, loaded.tokenizer, checkpoint_steps(folder)[0])
    text = "the old king"
    runs = [("nano", loaded.model, loaded.tokenizer, folder), ("earlier", earlier, loaded.tokenizer)]
    page.goto(f"{address_of(*runs, text=text)}#compare=true&layer=0&head=0&key=0&position=2&channel=3")
    both = {"": trace(loaded.model, loaded.tokenizer, text), "-other": trace(earlier, loaded.tokenizer, text)}
    panel(page, "embeddings")
    for suffix, found in both.items():
        value = format_number(float(found["embedding"][2, 3]))
        assert page.locator(f"#strip-embedding{suffix}-told").inner_text().endswith(f"= {value}")
        _, cosine = nearest_tokens(found.model, token_vectors(found.model)[found.tokens[2]], 2)[1]
        assert rows(page.locator(f"#nearest{suffix}"))[1][2] == format_number(cosine)
    panel(page, "mlp")
    for suffix, found in both.items():
        unit = detail(found, "units", {"layer": 0, "position": 2})["units"][0]
        assert rows(page.locator(f"#units{suffix}"))[0][:2] == [str(unit["unit"]), format_number(unit["value"])]
        strongest = found["blocks.0.mlp.hidden"][2]
        value = format_number(float(strongest[strongest.abs().argmax()]))
        assert page.locator(f"#hidden{suffix}-told").inner_text().endswith(f"= {value}")
