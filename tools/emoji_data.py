"""Rows of emoji for `multimodal_data.py`: all drawings of some vendors for training, and those of another for the test.

A vendor may be given in several editions, of which only drawings that differ are taken, as a font, which is drawn here, and
with flags that do not wave, and as vectors, of which variations are drawn (`emoji_vectors.py`). The editions are packages `emoji-datasource-VENDOR`, or folders of pictures `emoji_u1f34e.png`
as in github.com/googlefonts/noto-emoji.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from emoji_vectors import draw_variations
from numpy.typing import NDArray

from glassgpt.errors import DataError, UsageError

Row = dict[str, Any]
QUESTIONS = {"en": "English:", "ko": "한국어:"}
"""Prompts that ask for the name in a language."""
SELECTOR, JOINER = "\ufe0f", "\u200d"
LEAST_DIFFERENCE, COMPARED_SIZE = 3.0, 16
"""Mean difference of the pixels, of 255, of two drawings that are not the same, at this size."""
LEAST_DIFFERENCE_ALONE, COMPARED_SIZE_ALONE, LEAST_ALPHA = 8.0, 24, 40
"""The same of drawings without their margins, whose edges are nowhere at the same place; and what counts as drawn, of 255."""
FONT_SIZE, CANVAS = 52, 64
FONT_WEIGHTS = ("400",)
"""Lines of one thickness: with two, a third of the drawings had no colors, and flags were confused."""
FLAG_STYLES: dict[str, tuple[float | None, float]] = {"own": (None, 1.0), "common": (4 / 3, 0.93)}
"""Width by height and brightness of flat flags: as they are, and as vendors draw them, who give nearly all the same width by
height (Google's waving ones are 60 by 44) and make white darker, so that Japan's is not a circle."""
FLAG_CORNERS = {"square": 0.0, "round": 0.15}
"""Radius of the corners of flat flags, of the shorter side."""
SMOOTHING = 4
"""Factor by which the shape of a flag is drawn larger and then made smaller: Pillow's shapes have jagged edges."""
REGIONAL_A, TAG_OFFSET, BLACK_FLAG, CANCEL_TAG = 0x1F1E6, 0xE0000, "\U0001f3f4", "\U000e007f"


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
    flags: Sequence[Path] = (),
    vectors: Sequence[Path] = (),
    variations: int = 4,
    skin_tones: bool = False,
) -> tuple[list[Row], list[Row]]:
    """Return the rows of training and test: an emoji and its name in each language.

    Args:
        train: names of vendors and folders of their packages or pictures; of a vendor that has several, the newest first.
        test: the vendor whose drawings are for the test: those of emoji that are also in training.
        names: folders of the packages with names.
        out: folder of the rows.
        fonts: folders of `@fontsource` packages, whose glyphs are drawn into `out`, for training.
        flags: folders of flat flags `KR.png`, drawn into `out`, for training; the newest first.
        vectors: folders of `emoji_u1f34e.svg`, of which variations are drawn into `out`, for training.
        variations: of each emoji that is in them.
        skin_tones: whether the skin tones are in training too, each with its name.
    """
    named = {language: emoji_names(names, language) for language in QUESTIONS}
    is_named = set.intersection(*(set(found) for found in named.values()))
    drawings = [
        drawing
        for vendor in dict.fromkeys(vendor for vendor, _ in train)
        for drawing in vendor_drawings(
            vendor, [folder for name, folder in train if name == vendor], is_named, skin_tones=skin_tones
        )
    ]
    groups = _categories(drawings)
    for font in fonts:
        drawn = {emoji: group for emoji, group in groups.items() if group != "Flags"}  # of flags fonts have the letters
        drawings += draw_font(font, drawn, out / font.name)
    drawings += draw_flags(flags, groups, out / "flags")
    if vectors:
        files = vector_files(vectors, groups)
        varied = draw_variations(files, out / "vectors", variations)
        drawings += [Drawing(emoji, path, groups[emoji]) for emoji, path in varied]
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


def vendor_drawings(
    vendor: str, editions: Sequence[Path], named: set[str], *, skin_tones: bool = False
) -> list[Drawing]:
    """Return the drawings of a vendor that differ, of emoji with a name.

    Args:
        vendor: its name.
        editions: folders of packages, the newest first, and of pictures, which have no categories and add drawings of the
            emoji of the packages.
        named: emoji with a name.
        skin_tones: whether the skin tones of packages are taken too.
    """
    packages = [folder for folder in editions if (folder / "emoji.json").is_file() or not picture_files(folder)]
    every = (each for folder in packages for each in drawings_of(folder, vendor, skin_tones=skin_tones))
    drawings = list(distinct(each for each in every if each.emoji in named))
    groups = _categories(drawings)
    others = (each for folder in editions if folder not in packages for each in pictures_of(folder, groups))
    return drawings + list(distinct(others, drawings, _alone, LEAST_DIFFERENCE_ALONE))


def _categories(drawings: Sequence[Drawing]) -> dict[str, str]:
    """Return the category of each emoji, by the first of its drawings: earlier editions have other names for categories."""
    return {drawing.emoji: drawing.group for drawing in reversed(drawings)}


def drawings_of(folder: Path, vendor: str, *, skin_tones: bool = False) -> Iterator[Drawing]:
    """Yield the drawings of a package `emoji-datasource-VENDOR`."""
    for entry in read_json(folder / "emoji.json"):
        variants = [entry, *(entry.get("skin_variations", {}).values() if skin_tones else ())]
        for variant in variants:
            path = folder / "img" / vendor / "64" / variant["image"]
            if variant.get(f"has_img_{vendor}") and path.is_file():
                yield Drawing(_plain(variant["unified"]), path, entry.get("category", ""))


def picture_files(folder: Path) -> list[Path]:
    """Return the pictures of a folder that are named by their characters: `emoji_u1f34e.png`, `emoji_u1f1f0_1f1f7.png`."""
    return sorted(folder.glob("emoji_u*.png"))


def pictures_of(folder: Path, groups: Mapping[str, str]) -> Iterator[Drawing]:
    """Yield the drawings of a folder of pictures, of the emoji in `groups`, which has their categories."""
    for path in picture_files(folder):
        emoji = _plain(path.stem.removeprefix("emoji_u").replace("_", "-"))
        if emoji in groups:
            yield Drawing(emoji, path, groups[emoji])


def distinct(
    drawings: Iterable[Drawing],
    known: Iterable[Drawing] = (),
    look: Callable[[Path], NDArray[np.float32]] | None = None,
    least: float = LEAST_DIFFERENCE,
) -> Iterator[Drawing]:
    """Yield the drawings that differ from all of the same emoji before them; editions repeat most of the one before.

    Args:
        drawings: to choose from.
        known: drawings that come before them.
        look: returns the pixels to compare; by default those of the whole picture.
        least: mean difference of these pixels.
    """
    look = look or _small
    seen: dict[str, list[NDArray[np.float32]]] = {}
    for drawing in known:
        seen.setdefault(drawing.emoji, []).append(look(drawing.path))
    for drawing in drawings:
        pixels = look(drawing.path)
        others = seen.setdefault(drawing.emoji, [])
        if all(np.abs(pixels - other).mean() > least for other in others):
            others.append(pixels)
            yield drawing


def _small(path: Path) -> NDArray[np.float32]:
    from glassgpt.multimodal.image_files import decode_image

    try:
        return decode_image(path.read_bytes(), COMPARED_SIZE).astype(np.float32)
    except DataError as error:
        raise UsageError(f"{path}: {error}") from error


def _alone(path: Path) -> NDArray[np.float32]:
    """Return the pixels of a drawing without its transparent margin: folders of pictures place drawings otherwise."""
    from PIL import Image

    try:
        with Image.open(path) as file:
            picture = file.convert("RGBA")
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    drawn = picture.crop(picture.getchannel("A").point(lambda alpha: 255 * (alpha > LEAST_ALPHA)).getbbox())
    opaque = Image.new("RGBA", drawn.size, "white")
    opaque.alpha_composite(drawn)
    size = (COMPARED_SIZE_ALONE, COMPARED_SIZE_ALONE)
    return np.asarray(opaque.convert("RGB").resize(size, Image.Resampling.BOX), dtype=np.float32)


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


def draw_flags(folders: Sequence[Path], groups: Mapping[str, str], folder: Path) -> Iterator[Drawing]:
    """Draw flat flags as emoji, and yield them: each in two styles, with square and with round corners.

    Args:
        folders: of `third_party/region-flags/png` in github.com/googlefonts/noto-emoji, the newest first.
        groups: the emoji to draw, and their categories.
        folder: receives the pictures.

    Raises:
        UsageError: a folder has no flags.
    """
    flags: list[Drawing] = []
    for edition in folders:
        found = [(flag_emoji(path.stem), path) for path in sorted(edition.glob("[A-Z][A-Z]*.png"))]
        if not found:
            raise UsageError(f"{edition} has no flags such as KR.png; give third_party/region-flags/png of noto-emoji")
        flags += [Drawing(emoji, path, groups[emoji]) for emoji, path in found if emoji in groups]
    for number, flag in enumerate(distinct(flags)):
        folder.mkdir(parents=True, exist_ok=True)
        for (style, (ratio, brightness)), (corners, radius) in product(FLAG_STYLES.items(), FLAG_CORNERS.items()):
            path = folder / f"{flag.path.stem}-{number}-{style}-{corners}.png"
            _draw_flag(flag.path, ratio, brightness, radius).save(path)
            yield flag._replace(path=path)


def vector_files(folders: Sequence[Path], groups: Mapping[str, str]) -> dict[str, list[Path]]:
    """Return the files `emoji_u1f34e.svg` of folders, by the emoji in `groups`.

    Raises:
        UsageError: a folder has none.
    """
    files: dict[str, list[Path]] = {}
    for folder in folders:
        paths = sorted(folder.glob("emoji_u*.svg"))
        if not paths:
            raise UsageError(f"{folder} has no vectors such as emoji_u1f34e.svg; give the folder svg of noto-emoji")
        for path in paths:
            emoji = _plain(path.stem.removeprefix("emoji_u").replace("_", "-"))
            if emoji in groups:
                files.setdefault(emoji, []).append(path)
    return files


def flag_emoji(name: str) -> str:
    """Return the emoji of a region: regional indicators for `KR`, the black flag and tags for a part, `GB-ENG`."""
    if "-" in name:
        letters = name.replace("-", "").lower()
        return BLACK_FLAG + "".join(chr(TAG_OFFSET + ord(letter)) for letter in letters) + CANCEL_TAG
    return "".join(chr(REGIONAL_A + ord(letter) - ord("A")) for letter in name)


def _draw_flag(source: Path, ratio: float | None, brightness: float, radius: float) -> Any:
    """Return an image of Pillow with a flag on white, as wide as the image, or as high if it is higher than wide."""
    from PIL import Image, ImageChops, ImageDraw, ImageEnhance

    with Image.open(source) as file:
        flag = ImageEnhance.Brightness(file.convert("RGBA")).enhance(brightness)
    width_by_height = ratio or flag.width / flag.height
    width, height = round(CANVAS * min(1, width_by_height)), round(CANVAS * min(1, 1 / width_by_height))
    flag = flag.resize((width, height), Image.Resampling.LANCZOS)
    large = Image.new("L", (width * SMOOTHING, height * SMOOTHING), 0)
    corner = radius * min(large.size)
    ImageDraw.Draw(large).rounded_rectangle((0, 0, large.width - 1, large.height - 1), corner, fill=255)
    shape = large.resize(flag.size, Image.Resampling.BOX)
    flag.putalpha(ImageChops.multiply(flag.getchannel("A"), shape))
    picture = Image.new("RGBA", (CANVAS, CANVAS), "white")
    picture.alpha_composite(flag, ((CANVAS - width) // 2, (CANVAS - height) // 2))
    return picture.convert("RGB")


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
