"""Draw: a caption as a prompt, sampling among codes alone, and codes to pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from glassgpt.data.tokenizers import Tokenizer
from glassgpt.errors import GenerationError
from glassgpt.generation.processors.base import TokenHistory
from glassgpt.multimodal.drawing_tokens import DrawingTokens
from glassgpt.multimodal.image_tokenizer import ImageTokenizer
from glassgpt.multimodal.samples import contact_sheet


class CodesOnly:
    """Forbids every token but the codes of pictures; a logits processor.

    Args:
        tokens: ids of the codes.
    """

    def __init__(self, tokens: DrawingTokens) -> None:
        self._first, self._end = tokens.first, tokens.first + tokens.codes

    def __call__(self, logits: Tensor, histories: Sequence[TokenHistory], /) -> Tensor:
        """Return logits (B, V), minus infinity except for codes."""
        logits[:, : self._first] = -math.inf
        logits[:, self._end :] = -math.inf
        return logits


def drawing_prompt(tokenizer: Tokenizer, caption: str, positions: int, context_length: int) -> list[int]:
    """Return the tokens that a picture follows: end-of-text, caption, `<|draw|>`.

    Args:
        tokenizer: with code tokens.
        caption: what to draw.
        positions: codes of a picture.
        context_length: of the model.

    Raises:
        GenerationError: the caption is empty, or too long for a picture to follow it.
    """
    if not caption.strip():
        raise GenerationError("the caption is empty; say what to draw")
    tokens = [tokenizer.end_of_text, *tokenizer.encode(caption.strip()), DrawingTokens.of(tokenizer).begin]
    most = context_length + 1 - positions  # the last code is never fed back to the model
    if len(tokens) > most:
        raise GenerationError(
            f"the caption has {len(tokens) - 2:,} tokens; with a context of {context_length:,} and {positions:,} tokens of a "
            f"picture, it may have {max(0, most - 2):,}"
        )
    return tokens


def decode_drawings(
    outputs: Sequence[Sequence[int]], tokens: DrawingTokens, image_tokenizer: ImageTokenizer
) -> NDArray[np.uint8]:
    """Return the pictures (N, S, S, 3) of generated tokens.

    Args:
        outputs: of each picture the ids of its codes, row by row.
        tokens: ids of the special tokens.
        image_tokenizer: that of the data.
    """
    codes = np.array(outputs, dtype=np.int64).reshape(len(outputs), image_tokenizer.config.positions)
    return image_tokenizer.decode(codes - tokens.first)


def drawing_sheet(pictures: Sequence[NDArray[np.uint8]], columns: int = 0) -> NDArray[np.uint8]:
    """Return pictures (S, S, 3) in lines from left to right, on gray; a single one as it is.

    Args:
        pictures: at least one.
        columns: pictures in a line; 0 makes the sheet about square.
    """
    if len(pictures) == 1:
        return pictures[0]
    return contact_sheet(list(pictures), columns or math.ceil(math.sqrt(len(pictures))))
