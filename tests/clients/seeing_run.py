"""A run that names two colors and two tones in a chat, trained in seconds."""

import json
import subprocess
import sys
import wave

import numpy as np
from PIL import Image

COLORS = {"red": (220, 30, 30), "blue": (30, 30, 220)}
TONES = {"low": 300, "high": 2000}
RATE = 8000
SETTINGS = {
    "model.context-length": 128, "train.sequence-length": 128, "train.batch-tokens": 1024, "train.max-steps": 150,
    "train.learning-rate": 3e-3, "train.eval-every-steps": 75, "multimodal.mels": 16,
}  # fmt: skip


def write_files(folder, names, chance, noise):
    """Write a picture or a sound for each name, and return the files."""
    files = []
    for number, name in enumerate(names):
        path = folder / f"{name}-{number}.{'png' if name in COLORS else 'wav'}"
        if name in COLORS:
            pixels = np.array(COLORS[name]) + chance.normal(0, noise, (8, 8, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
        else:
            at = np.arange(1200 + chance.integers(200)) / RATE
            samples = 9000 * np.sin(2 * np.pi * TONES[name] * at) + chance.normal(0, 20 * noise, len(at))
            with wave.open(str(path), "wb") as file:
                file.setparams((1, 2, RATE, 0, "NONE", ""))
                file.writeframes(samples.astype("<i2").tobytes())
        files.append(path)
    return files


def seeing_run(folder, command):
    """Train the run, and write further pictures and sounds with their names in `asked.json`.

    Args:
        folder: where to write.
        command: returns the command line of glassgpt for arguments.

    Returns:
        The folder of the run, and the file.
    """
    chance = np.random.default_rng(0)
    (folder / "files").mkdir(parents=True)
    rows = []
    for path in write_files(folder / "files", [*COLORS, *TONES] * 40, chance, 20):
        name, kind = path.name.split("-")[0], "image" if path.suffix == ".png" else "audio"
        question = [{"type": kind, kind: f"files/{path.name}"}, {"type": "text", "text": "What is it?"}]
        rows.append({"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": name}]})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shape = ("--image-size", 8, "--patch-size", 4, "--rate", RATE, "--hop", 80, "--row-tokens", 128)
    out = ("--format", "multimodal", "--out", folder / "data", "--tokenizer", "bpe:280")
    flags = [part for name, value in SETTINGS.items() for part in (f"--{name}", value)]
    for arguments in (
        ("prepare", folder / "rows.jsonl", *out, *shape),
        ("train", "nano", "--data", folder / "data", "--out", folder / "run", *flags),
    ):
        subprocess.run(command(*arguments), check=True, capture_output=True)
    (folder / "asked").mkdir()
    asked = write_files(folder / "asked", [*COLORS, *TONES], chance, 10)
    (folder / "asked.json").write_text(json.dumps({str(path): path.name.split("-")[0] for path in asked}))
    return folder / "run", folder / "asked.json"


if __name__ == "__main__":
    from pathlib import Path

    print(*seeing_run(Path(sys.argv[1]), lambda *given: [sys.executable, "-m", "glassgpt", *map(str, given)]))
