"""The text of a PDF file, with a heading for each page, so that an answer can name the page."""

from __future__ import annotations

import logging
import re
import struct
import zlib
from pathlib import Path

from glassgpt.errors import DataError, MissingExtraError

PYPDF = ("pypdf", "retrieval", "reading PDF")
"""Package, extra and purpose, for `require_extra`."""
HYPHEN = re.compile(r"(?<=[^\W\d_])-\n(?=[^\W\d_])")
"""A hyphen at the end of a line, within a word."""
PAGE = "Page"
SURROGATE = re.compile("[\ud800-\udfff]")
DAMAGE = (
    OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError, AssertionError, zlib.error,
    struct.error,
)  # fmt: skip
"""Raised by pypdf for files that are damaged, or use what it lacks (`NotImplementedError` is a `RuntimeError`)."""


def pdf_text(path: Path) -> str:
    """Return the text of a PDF file.

    Raises:
        DataError: it is damaged, needs a password, or has no text.
        MissingExtraError: pypdf is not installed.
    """
    try:
        from pypdf import PdfReader
        from pypdf.errors import DependencyError, FileNotDecryptedError, PyPdfError
    except ImportError as error:
        raise MissingExtraError(*PYPDF) from error
    logging.getLogger("pypdf").setLevel(logging.ERROR)  # it warns of each oddity of a file that it can read
    try:
        reader = PdfReader(path)
        if reader.is_encrypted and not reader.decrypt(""):
            raise DataError("it needs a password; save it without one")
        pages = [page.extract_text() for page in reader.pages]
    except (FileNotDecryptedError, DependencyError) as error:
        raise DataError("it is encrypted; save it without a password") from error
    except (PyPdfError, *DAMAGE) as error:
        raise DataError(f"it is not a PDF that can be read ({error}); print it to a new PDF") from error
    if not any(page.strip() for page in pages):
        raise DataError("it has no text; if its pages are pictures, recognize their text (OCR) first")
    found = [f"## {PAGE} {number}\n\n{_clean(page)}" for number, page in enumerate(pages, start=1) if page.strip()]
    return "\n\n".join(found)


def _clean(page: str) -> str:
    return SURROGATE.sub("\ufffd", HYPHEN.sub("", page)).strip()
