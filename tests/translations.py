"""Checks of the Korean translations, shared by their test and by `python tests/messages.py`."""

import re

from glassgpt.locale import korean_templates
from glassgpt.locale.ko import CONNECTED, HELP, MESSAGES, PARTS
from glassgpt.locale.ko.parts import COMPOSED
from messages import Message, messages

FIELD = re.compile(r"\{(\d+)(?::[nt-])?\}")
HANGUL = re.compile("[가-힣]")
ENGLISH_PROSE = re.compile(r"(?<![\w./'-])(?!glassgpt)[a-z]{2,}(?: [a-z]{2,}){3,}(?![\w./-])")
SHOWN_BY_SERVING = (
    "run.py",
    "replay.py",
    "recording.py",
    "limits.py",
    "chat_session.py",
    "chat_client.py",
)
"""Files of the server whose texts are not only sent to clients."""
NOT_FOR_PEOPLE = (
    "model/activations.py", "model/gpt2.py", "model/modern.py", "model/llama.py", "evaluation/pictures.py", "generation/gpu/launch.py",
)  # fmt: skip
"""Files whose texts a person never sees in the terminal: formulas, which the page translates itself; labels of pictures, which
are files."""
EVENT_FILES = (
    "diagnosis/", "multimodal/data_checks.py", "multimodal/run_checks.py", "training/observers.py", "training/training_run.py",
    "api/training.py", "data/remarks.py",
)  # fmt: skip
NAME = re.compile(r"[(\w/][\w /)-]*(?: \{\})?")
"""Names of checks, outcomes and events, which the catalogue translates."""
NOT_MESSAGES = re.compile(
    r"<!doctype|^(?:may be repeated|given as .* may be repeated)$|^(?:bold|dim|cyan|black)\b|default-src|Every child|Jedes Kind|Chaque enfant|Cada niño|def open_door|Hello, world!"
    r"|KATAKANA|^\{\} (?:noun|phrase|auxiliary)$|^(?:KING|FIRST) |^RTX |gloo\||^iconv |^--train\.|^offset points$"
    r"|^\\n\$ glassgpt|^(?:prepare|generate|train demo) |^\n\$ glassgpt|\{\} · |^\{\} MB$|^tiny shakespeare$|^the server$|^pip install |^python -m http|^(?:config|bench|learn) [a-z]+$|^jq |^application/json|^Bearer |^\(\.role|^ and key|^%load_ext |^import os\n"
)
"""Texts that are no messages: styles, samples, commands, names."""
WRITTEN = (
    "{%- set bos_token = ",
    "# The best of {} trials, number {}: {} nats per token.\n",
    "tried: {}", "1 is no limit; tried: 0.8 to 1, or min_p instead", "0 is none; tried: 0.05 and 0.1", "1 is none; tried: {}",
    "For {} text by {}: {}.", "as in the preset {}", "Scores on {} other prompts: {}.",
    "The best of {} settings on {} held-out prompts by glassgpt sweep-decoding (score {}, seed {}).",
    "Generated and human text: surprisal {} and {} nats per token,", "distinct-2 {} and {}, repeated 4-grams {} and {}.",
    "preferences: {} pairs, {} held out, SHA-256 of the file {}", "chat template: SHA-256 {}", "{} of {}, SHA-256 {}",
    "byte value", "the text in UTF-8", "the bytes, merged into tokens", "softmax(last row of logits)",
    "the weights that the adapter is added to", "a checksum of the prompt", "the plain transcript", "{} nats per pair",
    "training (smoothed)", "early stop", "learning rate", "loss (nats per token)", "loss (smoothed)", "snapshot not saved", "snapshot not deleted", "{} nats per token\n{} bits per byte", "{}   (people {})", "# {}", "  {}: glassgpt doctor {}",
    "{}: {}. {} (glassgpt doctor {})", "{}{}: {} (glassgpt doctor {})", "rep {}",
)  # fmt: skip
"""Texts that are written to files, put together from texts of the catalogue, or translated by the page (formulas)."""


def missing() -> list[Message]:
    """Return the messages without a translation."""
    return [message for message in messages() if not _is_exempt(message) and not is_translated(message.template)]


def _is_exempt(message: Message) -> bool:
    return (
        message.path in NOT_FOR_PEOPLE
        or (message.path.startswith("serving/") and not message.path.endswith(SHOWN_BY_SERVING))
        or (message.path.startswith(EVENT_FILES) and NAME.fullmatch(message.template) is not None)
        or message.template in WRITTEN
        or NOT_MESSAGES.search(message.template) is not None
    )


def is_translated(template: str) -> bool:
    """Return whether the program shows a text in Korean: by an entry, in a longer one, or composed of others."""
    if any(template in entries for entries in (MESSAGES, PARTS, HELP, CONNECTED)) or any(
        template in longer for entries in (COMPOSED, PARTS, CONNECTED) for longer in entries
    ):
        return True
    korean = korean_templates().translate(template)
    if "{}" in template and korean == template:  # some values must be numbers
        korean = korean_templates().translate(template.replace("{}", "7"))
    return HANGUL.search(korean) is not None and ENGLISH_PROSE.search(korean) is None


def unused() -> list[str]:
    """Return the entries whose English text is no longer in the source."""
    known = {message.template for message in messages()} | COMPOSED.keys() | HELP.keys() | SYSTEM_ERRORS
    return [english for english in MESSAGES if " " in english and english not in known and english != LANGUAGE_ERROR]


LANGUAGE_ERROR = "GLASSGPT_LANGUAGE is {}; it must be one of {}"
SYSTEM_ERRORS = {
    "No such file or directory", "Permission denied", "No space left on device", "Is a directory", "Not a directory",
    "File exists", "File name too long", "Input/output error", "Read-only file system", "Too many open files",
    "Directory not empty", "Disk quota exceeded", "Connection refused", "Address already in use",
    "Too many levels of symbolic links",
}  # fmt: skip
