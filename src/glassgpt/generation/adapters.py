"""Several low-rank adapters of one model at generation: each sequence of a batch has its own, or none.

All of them share the model's weights, which are read once for the whole batch; the adapter of a sequence is added to the
products of that sequence alone. The readable reference is each adapter merged into the weights (`model.lora.merge_lora`),
which is the same function up to rounding.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Self

import torch.nn.functional as F
from torch import Tensor, nn

from glassgpt.generation.cpu.batch_invariant import BatchInvariantDecoder
from glassgpt.generation.cpu.gpt2_step import StepsInC
from glassgpt.generation.cpu.low_rank import LowRank
from glassgpt.generation.engine.decoding import StepwiseDecoder
from glassgpt.generation.engine.interfaces import DecoderFactory, Prefill
from glassgpt.generation.engine.sequence import SequenceState
from glassgpt.model.cache import KVCache
from glassgpt.model.copying import copy_sharing_weights
from glassgpt.model.lora import LoRALinear
from glassgpt.model.transformer import LanguageModel

AdapterLayers = Mapping[str, LowRank]
"""An adapter: its part of each adapted layer, by the layer's name such as `blocks.0.mlp.up`."""


class Selection:
    """The adapter of each sequence of a forward pass, by name; an empty name is none.

    Copies of a model share it, so that whoever runs one of them can select.

    Args:
        fixed: the adapter of all sequences.
    """

    def __init__(self, fixed: str = "") -> None:
        self._fixed = fixed
        self._names: Sequence[str] = ()

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        """Return itself."""
        return self

    def select(self, names: Sequence[str]) -> None:
        """Select the adapters of the next passes; sequences beyond them are padding and have none."""
        self._names = names

    def of(self, count: int) -> Sequence[str]:
        """Return the adapter of each of `count` sequences."""
        if self._fixed:
            return [self._fixed] * count
        return [*self._names[:count], *[""] * (count - len(self._names))]


class AdaptedLinear(nn.Module):
    """A linear layer of any kind, packed or not, with a low-rank adapter for each sequence that has one.

    Args:
        layer: computes the products of the weights.
        parts: of the adapters that adapt this layer, by name.
        selection: of the sequences' adapters.
    """

    def __init__(self, layer: nn.Module, parts: Mapping[str, LowRank], selection: Selection) -> None:
        super().__init__()
        self.layer = layer
        self.parts, self.selection = parts, selection

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, in) -> (B, T, out)."""
        y: Tensor = self.layer(x)
        # One sequence at a time: the order of sums in a product may depend on the number of vectors, and thus on neighbors.
        for row, name in enumerate(self.selection.of(x.size(0))):
            part = self.parts.get(name)
            if part is not None:
                y[row] += F.linear(F.linear(x[row], part.a), part.b)
        return y


def adapter_layers(model: LanguageModel) -> dict[str, LowRank]:
    """Return the adapter of a model that has one; see `model.lora.add_lora`."""
    return {
        name: LowRank.of(module.lora_A.detach(), module.scale * module.lora_B.detach())
        for name, module in model.named_modules()
        if isinstance(module, LoRALinear)
    }


def with_adapters(model: LanguageModel, adapters: Mapping[str, AdapterLayers], selection: Selection) -> LanguageModel:
    """Return a copy of a model, packed or not, with adapters; it shares all tensors with the model.

    Args:
        model: without adapter, in evaluation mode.
        adapters: by name.
        selection: says which one each sequence of a pass has.
    """
    other = copy_sharing_weights(model)
    for layer in dict.fromkeys(layer for parts in adapters.values() for layer in parts):
        parts = {name: parts[layer] for name, parts in adapters.items() if layer in parts}
        other.set_submodule(layer, AdaptedLinear(other.get_submodule(layer), parts, selection))
    if isinstance(other, StepsInC):
        vars(other)["blocks_in_c"] = other.blocks_in_c.with_adapters(adapters, selection.of)
    return other


class _AdapterPrefill:
    """The prefill of prompts with their adapters; see `Prefill`."""

    def __init__(self, prefill: Prefill, names: Sequence[str], selection: Selection) -> None:
        self._prefill, self._names, self._selection = prefill, names, selection
        self.cache = prefill.cache

    def step(self) -> bool:
        self._selection.select(self._names)
        is_done = self._prefill.step()
        self.cache = self._prefill.cache
        return is_done


class AdapterDecoder:
    """A decoder whose sequences have adapters, by `Request.adapter`; see `Decoder`.

    Args:
        model: without adapter, in evaluation mode.
        vocab_size: see `StepwiseDecoder`.
        slots: see `Decoder`.
        capacity: see `Decoder`.
        adapters: by name.
    """

    def __init__(
        self,
        model: LanguageModel,
        vocab_size: int,
        slots: int,
        capacity: int,
        adapters: Mapping[str, AdapterLayers],
    ) -> None:
        self._selection = Selection()
        adapted = with_adapters(model, adapters, self._selection)
        is_cpu = next(model.parameters()).device.type == "cpu"
        build = BatchInvariantDecoder if is_cpu else StepwiseDecoder
        self._decoder = build(adapted, vocab_size, slots, capacity)
        self.slots, self.capacity, self.max_prefills = slots, capacity, self._decoder.max_prefills

    def prefill(self, prompts: Sequence[Sequence[int]], adapters: Sequence[str]) -> Prefill:
        """See `Decoder`."""
        return _AdapterPrefill(self._decoder.prefill(prompts, adapters), adapters, self._selection)

    def insert(self, slot: int, sequence: SequenceState, source: KVCache, source_slot: int) -> None:
        """See `Decoder`."""
        self._decoder.insert(slot, sequence, source, source_slot)

    def move(self, source: int, target: int) -> None:
        """See `Decoder`."""
        self._decoder.move(source, target)

    def decode(self, sequences: Sequence[SequenceState]) -> Iterable[tuple[SequenceState, int]]:
        """See `Decoder`."""
        self._selection.select([sequence.request.adapter for sequence in sequences])
        return self._decoder.decode(sequences)

    def free_memory(self) -> None:
        """See `Decoder`."""
        self._decoder.free_memory()


def adapter_decoder(adapters: Mapping[str, AdapterLayers]) -> DecoderFactory:
    """Return what builds an `AdapterDecoder` with these adapters."""
    return lambda model, vocab_size, slots, capacity: AdapterDecoder(model, vocab_size, slots, capacity, adapters)
