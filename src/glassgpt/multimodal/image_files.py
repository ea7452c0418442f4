"""Decode a picture of any format to the square of RGB that a model gets.

A picture from a stranger must not harm: only formats that Pillow decodes itself are opened (not EPS, which runs
Ghostscript), and a picture of too many pixels is refused by its header.
"""

from __future__ import annotations

import io
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from glassgpt.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM")
"""Formats that are read, by Pillow's names; the content decides, not the name of the file."""
SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")
MAX_PIXELS = 50_000_000
PILLOW_PIXELS = 89_478_485
"""Pixels above which Pillow itself suspects a decompression bomb."""
DRAFT_SCALE = 2
"""Times the wanted size at which a large JPEG is decoded at least: a photo of 12 megapixels in a tenth of the time."""
BITS_PER_SAMPLE, PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0
"""Tags of a TIFF, and a value of the second."""
TIFF_SIGNATURES = (b"II*\0", b"MM\0*")
"""Beginnings of a little-endian and of a big-endian TIFF."""
WHITE = (255, 255, 255)
Fit = Literal["pad", "stretch", "crop"]
"""Ways to make a picture square: with white beside it, by changing its proportions, or by cutting its longer sides."""


def decode_image(raw: bytes, size: int, fit: Fit = "pad", max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Return a picture as RGB, (size, size, 3).

    Of an animation it is the first frame. Transparent parts are white, the orientation in EXIF is applied, and 12 or 16 bits
    per channel become 8.

    Args:
        raw: content of the file.
        size: width and height of the result, in pixels.
        fit: how it becomes square.
        max_pixels: a picture with more is not decoded.

    Raises:
        DataError: it cannot be decoded, or is too large; the message continues after the name of the file.
    """
    from PIL import Image

    with _decoding(max_pixels, raw), Image.open(io.BytesIO(raw), formats=FORMATS) as image:
        _require_size(image, max_pixels)  # from the header: nothing is decoded yet
        image.draft(None, (DRAFT_SCALE * size, DRAFT_SCALE * size))
        return np.array(_square(_rgb(image), size, fit), dtype=np.uint8)


def to_square(image: Image, size: int, fit: Fit = "pad", max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Return an image of Pillow like `decode_image`, which explains arguments and errors."""
    with _decoding(max_pixels):
        _require_size(image, max_pixels)
        return np.array(_square(_rgb(image), size, fit), dtype=np.uint8)


@contextmanager
def _decoding(max_pixels: int, raw: bytes = b"") -> Generator[None]:
    """Make every error of Pillow a `DataError`, given the content of the file if there is one."""
    from PIL import Image, UnidentifiedImageError

    try:
        yield
    except DataError:
        raise
    except UnidentifiedImageError as error:
        if raw.startswith(TIFF_SIGNATURES):  # such as big-endian with 12 bits per channel
            raise DataError(
                "it is a damaged TIFF, or one of a kind that Pillow cannot decode; save it as PNG or JPEG"
            ) from error
        raise DataError(f"it is not a picture in one of the formats {', '.join(FORMATS)}") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"it has more pixels than the {max_pixels:,} that are decoded (--max-pixels)") from error
    except Exception as error:  # damaged files make decoders raise errors of nearly every kind
        raise DataError(f"the picture is damaged: {error or type(error).__name__}") from error


def _require_size(image: Image, max_pixels: int) -> None:
    width, height = image.size
    if not width * height:
        raise DataError("it has no pixels")
    if width * height > max_pixels:
        raise DataError(
            f"it has {width:,} × {height:,} pixels, more than the {max_pixels:,} that are decoded (--max-pixels)"
        )


def _rgb(image: Image) -> Image:
    """Return a picture upright, opaque, with 8 bits per channel.

    Raises:
        DataError: its numbers have no known range.
    """
    from PIL import Image, ImageOps

    has_16_bits = image.mode.startswith("I;16") or (image.format, image.mode) == ("PPM", "I")  # so Pillow reads a PGM
    black, white = _black_and_white(image)
    image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "F") and not has_16_bits:
        raise DataError(
            "its channels have 32 bits or a sign, so that their range is unknown; save it with 8 or 16 bits"
        )
    if has_16_bits:
        image = _with_8_bits(image, black, white)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (*WHITE, 255)), image)
    return image.convert("RGB")


def _black_and_white(image: Image) -> tuple[int, int]:
    """Return the values of black and white in a gray picture of 16 bits; a TIFF may have 12 of them, and 0 as white."""
    tags = getattr(image, "tag_v2", {})
    highest = (1 << tags.get(BITS_PER_SAMPLE, (16,))[0]) - 1
    return (highest, 0) if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO else (0, highest)


def _with_8_bits(image: Image, black: int, white: int) -> Image:
    """Return a gray picture of 16 bits with 8; Pillow would cut all values at 255, and forget which one is transparent."""
    from PIL import Image

    values, transparent = np.asarray(image), image.info.get("transparency")
    gray = Image.fromarray(np.round((values - float(black)) / ((white - black) / 255)).astype(np.uint8))
    if isinstance(transparent, int):
        gray.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return gray


def _square(image: Image, size: int, fit: Fit) -> Image:
    """Return a picture with the given width and height, resized with antialiasing."""
    from PIL import Image

    if image.size == (size, size):
        return image
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side) if fit == "crop" else (0, 0, width, height)
    scale = size / max(width, height)
    target = (max(1, round(width * scale)), max(1, round(height * scale))) if fit == "pad" else (size, size)
    # Bicubic: Pillow widens the filter when it shrinks, so that nothing aliases.
    resized = image.resize(target, Image.Resampling.BICUBIC, box)
    if target == (size, size):
        return resized
    square = Image.new("RGB", (size, size), WHITE)
    square.paste(resized, ((size - target[0]) // 2, (size - target[1]) // 2))
    return square
