"""`glassgpt demo`: from Shakespeare's plays to generated text in one command; `glassgpt demo --chat`: from SmolLM2 to a tuned model.

It runs the same code as the single commands and prints the command that each part corresponds to.
"""

from __future__ import annotations

import shlex
import shutil
import textwrap
from pathlib import Path

from glassgpt import console
from glassgpt.config import load_config
from glassgpt.data.files import require_creatable
from glassgpt.data.prepare_options import PrepareOptions
from glassgpt.data.show import prepare_and_show
from glassgpt.errors import UsageError
from glassgpt.training.run_folder import RunFolder
from glassgpt.training.run_lock import require_unlocked

SOURCE, TOKENIZER = "shakespeare", "bpe:4096"
CHAT_SOURCE, CHAT_EPOCHS = "smollm2", 2.0
CONVERSATIONS = Path(__file__).with_name("configs") / "demo_chat.jsonl"
"""Questions, each with an answer in three lines: the answer, the reason, and what to ask next."""
QUESTIONS = CONVERSATIONS.with_name("demo_questions.txt")
"""Held-out questions, one a line; none is in the conversations."""
CHAT_TOKENS = 120
"""Longest reply."""
PROMPTS = ("ROMEO:\n", "KING HENRY:\n", "FIRST WITCH:\n")


def run_demo(out: Path, *, force: bool = False) -> None:
    """Prepare the plays, train the preset `demo`, generate text, and print the bits per byte.

    Args:
        out: folder of the run; the dataset is written next to it.
        force: replace an earlier demo run.

    Raises:
        UsageError: see `check_demo`.
        DataError: the plays are not installed and cannot be downloaded; an earlier run is kept.
    """
    check_demo(out, force=force)
    data = out.with_name(f"{out.name}-data")
    _heading(f"prepare {SOURCE} --out {data} --tokenizer {TOKENIZER}")
    prepare_and_show(PrepareOptions(sources=(SOURCE,), out=data, tokenizer=TOKENIZER, force=force))
    if out.exists():
        shutil.rmtree(out)
    _heading(f"train demo --data {data} --out {out}")
    _train_and_generate(out, data)


def run_chat_demo(out: Path, *, force: bool = False) -> None:
    """Import SmolLM2, fine-tune an adapter on conversations in a fixed form, and chat before and after.

    Args:
        out: folder of the adapter's run; the imported model is next to it.
        force: replace an earlier demo run; the imported model is kept.

    Raises:
        UsageError: see `check_demo`.
        MissingExtraError: the model's package is not installed; an earlier run is kept.
    """
    from glassgpt.interchange.sources import find_model

    check_demo(out, force=force)
    base = out.with_name(f"{out.name}-base")
    if not RunFolder(base).exists():
        RunFolder(base).require_new()
        find_model(CHAT_SOURCE)
    _finetune_and_chat(base, out)


def _finetune_and_chat(base: Path, out: Path) -> None:
    from glassgpt import api  # loads torch, which takes seconds
    from glassgpt.cli.adaptation import finetune

    if not RunFolder(base).exists():
        _heading(shlex.join(["import", CHAT_SOURCE, "--out", str(base)]))
        api.import_(CHAT_SOURCE, base, console.warn)
    if out.exists():  # not before: if the import fails, an earlier run is kept
        shutil.rmtree(out)
    arguments = [
        str(base),
        "--format",
        "chat",
        "--data",
        str(CONVERSATIONS),
        "--out",
        str(out),
        "--epochs",
        f"{CHAT_EPOCHS:g}",
    ]
    _heading(shlex.join(["finetune", *arguments]))
    finetune(base, data=CONVERSATIONS, out=out, format="chat", epochs=CHAT_EPOCHS, overrides={})
    questions = QUESTIONS.read_text(encoding="utf-8").splitlines()
    for question, *replies in zip(questions, _answers(base, questions), _answers(out, questions), strict=True):
        console.output(f"\n> {question}")
        for label, reply in zip(("before", "after"), replies, strict=True):
            console.output(f"{console.translated(label)}:\n{textwrap.indent(reply, '    ')}")
    console.info(f"\nchat with it: glassgpt chat {shlex.quote(str(out))}")


def _answers(run: Path, questions: list[str]) -> list[str]:
    """Return a run's most probable answers to questions."""
    from glassgpt.api.chat import load_chat
    from glassgpt.serving.chat_session import Message

    chat = load_chat(run)
    settings = {"temperature": 0.0, "max_tokens": CHAT_TOKENS}
    return ["".join(chat.answer([Message("user", question)], settings)).strip() for question in questions]


def check_demo(out: Path, *, force: bool = False) -> None:
    """Check the folder of the demo's run.

    Raises:
        UsageError: it is not empty and `force` is not given, or it is not a run, or is being trained.
    """
    run = RunFolder(out)
    require_creatable(out.parent)
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not run.exists():
        raise UsageError(f"{out} is not a run and will not be deleted; choose another --out")
    if not force:
        raise UsageError(
            f"{out} already exists; use it with glassgpt generate {shlex.quote(str(out))}, or start over with --force"
        )
    require_unlocked(run)


def _train_and_generate(out: Path, data: Path) -> None:
    from glassgpt.api import load, train  # loads torch, which takes seconds
    from glassgpt.data.shards import TokenDataset
    from glassgpt.evaluation.loss import evaluate_dataset
    from glassgpt.evaluation.show import ConsoleObserver
    from glassgpt.generation.options import GenerationOptions
    from glassgpt.generation.show import print_stream
    from glassgpt.generation.strategies import stream_samples

    run = RunFolder(out)
    train(load_config("demo", {"data": str(data)}), out)
    loaded = load(out)
    for prompt in PROMPTS:
        options = GenerationOptions(seed=1)
        _heading(f"generate {out} --prompt ${prompt!r} --seed {options.seed}")
        chunks = stream_samples(loaded.decoding_model, loaded.tokenizer, prompt, options)
        print_stream(prompt, chunks, options.max_tokens)
    validation = evaluate_dataset(loaded.model, TokenDataset.open(data), observer=ConsoleObserver())
    console.info(f"\nrun: {out}   loss curve: {run.curve}   report: {run.report}")
    console.info(
        f"look inside with: glassgpt inspect {shlex.quote(str(out))} --prompt {shlex.quote(PROMPTS[0].strip())}"
    )
    console.result(f"validation: {validation.bits_per_byte:.2f} bits per byte")


def _heading(command: str) -> None:
    console.info(f"\n$ glassgpt {command}")
