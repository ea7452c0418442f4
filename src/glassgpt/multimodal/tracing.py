"""Pictures and sounds before a text that is traced: their vectors for the model, and their pictures for the page."""

from __future__ import annotations

from dataclasses import dataclass

from glassgpt.data.tokenizers import Tokenizer
from glassgpt.errors import InspectionError
from glassgpt.inspection.media import TracedMedium
from glassgpt.model.transformer import LanguageModel
from glassgpt.model.vectors import vector_table
from glassgpt.multimodal.config import MultimodalConfig
from glassgpt.multimodal.media import BEGIN_TOKENS, MediaItem
from glassgpt.multimodal.model import MultimodalModel
from glassgpt.multimodal.prompting import encode_medium, with_vector_table
from glassgpt.multimodal.spectrogram import spectrogram_picture


@dataclass(frozen=True)
class TracedPrefix:
    """Media before a text, as in a document that the model is trained on; see `inspection.media.MediaPrefix`.

    Attributes:
        items: pictures and sounds.
        config: of the model that they were decoded for.
    """

    items: tuple[MediaItem, ...]
    config: MultimodalConfig

    @property
    def media(self) -> tuple[TracedMedium, ...]:
        """Their places and pictures."""
        found: list[TracedMedium] = []
        first = 2  # after the token that begins a document, and the begin token
        for item in self.items:
            show = _picture if item.modality == "image" else _sound
            found.append(show(item, first, self.config))
            first = found[-1].positions.stop + 1
        return tuple(found)

    def encode(self, model: LanguageModel, tokenizer: Tokenizer) -> tuple[LanguageModel, list[int]]:
        """See `MediaPrefix`."""
        if not isinstance(model, MultimodalModel) or not model.multimodal.same_encoders(self.config):
            raise InspectionError(
                "the model was not trained on pictures and sound of this size; leave them out, or give another run"
            )
        prepared = with_vector_table(model.language_model, model, tokenizer)
        table = vector_table(prepared)
        tokens = [tokenizer.end_of_text]
        for item in self.items:
            tokens += [tokenizer.special_tokens[BEGIN_TOKENS[item.modality]], *table.add(encode_medium(model, item))]
        return prepared, tokens


def _picture(item: MediaItem, first: int, config: MultimodalConfig) -> TracedMedium:
    side = config.image_size // config.patch_size
    pieces = tuple(f"▦{row},{column}" for row in range(side) for column in range(side))
    return TracedMedium("image", first, side, side, pieces, item.data)


def _sound(item: MediaItem, first: int, config: MultimodalConfig) -> TracedMedium:
    seconds = config.hop * config.frames_per_position / config.rate
    count = config.geometry.audio_positions(len(item.data))
    pieces = tuple(f"♪{at * seconds:.2f}s" for at in range(count))
    return TracedMedium("audio", first, 1, count, pieces, spectrogram_picture(item.data, config))
