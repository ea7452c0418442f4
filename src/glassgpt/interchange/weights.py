"""Read safetensors: shapes first, to compare a configuration with them before a model is built."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from glassgpt.errors import InterchangeError
from glassgpt.interchange.files import read_json, reason, shown
from glassgpt.interchange.layouts import Layout
from glassgpt.model.build import meta_model
from glassgpt.model.config import ModelConfig
from glassgpt.model.transformer import LanguageModel

WEIGHTS_FILE, WEIGHTS_INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
FLOAT_TYPES = ("F64", "F32", "F16", "BF16")
HEAD = "lm_head.weight"

RESAVE = "save it again with transformers: {}.from_pretrained(FOLDER).save_pretrained(NEW)"


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file, described by its header.

    Attributes:
        name: name in the file.
        path: the file.
        shape: its size in each dimension.
        dtype: safetensors' name of its type.
    """

    name: str
    path: Path
    shape: tuple[int, ...]
    dtype: str

    def load(self) -> Tensor:
        """Return the tensor in float32."""
        try:
            with safe_open(self.path, "pt") as file:
                return file.get_tensor(self.name).float()
        except (SafetensorError, OSError) as error:
            raise InterchangeError(f"{self.path} is damaged: {reason(error)}") from error


def read_headers(folder: Path) -> dict[str, StoredTensor]:
    """Return the tensors of a folder by name, without their values.

    Raises:
        InterchangeError: there are no safetensors, a file is damaged, or two files have a tensor of the same name.
    """
    found: dict[str, StoredTensor] = {}
    for path in _weight_files(folder):
        if not path.is_file():
            raise InterchangeError(f"{path} is missing; {WEIGHTS_INDEX_FILE} names it")
        try:
            with safe_open(path, "pt") as file:
                for name in file.keys():  # noqa: SIM118 - not a mapping
                    part = file.get_slice(name)
                    tensor = StoredTensor(name, path, tuple(part.get_shape()), str(part.get_dtype()))
                    if name in found:
                        raise InterchangeError(f"{path} has {shown(name)}, which {found[name].path.name} also has")
                    found[name] = tensor
        except (SafetensorError, OSError) as error:
            raise InterchangeError(f"{path} is damaged: {reason(error)}") from error
    return found


def _weight_files(folder: Path) -> list[Path]:
    """Return the single weights file, or the shards of a large model."""
    if (folder / WEIGHTS_FILE).is_file():
        return [folder / WEIGHTS_FILE]
    index = folder / WEIGHTS_INDEX_FILE
    if not index.is_file():
        raise InterchangeError(
            f"{folder} has no {WEIGHTS_FILE}; pickled weights are not loaded, because unpickling can run code. "
            f"Save the model again with transformers' save_pretrained"
        )
    names: object = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise InterchangeError(f"{index} cannot be read: weight_map must give the file of each tensor")
    files: Iterable[str] = set(names.values())
    return [folder / Path(name).name for name in sorted(files)]


def match_weights(
    stored: Mapping[str, StoredTensor], config: ModelConfig, layout: Layout, *, is_tied: bool, folder: Path
) -> dict[str, StoredTensor]:
    """Return the stored tensor of each parameter under its full Hugging Face name, compared with the configuration.

    Args:
        stored: see `read_headers`.
        config: its sizes are compared with the stored shapes before anything of that size is built.
        layout: of the architecture.
        is_tied: whether the configuration says that the head is the token embedding.
        folder: for messages.

    Raises:
        InterchangeError: a tensor is missing, superfluous, quantized or of another shape.
    """
    named = _with_full_names(stored, layout, folder)
    _check_blocks(named, config, layout, folder)
    if tied_embedding := layout.tied_embedding(config):
        _resolve_tied_head(named, tied_embedding, is_tied, folder)
    expected = _expected_shapes(named, config, layout, folder)
    for name, shape in expected.items():
        if name not in named:
            raise InterchangeError(f"the weights of {folder} have no {name}")
        _check_shape(named[name], shape, folder)
    if extra := sorted(named.keys() - expected.keys()):
        raise InterchangeError(
            f"the weights of {folder} have {len(extra)} tensors that {layout.architecture} does not have, such as "
            f"{shown(named[extra[0]].name)}; {RESAVE.format(layout.architecture)}"
        )
    return named


def _with_full_names(stored: Mapping[str, StoredTensor], layout: Layout, folder: Path) -> dict[str, StoredTensor]:
    """Return the tensors under the names of the whole language model; a base model's omit the prefix."""
    named: dict[str, StoredTensor] = {}
    for name, tensor in stored.items():
        full = name if name == HEAD or name.startswith(layout.base_model_prefix) else layout.base_model_prefix + name
        if layout.buffers.fullmatch(full):
            continue
        if full in named:
            raise InterchangeError(f"the weights of {folder} have both {shown(name)} and {shown(named[full].name)}")
        named[full] = tensor
    return named


def _check_blocks(named: Mapping[str, StoredTensor], config: ModelConfig, layout: Layout, folder: Path) -> None:
    matches = [re.match(re.escape(layout.block_prefix) + r"(\d{1,9})\.", name) for name in named]
    blocks = {int(match[1]) for match in matches if match}
    if len(blocks) != config.n_layer or (blocks and max(blocks) >= config.n_layer):
        raise InterchangeError(
            f"{folder}: config.json says {config.n_layer:,} blocks, but the weights have {len(blocks):,}; "
            f"correct config.json, or take it and the weights from the same model"
        )


def _resolve_tied_head(named: dict[str, StoredTensor], embedding: str, is_tied: bool, folder: Path) -> None:
    """Reduce head and token embedding in `named` to the embedding, which the head must equal."""
    head = named.pop(HEAD, None)
    if head is None and not is_tied:
        raise InterchangeError(f"{folder}: tie_word_embeddings is false, but the weights have no {HEAD}")
    if head is None:
        return
    if embedding not in named:
        if is_tied:  # safetensors.save_model keeps only one of two names of a tensor
            named[embedding] = head
        return
    if head.shape != named[embedding].shape or not torch.equal(head.load(), named[embedding].load()):
        raise InterchangeError(
            f"{folder}: {HEAD} differs from {named[embedding].name}, but the model has one matrix for both. "
            f"Use the model with transformers, or tie the two (model.tie_weights()) and fine-tune it again"
        )


def _expected_shapes(
    named: Mapping[str, StoredTensor], config: ModelConfig, layout: Layout, folder: Path
) -> dict[str, tuple[int, ...]]:
    for name, shape in layout.embedding_shapes(config).items():
        if name in named:
            _check_shape(named[name], shape, folder)
    # The sizes are now those of stored tensors, or were limited by `ModelConfig.problems`.
    parameters = dict(meta_model(config).named_parameters())
    return {
        mapping.theirs: tuple(reversed(shape)) if mapping.transposed else tuple(shape)
        for mapping in layout.parameter_mappings(config)
        for shape in [parameters[mapping.ours].shape]
    }


def _check_shape(tensor: StoredTensor, expected: tuple[int, ...], folder: Path) -> None:
    if tensor.dtype not in FLOAT_TYPES:
        raise InterchangeError(
            f"the weights of {folder}: {tensor.name} is of type {tensor.dtype}, so the model is quantized; "
            f"only float32, float16 and bfloat16 weights can be imported"
        )
    if tensor.shape != expected:
        raise InterchangeError(
            f"the weights of {folder}: {tensor.name} is {tensor.shape}, expected {expected} from config.json"
        )


def copy_weights(model: LanguageModel, named: Mapping[str, StoredTensor], layout: Layout) -> list[str]:
    """Copy stored tensors into a model; return the names of those with NaN or infinite values."""
    parameters = dict(model.named_parameters())
    not_finite: list[str] = []
    for mapping in layout.parameter_mappings(model.config):
        tensor = named[mapping.theirs].load()
        parameters[mapping.ours].data.copy_(tensor.T if mapping.transposed else tensor)
        if not bool(tensor.isfinite().all()):
            not_finite.append(named[mapping.theirs].name)
    return not_finite
