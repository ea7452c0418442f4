"""Remarks on a text that the user may want to change: Windows line ends, separators, decomposed characters."""

from __future__ import annotations

import shlex
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from glassgpt.data.tokenizers import END_OF_TEXT

NORMALIZATIONS: dict[str, Callable[[str], str]] = {
    "nfc": lambda text: unicodedata.normalize("NFC", text),
    "lf": lambda text: text.replace("\r\n", "\n").replace("\r", "\n"),
}
"""Changes of a text by name: composed characters (Unicode's NFC), and line ends without carriage returns."""


REMARKS = ("carriage returns", "end-of-text", "decomposed")
"""The names of all remarks."""


def normalized(text: str, names: Sequence[str]) -> str:
    """Return the text after the named normalizations."""
    for name in names:
        text = NORMALIZATIONS[name](text)
    return text


def is_decomposed(text: str) -> bool:
    """Return whether characters are written as several that Unicode also has as one, such as the letters of 한."""
    return not unicodedata.is_normalized("NFC", text)


def spelled_special_tokens(texts: Iterable[str], special_tokens: Iterable[str]) -> list[str]:
    """Return those of the special tokens' names that occur in any of the texts."""
    given = list(texts)
    return [name for name in special_tokens if any(name in text for text in given)]


def remarks_on(text: str) -> Iterator[str]:
    """Yield the name of each remark that applies to a document."""
    if "\r" in text:
        yield "carriage returns"
    if END_OF_TEXT in text:
        yield "end-of-text"
    if is_decomposed(text):
        yield "decomposed"


def remark_texts(counts: Mapping[str, int]) -> Iterator[str]:
    """Yield a remark for the user about each kind that occurs: what it is, and the option that changes it."""
    advice = {
        "carriage returns": "carriage returns (line ends of Windows), which the model will learn; drop them with --normalize lf",
        "end-of-text": f"{END_OF_TEXT} spelled out, which is ordinary text here; to end documents of text files there, "
        f"add --separator {shlex.quote(END_OF_TEXT)}",
        "decomposed": "characters in decomposed form (NFD), which can cost three times the tokens; "
        "compose them with --normalize nfc",
    }
    for kind, text in advice.items():
        if count := counts.get(kind):
            yield f"{count:,} {'document contains' if count == 1 else 'documents contain'} {text}"
