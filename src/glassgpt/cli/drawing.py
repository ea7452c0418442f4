"""`prepare --draw` and `generate --draw`. Free of torch."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import Group

from glassgpt import console
from glassgpt.errors import UsageError, require_extra

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DRAWING = Group("Pictures", sort_key=50)
EXTRA = "multimodal"
SUFFIX = ".png"
OTHER_PICTURES = (".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".tif", ".tiff")
"""Suffixes that nobody means for a folder."""
ROWS_FILE = "drawings.jsonl"
"""Rows of the pictures in a folder: file, caption, number of the sample."""


def prepare_drawings(image_tokenizer: Path, fit: Any, max_pixels: int, common: Mapping[str, Any]) -> None:
    """Prepare captions and the codes of their pictures, and print what the dataset holds.

    Args:
        image_tokenizer: folder of the image tokenizer.
        fit: how pictures become square.
        max_pixels: pictures with more are refused.
        common: the other options, by their names in `MultimodalOptions`.

    Raises:
        GlassGPTError: see `glassgpt.multimodal.drawing_data.prepare_drawings`.
    """
    require_extra("PIL", EXTRA, "preparing pictures and sound")
    from glassgpt.data.show import ConsoleObserver
    from glassgpt.device import pick_device
    from glassgpt.multimodal import drawing_data
    from glassgpt.multimodal.image_tokenizer import load_image_tokenizer
    from glassgpt.multimodal.prepare_options import MultimodalOptions
    from glassgpt.multimodal.samples import SAMPLES_FILE

    found = load_image_tokenizer(image_tokenizer, pick_device("auto"))
    geometry = drawing_data.drawing_geometry(found)
    options = MultimodalOptions(**common, geometry=geometry, fit=fit, max_pixels=max_pixels)
    drawing_data.prepare_drawings(options, found, image_tokenizer, ConsoleObserver())
    console.result(f"a picture is {found.config.positions:,} tokens of {found.config.codes:,}")
    console.info(f"pictures, and what a model learns to draw of them: {options.out / SAMPLES_FILE}")
    console.info(
        f"wrote the dataset {options.out}; train on it with: glassgpt train PRESET --data {shlex.quote(str(options.out))}"
    )


def captions_of(given: Sequence[str]) -> list[str]:
    """Return the captions of `--draw`; - stands for the lines of standard input.

    Raises:
        UsageError: there are none.
    """
    captions: list[str] = []
    for caption in given:
        captions += sys.stdin.read().splitlines() if caption == "-" else [caption]
    captions = [caption for caption in captions if caption.strip()]
    if not captions:
        raise UsageError("--draw has no caption; say what to draw, such as --draw 'a red apple'")
    return captions


def check_drawing(
    captions: Sequence[str], out: Path | None, options: Mapping[str, Any], of_text: Mapping[str, object]
) -> Path:
    """Return where pictures go; check everything that can be checked before anything is loaded.

    Args:
        captions: what `--draw` gives.
        out: a PNG file, or a folder.
        options: those of the generation that were given, by name.
        of_text: values of options that cannot be combined with `--draw`, by their name as an identifier.

    Raises:
        UsageError: there is no place, it exists already, or an option is not one of pictures.
        MissingExtraError: Pillow is not installed.
    """
    from glassgpt.multimodal.drawing_options import drawing_options

    if not captions:
        raise UsageError("--out and --image-tokenizer are for pictures; say what to draw with --draw, or remove them")
    if given := [name.replace("_", "-") for name, value in of_text.items() if value]:
        raise UsageError(f"--{given[0]} is for text and cannot be combined with --draw; remove one of them")
    drawing_options(options)
    if out is None:
        raise UsageError("--draw needs --out: a PNG file, or a folder for one file per picture")
    if out.suffix.lower() in OTHER_PICTURES:
        raise UsageError(f"--out is {out}; pictures are written as PNG, so give a file that ends in .png, or a folder")
    is_new = not out.exists() or (out.suffix.lower() != SUFFIX and out.is_dir() and not any(out.iterdir()))
    if not is_new:
        raise UsageError(f"{out} exists already; choose another --out, a new file that ends in .png or a new folder")
    if not out.parent.is_dir():
        raise UsageError(f"the folder {out.parent} does not exist; create it, or choose another --out")
    require_extra("PIL", EXTRA, "drawing")
    return out


def draw_pictures(
    run: Path,
    captions: Sequence[str],
    out: Path,
    image_tokenizer: Path | None,
    options: Mapping[str, Any],
    loading: Mapping[str, Any],
) -> None:
    """Draw captions with a run's model, and write the pictures.

    Args:
        run: the run.
        captions: what to draw.
        out: see `check_drawing`.
        image_tokenizer: folder of the image tokenizer; None takes the place that the run remembers.
        options: those of the generation that were given, by name.
        loading: arguments of `glassgpt.load`.

    Raises:
        GlassGPTError: see `glassgpt.api.drawing.draw_pictures`.
    """
    from glassgpt import api
    from glassgpt.api import drawing
    from glassgpt.device import pick_device
    from glassgpt.generation.engine.prompt import random_seed

    seed = options.get("seed", random_seed())
    texts = len(captions) * options.get("num_samples", 1)
    found = drawing.image_tokenizer_of(run, captions, image_tokenizer, pick_device(loading["device"]))
    loaded = api.load(run, **loading, batch_size=texts)
    console.info(f"checkpoint: {loaded.checkpoint}")
    pictures = drawing.draw_pictures(loaded, captions, found, **{**options, "seed": seed})
    if out.suffix.lower() == SUFFIX:
        write_sheet(pictures, out)
    else:
        write_folder(pictures, captions, out)
    console.result(f"pictures drawn: {texts:,} ({out})")
    if "seed" not in options and options.get("temperature") != 0:
        console.info(f"(to repeat these pictures: --seed {seed})")


def write_sheet(pictures: NDArray[np.uint8], path: Path) -> None:
    """Write pictures (captions, samples, S, S, 3) into one PNG file.

    A single picture is written as it is. The samples of a single caption are in an approximate square, row by row; several
    captions have one line each if there are several samples, and are in an approximate square, too, if there is one.
    """
    from PIL import Image

    from glassgpt.multimodal.drawing import drawing_sheet

    captions, samples = pictures.shape[:2]
    flat = list(pictures.reshape(captions * samples, *pictures.shape[2:]))
    Image.fromarray(drawing_sheet(flat, samples if captions > 1 and samples > 1 else 0)).save(path, format="PNG")


def write_folder(pictures: NDArray[np.uint8], captions: Sequence[str], folder: Path) -> None:
    """Write pictures (captions, samples, S, S, 3) into a PNG file each, and rows that name them."""
    from PIL import Image

    folder.mkdir(exist_ok=True)
    rows: list[dict[str, Any]] = []
    for number, (caption, drawn) in enumerate(zip(captions, pictures, strict=True)):
        for sample, picture in enumerate(drawn):
            name = f"{number:05d}-{sample}{SUFFIX}"
            Image.fromarray(picture).save(folder / name)
            rows.append({"image": name, "text": caption, "sample": sample})
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / ROWS_FILE).write_text(lines, encoding="utf-8")
