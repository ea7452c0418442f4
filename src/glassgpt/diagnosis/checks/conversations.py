"""Checks of packed conversations: what is learned, whether the answers end, and whether the splits are apart.

Free of torch, so that a command can make them before it loads anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from glassgpt.data.chat.dataset import TEMPLATE_FILE, ConversationDataset
from glassgpt.data.chat.jinja_template import compile_template
from glassgpt.data.chat.messages import Conversation, Message
from glassgpt.data.chat.render import render
from glassgpt.data.chat.rows import STARTS, SUPERVISED, TEXT
from glassgpt.data.files import read_regular
from glassgpt.data.shards import SPLITS, Split
from glassgpt.data.verification import file_version
from glassgpt.diagnosis.findings import CheckResult, Finding, Severity, Value
from glassgpt.errors import GlassGPTError

FULL_MASK = 0.999
"""Share of the predicted tokens from which on everything is learned."""
MISSING_STOPS_FATAL = 0.05
CUT_WARNING, CUT_FATAL = 0.01, 0.5
SHARED_WARNING, SHARED_FATAL = 0.01, 0.5
SAMPLED_CONVERSATIONS, MAX_CHANGED = 200, 0.05
SPECIAL_NAME = re.compile(r"<\|\w+\|>|</?s>|<(?:start|end)_of_turn>|\[/?INST\]")
"""Names of special tokens in templates that are in use."""
SYSTEM = Message("system", "s")
TURNS = (Message("user", "u"), Message("assistant", "a"))
Rows = tuple[NDArray[np.int64], NDArray[np.uint8]]
"""Ids and flags, (rows, row length) each."""
_kept: dict[tuple[object, ...], list[CheckResult]] = {}
"""Results of the last dataset that was checked, by its folder and the versions of its files."""


def check_conversations(dataset: ConversationDataset) -> list[CheckResult]:
    """Return the results of all checks of a dataset of conversations.

    They are kept as long as its files do not change: each stage of a command checks what it is given.
    """
    files = sorted(path for path in dataset.folder.iterdir() if path.is_file() and not path.name.startswith("."))
    key = (dataset.folder.absolute(), *((path.name, *file_version(path)) for path in files))
    if key not in _kept:
        results = list(_checks(dataset))
        _kept.clear()
        _kept[key] = results
    return _kept[key]


def _checks(dataset: ConversationDataset) -> Iterator[CheckResult]:
    rows: dict[Split, Rows] = {name: _rows(dataset, name) for name in SPLITS}
    mask = check_mask(dataset)
    yield mask
    if mask.passed:  # otherwise there are no answers to speak of
        yield check_stops(dataset, rows["train"])
        yield check_padding(dataset, rows["train"])
    yield check_fit(dataset)
    yield check_template(dataset, rows["train"])
    yield check_shared(rows)


def check_mask(dataset: ConversationDataset) -> CheckResult:
    """Check that some tokens are learned, and some are not."""
    counts = dataset.conversations.train
    of_text = counts.text - counts.text // dataset.conversations.row_length  # the first token of a row is not learned
    learned = counts.supervised - of_text
    share = learned / max(1, counts.tokens - counts.conversations)
    findings: tuple[Finding, ...] = ()
    if not learned:
        findings = (Finding("GG-CHT-002", "fatal", {"conversations": counts.conversations}),)
    elif share >= FULL_MASK:
        findings = (Finding("GG-CHT-003", "fatal", {"conversations": counts.conversations}),)
    return CheckResult("mask", "share", {"share": share, "conversations": counts.conversations}, findings)


def check_stops(dataset: ConversationDataset, rows: Rows) -> CheckResult:
    """Check that the stop token of each answer is learned."""
    ids, flags = rows
    learned = (flags & SUPERVISED) > 0
    stop = dataset.conversations.stop
    answers = _runs(learned)
    ends = np.concatenate([[0], np.cumsum((ids == stop) & learned)])
    found = sum(bool(ends[end] > ends[start]) for start, end in answers)
    share = 1 - found / max(1, len(answers))
    findings: tuple[Finding, ...] = ()
    if share > 0:
        severity: Severity = "fatal" if share > MISSING_STOPS_FATAL else "warning"
        values: dict[str, Value] = {"share": round(100 * share, 1), "stop": _name(dataset, stop)}
        findings = (Finding("GG-CHT-001", severity, values),)
    return CheckResult("stop token", "learned", {"share": 1 - share, "answers": len(answers)}, findings)


def check_padding(dataset: ConversationDataset, rows: Rows) -> CheckResult:
    """Check that padding is not the stop token and is never learned."""
    ids, flags = rows
    pad, stop = dataset.conversations.pad, dataset.conversations.stop
    learned = int(((flags[:, -1] & SUPERVISED > 0) & (ids[:, -1] == pad) & (ids[:, -2] == pad)).sum())
    share = 1 - dataset.conversations.train.tokens / max(1, ids.size)
    findings: tuple[Finding, ...] = ()
    if pad == stop or learned:
        values: dict[str, Value] = {"pad": _name(dataset, pad), "rows": learned}
        findings = (Finding("GG-CHT-004", "fatal", values),)
    return CheckResult("padding", "share", {"share": share}, findings)


def check_fit(dataset: ConversationDataset) -> CheckResult:
    """Measure how many conversations were cut or left out, because they are longer than a row."""
    counts, length = dataset.conversations.train, dataset.conversations.row_length - 1
    everything = counts.conversations + counts.dropped
    share = (counts.cut + counts.dropped) / max(1, everything)
    values: dict[str, Value] = {"cut": counts.cut, "dropped": counts.dropped, "all": everything, "length": length}
    findings: tuple[Finding, ...] = ()
    if share > CUT_WARNING:
        findings = (Finding("GG-CHT-005", "fatal" if share > CUT_FATAL else "warning", values),)
    return CheckResult("fit", "cut", values, findings)


def check_template(dataset: ConversationDataset, rows: Rows) -> CheckResult:
    """Check that the tokens of conversations are those of their text, and that the template's special tokens exist.

    A missing one is fatal if it ends the answers. Elsewhere it is text like any other, as `<|user|>` is in Zephyr's template.
    """
    template = read_regular(dataset.folder / TEMPLATE_FILE).decode(errors="replace")
    unknown = sorted(set(SPECIAL_NAME.findall(template)) - set(dataset.tokenizer.special_tokens))
    sampled = _conversations(rows)[:SAMPLED_CONVERSATIONS]
    changed = sum(not _is_unchanged(dataset, one) for one in sampled) / max(1, len(sampled))
    findings: tuple[Finding, ...] = ()
    if unknown or changed > MAX_CHANGED:
        ends = _unknown_in_answers(dataset, template) if unknown else set[str]()
        severity: Severity = "fatal" if ends or changed > MAX_CHANGED else "warning"
        values: dict[str, Value] = {"unknown": ", ".join(unknown) or "-", "share": round(100 * changed, 1)}
        findings = (Finding("GG-CHT-006", severity, values),)
    return CheckResult("template", "agrees", {"count": len(sampled), "share": 1 - changed}, findings)


def _unknown_in_answers(dataset: ConversationDataset, template: str) -> set[str]:
    """Return the names of special tokens that the template writes letter by letter into the assistant's messages."""
    tokenizer = dataset.tokenizer
    found: set[str] = set()
    for messages in (TURNS, (SYSTEM, *TURNS)):
        try:
            rendered = render(tokenizer, compile_template(template, TEMPLATE_FILE), Conversation(messages))
        except GlassGPTError:  # it refuses a system message, or demands one
            continue
        answers = [tokenizer.decode(rendered.tokens[start:end]) for start, end in rendered.spans]
        found.update(name for answer in answers for name in SPECIAL_NAME.findall(answer))
    return found - set(tokenizer.special_tokens)


def check_shared(rows: dict[Split, Rows]) -> CheckResult:
    """Measure how many conversations of the validation split are also trained on."""
    train = {one.tobytes() for one in _conversations(rows["train"])}
    validation = _conversations(rows["validation"])
    shared = sum(one.tobytes() in train for one in validation)
    share = shared / max(1, len(validation))
    findings: tuple[Finding, ...] = ()
    if share > SHARED_WARNING:
        severity: Severity = "fatal" if share > SHARED_FATAL else "warning"
        findings = (Finding("GG-CHT-007", severity, {"shared": shared, "all": len(validation)}),)
    return CheckResult("shared conversations", "share", {"shared": shared, "all": len(validation)}, findings)


def _rows(dataset: ConversationDataset, name: Split) -> Rows:
    """Return the rows of conversations, without those of text."""
    tokens = dataset.split(name)
    shape = (-1, tokens.row_length)
    ids, flags = tokens.read(0, len(tokens)).reshape(shape), tokens.flags(0, len(tokens)).reshape(shape)
    is_talk = flags[:, 0] & TEXT == 0
    return ids[is_talk], flags[is_talk]


def _runs(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return the runs of True in the rows, as positions in the flattened array."""
    padded = np.pad(mask, ((0, 0), (0, 1)))  # so that no run continues in the next row
    changes = np.flatnonzero(np.diff(padded.ravel().astype(np.int8), prepend=0))
    width = mask.shape[1]
    flat = [int(at) - int(at) // (width + 1) for at in changes]
    return list(zip(flat[::2], flat[1::2], strict=True))


def _conversations(rows: Rows) -> list[NDArray[np.int64]]:
    """Return the tokens of each conversation; what is not learned at all is padding."""
    ids, flags = rows[0].ravel(), rows[1].ravel()
    starts = np.flatnonzero(flags & STARTS)
    ends = np.append(starts[1:], len(ids))
    learned = np.concatenate([[0], np.cumsum(flags & SUPERVISED)])
    return [ids[start:end] for start, end in zip(starts, ends, strict=True) if learned[end] > learned[start]]


def _is_unchanged(dataset: ConversationDataset, tokens: NDArray[np.int64]) -> bool:
    """Return whether the text between special tokens becomes these tokens; there, a special token's name is mere text."""
    tokenizer = dataset.tokenizer
    special = np.flatnonzero(np.isin(tokens, list(tokenizer.special_tokens.values())))
    first, *others = np.split(tokens, special)
    texts = [first, *(part[1:] for part in others)]
    return all(tokenizer.encode(tokenizer.decode(text)) == text.tolist() for text in texts)


def _name(dataset: ConversationDataset, token: int) -> str:
    return dataset.tokenizer.token_bytes(token).decode(errors="replace")
