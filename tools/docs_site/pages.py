"""The pages of the site, and their order in the navigation. Free of torch and Sphinx."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
Language = Literal["en", "ko"]
LANGUAGES: tuple[Language, ...] = ("en", "ko")
BILINGUAL = ("diagnosis/GG-*", "diagnosis/index")
"""Pages whose file holds both languages."""
HEADING = re.compile(r"^# (.+)$", re.MULTILINE)


class SiteError(Exception):
    """A problem of the site's sources; the message says what to change."""


@dataclass(frozen=True)
class Page:
    """A page that exists as a file.

    Attributes:
        name: on the site, without suffix: "diagnosis/GG-ATT-001".
        files: its Markdown by language.
    """

    name: str
    files: Mapping[Language, Path]

    def text(self, language: Language) -> str:
        """Read the page in a language that it has."""
        return self.files[language].read_text(encoding="utf-8")


def page_name(path: Path, root: Path = ROOT) -> str:
    """Return the name on the site of a Markdown file of the repository."""
    if path.is_relative_to(root / "docs"):
        name = path.relative_to(root / "docs").as_posix()
    else:
        name = path.name.lower().replace("readme", "index")
    return name.removesuffix(".md").removesuffix(".ko")


def find_pages(root: Path = ROOT) -> dict[str, Page]:
    """Return the pages by name: the Markdown files in the repository's root and in docs/, with their translations."""
    files: dict[str, dict[Language, Path]] = {}
    for path in sorted([*root.glob("*.md"), *root.glob("docs/**/*.md")]):
        name = page_name(path, root)
        languages: tuple[Language, ...] = ("ko",) if path.name.endswith(".ko.md") else ("en",)
        if matches(name, BILINGUAL):
            languages = LANGUAGES
        files.setdefault(name, {}).update(dict.fromkeys(languages, path))
    return {name: Page(name, each) for name, each in files.items()}


@dataclass(frozen=True)
class Section:
    """A section of the navigation.

    Attributes:
        titles: by language.
        names: of its pages, in order.
    """

    titles: Mapping[Language, str]
    names: tuple[str, ...]


@dataclass(frozen=True)
class Navigation:
    """The navigation.

    Attributes:
        sections: in order.
        elsewhere: patterns of pages that are only reached from others.
        only: patterns of pages that exist in one language, by language.
    """

    sections: tuple[Section, ...]
    elsewhere: tuple[str, ...]
    only: Mapping[Language, tuple[str, ...]]

    def names(self) -> list[str]:
        """Return the pages of all sections in order."""
        return [name for section in self.sections for name in section.names]


def read_navigation(file: Path = HERE / "navigation.toml") -> Navigation:
    """Read the navigation."""
    raw = tomllib.loads(file.read_text(encoding="utf-8"))
    sections = [Section({"en": each["en"], "ko": each["ko"]}, tuple(each["pages"])) for each in raw["section"]]
    only: dict[Language, tuple[str, ...]] = {"en": tuple(raw["english_only"]), "ko": tuple(raw["korean_only"])}
    return Navigation(tuple(sections), tuple(raw["elsewhere"]), only)


def navigation_problems(navigation: Navigation, known: Iterable[str]) -> list[str]:
    """Return a line for each page that the navigation lacks, lists twice or names although it does not exist."""
    listed, known = navigation.names(), set(known)
    unlisted = [name for name in sorted(known - {"index", *listed}) if not matches(name, navigation.elsewhere)]
    return [
        *(f"add {name} to a section in tools/docs_site/navigation.toml" for name in unlisted),
        *(f"navigation.toml lists {name}, which does not exist" for name in listed if name not in known),
        *(f"navigation.toml lists {name} twice" for name in sorted({n for n in listed if listed.count(n) > 1})),
    ]


def translation_problems(navigation: Navigation, pages: Mapping[str, Page]) -> list[str]:
    """Return a line for each page that lacks a language without being listed as one that does."""
    missing = [
        (name, language)
        for name, page in sorted(pages.items())
        for language, other in (("en", "ko"), ("ko", "en"))
        if language not in page.files and not matches(name, navigation.only[other])
    ]
    return [
        f"{name} has no version in {language}; add it, or list the page in navigation.toml"
        for name, language in missing
    ]


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Tell whether a page's name matches one of the patterns."""
    return any(fnmatch(name, pattern) for pattern in patterns)


def title(text: str) -> str:
    """Return the first heading of a page."""
    match = HEADING.search(text)
    if match is None:
        raise SiteError(f"a page has no heading; it begins with {text[:60]!r}")
    return match[1]
