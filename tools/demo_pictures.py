"""Train a model that names emoji in English and Korean and one that draws them, and have the one name what the other draws:
`make demo-pictures`.

`python tools/demo_pictures.py OUT SOURCES [SETTING=VALUE …]`; SOURCES has the unpacked npm packages `emoji-datasource-google`,
`emoji-datasource-twitter`, `cldr-annotations-full` and `cldr-annotations-derived-full`, which `make demo-pictures` downloads.
The first learns from Google's drawings of animals, plants, food and drink, and has never seen Twitter's; the second draws
Twitter's.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from glassgpt.openmp import set_openmp_defaults

set_openmp_defaults()  # OpenMP reads its settings when torch is loaded, by what follows
# ruff: noqa: E402

from emoji_data import QUESTIONS, Row, emoji_rows
from multimodal_data import write_rows
from PIL import Image

from glassgpt import api, console
from glassgpt.api.multimodal import prompt_with_media
from glassgpt.config import load_config
from glassgpt.data.show import ConsoleObserver
from glassgpt.demo import check_demo
from glassgpt.device import pick_device
from glassgpt.errors import UsageError
from glassgpt.multimodal.drawing_data import drawing_geometry, prepare_drawings
from glassgpt.multimodal.image_tokenizer_config import ImageTokenizerConfig, ImageTokenizerTraining
from glassgpt.multimodal.image_tokenizer_show import train_and_show
from glassgpt.multimodal.media import Geometry
from glassgpt.multimodal.prepare_options import MultimodalOptions
from glassgpt.multimodal.show import prepare_and_show

CAPTIONS = ("tiger", "red apple", "빨간 사과")
IMAGE_TOKENIZER = ImageTokenizerConfig(image_size=24, patch_size=4, width=16)
IMAGE_TOKENIZER_TRAINING = ImageTokenizerTraining(steps=600, learning_rate=3e-3)
DRAWING = {"train.max_steps": "450"}
"""Changes of the preset for the model that draws: 36 codes are learned faster than what is to be seen in pictures."""
VENDORS = ("google", "twitter")
NAMES = ("cldr-annotations-full", "cldr-annotations-derived-full")
CATEGORIES = ("Animals & Nature", "Food & Drink")
GEOMETRY = Geometry(image_size=48, patch_size=8)
ROW_TOKENS, TOKENIZER = 256, "bpe:600"
SHOWN = 12


class Named(NamedTuple):
    """A drawing that was named: its row, and the name that the model gave it."""

    row: Row
    name: str

    @property
    def is_right(self) -> bool:
        """True if it is the name that the emoji has."""
        return self.name.strip() == str(self.row["text"]).strip()


def rows_of(sources: Path, out: Path) -> dict[str, list[Row]]:
    """Return the rows of each vendor's animals, plants, food and drink.

    Raises:
        UsageError: a package is missing.
    """
    folders = {vendor: sources / f"emoji-datasource-{vendor}" for vendor in VENDORS}
    for folder in (*folders.values(), *(sources / name for name in NAMES)):
        if not folder.is_dir():
            raise UsageError(f"{folder} is missing; download the packages with: make demo-pictures")
    train, test = VENDORS
    found = emoji_rows([(train, folders[train])], (test, folders[test]), [sources / name for name in NAMES], out)
    return {
        vendor: [row for row in rows if row["group"] in CATEGORIES] for vendor, rows in zip(VENDORS, found, strict=True)
    }


def name_drawings(model: api.LoadedModel, rows: Sequence[Row], folder: Path) -> list[Named]:
    """Return each drawing of the rows with the name that the model gives it."""
    prompts = [prompt_with_media(model.model, row["prompt"], [folder / row["image"]], []) for row in rows]
    names = model.generate_many(prompts, temperature=0.0, max_tokens=24)
    return [Named(row, name) for row, name in zip(rows, names, strict=True)]


def show_names(named: Sequence[Named]) -> None:
    """Print some names, and how many of all are exactly those of the emoji."""
    for language, question in QUESTIONS.items():
        of_language = [each for each in named if each.row["prompt"] == question]
        right = sum(each.is_right for each in of_language)
        share = right / max(1, len(of_language))
        console.output(f"{language}: {right} of {len(of_language)} drawings named exactly ({share:.0%})")
    for each in named[:: max(1, len(named) // SHOWN)][:SHOWN]:
        mark = "✓" if each.is_right else "✗"
        console.output(f"  {mark} {Path(each.row['image']).name}: {each.name.strip()} ({each.row['text'].strip()})")


def train_drawing(out: Path, folder: Path, rows: Sequence[Row], settings: Mapping[str, str]) -> None:
    """Train an image tokenizer and a model that draws with it; earlier ones are replaced.

    Args:
        out: folder of the run; that of the image tokenizer and that of the dataset are beside it.
        folder: of the rows, as test.jsonl.
        rows: pictures with captions.
        settings: changes of the preset.
    """
    tokenizer, data, pictures = (out.with_name(f"{out.name}-{name}") for name in ("tokenizer", "data", "pictures"))
    for earlier in (out, tokenizer, pictures):
        if earlier.exists():
            shutil.rmtree(earlier)
    pictures.mkdir()
    for path in {folder / row["image"] for row in rows}:
        shutil.copy(path, pictures)
    found = train_and_show(pictures, tokenizer, IMAGE_TOKENIZER, IMAGE_TOKENIZER_TRAINING, pick_device("auto"))
    source = (str(folder / "test.jsonl"),)
    options = MultimodalOptions(
        source,
        data,
        tokenizer=TOKENIZER,
        geometry=drawing_geometry(found),
        validation_sources=source,  # what was learned is to be drawn
        force=True,
    )
    prepare_drawings(options, found, tokenizer, ConsoleObserver())
    api.train(load_config("emoji-tiny", {"data": str(data), **DRAWING, **settings}), out)


def draw_and_name(drawing: api.LoadedModel, naming: api.LoadedModel, path: Path) -> None:
    """Draw some captions side by side into a file, and print what another model sees in them."""
    drawn = [pictures[0] for pictures in drawing.draw_many(CAPTIONS, temperature=0)]  # at 0.7 some are spoiled
    width, height = drawn[0].size
    sheet = Image.new("RGB", (width * len(drawn), height))
    for at, picture in enumerate(drawn):
        sheet.paste(picture, (at * width, 0))
    sheet.resize((4 * sheet.width, 4 * sheet.height), Image.Resampling.NEAREST).save(path)
    console.info(f"\ndrawn: {path}; what the first model, which has seen other drawings, sees there:")
    for caption, picture in zip(CAPTIONS, drawn, strict=True):
        question = QUESTIONS["en" if caption.isascii() else "ko"]
        name = naming.generate(question, images=[picture], temperature=0.0, max_tokens=24)
        console.output(f"  {caption}: {name.strip()}")


def main(out: Path, sources: Path, settings: Mapping[str, str]) -> None:
    """Prepare, train, name and draw; earlier runs of this demo are replaced."""
    check_demo(out, force=True)
    folder, data = out.with_name(f"{out.name}-rows"), out.with_name(f"{out.name}-data")
    rows = rows_of(sources, folder)
    write_rows(folder, rows["google"], rows["twitter"])
    prepare_and_show(
        MultimodalOptions(
            (str(folder / "train.jsonl"),),
            data,
            tokenizer=TOKENIZER,
            geometry=GEOMETRY,
            row_tokens=ROW_TOKENS,
            validation_sources=(str(folder / "test.jsonl"),),
            force=True,
        )
    )
    if out.exists():
        shutil.rmtree(out)
    api.train(load_config("emoji-tiny", {"data": str(data), **settings}), out)
    console.info("\nnaming Twitter's drawings, of which the model has seen none:")
    naming = api.load(out)
    show_names(name_drawings(naming, rows["twitter"], folder))
    drawing = out.with_name(f"{out.name}-drawing")
    train_drawing(drawing, folder, rows["twitter"], settings)
    draw_and_name(api.load(drawing), naming, out.with_name(f"{out.name}.png"))
    console.info(f'\nname a picture of yours: glassgpt generate {out} --image FILE --prompt "English:" --temperature 0')
    console.info(f'draw others: glassgpt generate {drawing} --draw "pear" --num-samples 9 --out pears.png')


if __name__ == "__main__":
    words = sys.argv[1:]
    pairs = dict(word.split("=", 1) for word in words if "=" in word)
    paths = [Path(word) for word in words if "=" not in word]
    if len(paths) != 2:
        sys.exit("usage: python tools/demo_pictures.py OUT SOURCES [SETTING=VALUE …]")
    main(paths[0], paths[1], pairs)
