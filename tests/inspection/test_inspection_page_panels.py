"""The panels of the page show the values of the trace."""

import itertools
import math
import re
from dataclasses import replace

import pytest
from inspection_helpers import BYTES, MODERN
from page_helpers import OPTIONS, TEXT, Z, address_of, format_number, open_at, panel, percent, rows

from glassgpt.generation.options import GenerationOptions
from glassgpt.inspection.analysis import logit_lens, nearest_tokens, token_losses, token_vectors
from glassgpt.inspection.details import LENS_TOKENS, detail
from glassgpt.inspection.trace import trace
from planted import LETTERS, planted
from small_models import shaken


@pytest.mark.slow
def test_tokens_panel_shows_merges_and_losses(page, traced):
    from glassgpt.data.tokenizers import train_tokenizer
    from glassgpt.model.config import ModelConfig

    tokenizer = train_tokenizer("bpe:280", ["the other thing that they thought then " * 20])
    model = shaken(ModelConfig(vocab_size=tokenizer.vocab_size, context_length=48, n_layer=1, n_head=2, n_embd=8))
    found = trace(model, tokenizer, "they thought é")
    page.goto(address_of(("merging", model, tokenizer), text=found.text))
    body = panel(page, "tokens")
    for steps in (0, 1, 2):
        page.locator("#merges").fill(str(steps))
        shown = ["".join(part.split("\n")) for part in body.locator("#pieces .part").all_inner_texts()]
        expected = [list(part.stages())[min(steps, len(part.merges))] for part in found.pretokens]
        pieces = body.locator("#pieces .part").first.locator(".piece").all_inner_texts()
        assert pieces == [piece.decode() for piece in expected[0]]
        assert len(shown) == len(expected)
    body.locator("#token-1").click()
    loss = float(token_losses(found)[0])
    page.get_by_text(f"loss {loss:.3f} nats").wait_for()


@pytest.mark.slow
def test_tokens_are_a_single_tab_stop(page, address):
    open_at(page, address, position=4)
    panel(page, "tokens")
    page.locator("#token-4").focus()
    page.keyboard.press("ArrowRight")
    page.locator("#token-5[aria-pressed=true]").wait_for()
    panel(page, "tokens")
    assert page.evaluate("document.activeElement.id") == "token-5"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "source"


@pytest.mark.slow
def test_embeddings_panel_shows_nearest_tokens_and_cosines(page, address, traced):
    open_at(page, address, position=3, key=9, layer=1)
    body = panel(page, "embeddings")
    vectors = token_vectors(traced.model)
    expected = nearest_tokens(traced.model, vectors[traced.tokens[3]], 10)
    assert rows(body.locator("#nearest"))[:3] == [[LETTERS[t], str(t), format_number(c)] for t, c in expected[:3]]
    for name, cosine in rows(body.locator("#alike")):
        one, other = traced[name][3].double(), traced[name][9].double()
        assert float(cosine.replace("−", "-")) == pytest.approx(
            float(one @ other / one.norm() / other.norm()), abs=1e-4
        )
    body.locator("#strip-embedding").focus()
    page.keyboard.press("ArrowRight")
    page.locator(
        "#strip-embedding-told", has_text=f"channel 1 = {format_number(float(traced['embedding'][3, 1]))}"
    ).wait_for()


@pytest.mark.slow
def test_block_panel_shows_all_heads_and_their_patterns(page, address):
    open_at(page, address)
    body = panel(page, "block")
    assert body.locator(".map").count() == 2
    page.locator("#layer-0").focus()
    page.keyboard.press("ArrowRight")
    page.locator("#layer-1[aria-checked=true]").wait_for()
    panel(page, "block").locator(".map small", has_text="induction 0.").first.wait_for()
    page.locator("h1").click()
    page.keyboard.press("l")
    panel(page, "block")
    page.locator("#head-1[aria-checked=true]").wait_for()
    assert "layer=1" in page.url
    assert "head=1" in page.url


@pytest.mark.slow
def test_head_panel_shows_scores_to_mixed_values(page, address, traced):
    open_at(page, address, layer=1, position=11, key=5, channel=3)
    panel(page, "head")
    at = {part: traced[f"blocks.1.attention.{part}"][0] for part in ("q", "k", "v", "scores", "weights", "mixed")}

    def filled(name):
        return page.locator(f"#{name} span").all_inner_texts()

    root = math.sqrt(at["q"].size(1))
    product = float(at["q"][11].double() @ at["k"][5].double())
    assert filled("score")[1:] == [
        f"= {format_number(product)} / {format_number(root)}",
        f"= {format_number(float(at['scores'][11, 5]))}",
    ]
    assert filled("mask")[1] == f"s = {format_number(float(at['scores'][11, 5]))}"
    assert filled("weight")[2] == f"= {format_number(float(at['weights'][11, 5]))}"
    raised, total = (float(each) for each in re.findall(r"[\d.]+(?:e[+-]?\d+)?", filled("weight")[1]))
    assert raised / total == pytest.approx(float(at["weights"][11, 5]), abs=2e-3)
    best = int(at["weights"][11].argmax())
    assert (
        f"{format_number(float(at['weights'][11, best]))} · {format_number(float(at['v'][best, 3]))}"
        in filled("mix")[0]
    )
    assert filled("mix")[-1] == f"= {format_number(float(at['mixed'][11, 3]))}"
    page.locator("#weights").focus()
    page.keyboard.press("ArrowUp")
    page.locator("#weight span", has_text=f"= {format_number(float(at['weights'][10, 5]))}").wait_for()
    assert page.evaluate("document.activeElement.id") == "weights"
    open_at(page, address, layer=1, position=5, key=11)
    panel(page, "head")
    assert filled("mask") == ["11 > 5: the future: masked", "s = −∞"]
    assert filled("weight")[2] == "= 0.0000"


@pytest.mark.slow
def test_mlp_panel_shows_units_and_promoted_tokens(page):
    model = shaken(MODERN)
    found = trace(model, BYTES, "the cat")
    page.goto(address_of(("shaken", model, BYTES), text="the cat") + "#layer=2&position=4")
    body = panel(page, "mlp")
    expected = detail(found, "units", {"layer": 2, "position": 4})["units"]
    for shown, unit in zip(rows(body.locator("#units")), expected, strict=True):
        assert shown[:3] == [str(unit["unit"]), format_number(unit["value"]), format_number(unit["length"])]
        assert shown[3].split("\n")[0] == unit["promotes"][0]["piece"].replace(" ", "␣")
    strongest = float(found["blocks.2.mlp.hidden"][4].abs().max())
    assert body.locator("#hidden-told").inner_text().endswith(f"= {format_number(strongest)}")


@pytest.mark.slow
def test_stream_and_lens_panels(page, address, traced):
    open_at(page, address, position=7)
    body = panel(page, "stream")
    embedding, first, second = rows(body.locator("#lengths"))
    assert embedding[3] == format_number(float(traced["embedding"][7].norm()), 2)
    assert first[1] == format_number(float(traced["blocks.0.attention.output"][7].norm()), 2)
    assert second[3] == format_number(float(traced["blocks.1.output"][7].norm()), 2)
    panel(page, "lens")
    lens = logit_lens(traced)[..., : len(LETTERS) + 1].softmax(dim=-1)
    for depth in range(3):
        shown = [page.locator(f"#lens-{depth}-{at}").inner_text() for at in range(12)]
        assert shown == [traced.tokenizer.token_bytes(token).decode() for token in lens[depth].argmax(-1).tolist()]
    page.locator("#lens-2-10").click()
    page.locator("#lens-2-10[aria-pressed=true]").wait_for()
    page.keyboard.press("ArrowRight")
    page.locator("#lens-2-11[aria-pressed=true]").wait_for()
    best = rows(page.locator("#lens-cell"))[0]
    assert best == ["z", str(Z), percent(float(traced["next.model"][Z]))]


@pytest.mark.slow
def test_lens_of_a_long_text_is_paged(page):
    model = shaken(replace(MODERN, context_length=160))
    found = trace(model, BYTES, "the cat sat. " * 11)
    page.goto(address_of(("shaken", model, BYTES), text=found.text) + "#position=63")
    panel(page, "lens")
    assert page.locator("table.lens th").count() == 1 + LENS_TOKENS
    page.locator(f"#lens-{model.config.n_layer}-63").focus()
    page.keyboard.press("ArrowRight")
    page.locator("#lens-shown", has_text="tokens 64 to 127 of 143").wait_for()
    panel(page, "lens")
    assert page.evaluate("document.activeElement.id") == f"lens-{model.config.n_layer}-64"
    page.locator("#lens-later").click()
    page.locator("#lens-later:disabled").wait_for()
    panel(page, "lens")
    assert page.locator("table.lens th").count() == 1 + LENS_TOKENS
    assert page.locator("#lens-shown").inner_text() == "tokens 79 to 142 of 143"
    best = found["logits"][128, : BYTES.vocab_size].softmax(-1).max(dim=-1)
    assert rows(page.locator("#lens-cell"))[0][1:] == [str(int(best.indices)), percent(float(best.values))]
    page.locator("#lens-earlier").click()
    page.locator("#lens-shown", has_text="tokens 64 to 127 of 143").wait_for()


@pytest.mark.slow
def test_next_token_panel_applies_logits_processors(page, address, traced):
    open_at(page, address)
    body = panel(page, "next")
    z = next(row for row in rows(body) if row[0] == "z")
    assert z[1:] == [str(Z), *(percent(float(traced[stage][Z])) for stage in traced.stages())]
    page.locator("#top_k").focus()
    for _ in range(3):
        page.keyboard.press("ArrowLeft")
    page.locator("#temperature").fill("1.5")
    page.locator("#repetition_penalty").fill("1.3")
    asked = GenerationOptions(top_k=2, temperature=1.5, repetition_penalty=1.3)
    found = traced.with_options(asked)
    expected = ["possible", "", *(f"{int((found[stage] > 0).sum()):,}" for stage in found.stages())]
    page.locator("#distribution tr", has_text="possible").locator("td", has_text=re.compile("^2$")).first.wait_for()
    assert rows(panel(page, "next"))[-2] == expected
    z = next(row for row in rows(panel(page, "next")) if row[0] == "z")
    assert z[2:] == [percent(float(found[stage][Z])) for stage in found.stages()]


@pytest.mark.slow
def test_sampled_token_is_appended_and_grows_the_cache(page, address, traced):
    open_at(page, address, options={"top_k": 1})
    panel(page, "cache")
    held = detail(traced, "cache", {})
    assert page.locator("#held b").inner_text() == f"{held['held'] / 1024:.1f} KiB"
    panel(page, "next").locator("#sample").click()
    page.locator("#take-back:enabled").wait_for()
    panel(page, "tokens")
    best = int(traced["next.model"].argmax())
    assert page.locator("#token-12").inner_text() == traced.tokenizer.token_bytes(best).decode()
    panel(page, "cache")
    page.locator("#held", has_text="= 13 ×").wait_for()
    assert page.locator("#held b").inner_text() == f"{(held['held'] + held['token']) / 1024:.1f} KiB"
    page.reload()  # what was drawn is in the address
    panel(page, "tokens")
    page.locator("#token-12").wait_for()
    longer = trace(*planted(), TEXT, OPTIONS, [best])
    assert rows(panel(page, "next"))[0][2] == percent(float(longer["next.model"].max()))
    page.locator("#take-back").click()
    page.locator("#take-back:disabled").wait_for()
    panel(page, "tokens")
    assert page.locator("#token-12").count() == 0


def test_clicked_candidate_is_appended(page, address, traced):
    open_at(page, address)
    second = int(traced["next.model"].topk(2).indices[1])
    panel(page, "next").locator("tbody tr").nth(1).locator("button").click()
    page.locator("#take-back:enabled").wait_for()
    longer = trace(*planted(), TEXT, OPTIONS, [second])
    assert rows(panel(page, "next"))[0][2] == percent(float(longer["next.model"].max()))
    assert "written=%5B" in page.url


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_brightness_orders_the_colors(page, address, scheme):
    page.emulate_media(color_scheme=scheme)
    page.goto(address)
    code = """async () => {
        const { backed } = await import("./color.js");
        const at = (kind) => (value) => backed(kind, value, 1).background.match(/[0-9]+/g).map(Number);
        const shares = Array.from({ length: 21 }, (_, step) => step / 20);
        return [shares.map(at("magnitude")), shares.map(at("signed")), shares.map((share) => at("signed")(-share))];
    }"""
    for colors in page.evaluate(code):
        brightness = [0.2126 * red + 0.7152 * green + 0.0722 * blue for red, green, blue in colors]
        steps = [after - before for before, after in itertools.pairwise(brightness)]
        assert all(step * (1 if scheme == "dark" else -1) > 0 for step in steps)


@pytest.mark.slow
def test_every_panel_works_without_a_text(page):
    model = shaken(MODERN)
    page.goto(address_of(("shaken", model, BYTES), text=None))
    panel(page, "tokens")
    for name in page.locator("section").evaluate_all("all => all.map(each => each.id)"):
        panel(page, name)
        assert page.locator(f"#{name} .failed").count() == 0
    chance = float(trace(model, BYTES, None, OPTIONS)["next.model"].max())
    assert rows(panel(page, "next"))[0][2] == percent(chance)
    panel(page, "changes").locator("#off-block").click()
    page.locator("#divergence").wait_for()
