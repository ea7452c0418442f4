"""Have a loaded model draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from glassgpt.api.checked_options import as_path
from glassgpt.config import load_config
from glassgpt.data.tokenizers import Tokenizer, load_tokenizer
from glassgpt.errors import WrongTokenizerError
from glassgpt.generation.strategies import generate_samples
from glassgpt.multimodal.drawing import CodesOnly, decode_drawings, drawing_prompt
from glassgpt.multimodal.drawing_options import drawing_options
from glassgpt.multimodal.drawing_tokens import DrawingRecord, DrawingTokens, recorded_drawing
from glassgpt.multimodal.image_tokenizer import ImageTokenizer, load_image_tokenizer
from glassgpt.training.run_folder import RunFolder

if TYPE_CHECKING:
    from glassgpt.api.loaded_model import LoadedModel


def draw_pictures(
    loaded: LoadedModel,
    captions: Sequence[str],
    image_tokenizer: str | Path | ImageTokenizer | None = None,
    **options: Any,
) -> NDArray[np.uint8]:
    """Return pictures of captions, drawn together; each is the same as if it were alone.

    Args:
        loaded: a model that was trained on a dataset of `prepare --draw`.
        captions: what to draw.
        image_tokenizer: that of that dataset, or its folder; None takes the place where it was then.
        options: those of `GenerationOptions` that concern sampling.

    Returns:
        (captions, num_samples, S, S, 3).

    Raises:
        GenerationError: an option or a caption is invalid.
        WrongTokenizerError: the model cannot draw, or the image tokenizer is another one.
        WrongRunError: there is no image tokenizer in the folder.
    """
    tokens, record = drawing_tokens(loaded.tokenizer, loaded.drawing)
    if isinstance(image_tokenizer, ImageTokenizer):
        found = _same(image_tokenizer, record, Path(record.path))
    else:
        found = find_image_tokenizer(record, image_tokenizer, next(loaded.model.parameters()).device)
    parsed = drawing_options(options, max_tokens=record.positions, processors=(CodesOnly(tokens),))
    context = loaded.model.config.context_length
    prompts = [drawing_prompt(loaded.tokenizer, caption, record.positions, context) for caption in captions]
    outputs = [
        sample.tokens
        for samples in generate_samples(loaded.decoding_model, loaded.tokenizer, list(prompts), parsed)
        for sample in samples
    ]
    pictures = decode_drawings(outputs, tokens, found)
    return pictures.reshape(len(captions), parsed.num_samples, *pictures.shape[1:])


def image_tokenizer_of(run: Path, captions: Sequence[str], folder: Path | None, device: torch.device) -> ImageTokenizer:
    """Return the image tokenizer that a run draws with; check it and the captions before the model is loaded.

    Args:
        run: the run.
        captions: what to draw.
        folder: see `find_image_tokenizer`, as is `device`, which also explains errors.
        device: where it is to compute.

    Raises:
        GenerationError: a caption is empty or too long.
        WrongTokenizerError: the run cannot draw.
    """
    tokenizer = load_tokenizer(RunFolder(run).tokenizer)
    _, record = drawing_tokens(tokenizer, recorded_drawing(run))
    found = find_image_tokenizer(record, folder, device)
    context = load_config(run).model.context_length
    for caption in captions:
        drawing_prompt(tokenizer, caption, record.positions, context)
    return found


def drawing_tokens(tokenizer: Tokenizer, record: DrawingRecord | None) -> tuple[DrawingTokens, DrawingRecord]:
    """Return the ids of the codes of a model, and what they mean.

    Raises:
        WrongTokenizerError: it has none.
    """
    tokens = DrawingTokens.of(tokenizer)
    if record is None or record.codes != tokens.codes:
        raise WrongTokenizerError(
            "the run does not say what its tokens of pictures mean (drawing.json is missing, or does not match its "
            "tokenizer); train it again on a dataset of: glassgpt prepare ROWS --draw TOKENIZER --out DIR"
        )
    return tokens, record


def find_image_tokenizer(
    record: DrawingRecord, folder: str | Path | None, device: torch.device | None = None
) -> ImageTokenizer:
    """Return the image tokenizer that a model draws with.

    Args:
        record: of the run.
        folder: where it is; None looks where it was when the dataset was made.
        device: where it is to compute; None is the CPU.

    Raises:
        WrongTokenizerError: it is another one, or no longer there.
        WrongRunError: the folder is not that of an image tokenizer.
        CheckpointError: it is damaged.
    """
    if folder is None and not Path(record.path).is_dir():
        raise WrongTokenizerError(
            f"the image tokenizer is no longer in {record.path}; say where it is now with --image-tokenizer (image_tokenizer "
            "in Python)"
        )
    place = as_path(record.path if folder is None else folder, "image_tokenizer")
    return _same(load_image_tokenizer(place, device), record, place)


def _same(found: ImageTokenizer, record: DrawingRecord, place: Path) -> ImageTokenizer:
    if replace(DrawingRecord.of(found, place), path=record.path) != record:
        raise WrongTokenizerError(
            f"the image tokenizer in {place} is not the one that the model was trained with, which was in {record.path}"
        )
    return found
