"""Find the files of source trees, each with the package it belongs to and that package's license."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from glassgpt.data.code.licenses import UNKNOWN, installed_packages, license_beside
from glassgpt.data.walk import walk
from glassgpt.errors import WrongDataError

SUFFIXES = (
    ".c", ".cc", ".cpp", ".cs", ".cu", ".go", ".h", ".hpp", ".java", ".jl", ".js", ".kt", ".lua", ".php", ".pl", ".py",
    ".pyi", ".r", ".rb", ".rs", ".scala", ".sh", ".sql", ".swift", ".ts", ".tsx",
)  # fmt: skip
"""Suffixes of the files that are read unless the user says otherwise."""


@dataclass(frozen=True)
class CodeFile:
    """A file of a source tree.

    Attributes:
        path: where it is.
        name: its path below the folder that the user named, with that folder's name.
        package: name of the distribution or folder that it belongs to.
        license: SPDX identifier, or as the package states it; "unknown" if it does not.
    """

    path: Path
    name: str
    package: str
    license: str


def find_code_files(
    names: Sequence[str], suffixes: Sequence[str] = (), *, follow_links: bool = False
) -> list[CodeFile]:
    """Return the files of the named folders, and the named files, each once, in the order of their paths.

    Args:
        names: folders and files; hidden files of a folder are left out.
        suffixes: suffixes of the files to take from folders; empty means `SUFFIXES`.
        follow_links: whether links are followed that lead out of a folder.

    Raises:
        WrongDataError: a name does not exist, or a folder has no such file.
        DataError: a folder cannot be read.
    """
    found: dict[str, CodeFile] = {}
    for name in names:
        root = Path(name)
        if not root.exists():
            raise WrongDataError(f"source {name!r} not found; with --format code give folders of source code, or files")
        paths = [root] if root.is_file() else _files_below(root, suffixes or SUFFIXES, follow_links)
        if not paths:
            raise WrongDataError(f"{root} contains no file that ends in {', '.join(suffixes or SUFFIXES)}")
        for path in paths:
            found.setdefault(os.path.realpath(path), _described(path, root))
    return sorted(found.values(), key=lambda file: file.path)


def _files_below(root: Path, suffixes: Sequence[str], follow_links: bool) -> list[Path]:
    base = os.path.realpath(root)
    return [
        path
        for path, is_hidden in walk(root, follow_links)
        if path.suffix.lower() in suffixes
        and not is_hidden
        and path.is_file()
        and (follow_links or Path(os.path.realpath(path)).is_relative_to(base))
    ]


def _described(path: Path, root: Path) -> CodeFile:
    top = root if root.is_dir() else root.parent
    name = Path(top.resolve().name) / path.relative_to(top)
    for folder in [place for place in path.parents if place.is_relative_to(top)]:
        below, owners = path.relative_to(folder), installed_packages(folder)
        if owner := owners.get(below.as_posix()) or owners.get(below.parts[0]):
            return CodeFile(path, str(name), *owner)
        if (license_name := license_beside(folder)) is not None:
            return CodeFile(path, str(name), folder.resolve().name, license_name)
    return CodeFile(path, str(name), top.resolve().name, UNKNOWN)
