"""Give pictures and sounds to a loaded model."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from glassgpt.api.checked_options import as_list, require_text
from glassgpt.data.tokenizers import Tokenizer
from glassgpt.errors import GenerationError
from glassgpt.generation.engine.prompt import Prompt
from glassgpt.generation.engine.speculative import SpeculativeDecoding
from glassgpt.generation.options import GenerationOptions
from glassgpt.model.transformer import LanguageModel
from glassgpt.multimodal.media import MODALITIES
from glassgpt.multimodal.model import MultimodalModel
from glassgpt.multimodal.prompting import MediaPrompt, PromptEncoder

if TYPE_CHECKING:
    from glassgpt.generation.strategies import DecodingStrategy
    from glassgpt.multimodal.tracing import TracedPrefix

MediaInput = Any
"""A picture or a sound: a path, bytes, an array; see `read_medium`."""
PromptInput = str | None | MediaPrompt
"""A prompt as a user gives it."""


def prompt_with_media(
    model: LanguageModel, prompt: PromptInput, images: Sequence[MediaInput], audio: Sequence[MediaInput]
) -> PromptInput:
    """Return a prompt, with the pictures and sounds decoded as the model gets them.

    Args:
        model: that is to continue it.
        prompt: the text; None without media begins a document.
        images: pictures.
        audio: sounds.

    Raises:
        GenerationError: the model knows text alone, or a medium cannot be decoded.
        MissingExtraError: the library that decodes it is not installed.
    """
    given = {"image": _media_list(images, "images"), "audio": _media_list(audio, "audio")}
    if not any(given.values()):
        return prompt
    if isinstance(prompt, MediaPrompt):
        raise GenerationError("the prompt has its pictures and sounds already; leave out images and audio")
    require_text(prompt, "prompt")
    config = require_encoders(model).multimodal

    from glassgpt.multimodal.media_input import read_medium  # what decodes pictures and sound is not needed for text

    media = [read_medium(each, modality, config) for modality in MODALITIES for each in given[modality]]
    return MediaPrompt(prompt or "", tuple(media))


def is_empty(given: object) -> bool:
    """Return whether an argument `images` or `audio` has nothing; an array has no truth."""
    return given is None or (isinstance(given, list | tuple) and not given)


def _media_list(given: object, name: str) -> list[MediaInput]:
    """Return what `images` or `audio` gives, of which a single one is no list.

    Raises:
        GenerationError: it is a single one.
    """
    if given is None:
        return []
    if hasattr(given, "ndim"):  # an array can be iterated over, but is a picture or a sound
        raise GenerationError(f"{name} is a single {type(given).__name__}; it must be a list")
    return as_list(given, name, "")


def require_encoders(model: LanguageModel) -> MultimodalModel:
    """Return a model that knows pictures or sound.

    Raises:
        GenerationError: it was trained on text alone.
    """
    if not isinstance(model, MultimodalModel):
        raise GenerationError(
            "the model was trained on text alone; pictures and sound need one that was trained on them"
        )
    return model


def media_before(
    model: LanguageModel, images: Sequence[MediaInput], audio: Sequence[MediaInput]
) -> TracedPrefix | None:
    """Return pictures and sounds as what precedes a traced text; None without any.

    Raises:
        GenerationError: see `prompt_with_media`.
    """
    prompt = prompt_with_media(model, None, images, audio)
    if not isinstance(prompt, MediaPrompt):
        return None

    from glassgpt.multimodal.tracing import TracedPrefix

    return TracedPrefix(prompt.media, require_encoders(model).multimodal)


def with_encoders_of(model: LanguageModel, decoding_model: LanguageModel) -> LanguageModel:
    """Return a model prepared for generation with the encoders of the one that it was made from, if that has any."""
    return model.with_language_model(decoding_model) if isinstance(model, MultimodalModel) else decoding_model


def text_of(prompt: PromptInput) -> str | None:
    """Return the text of a prompt."""
    return prompt.text if isinstance(prompt, MediaPrompt) else prompt


@contextmanager
def encoded_prompts(
    model: LanguageModel,
    decoding_model: LanguageModel,
    tokenizer: Tokenizer,
    prompts: Sequence[PromptInput],
    options: GenerationOptions,
    strategy: DecodingStrategy | None = None,
) -> Generator[list[Prompt]]:
    """Yield prompts of which those with media are ids, valid within the `with` block.

    Args:
        model: encodes the media.
        decoding_model: generates the text.
        tokenizer: of the model.
        prompts: what to continue.
        options: of the generation.
        strategy: of the decoding.

    Raises:
        GenerationError: see `PromptEncoder.encoded`; or a draft model is to guess what follows a picture.
    """
    if not any(isinstance(prompt, MediaPrompt) for prompt in prompts):
        yield [prompt for prompt in prompts if not isinstance(prompt, MediaPrompt)]
        return
    encoders = require_encoders(model)
    if isinstance(strategy, SpeculativeDecoding) and strategy.draft is not None:
        raise GenerationError(
            "a draft model cannot see or hear; look drafts up in the text instead (without a draft model)"
        )
    encoder = PromptEncoder(encoders, decoding_model, tokenizer)
    with ExitStack() as stack:
        yield [
            stack.enter_context(encoder.encoded(prompt, options)) if isinstance(prompt, MediaPrompt) else prompt
            for prompt in prompts
        ]
