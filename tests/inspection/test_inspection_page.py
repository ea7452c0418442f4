"""The page in a real browser: what it shows is the model's, no error is logged, and no text becomes markup."""

import itertools
import json
import math
import re
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pytest
import torch
from test_inspection_trace import BYTES, GPT2, MODERN

import glassgpt
from glassgpt.generation.options import GenerationOptions
from glassgpt.inspection import server as room
from glassgpt.inspection.analysis import divergence, logit_lens, nearest_tokens, token_losses, token_vectors
from glassgpt.inspection.checkpoint_traces import history, model_after, steps_of
from glassgpt.inspection.details import LENS_TOKENS, detail
from glassgpt.inspection.interventions import Patch, ScaleHead
from glassgpt.inspection.service import InspectionService, LoadedRun
from glassgpt.inspection.static_page import save_page
from glassgpt.inspection.trace import trace
from glassgpt.training.run_folder import RunFolder
from pages import listened
from planted import LETTERS, planted
from small_models import shaken

TEXT = "kfmbqzxkfmbq"
Z = LETTERS.index("z")
HOSTILE = "<img src=x onerror=hurt=1>\u202eא\x00\x1b\U0001f469"
OPTIONS = GenerationOptions(top_k=5)


@pytest.fixture
def page(open_page):
    """A page in English, at a telephone's width."""
    return open_page(locale="en-US", viewport={"width": 390, "height": 800})


def address_of(*subjects, text=TEXT):
    return address_of_desk(InspectionService([LoadedRun(*subject) for subject in subjects], text, OPTIONS))


def address_of_desk(desk):
    pytest.importorskip("uvicorn")
    found, ready = [], threading.Event()

    def announce(where):
        found.append(where)
        ready.set()

    threading.Thread(target=room.serve, args=(desk, announce), daemon=True).start()
    assert ready.wait(30)
    return found[0]


@pytest.fixture(scope="module")
def address():
    return address_of(("planted", *planted()))


@pytest.fixture(scope="module")
def traced():
    return trace(*planted(), TEXT, OPTIONS)


def panel(page, name):
    """A panel, once it is drawn; those above it may push it out of sight meanwhile."""
    section, end = page.locator(f"#{name}"), time.monotonic() + 30
    while section.get_attribute("data-ready") is None:
        assert time.monotonic() < end, f"{name} is not drawn"
        section.scroll_into_view_if_needed()
        page.wait_for_timeout(20)
    section.scroll_into_view_if_needed()
    return section.locator(".body")


def rows(found):
    """The texts of a table's cells, without its heading."""
    lines = found.locator("tbody tr").all()
    return [[cell.inner_text().strip() for cell in line.locator("td").all()] for line in lines]


def opened(page, address, **chosen):
    page.goto("about:blank")
    page.goto(f"{address}#{'&'.join(f'{name}={quote(json.dumps(value))}' for name, value in chosen.items())}")


def figure(value, places=4):
    return f"{value:.{places}f}".replace("-", "−")


def percent(chance):
    return "–" if chance == 0 else "< 0.1 %" if chance < 0.0005 else f"{100 * chance:.1f} %"


def test_bytes_merge_into_tokens(page, traced):
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
    page.get_by_text(f"foreseen with {loss:.3f} nats").wait_for()


def test_tokens_are_one_stop_of_the_keyboard(page, address):
    opened(page, address, position=4)
    panel(page, "tokens")
    page.locator("#token-4").focus()
    page.keyboard.press("ArrowRight")
    page.locator("#token-5[aria-pressed=true]").wait_for()
    panel(page, "tokens")
    assert page.evaluate("document.activeElement.id") == "token-5"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.tagName") == "SUMMARY"


def test_embeddings_their_neighbours_and_cosines(page, address, traced):
    opened(page, address, position=3, key=9, layer=1)
    body = panel(page, "embeddings")
    vectors = token_vectors(traced.model)
    expected = nearest_tokens(traced.model, vectors[traced.tokens[3]], 10)
    assert rows(body.locator("#nearest"))[:3] == [[LETTERS[t], str(t), figure(c)] for t, c in expected[:3]]
    for name, cosine in rows(body.locator("#alike")):
        one, other = traced[name][3].double(), traced[name][9].double()
        assert float(cosine.replace("−", "-")) == pytest.approx(
            float(one @ other / one.norm() / other.norm()), abs=1e-4
        )
    body.locator("#strip-embedding").focus()
    page.keyboard.press("ArrowRight")
    page.locator("#strip-embedding-told", has_text=f"channel 1 = {figure(float(traced['embedding'][3, 1]))}").wait_for()


def test_heads_side_by_side_and_the_induction_head(page, address):
    opened(page, address)
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


def test_one_head_from_scores_to_mixed_values(page, address, traced):
    opened(page, address, layer=1, position=11, key=5, channel=3)
    panel(page, "head")
    at = {part: traced[f"blocks.1.attention.{part}"][0] for part in ("q", "k", "v", "scores", "weights", "mixed")}

    def filled(name):
        return page.locator(f"#{name} span").all_inner_texts()

    root = math.sqrt(at["q"].size(1))
    product = float(at["q"][11].double() @ at["k"][5].double())
    assert filled("score")[1:] == [f"= {figure(product)} / {figure(root)}", f"= {figure(float(at['scores'][11, 5]))}"]
    assert filled("mask")[1] == f"s = {figure(float(at['scores'][11, 5]))}"
    assert filled("weight")[2] == f"= {figure(float(at['weights'][11, 5]))}"
    raised, total = (float(each) for each in re.findall(r"[\d.]+(?:e[+-]?\d+)?", filled("weight")[1]))
    assert raised / total == pytest.approx(float(at["weights"][11, 5]), abs=2e-3)
    best = int(at["weights"][11].argmax())
    assert f"{figure(float(at['weights'][11, best]))} · {figure(float(at['v'][best, 3]))}" in filled("mix")[0]
    assert filled("mix")[-1] == f"= {figure(float(at['mixed'][11, 3]))}"
    page.locator("#weights").focus()
    page.keyboard.press("ArrowUp")
    page.locator("#weight span", has_text=f"= {figure(float(at['weights'][10, 5]))}").wait_for()
    assert page.evaluate("document.activeElement.id") == "weights"
    opened(page, address, layer=1, position=5, key=11)
    panel(page, "head")
    assert filled("mask") == ["11 > 5: the future: may not look", "s = −∞"]
    assert filled("weight")[2] == "= 0.0000"


def test_hidden_units_and_what_they_promote(page):
    model = shaken(MODERN)
    found = trace(model, BYTES, "the cat")
    page.goto(address_of(("shaken", model, BYTES), text="the cat") + "#layer=2&position=4")
    body = panel(page, "mlp")
    expected = detail(found, "units", {"layer": 2, "position": 4})["units"]
    for shown, unit in zip(rows(body.locator("#units")), expected, strict=True):
        assert shown[:3] == [str(unit["unit"]), figure(unit["value"]), figure(unit["length"])]
        assert shown[3].split("\n")[0] == unit["promotes"][0]["piece"].replace(" ", "␣")
    strongest = float(found["blocks.2.mlp.hidden"][4].abs().max())
    assert body.locator("#hidden-told").inner_text().endswith(f"= {figure(strongest)}")


def test_the_stream_and_the_lens(page, address, traced):
    opened(page, address, position=7)
    body = panel(page, "stream")
    embedding, first, second = rows(body.locator("#lengths"))
    assert embedding[3] == figure(float(traced["embedding"][7].norm()), 2)
    assert first[1] == figure(float(traced["blocks.0.attention.output"][7].norm()), 2)
    assert second[3] == figure(float(traced["blocks.1.output"][7].norm()), 2)
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


def test_a_long_text_has_its_lens_in_pieces(page):
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


def test_the_next_token_through_its_processors(page, address, traced):
    opened(page, address)
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


def test_a_token_is_drawn_and_the_cache_grows(page, address, traced):
    opened(page, address, options={"top_k": 1})
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


def test_a_candidate_is_appended_by_a_click(page, address, traced):
    opened(page, address)
    second = int(traced["next.model"].topk(2).indices[1])
    panel(page, "next").locator("tbody tr").nth(1).locator("button").click()
    page.locator("#take-back:enabled").wait_for()
    longer = trace(*planted(), TEXT, OPTIONS, [second])
    assert rows(panel(page, "next"))[0][2] == percent(float(longer["next.model"].max()))
    assert "written=%5B" in page.url


def test_a_head_is_switched_off_and_on(page, address, traced):
    opened(page, address, layer=1, head=1)
    panel(page, "changes").locator("#off-head").click()
    page.locator("#divergence").wait_for()
    changed = traced.intervene(ScaleHead(1, 1))
    assert page.locator("#divergence").inner_text().endswith(f"{figure(float(divergence(changed)[-1]))} nats")
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


def test_an_activation_is_patched_from_another_text(page, address, traced):
    other = "zqbmfkxzqbmf"
    opened(page, address, layer=1)
    panel(page, "changes")
    page.locator("#patch-text").fill(other)
    page.locator("#patch").click()
    page.locator("#divergence").wait_for()
    changed = traced.intervene(Patch("blocks.1.output", other, (11,)))
    assert page.locator("#divergence").inner_text().endswith(f"{figure(float(divergence(changed)[-1]))} nats")
    assert page.locator(".chip").inner_text() == f"blocks.1.output @ 11 ← “{other}” ✕"


def test_one_head_is_patched_everywhere(page, address, traced):
    other = "zqbmfkxzqbmf"
    opened(page, address, layer=1, head=1)
    panel(page, "changes")
    page.locator("#patch-name").select_option("blocks.1.attention.mixed")
    page.locator("#patch-head").select_option("one")
    page.locator("#patch-where").select_option("all")
    page.locator("#patch-text").fill(other)
    page.keyboard.press("Enter")
    page.locator("#divergence").wait_for()
    changed = traced.intervene(Patch("blocks.1.attention.mixed", other, head=1))
    assert page.locator("#divergence").inner_text().endswith(f"{figure(float(divergence(changed)[-1]))} nats")
    assert page.locator(".chip").inner_text() == f"blocks.1.attention.mixed[1] ← “{other}” ✕"


def test_nothing_is_fetched_before_it_is_needed(page, address):
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


class Listening(InspectionService):
    """A desk that keeps what it was asked, the id of the trace left out."""

    def __init__(self, *given):
        super().__init__(*given)
        self.asked = []

    def detail(self, question):
        self.asked.append((question["what"], *question["arguments"].values()))
        return super().detail(question)

    def array(self, key, name, *index):
        self.asked.append((name, *index))
        return super().array(key, name, *index)

    def heard(self):
        found, self.asked = self.asked, []
        return found


def test_the_benchmark_asks_what_the_page_asks(page, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    from inspect_parts.worker import Questions

    desks = [Listening([LoadedRun("planted", *planted())], TEXT, OPTIONS) for _ in range(2)]
    page.goto(address_of_desk(desks[0]))
    for name in ("lens", "head"):  # in whose sight are all those above
        panel(page, name)
    page.wait_for_load_state("networkidle")
    heard, asked = desks[0].heard(), Questions(desks[1])
    assert asked.first_picture(None) > 0
    first = desks[1].heard()
    assert sorted(map(str, first)) == sorted(map(str, heard[: len(first)]))
    assert asked.block(0) > 0
    assert asked.lens() > 0
    assert set(desks[1].heard()) <= set(heard)
    page.locator("#head-more").click()
    page.locator("#at-head", has_text="head 1").wait_for()
    panel(page, "head")
    assert asked.head(0, 1) > 0
    assert sorted(map(str, desks[0].heard())) == sorted(map(str, desks[1].heard()))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_brightness_alone_tells_the_figures_apart(page, address, scheme):
    page.emulate_media(color_scheme=scheme)
    page.goto(address)
    code = """async () => {
        const { backed } = await import("./colour.js");
        const at = (kind) => (value) => backed(kind, value, 1).background.match(/[0-9]+/g).map(Number);
        const shares = Array.from({ length: 21 }, (_, step) => step / 20);
        return [shares.map(at("magnitude")), shares.map(at("signed")), shares.map((share) => at("signed")(-share))];
    }"""
    for colours in page.evaluate(code):
        brightness = [0.2126 * red + 0.7152 * green + 0.0722 * blue for red, green, blue in colours]
        steps = [after - before for before, after in itertools.pairwise(brightness)]
        assert all(step * (1 if scheme == "dark" else -1) > 0 for step in steps)


def test_the_beginning_of_a_document(page):
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


def test_the_same_text_as_the_model_learned(page, nano_run):
    loaded = glassgpt.load(nano_run, device="cpu")
    text = "the old king"
    page.goto(address_of(("nano", loaded.model, loaded.tokenizer, RunFolder(nano_run)), text=text))
    told = history(nano_run, text)
    panel(page, "history").locator("#follow").click()
    last = len(told.steps)
    page.locator("#learned tbody tr").nth(last - 1).wait_for()
    for row, step in zip(rows(page.locator("#learned")), told.steps, strict=True):
        best = float(told[step]["next.model"].max())
        assert row[0] == f"{step:,}"
        assert float(row[1]) == pytest.approx(float(token_losses(told[step]).mean()), abs=1e-3)
        assert row[3] == percent(best)
    page.locator("#step").focus()
    page.keyboard.press("Home")
    page.wait_for_url(f"**step={told.steps[0]}**")
    first = told[told.steps[0]]
    assert rows(panel(page, "next"))[0][2] == percent(float(first["next.model"].max()))
    page.reload()
    panel(page, "history").locator("output", has_text=f"step {told.steps[0]:,}").wait_for()


def test_two_runs_side_by_side(page, nano_run):
    loaded = glassgpt.load(nano_run, device="cpu")
    folder = RunFolder(nano_run)
    earlier = model_after(folder, loaded.tokenizer, steps_of(folder)[0])
    text = "the old king"
    runs = [("nano", loaded.model, loaded.tokenizer, folder), ("earlier", earlier, loaded.tokenizer)]
    page.goto(address_of(*runs, text=text))
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
    assert page.locator("#weight-change span").inner_text() == f"= {figure(float(difference[-1, 0]))}"


def test_a_run_with_other_tokens_beside_it(page, traced):
    page.goto(address_of(("planted", *planted()), ("bytes", shaken(MODERN), BYTES)) + "#compare=true&written=[25]")
    panel(page, "history")
    assert [row[:2] for row in rows(page.locator("#runs"))] == [["planted", "13"], ["bytes", "12"]]
    assert len(rows(panel(page, "next"))[0]) == 2 + len(traced.stages())
    for name in ("head", "lens"):
        panel(page, name)
        assert page.locator(f"#{name} .failed").count() == 0


def test_the_lines_that_compute_are_shown(page, address):
    import inspect

    from glassgpt.model.attention import attention_weights

    opened(page, address)
    panel(page, "block")
    page.locator("#block summary").first.click()
    shown = page.locator("#block pre")
    shown.wait_for()
    assert shown.inner_text() == inspect.getsource(attention_weights)
    assert "glassgpt/model/attention.py:" in page.locator("#block .place").first.inner_text()
    page.locator("#block .ask").click()
    assert page.locator("#block-help").is_visible()
    page.locator("h1").click()
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("t")
    page.keyboard.press("t")
    assert page.evaluate("getComputedStyle(document.body).colorScheme") == "dark"
    page.locator("#language").click()
    page.get_by_role("heading", name="바이트와 토큰").wait_for()
    assert page.title() == "planted · 안을 들여다보기"
    assert "theme=" in page.url
    assert "language=" in page.url


KNOWN = {"gelu", "relu", "softmax", "tanh", "sqrt", "rms", "cos", "sin", "UTF", "mask", "lm_head"}


def test_formulas_and_units_are_in_korean_too(page, address):
    """What is left in Latin letters are names of tensors and functions."""
    page.goto(address)
    stages = GenerationOptions(top_k=5, min_p=0.1, presence_penalty=1.0)
    traces = [trace(shaken(config), BYTES, "the cat", stages) for config in (MODERN, GPT2)]
    told = [found.describe(name) for found in traces for name in found.names()]
    code = """async (formulas) => {
        const { wordsFor } = await import("./words.js");
        const { formulas: words } = wordsFor("ko");
        return formulas.map((formula) => words.reduce((text, [from, to]) => text.replace(from, to), formula));
    }"""
    korean = page.evaluate(code, [each.formula for each in told])
    names = {part for each in told for part in re.split(r"[.]", each.name)} | KNOWN
    for each, formula in zip(told, korean, strict=True):
        left = set(re.findall(r"[A-Za-z][A-Za-z0-9_]{2,}", formula)) - names
        assert not left, (each.formula, formula)
    code = """async () => {
        const { units, axes } = (await import("./words.js")).wordsFor("ko");
        return { units, axes };
    }"""
    words = page.evaluate(code)
    assert {each.unit for each in told} == words["units"].keys()
    assert {axis for each in told for axis in each.axes} == words["axes"].keys()


def test_both_languages_have_the_same_words(page, address):
    page.goto(address)
    code = """async () => {
        const { wordsFor } = await import("./words.js");
        const namesOf = (words) => Object.entries(words).map(([name, each]) =>
            [name, Array.isArray(each) || typeof each !== "object" || name === "units" ? typeof each : namesOf(each)]);
        return [namesOf(wordsFor("en")), namesOf(wordsFor("ko"))];
    }"""
    english, korean = page.evaluate(code)
    assert english == korean


def test_a_hostile_text_is_only_text(page):
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


def test_a_hostile_address_is_not_believed(page, address):
    page.goto(
        address
        + "#layer=99&head=-1&position=1e9&key=%22x%22&options=[]&interventions=3&language=%22xx%22&written=[1.5]"
    )
    panel(page, "head")
    assert page.locator("#at-layer").inner_text() == "block 1"
    assert page.locator("#at-head").inner_text() == "head 0"
    assert page.locator("#at-position").inner_text() == "token 11 “q”"


def test_what_cannot_be_followed_is_said(browser, address):
    context = browser.new_context(locale="en-US")
    page, _ = listened(context)  # the browser itself logs the refusal
    page.goto(address)
    panel(page, "tokens")
    for text, message in (
        ("a" * 99, "99 tokens; allowed are 1 to 40"),
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


def test_the_browser_goes_back_to_what_was_asked_before(page, address, traced):
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


def test_a_program_that_was_ended_is_said(browser, address):
    context = browser.new_context(locale="en-US")
    page, _ = listened(context)  # the browser itself logs the refusal
    page.goto(address)
    panel(page, "tokens")
    context.set_offline(True)
    page.locator("#prompt").fill("kfm")
    page.locator("#run").click()
    page.locator("#error", has_text="does not answer any more").wait_for()
    panel(page, "mlp").locator(".failed", has_text="does not answer any more").wait_for()
    assert page.locator("#tokens .token").count() == len(TEXT)
    context.close()


def test_a_saved_page_needs_neither_program_nor_network(open_page, tmp_path, traced):
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
    assert page.locator("#weight span").last.inner_text() == f"= {figure(weight)}"
    z = next(row for row in rows(panel(page, "next")) if row[0] == "z")
    assert z[2] == percent(float(traced["next.model"][Z]))
    page.locator("#block summary").first.click()
    page.locator("#block pre", has_text="def attention_weights").wait_for()
    assert page.locator("#prompt, #sample, #off-head, #top_k").count() == 0


def test_a_saved_page_says_what_it_leaves_out(open_page, tmp_path, traced, monkeypatch):
    from glassgpt.inspection import static_page as saved

    monkeypatch.setattr(saved, "MAX_SAVED_VALUES", 6 * len(traced) ** 2)
    monkeypatch.setattr(saved, "MOST_UNITS", 1)
    save_page(traced, tmp_path / "page.html")
    page = open_page(locale="en-US", offline=True)
    page.goto((tmp_path / "page.html").as_uri())
    panel(page, "tokens")
    assert "Left out, as it would be too large: embedding.token, " in page.locator("#offline").inner_text()
    for name in ("head", "mlp"):
        assert "Left out of this file" in panel(page, name).inner_text()
    assert panel(page, "block").locator(".map").count() == 2


def test_a_saved_head_without_its_scores(open_page, tmp_path, monkeypatch):
    from glassgpt.inspection import static_page as saved

    found = trace(shaken(MODERN), BYTES, "the cat saw it")
    with monkeypatch.context() as patched:
        patched.setattr(saved, "GROUPS", saved.GROUPS[:2])
        save_page(found, tmp_path / "page.html")
    page = open_page(locale="en-US", offline=True)
    page.goto(f"{(tmp_path / 'page.html').as_uri()}#layer=2&head=3&position=9&key=6")
    shown = panel(page, "head")
    assert "Left out of this file" in shown.inner_text()
    weight = float(found["blocks.2.attention.weights"][3, 9, 6])
    assert shown.locator("#weight span").all_inner_texts() == [f"= {figure(weight)}"]


def test_a_saved_long_text_has_all_pieces_of_its_lens(open_page, tmp_path):
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


def test_a_saved_page_holds_the_checkpoints_that_find_room(open_page, tmp_path, nano_run, monkeypatch):
    from glassgpt.inspection import static_page as saved

    text, loaded = "the old king", glassgpt.load(nano_run, device="cpu")
    told, found = history(nano_run, text), trace(loaded.model, loaded.tokenizer, text)
    first = told[told.steps[0]]
    save_page(found, tmp_path / "all.html", told)
    page = open_page(locale="en-US", offline=True)
    page.goto((tmp_path / "all.html").as_uri())
    panel(page, "history").locator("#step").focus()
    page.keyboard.press("Home")
    page.locator("#history output", has_text=f"step {told.steps[0]:,}").wait_for()
    assert rows(panel(page, "next"))[0][2] == percent(float(first["next.model"].max()))
    panel(page, "head")
    weight = float(first["blocks.0.attention.weights"][0, -1, 0])
    assert page.locator("#weight span").last.inner_text() == f"= {figure(weight)}"
    panel(page, "history").locator("#follow").click()
    page.locator("#learned tbody tr").nth(len(told.steps) - 1).wait_for()
    page.locator("#block summary").first.click()
    page.locator("#block pre", has_text="def attention_weights").wait_for()
    size = sum(math.prod(each["shape"]) for each in saved._arrays(found)[0].values())
    monkeypatch.setattr(saved, "MAX_SAVED_VALUES", size * (1 + len(told.steps)) - 1)
    save_page(found, tmp_path / "one.html", told)
    page.goto((tmp_path / "one.html").as_uri())
    assert "holds no checkpoints" in panel(page, "history").inner_text()
    assert page.locator("#offline").inner_text().endswith("too large: checkpoints.")


def test_a_saved_page_tells_of_a_damaged_checkpoint(open_page, tmp_path, nano_run):
    shutil.copytree(nano_run, tmp_path / "run", symlinks=True)
    loaded, run = glassgpt.load(nano_run, device="cpu"), tmp_path / "run"
    told = history(run, "the king")
    weights = next((run / "checkpoints").glob(f"*{told.steps[0]}/model.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1])
    save_page(trace(loaded.model, loaded.tokenizer, "the king"), tmp_path / "page.html", told)
    page = open_page(locale="en-US", offline=True)
    page.goto((tmp_path / "page.html").as_uri())
    assert f"checkpoint {told.steps[0]} (" in page.locator("#offline").inner_text()
    assert panel(page, "history").locator("#step").get_attribute("max") == str(len(told.steps) - 1)


def test_torch_is_not_disturbed(address, traced):
    assert torch.equal(trace(*planted(), TEXT)["logits"], traced["logits"])
