"""The conversations that a run is fine-tuned on: read, rendered with the run's template, prepared. Does not import torch."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from glassgpt.adaptation.replay import open_old_text, read_passages
from glassgpt.data.chat.chat_template import FILE_NAME as TABLE_FILE
from glassgpt.data.chat.dataset import ConversationDataset, is_conversations
from glassgpt.data.chat.formats import detect_format, read_conversations
from glassgpt.data.chat.jinja_template import JINJA_SUFFIX, JinjaTemplate, compile_template, read_template
from glassgpt.data.chat.messages import Conversation
from glassgpt.data.chat.plain import PLAIN_TEMPLATE
from glassgpt.data.chat.prepare import split_held_out, write_conversations
from glassgpt.data.summary import SUMMARY_FILE
from glassgpt.data.tokenizers import Tokenizer, load_tokenizer
from glassgpt.diagnosis.catalogue import describe
from glassgpt.diagnosis.checks.conversations import check_conversations
from glassgpt.diagnosis.findings import Finding
from glassgpt.errors import ConfigError, DataError, UsageError
from glassgpt.locale import user_language
from glassgpt.training.run_folder import RunFolder

CODE_PREFIX = "GG-CHT-"
"""Start of the codes of findings about conversations."""
REPLAY = "replay"
"""Option of a dataset of conversations: the text that is mixed in."""


@dataclass(frozen=True)
class ConversationSource:
    """Conversations, and what turns them into tokens.

    Attributes:
        run: the run to fine-tune.
        format: of the file; see `data.chat.formats`.
        train: the conversations to train on.
        validation: those to validate on.
        tokenizer: of the run.
        template: of the run.
        template_text: its source.
        template_origin: where it comes from, for messages.
        options: what determines the dataset.
        unread: keys of rows that are not read, in alphabetical order.
    """

    run: Path
    format: str
    train: Sequence[Conversation]
    validation: Sequence[Conversation]
    tokenizer: Tokenizer
    template: JinjaTemplate
    template_text: str
    template_origin: str
    options: dict[str, Any]
    unread: Sequence[str] = ()


def read_source(
    run: Path, data: Path, validation_data: Path | None = None, template_file: Path | None = None
) -> ConversationSource:
    """Read conversations for a run.

    Args:
        run: the run to fine-tune, for its tokenizer and chat template.
        data: file of conversations.
        validation_data: file of conversations to validate on; None holds some of `data` out.
        template_file: Jinja template; None takes that of the run, or a plain transcript.

    Raises:
        DataError: a file cannot be read, or a row is not a conversation.
        ConfigError: the template cannot be read, or is not one in Jinja.
    """
    name = detect_format(data)
    unread: set[str] = set()
    conversations = list(read_conversations(data, name, unread))
    if validation_data is None:
        train, validation = split_held_out(conversations)
    else:
        train, validation = (
            conversations,
            list(read_conversations(validation_data, detect_format(validation_data), unread)),
        )
    text, origin = find_template(run, template_file)
    options = {
        "format": "chat",
        "data": _digest(data),
        "validation": None if validation_data is None else _digest(validation_data),
        "template": hashlib.sha256(text.encode()).hexdigest(),
    }
    tokenizer = load_tokenizer(RunFolder(run).tokenizer)
    template = compile_template(text, origin)
    return ConversationSource(run, name, train, validation, tokenizer, template, text, origin, options, sorted(unread))


def find_template(run: Path, given: Path | None = None) -> tuple[str, str]:
    """Return the source of the template to train with, and where it comes from.

    Raises:
        ConfigError: it cannot be read, or is a table of texts, which has no stop token.
    """
    found = given if given is not None else RunFolder(run).chat_template
    if given is None and (run / TABLE_FILE).is_file():
        found = run / TABLE_FILE
    if found.suffix != JINJA_SUFFIX:
        raise ConfigError(
            [
                f"{found} is a table of texts, which has no stop token to learn; give a Jinja template: --chat-template FILE.jinja"
            ]
        )
    if given is None and not found.is_file():
        return PLAIN_TEMPLATE, "the plain transcript"
    return read_template(found, RunFolder(run).chat_template), str(found)


def prepare_source(
    source: ConversationSource,
    out: Path,
    context_length: int,
    row_tokens: int = 0,
    replay: tuple[Path, float] | None = None,
) -> ConversationDataset:
    """Write the dataset of conversations, or return the existing one if it has the same.

    Args:
        source: the conversations.
        out: folder of the dataset.
        context_length: of the model.
        row_tokens: tokens of a row; 0 chooses by the longest conversation.
        replay: dataset of old text to mix in, and its share of all tokens.

    Raises:
        UsageError: the folder holds something else, or the rows are longer than the context.
        DataError: the conversations cannot be trained on: a check found something fatal.
        GlassGPTError: see `write_conversations`.
    """
    if not 0 <= row_tokens <= context_length or row_tokens == 1:
        raise UsageError(f"--row-tokens is {row_tokens}; it must be from 2 to the model's context of {context_length}")
    options = source.options | {"context_length": context_length, "row_tokens": row_tokens}
    old = None if replay is None else open_old_text(replay[0], source.tokenizer.fingerprint, source.run)
    if old is not None and replay is not None:
        digest = _digest(old.folder / SUMMARY_FILE)
        options[REPLAY] = {"data": str(old.folder.absolute()), "sha256": digest, "share": replay[1]}
    if is_conversations(out):
        dataset = ConversationDataset.open(out)
        if dataset.info.options != options or dataset.tokenizer_fingerprint != source.tokenizer.fingerprint:
            raise UsageError(f"{out} holds other conversations; remove it, or choose another --out")
        require_trainable(dataset)  # it was damaged, or its process was killed before that was found
        return dataset
    dataset = write_conversations(
        out,
        (source.train, source.validation),
        source.tokenizer,
        source.template,
        source.template_text,
        context_length=context_length,
        row_tokens=row_tokens,
        options=options,
        replay=None if old is None or replay is None else (partial(read_passages, old.split("train")), replay[1]),
    )
    try:
        require_trainable(dataset)
    except DataError:
        shutil.rmtree(out)
        raise
    return dataset


def mixed_text(dataset: ConversationDataset) -> Path | None:
    """Return the folder of the text that is mixed into conversations; None without one, or if it is gone."""
    named: dict[str, Any] = dataset.info.options.get(REPLAY) or {}
    folder = Path(str(named.get("data", "")))
    return folder if named and (folder / SUMMARY_FILE).is_file() else None


def require_trainable(dataset: ConversationDataset) -> None:
    """Check that nothing is wrong with conversations that makes training on them worthless.

    Raises:
        DataError: a check found something fatal.
    """
    refuse_fatal(finding for check in check_conversations(dataset) for finding in check.findings)


def refuse_fatal(findings: Iterable[Finding]) -> None:
    """Raise an error that names the fatal findings of `check_conversations`, if there are any.

    Raises:
        DataError: there are.
    """
    fatal = [finding for finding in findings if finding.severity == "fatal" and finding.code.startswith(CODE_PREFIX)]
    if fatal:
        language = user_language()
        titles = [f"{describe(finding, language).title} (glassgpt doctor {finding.code})" for finding in fatal]
        raise DataError("\n".join(f"these conversations cannot be trained on: {title}" for title in titles))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
