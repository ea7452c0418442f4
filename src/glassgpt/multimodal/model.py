"""A language model that sees and hears: encoders map media to vectors, which take the place of token embeddings.

Nothing else of the language model changes: it can be any architecture, and optimizers, checkpoints and all else work with
this model as with one of text. Its parameters keep their names, so that a checkpoint is also one of the language model alone;
those of the encoders begin with `ENCODERS`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glassgpt.errors import ConfigError
from glassgpt.model.cache import KVCache
from glassgpt.model.config_checks import LINEAR
from glassgpt.model.hook_points import Activation
from glassgpt.model.packed import PackedRows
from glassgpt.model.transformer import LanguageModel, ParameterKind
from glassgpt.model.vectors import ENCODERS, ModelWithEncoders
from glassgpt.multimodal.audio import AudioEncoder
from glassgpt.multimodal.config import MultimodalConfig, require_valid
from glassgpt.multimodal.ctc import CTC, CTCHead
from glassgpt.multimodal.encoder import Encoder
from glassgpt.multimodal.image import ImageEncoder
from glassgpt.multimodal.media import MODALITIES, Modality

if TYPE_CHECKING:
    from typing import Self

ENCODER_TYPES: dict[Modality, type[Encoder]] = {"image": ImageEncoder, "audio": AudioEncoder}
"""The encoder of each modality."""


class MultimodalModel(ModelWithEncoders):
    """A language model with encoders.

    Args:
        language_model: trained or not; its modules are shared.
        config: which encoders there are, and their shape.

    Raises:
        ConfigError: the configuration is invalid, or the language model cannot take vectors in place of tokens.

    Attributes:
        language_model: the language model.
        multimodal: the configuration.
        encoders: by modality, and the head of the CTC loss if there is one.
    """

    token_embedding: nn.Embedding

    def __init__(self, language_model: LanguageModel, config: MultimodalConfig) -> None:
        super().__init__(language_model.config)
        require_valid(config)
        _require_vectors(language_model)
        self.multimodal = config
        self.quantized = language_model.quantized
        # Not as a module of its own: its parts are modules of this model, under the same names.
        self._language_model = (language_model,)
        for name, part in language_model.named_children():
            self.add_module(name, part)
        embedding = self.token_embedding.weight
        rms = embedding.detach().float().square().mean().sqrt().item() if embedding.device.type != "meta" else 1.0
        width = language_model.config.n_embd
        self.encoders = nn.ModuleDict({name: ENCODER_TYPES[name](config, width, rms) for name in config.names})
        if config.has_ctc:
            self.encoders[CTC] = CTCHead(width, language_model.config.vocab_size)
        self.encoders.to(embedding.device)
        self.train(language_model.training)

    @property
    def language_model(self) -> LanguageModel:
        """The language model."""
        return self._language_model[0]

    def encoder(self, modality: Modality) -> Encoder:
        """Return the encoder of a modality."""
        encoder = self.encoders[modality]
        assert isinstance(encoder, Encoder)
        return encoder

    @property
    def ctc_head(self) -> CTCHead | None:
        """The head of the CTC loss, or None; generation does not need it."""
        head = dict(self.encoders.named_children()).get(CTC)
        assert head is None or isinstance(head, CTCHead)
        return head

    def vectors(self, inputs: Tensor) -> Tensor:
        """Return token embeddings and encoded media, (B, T, C).

        Args:
            inputs: (B, T, 1 + W) int64; see `batches.py`.
        """
        ids = inputs[..., 0]
        x = self.token_embedding(ids.clamp(min=0))
        payload = inputs[..., 1:].contiguous().view(torch.uint8)  # (B, T, 8 W)
        for name in self.multimodal.names:
            encoder, where = self.encoder(name), ids == medium_id(name)
            encoded = encoder(payload[..., : encoder.n_bytes], where)
            x = torch.where(where[..., None], encoded.to(x.dtype), x)
        return x

    def features(self, tokens: Tensor, cache: KVCache | None = None) -> Tensor:
        """See `LanguageModel.features`; besides tokens and vectors, it takes media, (B, T, 1 + W) int64: see `vectors`."""
        if tokens.ndim == 3 and not tokens.is_floating_point():
            return self.language_model.features(self.vectors(tokens), self._rows(tokens, cache))
        return self.language_model.features(tokens, cache)

    def _rows(self, inputs: Tensor, cache: KVCache | None) -> KVCache | None:
        """Return positions and masks of rows with media, which are given as `cache` if they are packed."""
        if self.multimodal.attention == "causal":
            return cache
        ids = inputs[..., 0]
        if cache is None:
            cache = PackedRows(F.pad(torch.ones_like(ids[:, :1], dtype=torch.bool), (0, ids.size(1) - 1)))
        assert isinstance(cache, PackedRows)
        return cache.with_media(ids < 0)

    def embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """See `LanguageModel.embed`."""
        return self.language_model.embed(tokens, positions)

    def head(self, features: Tensor) -> Tensor:
        """See `LanguageModel.head`."""
        return self.language_model.head(features)

    def initial_std(self, name: str) -> float:
        """See `LanguageModel.initial_std`; encoders draw their initial weights themselves."""
        return self.language_model.initial_std(name)

    def parameter_kinds(self) -> dict[str, ParameterKind]:
        """See `LanguageModel.parameter_kinds`."""
        kinds = dict(self.language_model.parameter_kinds())
        for name in self.multimodal.names:
            of_encoder = self.encoder(name).parameter_kinds()
            kinds |= {f"{ENCODERS}{name}.{parameter}": kind for parameter, kind in of_encoder.items()}
        if self.ctc_head is not None:
            kinds |= {f"{ENCODERS}{CTC}.weight": "head", f"{ENCODERS}{CTC}.bias": "vector"}
        return kinds

    def activations(self) -> dict[str, Activation]:
        """See `LanguageModel.activations`."""
        return self.language_model.activations()

    def new_cache(self, slots: int, capacity: int | None = None) -> KVCache:
        """See `LanguageModel.new_cache`."""
        return self.language_model.new_cache(slots, capacity)

    @property
    def is_frozen(self) -> bool:
        """See `ModelWithEncoders`."""
        return self.multimodal.freeze

    def around(self, other: LanguageModel) -> MultimodalModel:
        """See `ModelWithEncoders`."""
        return MultimodalModel(other, self.multimodal)

    def with_language_model(self, other: LanguageModel) -> MultimodalModel:
        """Return these encoders with another language model, such as this one in another precision."""
        model = self.around(other)
        model.encoders = self.encoders
        return model.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of the language model too."""
        self.language_model.train(mode)
        return super().train(mode)


def medium_id(modality: Modality) -> int:
    """Return what stands in place of a token at the positions of a modality, a negative number."""
    return -1 - MODALITIES.index(modality)


def _require_vectors(model: LanguageModel) -> None:
    """Check that a model takes vectors in place of tokens, one row of an embedding each.

    Raises:
        ConfigError: it does not, or mixes the documents of a row.
    """
    arch, parts = model.config.arch, model.config.plugins
    if arch in LINEAR:
        raise ConfigError(
            [f"model.arch is {arch}, whose memory would mix the documents of a row; for pictures and sound use another"]
        )
    own = dict(model.named_parameters(recurse=False)) | dict(model.named_buffers(recurse=False))
    embedding = model.get_submodule("token_embedding") if hasattr(model, "token_embedding") else None
    problem = "it has parameters outside of its modules" if own else None
    if not isinstance(embedding, nn.Embedding):
        problem = "it has no token_embedding"
    elif problem is None and embedding.weight.device.type != "meta":
        vectors = torch.zeros(1, 1, model.config.n_embd, device=embedding.weight.device, dtype=embedding.weight.dtype)
        try:
            with torch.no_grad():
                model.embed(vectors, torch.zeros(1, 1, dtype=torch.int64, device=vectors.device))
        except Exception as error:  # noqa: BLE001 - the user's own code may raise anything
            problem = f"its embed fails with vectors: {type(error).__name__}"
    if problem:
        name = parts[0] if parts else arch
        raise ConfigError(
            [f"{name} cannot see or hear, because {problem}; let embed use glassgpt.model.vectors.vectors_of"]
        )
