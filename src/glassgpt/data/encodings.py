"""Text that is not UTF-8: reading it in an encoding that the user names, and guessing which one it is."""

from __future__ import annotations

import codecs
import io
import re
import unicodedata
from typing import IO, Any

SAMPLE_BYTES = 1 << 16
BLOCK_BYTES = 1 << 16
MAX_NUL_SHARE = 0.2
"""Share of NUL bytes from which on text is taken for UTF-16 or UTF-32: of English, they have a half or three quarters."""
HIGH_RUN = re.compile(rb"[\x80-\xff]+")


class Transcoder(io.RawIOBase):
    """The bytes of a stream as UTF-8; raises `UnicodeDecodeError` for bytes that are not in the encoding."""

    def __init__(self, stream: IO[bytes], encoding: str) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._output = b""

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer and return the number of bytes."""
        while not self._output:
            block = self._stream.read(BLOCK_BYTES)
            self._output = self._decoder.decode(block, final=not block).encode()
            if not block and not self._output:
                return 0
        count = min(len(buffer), len(self._output))
        buffer[:count], self._output = self._output[:count], self._output[count:]
        return count


def is_text_encoding(name: str) -> bool:
    """Return whether Python knows a text encoding of this name."""
    try:
        "".encode(name)
    except LookupError:
        return False
    return True


def has_nul_bytes(raw: bytes) -> bool:
    """Return whether the share of NUL bytes is that of UTF-16 or UTF-32, which may pass for UTF-8."""
    return b"\0" in raw and raw.count(0) > MAX_NUL_SHARE * len(raw)


def likely_encoding(raw: bytes, position: int = 0) -> str | None:
    """Guess the encoding of text that is not UTF-8; None if there is no evidence for one.

    Args:
        raw: the text.
        position: where UTF-8 fails.
    """
    for mark, name in ((codecs.BOM_UTF32_LE, "UTF-32"), (codecs.BOM_UTF32_BE, "UTF-32")):
        if raw.startswith(mark):
            return name
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "UTF-16"
    if has_nul_bytes(raw[:SAMPLE_BYTES]):
        return _with_nul_bytes(raw[:SAMPLE_BYTES])
    start = max(0, raw.rfind(b"\n", 0, position) + 1)  # a line begins with a whole character
    return _multibyte(raw[start : start + SAMPLE_BYTES])


def _with_nul_bytes(sample: bytes) -> str:
    by_place = [sample[place::4].count(0) for place in range(4)]
    if sum(count > len(sample) // 8 for count in by_place) >= 3:
        return "UTF-32-LE" if by_place[0] < by_place[3] else "UTF-32-BE"
    return "UTF-16-LE" if by_place[1] + by_place[3] > by_place[0] + by_place[2] else "UTF-16-BE"


def _multibyte(sample: bytes) -> str | None:
    runs: list[bytes] = HIGH_RUN.findall(sample)
    if not runs:
        return None
    if sum(len(run) == 1 for run in runs) > len(runs) / 2 and _decoded(sample, "cp1252") is not None:
        return "cp1252"  # single accented letters among others
    for name, block, share in (
        ("CP932", "KATAKANA HIRAGANA", 0.2),  # first: Japanese passes for rare Hangul
        ("CP949", "HANGUL", 0.85),
        ("GB18030", "CJK", 0.85),
    ):
        text = _decoded(sample, name)
        letters = [character for character in text or "" if ord(character) > 0xFF and character.isalpha()]
        if letters and sum(_is_in(letter, block) for letter in letters) >= share * len(letters):
            return name if name != "GB18030" or _is_common_chinese(runs) else None
    return None


def _decoded(sample: bytes, encoding: str) -> str | None:
    """Return the text, also if the sample ends within a character, or None if it is not in this encoding."""
    try:
        return codecs.getincrementaldecoder(encoding)().decode(sample)
    except UnicodeDecodeError:
        return None


def _is_in(letter: str, block: str) -> bool:
    return unicodedata.name(letter, "").partition(" ")[0] in block.split()


def _is_common_chinese(runs: list[bytes]) -> bool:
    # The 3,755 common characters have first bytes from B0 to D7; Cyrillic and Greek texts have higher ones, too.
    first = [byte for run in runs for byte in run[::2]]
    return sum(0xA1 <= byte <= 0xD7 for byte in first) >= 0.85 * len(first)
