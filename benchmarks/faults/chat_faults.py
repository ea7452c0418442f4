"""Faults of conversations: of their masks, templates, padding and rows. Others' reports of each are in docs/decisions/0039."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glassgpt.data import load_tokenizer
from glassgpt.data.chat.dataset import (
    CONVERSATIONS_FILE,
    TEMPLATE_FILE,
    ConversationDataset,
    flags_file,
)
from glassgpt.data.chat.jinja_template import compile_template
from glassgpt.data.chat.messages import Conversation, Message
from glassgpt.data.chat.plain import PLAIN_TEMPLATE
from glassgpt.data.chat.prepare import split_held_out, write_conversations
from glassgpt.data.chat.rows import STARTS, SUPERVISED
from glassgpt.data.grammar import grammar_text

from .case import Fault
from .datasets import SEED, MakeDataset

CONTEXT = 96
SETTINGS = {
    "model.context_length": CONTEXT,
    "train.batch_tokens": 8 * CONTEXT,
    "train.max_steps": 60,
    "train.eval_every_steps": 20,
}
OPEN = "{% for m in messages %}{% if m.role == 'user' %}{{ 'User: ' + m.content + '\n' }}{% else %}{{ 'Assistant:' }}"
CLOSE = "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
STOP_OUTSIDE = OPEN + "{% generation %}{{ ' ' + m.content }}{% endgeneration %}{{ eos_token + '\n' }}" + CLOSE
NOTHING_MARKED = OPEN + "{% generation %}{% endgeneration %}{{ ' ' + m.content + eos_token + '\n' }}" + CLOSE
OTHER_TOKENIZER = (
    OPEN + "{% generation %}{{ ' ' + m.content + '<|im_end|>' + eos_token }}{% endgeneration %}{{ '\n' }}" + CLOSE
)
Flags = NDArray[np.uint8]
Ids = NDArray[np.int64]


def sentences() -> list[Conversation]:
    """Return conversations in which the answer is the question's sentence, completed."""
    lines = [line for line in dict.fromkeys(grammar_text(3000, SEED).split("\n")) if 12 < len(line) < 60]
    return [
        Conversation((Message("user", line[: len(line) // 2]), Message("assistant", line[len(line) // 2 :])))
        for line in lines
    ]


def conversations(template: str = PLAIN_TEMPLATE, row_tokens: int = CONTEXT) -> MakeDataset:
    """Return a function that prepares conversations."""

    def make(folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / "data", split_held_out(sentences(), 0.1), template, row_tokens)
        return folder / "data"

    return make


def _write(
    out: Path, splits: tuple[Sequence[Conversation], Sequence[Conversation]], template: str, row_tokens: int
) -> None:
    compiled, tokenizer = compile_template(template, "the template"), load_tokenizer("bytes")
    write_conversations(out, splits, tokenizer, compiled, template, context_length=CONTEXT, row_tokens=row_tokens)


def _with_flags(change: Callable[[ConversationDataset, Ids, Flags], Flags]) -> MakeDataset:
    """Change the flags of the training split and what follows from them, so that only their meaning is wrong."""

    def make(folder: Path) -> Path:
        data = conversations()(folder)
        dataset = ConversationDataset.open(data)
        tokens = dataset.split("train")
        flags = change(dataset, tokens.read(0, len(tokens)), tokens.flags(0, len(tokens)).copy()).astype(np.uint8)
        (data / flags_file("train")).write_bytes(flags.tobytes())
        counts = {"supervised": int((flags & SUPERVISED > 0).sum()), "sha256": sha256(flags.tobytes()).hexdigest()}
        _change_summary(data, lambda content: content["train"].update(counts))
        return data

    return make


def _change_summary(data: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads((data / CONVERSATIONS_FILE).read_text())
    change(content)
    (data / CONVERSATIONS_FILE).write_text(json.dumps(content))


def _stop_masked(dataset: ConversationDataset, ids: Ids, flags: Flags) -> Flags:
    return np.where(ids == dataset.conversations.stop, flags & STARTS, flags)


def _a_tenth_of_the_stops_masked(dataset: ConversationDataset, ids: Ids, flags: Flags) -> Flags:
    stops = np.flatnonzero((ids == dataset.conversations.stop) & (flags & SUPERVISED > 0))[::10]
    flags[stops] = 0
    return flags


def _all_learned(dataset: ConversationDataset, ids: Ids, flags: Flags) -> Flags:
    return np.where(flags & STARTS, flags, np.uint8(SUPERVISED))


def _none_learned(dataset: ConversationDataset, ids: Ids, flags: Flags) -> Flags:
    return flags & STARTS


def _pad_is_stop(folder: Path) -> Path:
    data = conversations()(folder)
    _change_summary(data, lambda content: content.update(pad=content["stop"]))
    return data


def _nothing_fits(folder: Path) -> Path:
    """Prepare conversations nearly all of which exceed the row; those that fit keep the rows from being empty."""
    folder.mkdir(parents=True, exist_ok=True)
    everything = sentences()
    long = [
        Conversation((*one.messages, *other.messages))
        for one, other in zip(everything[::2], everything[1::2], strict=False)
    ]
    _write(folder / "data", split_held_out(long, 0.1), PLAIN_TEMPLATE, 72)
    return folder / "data"


def _shared(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    everything = sentences()
    _write(folder / "data", (everything, everything[: len(everything) // 10]), PLAIN_TEMPLATE, CONTEXT)
    return folder / "data"


def _template_exchanged(folder: Path) -> Path:
    data = conversations()(folder)
    (data / TEMPLATE_FILE).write_text(OTHER_TOKENIZER)
    return data


def _fault(name: str, what: str, dataset: MakeDataset, code: str, row_tokens: int = CONTEXT) -> Fault:
    """Return a fatal fault that is found before the first step."""
    return Fault(
        name=name,
        what=what,
        kind="conversations",
        stage="before",
        fatal=True,
        dataset=dataset,
        settings=SETTINGS | {"train.sequence_length": row_tokens, "train.batch_tokens": 8 * row_tokens},
        expects=(code,),
    )


CHAT_FAULTS: Sequence[Fault] = (
    _fault(
        "chat-stop-masked-as-padding", "padding is the stop token, and every stop token is masked with it (trl#1623)",
        _with_flags(_stop_masked), "GG-CHT-001",
    ),
    _fault(
        "chat-some-stops-masked", "the stop token of every tenth answer is not learned",
        _with_flags(_a_tenth_of_the_stops_masked), "GG-CHT-001",
    ),
    _fault(
        "chat-stop-outside-the-mask", "the template writes the stop token after the generation block (trl#5988)",
        conversations(STOP_OUTSIDE), "GG-CHT-001",
    ),
    _fault(
        "chat-mask-all-zero", "the mask is empty, as for templates without generation blocks elsewhere (marin#7237)",
        _with_flags(_none_learned), "GG-CHT-002",
    ),
    _fault(
        "chat-template-marks-nothing", "the generation blocks of the template are empty",
        conversations(NOTHING_MARKED), "GG-CHT-002",
    ),
    _fault(
        "chat-mask-all-one", "every token is learned, the user's too (Megatron-Bridge#3359)",
        _with_flags(_all_learned), "GG-CHT-003",
    ),
    _fault(
        "chat-pad-is-the-stop-token", "rows are filled with the stop token (trl#2059)",
        _pad_is_stop, "GG-CHT-004",
    ),
    _fault(
        "chat-conversations-exceed-the-row", "most conversations are longer than a row (nanochat PR#834)",
        _nothing_fits, "GG-CHT-005", row_tokens=72,
    ),
    _fault(
        "chat-template-of-another-tokenizer", "the template ends turns with a special token that the tokenizer does not have",
        conversations(OTHER_TOKENIZER), "GG-CHT-006",
    ),
    _fault(
        "chat-template-exchanged", "the template was replaced after the conversations were prepared",
        _template_exchanged, "GG-CHT-006",
    ),
    _fault(
        "chat-validation-known", "every conversation of the validation split is trained on",
        _shared, "GG-CHT-007",
    ),
)  # fmt: skip
