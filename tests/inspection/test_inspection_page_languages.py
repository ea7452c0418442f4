"""Languages, help and source code on the page."""

import re

from inspection_helpers import BYTES, GPT2, MODERN
from page_helpers import open_at, panel

from glassgpt.generation.options import GenerationOptions
from glassgpt.inspection.trace import trace
from pages import check_help_and_theme_keys
from small_models import shaken


def test_source_code_help_theme_and_language(page, address):
    import inspect

    from glassgpt.model.attention import attention_weights

    open_at(page, address)
    panel(page, "block")
    page.locator("#block .source").click()
    page.locator("#block summary").first.click()
    shown = page.locator("#block pre")
    shown.wait_for()
    assert shown.inner_text() == inspect.getsource(attention_weights)
    assert "glassgpt/model/attention.py:" in page.locator("#block .place").first.inner_text()
    page.locator("#block .ask").click()
    assert page.locator("#block-help").is_visible()
    check_help_and_theme_keys(page)
    page.locator("#language").click()
    page.get_by_role("heading", name="바이트와 토큰").wait_for()
    assert page.title() == "planted · 안을 들여다보기"
    assert "theme=" in page.url
    assert "language=" in page.url


KNOWN = {"gelu", "relu", "softmax", "tanh", "sqrt", "rms", "cos", "sin", "UTF", "mask", "lm_head"}


def test_formulas_and_units_have_korean_translations(page, address):
    """Only names of tensors and functions remain in Latin letters."""
    page.goto(address)
    stages = GenerationOptions(top_k=5, min_p=0.1, presence_penalty=1.0)
    traces = [trace(shaken(config), BYTES, "the cat", stages) for config in (MODERN, GPT2)]
    descriptions = [found.describe(name) for found in traces for name in found.names()]
    code = """async (formulas) => {
        const { wordsFor } = await import("./words.js");
        const { formulas: words } = wordsFor("ko");
        return formulas.map((formula) => words.reduce((text, [from, to]) => text.replace(from, to), formula));
    }"""
    korean = page.evaluate(code, [each.formula for each in descriptions])
    names = {part for each in descriptions for part in re.split(r"[.]", each.name)} | KNOWN
    for each, formula in zip(descriptions, korean, strict=True):
        left = set(re.findall(r"[A-Za-z][A-Za-z0-9_]{2,}", formula)) - names
        assert not left, (each.formula, formula)
    code = """async () => {
        const { units, axes } = (await import("./words.js")).wordsFor("ko");
        return { units, axes };
    }"""
    words = page.evaluate(code)
    assert {each.unit for each in descriptions} == words["units"].keys()
    assert {axis for each in descriptions for axis in each.axes} == words["axes"].keys()


def test_both_languages_define_the_same_texts(page, address):
    page.goto(address)
    code = """async () => {
        const { wordsFor } = await import("./words.js");
        const namesOf = (words) => Object.entries(words).map(([name, each]) =>
            [name, Array.isArray(each) || typeof each !== "object" || name === "units" ? typeof each : namesOf(each)]);
        return [namesOf(wordsFor("en")), namesOf(wordsFor("ko"))];
    }"""
    english, korean = page.evaluate(code)
    assert english == korean
