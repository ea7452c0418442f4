"""Interventions made on the page."""

from page_helpers import Z, format_number, open_at, panel, percent, rows

from glassgpt.inspection.analysis import divergence, token_losses
from glassgpt.inspection.interventions import Patch, ScaleHead


def test_head_is_ablated_and_restored(page, address, traced):
    open_at(page, address, layer=1, head=1)
    panel(page, "changes").locator("#off-head").click()
    page.locator("#divergence").wait_for()
    changed = traced.intervene(ScaleHead(1, 1))
    assert page.locator("#divergence").inner_text().endswith(f"{format_number(float(divergence(changed)[-1]))} nats")
    first = rows(page.locator("#moved"))[0]
    token = int((changed["next.model"] - traced["next.model"]).abs().argmax())
    assert first[1:4] == [str(token), *(percent(float(each["next.model"][token])) for each in (traced, changed))]
    losses = [f"{float(token_losses(each).mean()):.3f}" for each in (traced, changed)]
    assert page.locator("#mean-loss").inner_text().endswith(f"{losses[0]} → {losses[1]}")
    z = next(row for row in rows(panel(page, "next")) if row[0] == "z")
    assert z[2:4] == [percent(float(each["next.model"][Z])) for each in (traced, changed)]
    page.reload()  # what was chosen is in the address
    panel(page, "changes").locator("#undo").click()
    page.locator("#undo").wait_for(state="detached")


def test_activation_is_patched_from_another_text(page, address, traced):
    other = "zqbmfkxzqbmf"
    open_at(page, address, layer=1)
    panel(page, "changes")
    page.locator("#patch-text").fill(other)
    page.locator("#patch").click()
    page.locator("#divergence").wait_for()
    changed = traced.intervene(Patch("blocks.1.output", other, (11,)))
    assert page.locator("#divergence").inner_text().endswith(f"{format_number(float(divergence(changed)[-1]))} nats")
    assert page.locator(".chip").inner_text() == f"blocks.1.output @ 11 ← “{other}” ✕"


def test_one_head_is_patched_at_all_positions(page, address, traced):
    other = "zqbmfkxzqbmf"
    open_at(page, address, layer=1, head=1)
    panel(page, "changes")
    page.locator("#patch-name").select_option("blocks.1.attention.mixed")
    page.locator("#patch-head").select_option("one")
    page.locator("#patch-where").select_option("all")
    page.locator("#patch-text").fill(other)
    page.keyboard.press("Enter")
    page.locator("#divergence").wait_for()
    changed = traced.intervene(Patch("blocks.1.attention.mixed", other, head=1))
    assert page.locator("#divergence").inner_text().endswith(f"{format_number(float(divergence(changed)[-1]))} nats")
    assert page.locator(".chip").inner_text() == f"blocks.1.attention.mixed[1] ← “{other}” ✕"
