"""Build the site: stage the pages, make what is computed, run Sphinx for both languages, check the result."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.docs_site import charts, gallery, lessons, reference, sources
from tools.docs_site.links import problems
from tools.docs_site.pages import (
    HERE,
    LANGUAGES,
    ROOT,
    Language,
    Navigation,
    Page,
    SiteError,
    find_pages,
    navigation_problems,
    read_navigation,
    title,
    translation_problems,
)
from tools.docs_site.staging import Linker, staged_pages, stub, write_pages

REDIRECT = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>glassgpt</title>
<script>location.replace((navigator.language || "").startsWith("ko") ? "ko/index.html" : "en/index.html");</script>
</head><body><p><a href="en/index.html">English</a> · <a lang="ko" href="ko/index.html">한국어</a></p></body></html>
"""
DECISIONS = "decisions/index"
COMPUTED = (charts.NAME, gallery.NAME, lessons.INDEX)
"""Pages that both languages have and that are made when the site is built."""


@dataclass(frozen=True)
class Options:
    """Options of a build.

    Attributes:
        out: folder of the site.
        work: folder for what is made on the way; it is kept for the next build.
        repository: address of the repository's files, such as https://example.org/glassgpt/blob/main; without one the site
            has pages with the sources.
        small: whether the lessons are run with tiny settings.
    """

    out: Path
    work: Path
    repository: str = ""
    small: bool = False


def build(options: Options) -> None:
    """Build the site, strictly.

    Raises:
        SiteError: a page, a link or a translation is missing, a cell fails, or Sphinx warns.
    """
    pages, navigation = find_pages(), read_navigation()
    found = [*navigation_problems(navigation, {*pages, *generated_names()}), *translation_problems(navigation, pages)]
    if found:
        raise SiteError("\n".join(found))
    executed = lessons.execute_all(options.work / "lessons", small=options.small)
    shown: set[Path] = set()
    staged: dict[Language, dict[str, str]] = {}
    for language in LANGUAGES:
        linker = Linker(language, pages, frozenset(COMPUTED), options.repository)
        made = generated_pages(linker, executed[language], small=options.small)
        staged[language] = with_navigation(staged_pages(linker) | made, navigation, language)
        shown |= linker.sources
    staged["en"] |= sources.source_pages(shown)
    gallery.make_pictures(options.work / "gallery")
    for language in LANGUAGES:
        folder = options.work / "stage" / language
        write_pages(folder, staged[language])
        shutil.copytree(ROOT / "docs" / "images", folder / "images", dirs_exist_ok=True)
        lessons.copy_pictures(executed[language], language, folder / "images")
        charts.draw_all(charts.read_charts(), folder / "images")
        for picture in (options.work / "gallery").glob("*.svg"):
            shutil.copyfile(picture, folder / "images" / picture.name)
    run_sphinx(options)
    shutil.copyfile(options.work / "gallery" / gallery.PAGE, options.out / gallery.PAGE)
    if found := problems(options.out):
        raise SiteError("\n".join(found))


def generated_names() -> set[str]:
    """Return the pages that are made from something other than a page in docs/."""
    return {DECISIONS, *reference.NAMES, *COMPUTED}


def generated_pages(linker: Linker, executed: Sequence[lessons.Executed], *, small: bool) -> dict[str, str]:
    """Return these pages in a language, by name."""

    def rewrite(text: str, name: str) -> str:
        suffix = ".md" if linker.language == "en" else ".ko.md"
        return linker.rewrite(text, ROOT / "docs" / f"tour{suffix}", name)

    pages = lessons.lesson_pages(executed, linker.language, rewrite, small=small)
    pages[gallery.NAME] = rewrite(gallery.gallery_page(linker.language), gallery.NAME)
    pages[charts.NAME] = rewrite(charts.charts_page(linker.language, charts.read_charts()), charts.NAME)
    if linker.language == "en":
        return pages | {DECISIONS: decisions_page(linker.pages)} | reference.reference_pages()
    return pages | {DECISIONS: stub("Decisions", DECISIONS), reference.INDEX: reference.korean_page()}


def decisions_page(pages: Mapping[str, Page]) -> str:
    """Return the list of decisions."""
    names = sorted(name for name in pages if name.startswith("decisions/"))
    listed = "\n".join(f"- [{title(pages[name].text('en'))}]({Path(name).name}.md)" for name in names)
    return f"# Decisions\n{listed}\n\n{toctree([Path(name).name for name in names])}"


def with_navigation(pages: Mapping[str, str], navigation: Navigation, language: Language) -> dict[str, str]:
    """Return the pages with the navigation on the first one, and the findings below the pages on diagnosis."""
    trees = [
        toctree([name for name in each.names if name in pages], each.titles[language]) for each in navigation.sections
    ]
    findings = sorted(name.removeprefix("diagnosis/") for name in pages if name.startswith("diagnosis/GG-"))
    added = {"index": trees, "diagnosis/README": [toctree(["index"])], "diagnosis/index": [toctree(findings)]}
    return {**pages, **{name: "\n".join([pages[name], *each]) for name, each in added.items()}}


def toctree(names: list[str], caption: str = "") -> str:
    """Return a hidden table of contents."""
    head = f":caption: {caption}\n" if caption else ""
    return f"```{{toctree}}\n:hidden:\n{head}\n" + "\n".join(names) + "\n```\n"


def run_sphinx(options: Options) -> None:
    """Write the HTML of both languages at the same time; any warning is an error."""
    running = {language: subprocess.Popen(sphinx_command(language, options), cwd=ROOT) for language in LANGUAGES}
    if failed := [language for language, process in running.items() if process.wait()]:
        raise SiteError(f"Sphinx failed on the pages in {' and '.join(failed)}; see above")
    (options.out / "index.html").write_text(REDIRECT, encoding="utf-8")


def sphinx_command(language: Language, options: Options) -> list[str]:
    """Return the command that writes the HTML of a language."""
    staged, kept = options.work / "stage" / language, options.work / "doctrees" / language
    strictly = ["-W", "--keep-going", "-q", "-a", "-b", "html", "-c", str(HERE / "theme"), "-D", f"language={language}"]
    return [sys.executable, "-m", "sphinx", *strictly, "-d", str(kept), str(staged), str(options.out / language)]
