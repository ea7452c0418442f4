"""The documentation site: every page is reached, links lead where they should, figures come from result files."""

import json
import re
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest
from tools.docs_site import charts, gallery, lessons, links, reference, sources, staging
from tools.docs_site.__main__ import NEEDED, main
from tools.docs_site.build import COMPUTED, generated_names, toctree, with_navigation
from tools.docs_site.pages import (
    LANGUAGES,
    ROOT,
    Navigation,
    Page,
    Section,
    SiteError,
    find_pages,
    navigation_problems,
    read_navigation,
    translation_problems,
)
from tools.docs_site.staging import Linker, finding, staged_pages, write_pages

needs_sphinx = pytest.mark.skipif(
    any(find_spec(name) is None for name in NEEDED), reason="needs the extra docs: pip install 'glassgpt[docs]'"
)


def test_navigation_lists_every_page_once():
    assert navigation_problems(read_navigation(), {*find_pages(), *generated_names()}) == []


def test_navigation_reports_pages_that_are_missing_or_listed_twice():
    navigation = Navigation(
        (Section({"en": "A", "ko": "가"}, ("one", "one", "gone")),), ("deep/*",), {"en": (), "ko": ()}
    )
    assert navigation_problems(navigation, {"index", "one", "new", "deep/page"}) == [
        "add new to a section in tools/docs_site/navigation.toml",
        "navigation.toml lists gone, which does not exist",
        "navigation.toml lists one twice",
    ]


def test_pages_without_a_translation_are_reported():
    assert translation_problems(read_navigation(), find_pages()) == []
    pages = {
        "a": Page("a", {"en": Path("a.md")}),
        "b": Page("b", {"en": Path("b.md")}),
        "c": Page("c", {"ko": Path("c.ko.md")}),
    }
    assert translation_problems(Navigation((), (), {"en": ("b",), "ko": ()}), pages) == [
        "a has no version in ko; add it, or list the page in navigation.toml",
        "c has no version in en; add it, or list the page in navigation.toml",
    ]


@pytest.mark.parametrize("language", LANGUAGES)
def test_links_of_all_pages_lead_to_pages_of_the_site(language):
    pages = find_pages()
    linker = Linker(language, pages, frozenset(COMPUTED))
    staged = staged_pages(linker)
    known = {
        "en": {*pages, *generated_names()},
        "ko": {*staged_pages(Linker("ko", pages, frozenset(COMPUTED))), *COMPUTED},
    }
    for name, text in staged.items():
        for link in re.findall(r"\]\(([^)\s]+)\)", "".join(staging.FENCED.split(text)[::2])):
            path = link.partition("#")[0]
            if path.startswith(("built:", "built-at:")):
                other, _, target = _resolved(name, path.partition(":")[2]).removeprefix("../").partition("/")
                assert target.removesuffix(".html") in known[other] or target.startswith("source/"), (name, link)
            elif path.endswith(".md") and not path.startswith("http"):
                target = _resolved(name, path).removesuffix(".md")
                assert target in known[language] or (language == "en" and target.startswith("source/")), (name, link)
    assert ROOT / "src" / "glassgpt" / "model" / "attention.py" in linker.sources


def _resolved(name, path):
    parts = []
    for part in [*Path(name).parent.parts, *path.split("/")]:
        if part == ".." and parts and parts[-1] != "..":
            parts.pop()
        else:
            parts.append(part)
    return "/".join(parts)


def test_links_to_sources_become_pages_or_lead_to_the_repository(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.py").write_text("x = 1\n")
    page = tmp_path / "docs" / "page.md"
    page.write_text(
        "# P\n[code](../src/a.py) and `[no](link.md)`:\n\n```\n[no](link.md)\n```\n[top](#p), [out](https://e.org)\n"
    )
    pages = find_pages(tmp_path)
    here = Linker("en", pages, root=tmp_path)
    text = here.rewrite(page.read_text().replace("`[no](link.md)`", ""), page, "page")
    assert "[code](source/src/a.py.md)" in text
    assert "\n[no](link.md)\n" in text
    assert "[top](#p), [out](https://e.org)" in text
    made = sources.source_pages(here.sources, tmp_path)
    assert "x = 1\n" in made["source/src/a.py"]
    there = Linker("en", pages, repository="https://e.org/code/", root=tmp_path)
    assert there.target("../src/a.py", page, "page") == "https://e.org/code/src/a.py"
    assert Linker("ko", pages, root=tmp_path).target("../src/a.py", page, "page") == "built:../en/source/src/a.py.html"
    with pytest.raises(SiteError, match=r"docs/page.md links to gone.md, which does not exist"):
        here.target("gone.md", page, "page")


def test_pages_in_one_language_are_linked_from_the_other(tmp_path):
    (tmp_path / "docs").mkdir()
    for name, text in {
        "both.md": "# Both [한국어](both.ko.md)",
        "both.ko.md": "# 둘 [English](both.md)",
        "log.md": "# Log",
    }.items():
        (tmp_path / "docs" / name).write_text(text)
    (tmp_path / "docs" / "both.ko.md").write_text("# 둘 [English](both.md)\n[log](log.md) [x](both.ko.md#a)")
    staged = staged_pages(Linker("ko", find_pages(tmp_path), root=tmp_path))
    assert staged["both"] == "# 둘\n[log](built:../en/log.html) [x](both.md#a)"
    assert staged["log"] == "# Log (영어)\n이 페이지는 영어로만 있습니다: [Log](built:../en/log.html)\n"
    assert "한국어" not in staged_pages(Linker("en", find_pages(tmp_path), root=tmp_path))["both"]


def test_findings_are_shown_in_the_language_of_the_site():
    pages = find_pages()
    english, korean = (staging.body(pages["diagnosis/GG-CAU-001"], language) for language in LANGUAGES)
    assert english.startswith("# GG-CAU-001: the model sees the future\n")
    assert "한국어" not in english
    assert korean.startswith("# GG-CAU-001: 모델이 미래를 봅니다\n")
    assert english.endswith("\n[index](index.md)\n")
    assert korean.endswith("\n[모든 코드](index.md)\n")
    with pytest.raises(SiteError, match="no part in English"):
        finding("# GG-X\n## 한국어: 하나\n", "en")


def test_index_of_findings_is_in_one_language():
    page = find_pages()["diagnosis/index"]
    english, korean = (staging.body(page, language) for language in LANGUAGES)
    assert english.startswith(
        "# Findings by code\n\nA name in ‹ › stands for a value measured in the run.\n\n## Attention\n"
    )
    assert korean.startswith("# 코드별 진단\n\n‹ › 안의 말은 실행에서 잰 값입니다.\n\n## 어텐션\n")
    assert not re.search("[가-힣]", english)
    codes = [re.findall(r"GG-\w+-\d+", text) for text in (page.text("en"), english, korean)]
    assert codes[0] == codes[1] == codes[2]
    assert len(english.splitlines()) == len(korean.splitlines()) == len(page.text("en").splitlines())


def test_staging_replaces_only_what_has_changed(tmp_path):
    write_pages(tmp_path, {"a": "1", "b/c": "2"})
    before = (tmp_path / "b" / "c.md").stat().st_mtime_ns
    (tmp_path / "old.md").write_text("")
    write_pages(tmp_path, {"a": "3", "b/c": "2"})
    assert {path.name: path.read_text() for path in tmp_path.rglob("*.md")} == {"a.md": "3", "c.md": "2"}
    assert (tmp_path / "b" / "c.md").stat().st_mtime_ns == before


def test_navigation_is_on_the_first_page():
    navigation = Navigation(
        (Section({"en": "Start", "ko": "시작"}, ("tour", "only-english")),), (), {"en": (), "ko": ()}
    )
    pages = {
        "index": "# g",
        "tour": "# t",
        "diagnosis/README": "# d",
        "diagnosis/index": "# i",
        "diagnosis/GG-X": "# x",
    }
    made = with_navigation(pages, navigation, "ko")
    assert made["index"] == "# g\n" + toctree(["tour"], "시작")
    assert made["diagnosis/index"].endswith("\nGG-X\n```\n")


def test_charts_show_the_figures_of_the_result_files():
    for chart in charts.read_charts():
        result = json.loads((ROOT / "benchmarks" / "results" / chart.file).read_text(encoding="utf-8"))
        shown = charts.panels(chart, result)
        figures = {(row.get("part") or "", row["system"], row["figure"]) for row in result["rows"]}
        assert {(panel.title, bar.system, bar.figure) for panel in shown for bar in panel.bars} <= figures
        assert all(
            any(bar.is_ours for bar in panel.bars)
            for panel in shown
            if len(panel.bars) > 1 and panel.title != "start-up"
        )
        facts = charts.facts(chart, result, charts.TEXTS["en"])
        assert result["command"] in facts
        assert result["date"] in facts


def test_bars_are_as_long_as_the_figures(tmp_path):
    from matplotlib.figure import Figure

    bars = (charts.Bar("peer", 2.0, (1.0, 3.0)), charts.Bar("glassgpt", 5.0, None))
    panel = charts.Panel("speed", "tokens/s", less_is_better=False, bars=bars)
    axis = Figure().subplots()
    charts.draw_panel(panel, axis)
    assert [patch.get_width() for patch in axis.patches] == [2.0, 5.0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["peer", "glassgpt"]
    assert axis.get_xlabel() == "tokens/s (more is better)"
    assert [line.get_xdata().tolist() for line in axis.lines] == [[1.0, 3.0]]
    charts.draw([panel], tmp_path / "a.svg")
    charts.draw([panel], tmp_path / "b.svg")
    assert "svg" in (tmp_path / "a.svg").read_text()[:200]


def test_chart_without_rows_is_an_error():
    chart = charts.Chart("cpu.json", {"en": "a", "ko": "가"}, "no such part")
    with pytest.raises(SiteError, match=r"no part of cpu.json matches 'no such part'"):
        charts.panels(chart, chart.result())


@pytest.mark.parametrize("texts", [charts.TEXTS, gallery.TEXTS, lessons.TEXTS])
def test_generated_pages_have_the_same_texts_in_both_languages(texts):
    assert texts["en"].keys() == texts["ko"].keys()
    for key, english in texts["en"].items():
        marks = [sorted(re.findall(r"\{\w+\}|`[^`]+`", text)) for text in (english, texts["ko"][key])]
        assert marks[0] == marks[1], key
        assert english.count("](") == texts["ko"][key].count("](")


def test_pictures_of_the_gallery_exist():
    for each in tomllib.loads((ROOT / "tools" / "docs_site" / "gallery.toml").read_text(encoding="utf-8"))["picture"]:
        assert (ROOT / "docs" / "images" / each["file"]).is_file()
        assert each["en"]
        assert each["ko"]


def test_reference_describes_each_object_once():
    pages = reference.reference_pages()
    described = re.findall(r"^\.\. auto(?:class|function):: (\S+)", "\n".join(pages.values()), re.MULTILINE)
    assert len(described) == len(set(described)) > 100
    assert "glassgpt.LoadedModel" in described
    assert "glassgpt.api.loaded_model.LoadedModel" not in described
    assert "glassgpt.model.gpt2.GPT2" in described


def test_korean_reference_has_a_line_for_each_object_and_no_other():
    described = re.findall(
        r"^\.\. auto(?:class|function):: (\S+)", "\n".join(reference.reference_pages().values()), re.M
    )
    linked = re.findall(
        r"^\| \[`\w+`\]\(built-at:../../en/reference/\w+\.html#(\S+)\) \| [^|]*[가-힣][^|]* \|$",
        reference.korean_page(),
        re.M,
    )
    assert linked == described
    texts = tomllib.loads(reference.KOREAN.read_text(encoding="utf-8"))
    named = {name for page in texts.values() for name in page} - {"title", "intro"}
    assert named <= {name.rpartition(".")[2] for name in described}


CELLS = [
    "x = 2\nprint('x is', x)",
    "x + 1",
    "from pathlib import Path\nPath('pictures').mkdir()\nPath('pictures/a.png').write_bytes(b'0')\n'pictures/a.png'",
    "Path('pictures/a.png').write_bytes(b'1')\nprint('again')\nprint('pictures/a.png')",
]


def run_cells(tmp_path, cells):
    (tmp_path / "student").mkdir()
    (tmp_path / "cells.json").write_text(json.dumps(cells))
    command = [sys.executable, str(ROOT / "tools" / "docs_site" / "cells.py"), "student", "cells.json", "."]
    subprocess.run(command, cwd=tmp_path, check=True)
    return json.loads((tmp_path / "outputs.json").read_text(encoding="utf-8"))


def test_cells_print_return_and_draw(tmp_path):
    outputs = run_cells(tmp_path, CELLS)
    assert [each["text"] for each in outputs] == ["x is 2\n", "3\n", "", "again\n"]
    assert [each["images"] for each in outputs] == [[], [], ["a.png"], ["a.png"]]
    assert (tmp_path / "a.png").read_bytes() == b"1"


def test_cell_that_fails_ends_the_lesson(tmp_path):
    outputs = run_cells(tmp_path, ["print('before')\nraise SystemExit(3)", "print('after')"])
    assert len(outputs) == 1
    assert outputs[0]["text"] == "before\n"
    assert "SystemExit: 3" in outputs[0]["error"]


def test_output_of_a_cell_cannot_end_its_block():
    text = "a\n```\nb"
    block = lessons.fenced("python", text)
    assert block == f"````python\n{text}\n````"


def test_checker_finds_dead_links_and_outside_requests(tmp_path):
    (tmp_path / "a.html").write_text(
        '<h1 id="top"></h1><a href="#top"></a><a href="#gone"></a><a href="b.html"></a><a href="https://e.org/"></a>'
        '<img src="https://e.org/x.png"><script src="//e.org/y.js"></script><img src="data:,"><link href="c.css">'
    )
    assert [line.split(", on")[0] for line in links.problems(tmp_path)] == [
        "#gone has no such anchor",
        "//e.org/y.js is loaded from outside",
        "b.html does not exist",
        "c.css does not exist",
        "https://e.org/x.png is loaded from outside",
    ]


def test_missing_extra_is_named(monkeypatch, capsys):
    monkeypatch.setattr("tools.docs_site.__main__.find_spec", lambda name: None)
    assert main([]) == 2
    assert "pip install 'glassgpt[docs]'" in capsys.readouterr().err


@needs_sphinx
def test_korean_words_are_indexed_by_syllables_and_pairs():
    from tools.docs_site.korean_search import indexed_terms

    assert indexed_terms("토큰화 GPT는") == ["토", "큰", "화", "토큰", "큰화", "GPT", "는"]


@needs_sphinx
def test_docstrings_become_restructured_text():
    from tools.docs_site.docstrings import converted

    lines = [
        "Call it:",
        "",
        "    f(1)",
        "",
        "One.",
        "",
        "    g()",
        "",
        "Args:",
        "    x: one",
        "- a",
        "- b",
        "`Ab`s [x](https://e.org)",
    ]
    assert converted(lines) == [
        "Call it::", "", "    f(1)", "", "One.", "", "::", "", "    g()", "", "Args:", "    x: one", "", "- a", "- b",
        "`Ab`\\ s `x <https://e.org>`__",
    ]  # fmt: skip


def test_lessons_link_to_the_files_that_they_name():
    text = "See `model/attention.py` and `src/glassgpt/model/cache.py`, not `exercises.py` or [`model/gpt2.py`](x)."
    assert lessons.link_sources(text) == (
        "See [`model/attention.py`](../src/glassgpt/model/attention.py) and "
        "[`src/glassgpt/model/cache.py`](../src/glassgpt/model/cache.py), not `exercises.py` or [`model/gpt2.py`](x)."
    )
