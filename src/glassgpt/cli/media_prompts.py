"""Pictures and sounds on the command line of `glassgpt generate`."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from glassgpt.errors import UsageError, require_extra

if TYPE_CHECKING:
    from glassgpt.api import LoadedModel
    from glassgpt.generation.options import GenerationOptions
    from glassgpt.generation.prompt_list import PromptList
    from glassgpt.generation.strategies import DecodingStrategy
    from glassgpt.multimodal.media import Modality


def check_media(run: Path, images: Sequence[Path], audio: Sequence[Path]) -> None:
    """Check that a run can be given these files, before anything is loaded.

    Raises:
        UsageError: the run knows no such media, or a file does not exist.
        MissingExtraError: the library that decodes them is not installed.
    """
    from glassgpt.config import load_config
    from glassgpt.multimodal.media_input import EXTRA, LIBRARIES

    known = load_config(run).multimodal.names
    given: dict[Modality, tuple[str, Sequence[Path]]] = {"image": ("--image", images), "audio": ("--audio", audio)}
    for modality, (flag, paths) in given.items():
        if paths and modality not in known:
            what = " and ".join(known) or "text alone"
            raise UsageError(f"{flag} needs a run that was trained on it; {run} was trained on {what}")
        if missing := next((path for path in paths if not path.is_file()), None):
            raise UsageError(f"{flag} is {str(missing)!r}; it must be a file")
        if paths:
            require_extra(LIBRARIES[modality], EXTRA, "decoding pictures and sound")


@contextmanager
def media_prompts(
    loaded: LoadedModel,
    prompts: PromptList,
    images: Sequence[Path],
    audio: Sequence[Path],
    options: GenerationOptions,
    strategy: DecodingStrategy | None,
) -> Generator[PromptList]:
    """Yield the prompts with media before each of them, valid within the `with` block.

    Args:
        loaded: the model.
        prompts: texts; None is an empty one.
        images: files of pictures.
        audio: files of sounds.
        options: of the generation.
        strategy: of the decoding.

    Raises:
        GenerationError: a file cannot be decoded, or a prompt does not fit.
    """
    if not images and not audio:
        yield prompts
        return
    from glassgpt.api.multimodal import encoded_prompts, prompt_with_media
    from glassgpt.multimodal.prompting import MediaPrompt

    given = prompt_with_media(loaded.model, None, images, audio)  # the files are decoded once
    assert isinstance(given, MediaPrompt)
    with_media = [dataclasses.replace(given, text=text or "") for text in prompts.texts]
    models = loaded.model, loaded.decoding_model, loaded.tokenizer
    with encoded_prompts(*models, with_media, options, strategy) as encoded:
        yield dataclasses.replace(prompts, inputs=encoded)
