"""The license of a package, from its metadata or from the text of a license beside it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

UNKNOWN = "unknown"
LICENSE_FILE = re.compile(r"(?:licen[cs]e|unlicense|copying)(?:\.(?:txt|md|rst|apache|mit|bsd|gpl|lesser))?")
LICENSE_HEAD_BYTES = 4000
LONGEST_NAME = 60

TITLES = (
    ("Apache License", "Apache-2.0"),
    ("Mozilla Public License Version 2.0", "MPL-2.0"),
    ("Mozilla Public License, version 2.0", "MPL-2.0"),
    ("GNU AFFERO GENERAL PUBLIC LICENSE", "AGPL"),
    ("GNU LESSER GENERAL PUBLIC LICENSE", "LGPL"),
    ("GNU LIBRARY GENERAL PUBLIC LICENSE", "LGPL"),
    ("GNU GENERAL PUBLIC LICENSE", "GPL"),
    ("PYTHON SOFTWARE FOUNDATION LICENSE", "PSF-2.0"),
)
"""Titles of licenses, and their SPDX identifiers. The first title in a text counts: that of the GPL names the LGPL, too."""
PHRASES = (
    ("Permission is hereby granted, free of charge", "MIT"),
    ("Neither the name of", "BSD-3-Clause"),
    ("Redistribution and use in source and binary forms", "BSD-2-Clause"),
    ("Permission to use, copy, modify, and", "ISC"),
    ("This is free and unencumbered software", "Unlicense"),
)
"""A phrase of each common license without a title, in the order in which they are looked for, and its SPDX identifier."""


@cache
def installed_packages(folder: Path) -> dict[str, tuple[str, str]]:
    """Return package and license by path, and by its first part, for a folder in which packages are installed.

    The first part tells for files that no package lists; several packages may share it, as parts of a namespace.
    """
    from email.parser import HeaderParser  # with a dozen other modules, which `prepare` of text would import, too

    owners: dict[str, tuple[str, str]] = {}
    for metadata in sorted(folder.glob("*.dist-info/METADATA")):
        fields = HeaderParser().parsestr(metadata.read_text(encoding="utf-8", errors="replace"))
        classifiers = [str(each) for each in fields.get_all("Classifier", [])]
        stated = _stated(str(fields["License-Expression"] or ""), str(fields["License"] or ""), classifiers)
        record = metadata.with_name("RECORD")
        lines = record.read_text(encoding="utf-8", errors="replace").splitlines() if record.is_file() else []
        for line in lines:
            path = line.split(",")[0].strip('"')
            for key in (path, path.split("/")[0]):
                owners.setdefault(key, (str(fields["Name"] or metadata.parent.name), stated))
    return owners


@cache
def license_beside(folder: Path) -> str | None:
    """Return the license whose text is in a folder, "unknown" if it is not known; None if there is no text."""
    for path in sorted(folder.iterdir()):
        if LICENSE_FILE.fullmatch(path.name.lower()) and path.is_file():
            return recognized(path.read_bytes()[:LICENSE_HEAD_BYTES].decode(errors="replace"))
    return None


def recognized(text: str) -> str:
    """Return the SPDX identifier of a license by its text; "unknown" if it has none of `TITLES` and `PHRASES`."""
    flat = " ".join(text.split()).lower()
    titles = [(at, name) for title, name in TITLES if (at := flat.find(title.lower())) >= 0]
    if titles:
        return min(titles)[1]
    return next((name for phrase, name in PHRASES if phrase.lower() in flat), UNKNOWN)


def _stated(expression: str, text: str, classifiers: Sequence[str]) -> str:
    """Return the license that the metadata of a package state: an expression, classifiers, or a text."""
    if expression:
        return expression
    if named := [each.rpartition(" :: ")[2] for each in classifiers if each.startswith("License ::")]:
        return " OR ".join(named)
    first = text.strip().splitlines()[0] if text.strip() else ""
    return first if 0 < len(first) <= LONGEST_NAME else recognized(text)
