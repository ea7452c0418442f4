"""Pages that show source files, for links from the pages to the code."""

from __future__ import annotations

from pathlib import Path

from tools.docs_site.pages import ROOT

LANGUAGES = {".py": "python", ".toml": "toml", ".sh": "sh", ".c": "c", ".js": "js", ".css": "css"}
HEADER = "---\norphan: true\nnosearch: true\n---\n"
MAX_LINES = 2000
"""Longer files are shown in part."""
SHOWN = {*LANGUAGES, ".json", ".yaml", ".conf", ".service", ".jinja", ".md", ""}


def source_pages(paths: set[Path], root: Path = ROOT) -> dict[str, str]:
    """Return a page for each file and folder by name, and for each file of the folders."""
    files = {path for path in paths if path.is_file()}
    folders = {path for path in paths if path.is_dir()}
    files |= {each for folder in folders for each in folder.iterdir() if _is_text(each)}
    pages = {f"source/{path.relative_to(root)}": file_page(path, root) for path in files}
    return pages | {f"source/{path.relative_to(root)}": folder_page(path, root) for path in folders}


def _is_text(path: Path) -> bool:
    return path.is_file() and path.suffix in SHOWN


def file_page(path: Path, root: Path) -> str:
    """Return a page with the text of a file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    fence = "`" * 12
    rest = f"\n… {len(lines) - MAX_LINES:,} more lines\n" if len(lines) > MAX_LINES else ""
    text = "\n".join(lines[:MAX_LINES])
    return f"{HEADER}# {path.relative_to(root)}\n{fence}{LANGUAGES.get(path.suffix, 'none')}\n{text}\n{fence}\n{rest}"


def folder_page(path: Path, root: Path) -> str:
    """Return a page that lists the files of a folder."""
    names = sorted(each.name for each in path.iterdir() if _is_text(each))
    listed = "\n".join(f"- [`{name}`]({path.name}/{name}.md)" for name in names)
    return f"{HEADER}# {path.relative_to(root)}/\n{listed}\n"
