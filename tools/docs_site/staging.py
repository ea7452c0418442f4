"""Copy the pages in one language, with links that lead where they should on the site. Free of torch and Sphinx."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

from tools.docs_site.pages import ROOT, Language, Page, SiteError, page_name, title

FENCED = re.compile(r"(^ *```.*?^ *```[ \t]*$)", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
OTHER_LANGUAGE = re.compile(r" ?\[(?:한국어|English)\]\([^)]+\)")
"""A link to the translation; the site has a switch."""
FINDING_PART = re.compile(r"^## (English|한국어): (.*)$", re.MULTILINE)
PART_OF = {"en": "English", "ko": "한국어"}
IN_ENGLISH = " (영어)"
INDEX_LINK = {"en": "[index](index.md)", "ko": "[모든 코드](index.md)"}
BOTH = re.compile(
    r"^(?P<head>#+ |- \[[^\]]+\]\([^)]+\): |)(?P<en>[^가-힣\n]+?)(?:, | / |(?<=\.) )(?P<ko>[^\n]*[가-힣][^\n]*)$",
    re.MULTILINE,
)
"""A line of the findings' index: a heading, an entry or a sentence, in English and then in Korean."""
STUB = "이 페이지는 영어로만 있습니다: [{title}]({link})\n"
MADE = ("images/benchmark-", "images/gallery-")
"""Pictures that the build makes."""
BUILT, BUILT_AT = "built:", "built-at:"
"""Prefixes of links to pages of the other language's build; see `theme/conf.py`."""


@dataclass
class Linker:
    """Rewrites links of the repository to links of the site.

    Attributes:
        language: of the build.
        pages: by name.
        generated: names of pages that the build makes in this language.
        repository: address of the repository's files, if the sources are not part of the site.
        sources: files and folders that were linked to; they become pages.
    """

    language: Language
    pages: Mapping[str, Page]
    generated: frozenset[str] = frozenset()
    repository: str = ""
    root: Path = ROOT
    sources: set[Path] = field(default_factory=set[Path])

    def rewrite(self, text: str, source: Path, name: str) -> str:
        """Return the text of a page with its links rewritten; code is left alone."""

        def replaced(match: re.Match[str]) -> str:
            return f"]({self.target(match[1], source, name)})"

        parts = FENCED.split(text)
        return "".join(part if i % 2 else LINK.sub(replaced, part) for i, part in enumerate(parts))

    def target(self, link: str, source: Path, name: str) -> str:
        """Return where a link of a page leads on the site."""
        path, _, fragment = link.partition("#")
        if not path or re.match(r"[a-z]+:", link) or path.startswith(MADE):
            return link
        file = (source.parent / path).resolve()
        if not file.exists():
            raise SiteError(f"{source.relative_to(self.root)} links to {path}, which does not exist")
        if file == (self.root / "docs" / "decisions").resolve():
            return self._to_page("decisions/index", fragment, name)
        if file.suffix == ".md":
            return self._to_page(page_name(file, self.root), fragment, name)
        if file.suffix in (".png", ".svg"):
            return relative(f"images/{file.name}", name)
        return self._to_source(file, name)

    def _to_page(self, wanted: str, fragment: str, name: str) -> str:
        anchor = f"#{fragment}" if fragment else ""
        files = self.pages[wanted].files if wanted in self.pages else {}
        if wanted in self.generated or self.language in files:
            return relative(f"{wanted}.md", name) + anchor
        return built(next(iter(files), "en"), wanted, name, anchor)

    def _to_source(self, file: Path, name: str) -> str:
        path = file.relative_to(self.root).as_posix()
        if self.repository:
            return f"{self.repository.rstrip('/')}/{path}"
        self.sources.add(file)
        if self.language == "en":
            return relative(f"source/{path}.md", name)
        return built("en", f"source/{path}", name)


def relative(target: str, name: str) -> str:
    """Return the relative path from a page to a file of the same build."""
    return Path(os.path.relpath(target, Path(name).parent)).as_posix()


def built(language: Language, wanted: str, name: str, anchor: str = "") -> str:
    """Return a link to a page of another language's build, which lies beside this one."""
    path = relative(f"../{language}/{wanted}.html", name)
    return f"{BUILT_AT if anchor else BUILT}{path}{anchor}"


def body(page: Page, language: Language) -> str:
    """Return the text of a page in a language, without the link to its translation."""
    text = page.text(language)
    if page.name == "diagnosis/index":
        return BOTH.sub(lambda match: match["head"] + match[language], text)
    return finding(text, language) if fnmatch(page.name, "diagnosis/GG-*") else OTHER_LANGUAGE.sub("", text)


def finding(text: str, language: Language) -> str:
    """Return one language of a finding's page, which holds both."""
    code = title(text)
    parts = FINDING_PART.split(text)  # before, then language, heading and text of each part
    for part, heading, content in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        if part == PART_OF[language]:
            return f"# {code}: {heading}{content.replace(INDEX_LINK['en'], '').rstrip()}\n\n{INDEX_LINK[language]}\n"
    raise SiteError(f"the page of {code} has no part in {PART_OF[language]}")


def staged_pages(linker: Linker) -> dict[str, str]:
    """Return the pages that exist as files, by name: those that a language lacks as a page that links to the other one."""
    pages: dict[str, str] = {}
    for page in linker.pages.values():
        if linker.language in page.files:
            source = page.files[linker.language]
            pages[page.name] = linker.rewrite(body(page, linker.language), source, page.name)
        elif linker.language == "ko" and "/" not in page.name:
            pages[page.name] = stub(title(page.text("en")), page.name)
    return pages


def stub(heading: str, name: str) -> str:
    """Return the Korean page of one that exists in English only."""
    return f"# {heading}{IN_ENGLISH}\n{STUB.format(title=heading, link=built('en', name, name))}"


def write_pages(folder: Path, pages: Mapping[str, str]) -> None:
    """Make a folder hold these pages and no others. Sphinx reads what has changed since its last build."""
    for file in folder.rglob("*.md"):
        if file.relative_to(folder).as_posix().removesuffix(".md") not in pages:
            file.unlink()
    for name, text in pages.items():
        file = folder / f"{name}.md"
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.is_file() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")
