"""Rows of emoji for `multimodal_data.py`: all drawings of some vendors for training, and those of another for the test.

A vendor may be given in several editions, of which only drawings that differ are taken, and as a font, which is drawn here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from glassgpt.errors import UsageError

Row = dict[str, Any]
QUESTIONS = {"en": "English:", "ko": "한국어:"}
"""Prompts that ask for the name in a language."""
SELECTOR, JOINER = "\ufe0f", "\u200d"
LEAST_DIFFERENCE, COMPARED_SIZE = 3.0, 16
"""Mean difference of the pixels, of 255, of two drawings that are not the same, at this size."""
FONT_SIZE, CANVAS = 52, 64
FONT_WEIGHTS = ("400",)
"""Lines of one thickness: with two, a third of the drawings had no colors, and flags were confused."""


class Drawing(NamedTuple):
    """An emoji as somebody drew it: the emoji without variation selectors, the file, and the category that it is in."""

    emoji: str
    path: Path
    group: str


def emoji_rows(
    train: Sequence[tuple[str, Path]],
    test: tuple[str, Path],
    names: Sequence[Path],
    out: Path,
    *,
    fonts: Sequence[Path] = (),
    skin_tones: bool = False,
) -> tuple[list[Row], list[Row]]:
    """Return the rows of training and test: an emoji and its name in each language.

    Args:
        train: names of vendors and folders of their packages; of a vendor that has several, the newest first.
        test: the vendor whose drawings are for the test: those of emoji that are also in training.
        names: folders of the packages with names.
        out: folder of the rows.
        fonts: folders of `@fontsource` packages, whose glyphs are drawn into `out`, for training.
        skin_tones: whether the skin tones are in training too, each with its name.
    """
    named = {language: emoji_names(names, language) for language in QUESTIONS}
    is_named = set.intersection(*(set(found) for found in named.values()))
    drawings: list[Drawing] = []
    for vendor in dict.fromkeys(vendor for vendor, _ in train):
        editions = [folder for name, folder in train if name == vendor]
        every = [list(drawings_of(folder, vendor, skin_tones=skin_tones)) for folder in editions]
        drawings += distinct(drawing for edition in every for drawing in edition if drawing.emoji in is_named)
    groups = {drawing.emoji: drawing.group for drawing in drawings}
    for font in fonts:
        drawn = {emoji: group for emoji, group in groups.items() if group != "Flags"}  # of flags fonts have the letters
        drawings += draw_font(font, drawn, out / font.name)
    tested = [each for each in drawings_of(test[1], test[0]) if each.emoji in groups]
    return _rows(drawings, named, out), _rows(tested, named, out)


def _rows(drawings: Sequence[Drawing], named: Mapping[str, Mapping[str, str]], out: Path) -> list[Row]:
    return [
        {
            "image": os.path.relpath(drawing.path.absolute(), out.absolute()),
            "prompt": question,
            "text": f" {named[language][drawing.emoji]}",
            "language": language,
            "group": drawing.group,
        }
        for drawing in sorted(drawings)
        for language, question in QUESTIONS.items()
    ]


def drawings_of(folder: Path, vendor: str, *, skin_tones: bool = False) -> Iterator[Drawing]:
    """Yield the drawings of a package `emoji-datasource-VENDOR`."""
    for entry in read_json(folder / "emoji.json"):
        variants = [entry, *(entry.get("skin_variations", {}).values() if skin_tones else ())]
        for variant in variants:
            path = folder / "img" / vendor / "64" / variant["image"]
            if variant.get(f"has_img_{vendor}") and path.is_file():
                yield Drawing(_plain(variant["unified"]), path, entry.get("category", ""))


def distinct(drawings: Iterator[Drawing]) -> Iterator[Drawing]:
    """Yield the drawings that differ from all of the same emoji before them; editions repeat most of the one before."""
    seen: dict[str, list[NDArray[np.float32]]] = {}
    for drawing in drawings:
        pixels = _small(drawing.path)
        others = seen.setdefault(drawing.emoji, [])
        if all(np.abs(pixels - other).mean() > LEAST_DIFFERENCE for other in others):
            others.append(pixels)
            yield drawing


def _small(path: Path) -> NDArray[np.float32]:
    from glassgpt.multimodal.image_files import decode_image

    return decode_image(path.read_bytes(), COMPARED_SIZE).astype(np.float32)


def draw_font(package: Path, groups: Mapping[str, str], folder: Path) -> Iterator[Drawing]:
    """Draw the emoji of a font of lines, such as `@fontsource/noto-emoji`, and yield those that it has.

    Args:
        package: its folder, with `unicode.json` and `files`.
        groups: the emoji to draw, and their categories.
        folder: receives the pictures.
    """
    from PIL import ImageFont, features

    if not features.check("raqm"):
        raise UsageError(
            "this Pillow cannot draw emoji of several characters; install one with raqm (pip install pillow)"
        )
    folder.mkdir(parents=True, exist_ok=True)
    seen: set[Path] = set()  # the files of a font share characters
    for number, ranges in read_json(package / "unicode.json").items():
        characters = _characters(ranges)
        of_part = [emoji for emoji in groups if set(emoji) - {JOINER} <= characters]
        for weight in FONT_WEIGHTS:
            file = package / "files" / f"{package.name}-{number.strip('[]')}-{weight}-normal.woff"
            font = ImageFont.truetype(str(file), FONT_SIZE, layout_engine=ImageFont.Layout.RAQM)
            for emoji in of_part:
                path = folder / f"{'-'.join(f'{ord(each):x}' for each in emoji)}-{weight}.png"
                if path not in seen and _draw_glyph(font, emoji, path):
                    seen.add(path)
                    yield Drawing(emoji, path, groups[emoji])


def _characters(ranges: str) -> set[str]:
    """Return the characters in ranges such as `U+23,U+30-39`."""
    found: set[str] = set()
    for part in ranges.split(","):
        first, _, last = part.strip().removeprefix("U+").partition("-")
        found |= {chr(code) for code in range(int(first, 16), int(last or first, 16) + 1)}
    return found


def _draw_glyph(font: Any, emoji: str, path: Path) -> bool:
    """Draw an emoji, and return whether the font has it as one glyph: a sequence that it lacks is drawn as several."""
    from PIL import Image, ImageDraw

    left, top, right, bottom = font.getbbox(emoji)
    if not 0 < right - left <= 1.3 * FONT_SIZE or bottom <= top:
        return False
    picture = Image.new("RGB", (CANVAS, CANVAS), "white")
    corner = ((CANVAS - left - right) // 2, (CANVAS - top - bottom) // 2)
    ImageDraw.Draw(picture).text(corner, emoji, fill="black", font=font)
    picture.save(path)
    return True


def emoji_names(folders: Sequence[Path], language: str) -> dict[str, str]:
    """Return the names of emoji in a language, by the emoji without variation selectors.

    Raises:
        UsageError: there are none.
    """
    found: dict[str, str] = {}
    for folder in folders:
        for path in sorted(folder.glob(f"annotations*/{language}/annotations.json")):
            content = next(iter(read_json(path).values()))["annotations"]
            found |= {
                emoji.replace(SELECTOR, ""): fields["tts"][0] for emoji, fields in content.items() if "tts" in fields
            }
    if not found:
        raise UsageError(
            f"no names in {language} in {', '.join(map(str, folders))}; give the folders of cldr-annotations-full"
        )
    return found


def _plain(unified: str) -> str:
    return "".join(chr(int(code, 16)) for code in unified.split("-")).replace(SELECTOR, "")


def read_json(path: Path) -> Any:
    """Return the content of a file.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
