"""Interventions made on the page."""

import pytest
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


@pytest.mark.slow
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


@pytest.mark.slow
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


def formula_of_mixed_values(page, expected_end):
    """Return the lines below the mixed values, once the last one is as expected: the panel is drawn again."""
    panel(page, "head")
    page.locator("#mix span", has_text=f"= {expected_end}").last.wait_for()
    return page.locator("#mix span").all_inner_texts()


@pytest.mark.slow
def test_formula_of_a_scaled_head_has_its_factor(page, address, traced):
    """The sum times the factor is the value shown below it."""
    ablated = [{"kind": "head", "layer": 1, "head": 1, "scale": 0}]
    open_at(page, address, layer=1, head=1, position=11, channel=3, interventions=ablated)
    whole, value = formula_of_mixed_values(page, "0.0000")
    assert whole.startswith("z₁₁[3] = (")
    assert whole.endswith(") × 0")
    assert value == "= 0.0000"
    halved = [{**ablated[0], "scale": 0.5}]
    expected = float(traced.intervene(ScaleHead(1, 1, 0.5))["blocks.1.attention.mixed"][1, 11, 3])
    open_at(page, address, layer=1, head=1, position=11, channel=3, interventions=halved)
    whole, _ = formula_of_mixed_values(page, format_number(expected))
    assert whole.endswith(") × 0.5")
    open_at(page, address, layer=1, head=0, position=11, channel=3, interventions=halved)
    untouched = float(traced["blocks.1.attention.mixed"][0, 11, 3])
    whole, _ = formula_of_mixed_values(page, format_number(untouched))
    assert "×" not in whole


@pytest.mark.slow
def test_formula_of_patched_mixed_values_names_the_other_text(page, address, traced):
    other = "zqbmfkxzqbmf"
    patch = {"kind": "patch", "name": "blocks.1.attention.mixed", "text": other, "positions": [11], "head": 1}
    changed = traced.intervene(Patch("blocks.1.attention.mixed", other, (11,), head=1))
    expected = format_number(float(changed["blocks.1.attention.mixed"][1, 11, 3]))
    assert expected != format_number(float(traced["blocks.1.attention.mixed"][1, 11, 3]))
    open_at(page, address, layer=1, head=1, position=11, channel=3, interventions=[patch])
    assert formula_of_mixed_values(page, expected) == [f"z₁₁[3] = z₁₁[3] ← “{other}”", f"= {expected}"]
    before = format_number(float(changed["blocks.1.attention.mixed"][1, 10, 3]))
    open_at(page, address, layer=1, head=1, position=10, channel=3, interventions=[patch])
    assert "←" not in formula_of_mixed_values(page, before)[0]
    switched_off = [patch, {"kind": "head", "layer": 1, "head": 1, "scale": 0}]
    open_at(page, address, layer=1, head=1, position=11, channel=3, interventions=switched_off)
    assert formula_of_mixed_values(page, "0.0000")[0] == f"z₁₁[3] = z₁₁[3] ← “{other}” × 0"


@pytest.mark.slow
def test_negative_cosines_are_drawn_from_the_right(page, address, traced):
    embedding = traced["embedding.token"].double()
    cosines = embedding @ embedding.T / (embedding.norm(dim=1)[:, None] * embedding.norm(dim=1))
    position, key = divmod(int(cosines.argmin()), len(cosines))
    assert float(cosines[position, key]) < -0.05
    open_at(page, address, position=position, key=key)
    panel(page, "embeddings")
    cell = page.locator("#alike td.bar").first
    assert cell.inner_text().startswith("−")
    assert "negative" in cell.get_attribute("class")
    assert "to left" in cell.evaluate("cell => getComputedStyle(cell).backgroundImage")
    share = float(cell.evaluate("cell => cell.style.getPropertyValue('--share')").rstrip("%"))
    assert abs(share + 100 * float(cosines[position, key])) < 0.01
    positive = page.locator("#nearest td.bar").first
    assert "negative" not in positive.get_attribute("class")
    assert "to left" not in positive.evaluate("cell => getComputedStyle(cell).backgroundImage")
