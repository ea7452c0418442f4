"""Pictures as tokens of a text: the special tokens, and what is recorded of the image tokenizer. Free of torch.

A document is a caption, the token `<|draw|>`, and the codes of its picture, row by row. A language model learns it like any
other text, and draws by continuing a caption.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from glassgpt.data.files import read_regular
from glassgpt.data.summary import SUMMARY_FILE, DatasetSummary
from glassgpt.data.tokenizers.bpe import BPETokenizer
from glassgpt.data.tokenizers.library import LibraryTokenizer
from glassgpt.errors import CheckpointError, DataError, WrongTokenizerError
from glassgpt.schema.json_fields import from_json, json_object
from glassgpt.training.run_folder import DRAWING_FILE

if TYPE_CHECKING:
    from glassgpt.data.tokenizers import Tokenizer
    from glassgpt.multimodal.image_tokenizer import ImageTokenizer

BEGIN_DRAWING = "<|draw|>"
"""Special token between a caption and the codes of its picture."""
DRAWING_FORMAT = "drawing"
"""Format of a dataset of captions and codes, as its options name it."""


def code_token(code: int) -> str:
    """Return the name of the special token of a code."""
    return f"<|code_{code}|>"


class DrawingTokens(NamedTuple):
    """Ids of the special tokens of a tokenizer.

    Attributes:
        begin: precedes the codes of a picture.
        first: stands for code 0; those of the others follow it.
        codes: number of codes.
    """

    begin: int
    first: int
    codes: int

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> DrawingTokens:
        """Return the ids of a tokenizer.

        Raises:
            WrongTokenizerError: it has no code tokens, or not in order.
        """
        special = tokenizer.special_tokens
        if BEGIN_DRAWING not in special or code_token(0) not in special:
            raise WrongTokenizerError(
                f"the tokenizer {tokenizer.name} has no tokens of pictures, so that its model cannot draw; prepare the data "
                "with: glassgpt prepare ROWS --draw TOKENIZER --out DIR"
            )
        first, codes = special[code_token(0)], sum(name.startswith("<|code_") for name in special)
        if any(special.get(code_token(code)) != first + code for code in range(codes)):
            raise WrongTokenizerError(f"the tokenizer {tokenizer.name} has its tokens of pictures not in order")
        return cls(special[BEGIN_DRAWING], first, codes)


def with_code_tokens(tokenizer: Tokenizer, codes: int) -> Tokenizer:
    """Return the tokenizer with `<|draw|>` and a token per code after its other ids, unless it has them.

    Raises:
        WrongTokenizerError: special tokens cannot be added to a tokenizer of this kind, or it has another number of codes.
    """
    if BEGIN_DRAWING in tokenizer.special_tokens:
        if (found := DrawingTokens.of(tokenizer).codes) != codes:
            raise WrongTokenizerError(
                f"the tokenizer {tokenizer.name} has tokens for {found:,} codes, and the image tokenizer has {codes:,}"
            )
        return tokenizer
    if not isinstance(tokenizer, BPETokenizer | LibraryTokenizer):
        raise WrongTokenizerError(
            f"special tokens cannot be added to the tokenizer {tokenizer.name}, a {tokenizer.kind}; for drawing use "
            "--tokenizer bpe:SIZE, or gpt2"
        )
    return tokenizer.with_special_tokens([BEGIN_DRAWING, *map(code_token, range(codes))])


@dataclass(frozen=True)
class DrawingRecord:
    """Meaning of the codes of a dataset, and of the runs that were trained on it.

    Attributes:
        fingerprint: of the image tokenizer.
        positions: codes of a picture.
        codes: number of different codes.
        path: folder of the image tokenizer when the dataset was made; it may have moved.
    """

    fingerprint: str
    positions: int
    codes: int
    path: str

    @classmethod
    def of(cls, image_tokenizer: ImageTokenizer, folder: Path) -> DrawingRecord:
        """Return what there is to record of an image tokenizer, which was read from a folder."""
        config = image_tokenizer.config
        return cls(image_tokenizer.fingerprint, config.positions, config.codes, str(folder.absolute()))

    @classmethod
    def of_options(cls, options: Mapping[str, Any]) -> DrawingRecord | None:
        """Return the record in the options of a dataset; None if it is not one of captions and codes.

        Raises:
            DataError: the record is damaged.
        """
        if options.get("format") != DRAWING_FORMAT:
            return None
        try:
            return from_json(cls, options.get("image_tokenizer"), "options.image_tokenizer")
        except ValueError as error:
            raise DataError(f"{SUMMARY_FILE} of the dataset is damaged: {error}; prepare the data again") from error

    @classmethod
    def read(cls, path: Path) -> DrawingRecord:
        """Return the record in a file of a run.

        Raises:
            CheckpointError: the file is damaged.
        """
        try:
            return from_json(cls, json_object(read_regular(path)))
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"{path} is damaged: {error}; copy it from the run that this one was made from, or train again on a dataset of: "
                "glassgpt prepare ROWS --draw TOKENIZER --out DIR"
            ) from error

    def to_bytes(self) -> bytes:
        """Return the content of the file of a run."""
        return (json.dumps(asdict(self), indent=2) + "\n").encode()


def recorded_drawing(folder: Path) -> DrawingRecord | None:
    """Return what a run or a dataset records of the image tokenizer; None if its tokens have nothing to do with pictures.

    Raises:
        CheckpointError: the file of a run is damaged.
        DataError: the file of a dataset is damaged.
    """
    if (folder / DRAWING_FILE).is_file():
        return DrawingRecord.read(folder / DRAWING_FILE)
    if (folder / SUMMARY_FILE).is_file():
        return DrawingRecord.of_options(DatasetSummary.read(folder / SUMMARY_FILE).options)
    return None
