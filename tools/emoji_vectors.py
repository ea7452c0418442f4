"""Vary emoji that are drawn as vectors: the same parts as another artist might have drawn them.

A picture made of pixels can only be bent, recolored and filtered as a whole. Vectors also tell its parts apart: gradients
become flat colors, small details are left out, parts get outlines, and each moves, turns and grows a little by itself.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from glassgpt.errors import UsageError

Element = ElementTree.Element
Color = NDArray[np.float64]
SVG, HREF = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"
SHAPES = {f"{SVG}{name}" for name in ("path", "ellipse", "polygon", "rect", "circle", "line", "polyline")}
DEFINITIONS = {f"{SVG}{name}" for name in ("defs", "clipPath", "mask", "linearGradient", "radialGradient")}
SIZE = 64
"""Side of the pictures, in pixels."""
FLAT, WITHOUT_DETAILS, OUTLINED, THICKENED = 0.7, 0.6, 0.2, 0.2
"""Shares of the variations without gradients, details left out, dark outlines, and outlines in the color of each part."""
DETAIL, WIDTH = 0.012, (0.008, 0.031)
"""Largest area of a detail, a share of the picture's, and widths of outlines, shares of its size."""
MOVED, TURNED, GROWN, TINTED = 0.12, 5.0, 0.15, 12.0
"""Standard deviations: of a part's size, degrees, a logarithm, and of 255."""
FARTHEST, DARK, NEUTRAL = 0.025, (45.0, 30.0, 30.0), 12.0
"""Farthest move, a share of the picture's size; color of outlines; largest difference of the channels of a gray."""
Box = tuple[float, float, float, float]


class Variation(NamedTuple):
    """Changes of a drawing.

    Attributes:
        flat: gradients become their mean color.
        detail: parts are left out below this share of the picture's area; half of those above a quarter of it stay.
        outline: `dark`, `own` for the color of each part, or empty.
        width: of the outlines, as a share of the picture's size.
        strength: how much parts are moved, turned, scaled and tinted, from 0 to 1.
    """

    flat: bool = False
    detail: float = 0.0
    outline: str = ""
    width: float = 0.0
    strength: float = 0.0


def random_variation(random: np.random.Generator) -> Variation:
    """Return a variation at random."""
    outline = random.choice(["dark", "own", ""], p=[OUTLINED, THICKENED, 1 - OUTLINED - THICKENED])
    return Variation(
        flat=bool(random.random() < FLAT),
        detail=float(random.uniform(0, DETAIL) * (random.random() < WITHOUT_DETAILS)),
        outline=str(outline),
        width=float(random.uniform(*WIDTH)),
        strength=float(random.uniform()),
    )


def draw_variations(files: Mapping[str, Sequence[Path]], out: Path, count: int) -> Iterator[tuple[str, Path]]:
    """Draw variations of vectors, and yield their keys and pictures.

    Args:
        files: by key, such as the emoji that they show; if several have one, they are drawn from in turn.
        out: receives the pictures.
        count: variations by key; they depend on the file's name and their number only.

    Raises:
        UsageError: resvg-py is not installed, or a file is no SVG.
    """
    render = _renderer()
    out.mkdir(parents=True, exist_ok=True)
    for key, paths in files.items():
        for number in range(count):
            path = paths[number % len(paths)]
            random = np.random.default_rng([zlib.crc32(path.stem.encode()), number])
            try:
                varied = vary(path.read_text(encoding="utf-8"), random_variation(random), random)
                picture = render(svg_string=varied, width=SIZE, height=SIZE)
            except (OSError, ValueError, ElementTree.ParseError) as error:
                raise UsageError(f"{path} cannot be drawn: {error}") from error
            drawn = out / f"{path.stem}-{number}.png"
            drawn.write_bytes(picture)
            yield key, drawn


def _renderer() -> Any:
    try:
        import resvg_py
    except ImportError as error:
        raise UsageError("drawing vectors needs resvg-py; install it with: pip install resvg-py") from error
    return lambda **given: bytes(resvg_py.svg_to_bytes(**given))


def vary(svg: str, variation: Variation, random: np.random.Generator) -> str:
    """Return a varied drawing.

    Args:
        svg: the drawing, a document of SVG whose colors are hexadecimal or gradients.
        variation: how it is varied.
        random: draws what differs by part.
    """
    root = ElementTree.fromstring(svg)
    size = float(root.get("viewBox", "0 0 128 128").split()[2])
    _Varied(variation, random, size, gradient_colors(root)).visit(root)
    return ElementTree.tostring(root, encoding="unicode")


class _Varied:
    """Varies the parts of a drawing.

    Args:
        variation: how.
        random: draws what differs by part.
        size: of the drawing, in its own units.
        gradients: mean color and opacity of each gradient.
    """

    def __init__(
        self,
        variation: Variation,
        random: np.random.Generator,
        size: float,
        gradients: Mapping[str, tuple[Color, float]],
    ) -> None:
        self.variation, self.random, self.size, self.gradients = variation, random, size, gradients
        self._tints: dict[tuple[int, ...], Color] = {}

    def visit(self, parent: Element) -> None:
        """Vary everything in an element that is drawn."""
        for place, part in reversed(list(enumerate(parent))):
            if part.tag in DEFINITIONS:
                continue
            if part.tag not in SHAPES:
                self.visit(part)
                continue
            parent.remove(part)
            if (varied := self._varied(part)) is not None:
                parent.insert(place, varied)

    def _varied(self, part: Element) -> Element | None:
        """Return a part in a group that moves it, or None if it is left out."""
        style = style_of(part)
        has_color = self._recolor(style)
        box = _box(part)
        if not has_color or (box is not None and "stroke" not in style and self._is_detail(box)):
            return None
        if "stroke" not in style and self.variation.outline:
            color = hexadecimal(np.array(DARK)) if self.variation.outline == "dark" else style.get("fill", "")
            if color.startswith("#"):
                width = f"{self.variation.width * self.size:.2f}"
                style |= {"stroke": color, "stroke-width": width, "stroke-linejoin": "round"}
        part.set("style", ";".join(f"{name}:{value}" for name, value in style.items()))
        if box is None:
            return part
        group = Element(f"{SVG}g", {"transform": self._movement(box)})
        group.append(part)
        return group

    def _recolor(self, style: dict[str, str]) -> bool:
        """Tint a part and make its gradient flat; return False if only a shadow is left of it, which is no part of a flat drawing."""
        fill = style.get("fill", "")  # without one, that of the group around it
        gradient = re.fullmatch(r"url\(#(.*)\)", fill)
        opacity = 1.0
        if gradient and gradient[1] in self.gradients and self.variation.flat:
            color, opacity = self.gradients[gradient[1]]
            style["fill-opacity"] = f"{opacity:.3f}"
        else:
            color = rgb(fill)
        if color is not None:
            style["fill"] = hexadecimal(self._tinted(color))
        return opacity >= 0.5

    def _tinted(self, color: Color) -> Color:
        """Return a color, changed as all similar ones in this drawing are; grays stay gray, and white stays white."""
        if np.ptp(color) < NEUTRAL:
            return color
        tint = self._tints.setdefault(tuple((color // 24).astype(int)), self.random.normal(0, TINTED, 3))
        return color + tint * self.variation.strength

    def _is_detail(self, box: Box) -> bool:
        area = (box[2] - box[0]) * (box[3] - box[1]) / self.size**2
        least = self.variation.detail
        return area < least / 4 or (area < least and bool(self.random.random() < 0.5))

    def _movement(self, box: Box) -> str:
        """Return a transformation about the center of a part; what covers all of the picture hardly moves."""
        left, top, right, bottom = box
        longest = max(right - left, bottom - top)
        amount = self.variation.strength * (1 - 0.7 * min(1.0, longest / self.size))
        most = FARTHEST * self.size
        moved = np.clip(self.random.normal(0, MOVED * longest, 2), -most, most) * amount
        turned, grown = self.random.normal(0, TURNED) * amount, np.exp(self.random.normal(0, GROWN, 2) * amount)
        x, y = (left + right) / 2, (top + bottom) / 2
        return (
            f"translate({x + moved[0]:.2f} {y + moved[1]:.2f}) rotate({turned:.2f}) scale({grown[0]:.3f} {grown[1]:.3f}) "
            f"translate({-x:.2f} {-y:.2f})"
        )


def _box(part: Element) -> Box | None:
    """Return left, top, right and bottom of a part, or None if it has no extent or is moved already."""
    from fontTools.pens.boundsPen import ControlBoundsPen
    from fontTools.svgLib.path import parse_path
    from fontTools.svgLib.path.shapes import PathBuilder

    builder, pen = PathBuilder(), ControlBoundsPen(None)
    builder.add_path_from_element(part)
    for path in builder.paths:
        parse_path(path, pen)
    return None if part.get("transform") else pen.bounds


def style_of(element: Element) -> dict[str, str]:
    """Return the properties of an element; those in `style` go before attributes."""
    names = ("fill", "stroke", "stroke-width", "stop-color", "stop-opacity", "opacity", "fill-opacity")
    found = {name: element.attrib[name] for name in names if name in element.attrib}
    pairs = (part.partition(":") for part in element.get("style", "").split(";"))
    found |= {name.strip(): value.strip() for name, _, value in pairs if value}
    if found.get("stroke") == "none":
        del found["stroke"]
    return found


def rgb(text: str) -> Color | None:
    """Return a hexadecimal color as three numbers to 255, or None if it is none."""
    digits = text.strip().removeprefix("#")
    if len(digits) == 3:
        digits = "".join(2 * digit for digit in digits)
    if not re.fullmatch("[0-9a-fA-F]{6}", digits):
        return None
    return np.array([int(digits[place : place + 2], 16) for place in (0, 2, 4)], dtype=float)


def hexadecimal(color: Color) -> str:
    """Return a color as `#rrggbb`."""
    return "#" + "".join(f"{round(value):02x}" for value in color.clip(0, 255).tolist())


def gradient_colors(root: Element) -> dict[str, tuple[Color, float]]:
    """Return mean color and opacity of each gradient of a drawing, by its id."""
    gradients = {
        part.get("id", ""): part for part in root.iter() if part.tag in (f"{SVG}linearGradient", f"{SVG}radialGradient")
    }
    found: dict[str, tuple[Color, float]] = {}
    for name, gradient in gradients.items():
        with_stops = gradient if len(gradient) else gradients.get(gradient.get(HREF, "").removeprefix("#"), gradient)
        stops = [(_share(stop.get("offset", "0")), style_of(stop)) for stop in with_stops]
        if stops:
            places = [place for place, _ in stops]
            colors = [rgb(style.get("stop-color", "#000000")) for _, style in stops]
            values = [
                [*(np.zeros(3) if color is None else color), float(style.get("stop-opacity", 1))]
                for color, (_, style) in zip(colors, stops, strict=True)
            ]
            along = np.linspace(0, 1, 101)
            means = [np.interp(along, places, channel).mean() for channel in np.array(values).T]
            found[name] = np.array(means[:3]), float(means[3])
    return found


def _share(text: str) -> float:
    return float(text.removesuffix("%")) / 100 if text.endswith("%") else float(text)
