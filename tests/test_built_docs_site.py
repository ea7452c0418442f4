"""The documentation site as it is built: strict, searchable, and complete without a network."""

import re
from importlib.util import find_spec

import pytest
from tools.docs_site.__main__ import NEEDED, main
from tools.docs_site.pages import LANGUAGES

from made_once import made_once

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        any(find_spec(name) is None for name in NEEDED), reason="needs the extra docs: pip install 'glassgpt[docs]'"
    ),
]


@pytest.fixture(scope="session")
def site(session_folder):
    """The whole site, built strictly with small lessons."""

    def make(folder):
        assert main(["--small", "--out", str(folder / "out"), "--work", str(folder / "work")]) == 0

    return made_once(session_folder, "site", make) / "out"


def test_site_is_built_without_warnings_and_dead_links(site):
    for language in LANGUAGES:
        text = (site / language / "tour.html").read_text(encoding="utf-8")
        assert f'lang="{language}"' in text
        assert 'class="language-switch"' in text
        assert ("On this page" in text, "이 페이지에서" in text) == (language == "en", language == "ko")
    assert (
        "attend_readable" in (site / "en" / "source" / "src" / "glassgpt" / "model" / "attention.py.html").read_text()
    )
    assert "benchmark-generate-gpu.svg" in (site / "ko" / "benchmarks.html").read_text(encoding="utf-8")


SEARCHES = [
    ("ko", "텐션", "generation.html"),
    ("ko", "토큰", "generation.html"),
    ("en", "prefill", "serving.html"),
    ("ko", "prefill", "serving.html"),
]


@pytest.mark.parametrize(("language", "query", "found"), SEARCHES)
def test_search_works_without_a_server(site, open_page, language, query, found):
    page = open_page(offline=True)
    page.goto(f"{(site / language / 'search.html').as_uri()}?q={query}")
    page.locator(f"#search-results li a[href^='{found}']").first.wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_pages_fit_and_request_nothing_from_outside(site, open_page, width, scheme):
    page = open_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    requested = []
    page.on("request", lambda request: requested.append(request.url))
    for name in ("index", "lessons/2", "benchmarks", "reference/model", "diagnosis/GG-CAU-001", "coming-from"):
        for language in LANGUAGES:
            if (site / language / f"{name}.html").is_file():
                page.goto((site / language / f"{name}.html").as_uri())
                assert page.evaluate("document.documentElement.scrollWidth") <= width, name
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", background)[:3])) < 200) == (scheme == "dark")
    assert [url for url in requested if not url.startswith(("file:", "data:"))] == []


def test_switch_leads_to_the_same_page(site, open_page):
    page = open_page(viewport={"width": 390, "height": 800})
    page.goto((site / "en" / "tour.html").as_uri())
    page.locator(".language-switch a").first.click()
    assert page.url.endswith("/ko/tour.html")
    page.locator(".language-switch a").first.click()
    assert page.url.endswith("/en/tour.html")
