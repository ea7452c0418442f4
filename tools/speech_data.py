"""Sentences for `multimodal_data.py` that espeak-ng speaks: those of the test in voices that are never heard in training."""

from __future__ import annotations

import io
import multiprocessing
import os
import random
import subprocess
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

from emoji_data import Row

from glassgpt import console
from glassgpt.errors import UsageError

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
CHUNK_SENTENCES = 16
"""Sentences that a process gets at once."""


class Spoken(NamedTuple):
    """A sentence to speak: language, text, voice with its variant, words per minute, pitch."""

    language: str
    text: str
    voice: str
    speed: int
    pitch: int


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
    """Speak sentences into FLAC files of 16 kHz, and return their rows.

    Args:
        plan: the sentences.
        folder: receives the files.
        out: folder that the paths of the rows are relative to.
        workers: processes; threads would wait for each other between the short steps of a sentence.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    with (
        ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool,
        console.progress(f"speaking {folder.name}", len(plan), unit="sentences") as meter,
    ):
        for row in pool.map(partial(_spoken_row, folder, out), range(len(plan)), plan, chunksize=CHUNK_SENTENCES):
            rows.append(row)
            meter.advance(1)
    return rows


def _spoken_row(folder: Path, out: Path, number: int, spoken: Spoken) -> Row:
    """Speak a sentence into a file, and return its row."""
    import soundfile

    from glassgpt.multimodal.audio_files import decode_audio

    path = folder / f"{number:06d}.flac"
    command = ["espeak-ng", "-v", spoken.voice, "-s", str(spoken.speed), "-p", str(spoken.pitch), "--stdout", "--stdin"]
    done = subprocess.run(
        command, input=spoken.text.encode(), capture_output=True, timeout=SECONDS_PER_SENTENCE, check=False
    )
    if done.returncode or not done.stdout:
        raise UsageError(f"espeak-ng cannot speak {spoken.text!r} as {spoken.voice}: {done.stderr.decode()[:200]}")
    soundfile.write(path, decode_audio(_with_length(done.stdout), SPEECH_RATE), SPEECH_RATE, format="FLAC")
    audio = os.path.relpath(path.absolute(), out.absolute())
    return {"audio": audio, "text": spoken.text, "language": spoken.language, "voice": spoken.voice}


def _with_length(wav: bytes) -> bytes:
    """Return a WAV file with its lengths in the header, which espeak-ng cannot know when it writes to a pipe."""
    stream = io.BytesIO(wav)
    stream.seek(4)
    stream.write((len(wav) - 8).to_bytes(4, "little"))
    stream.seek(40)
    stream.write((len(wav) - 44).to_bytes(4, "little"))
    return stream.getvalue()
