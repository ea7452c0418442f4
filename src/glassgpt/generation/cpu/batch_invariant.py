"""Decoding on a CPU whose bits do not depend on the batch: the same logits alone, among others, and in any slot.

Sampled texts hardly ever depend on the last bits of the logits, but log-probabilities show them, and int8 kernels turn
them into steps. Three things vary with the batch. The order of sums in a matrix product depends on the number of vectors:
`invariant_rows` measures the number from which on it does not (one in bfloat16, int8 and oneDNN's float32, on the machines
measured), and smaller batches are padded to that. Attention over keys that are padded to the longest sequence rounds
differently from attention over a sequence's own keys: `attend_by_slot` computes each sequence by itself, which costs
nothing, as there is nothing to share between them. An activation is computed in whole SIMD vectors,
and the remainder at the end by another formula: `ActivationBySlot` computes rows separately if they are not whole vectors.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from glassgpt.generation.engine.decoding import PADDING, StepwiseDecoder, sample_tokens
from glassgpt.generation.engine.sequence import SequenceState
from glassgpt.model.attention import attend, causal_mask
from glassgpt.model.copying import copy_sharing_weights
from glassgpt.model.transformer import LanguageModel

WHOLE_VECTORS = 64
"""Numbers that a processor's loop over an activation computes at once, at most."""
ALL_TRIED = 8
"""Batch sizes up to this are all measured, larger ones around its multiples."""


def attend_by_slot(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float, window: int = 0, sinks: int = 0
) -> Tensor:
    """Attend for each sequence by itself if there is one query per sequence; see `AttentionFunction`."""
    n_sequences, n_queries = q.size(0), q.size(2)
    if n_queries != 1 or not n_sequences:
        return attend(q, k, v, mask, dropout, window, sinks)
    if mask is None:
        mask = causal_mask(1, k.size(2), q.device, window, sinks)
    outputs: list[Tensor] = []
    for at, visible in enumerate(mask[:, 0, 0].expand(n_sequences, -1)):  # (S,)
        count, start = int(visible.sum()), int(visible.int().argmax())
        is_contiguous = bool(visible[start : start + count].all())  # not with sinks
        seen = slice(start, start + count) if is_contiguous else visible.nonzero()[:, 0]
        outputs.append(attend(q[at : at + 1], k[at : at + 1, :, seen], v[at : at + 1, :, seen], None, dropout))
    return torch.cat(outputs)


class ActivationBySlot(nn.Module):
    """An activation function, applied to each sequence by itself."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, M) -> (B, T, M)."""
        return torch.cat([self.activation(one) for one in x.split(1)])


def computed_by_slot(model: LanguageModel) -> LanguageModel:
    """Return a copy of the model whose attention and, if need be, activations are by slot; it shares all tensors."""
    other = copy_sharing_weights(model).eval()
    for module in other.modules():
        if hasattr(module, "attend") and not model.config.plugins:
            vars(module)["attend"] = attend_by_slot
    if model.config.inner_width % WHOLE_VECTORS:
        for name, module in list(other.named_modules()):
            if name.endswith(".activation"):
                other.set_submodule(name, ActivationBySlot(module))
    return other


@torch.inference_mode()
def invariant_rows(model: LanguageModel, slots: int) -> int:
    """Return the least batch size from which on a sequence's bits do not depend on the batch size, at most `slots`.

    The matrices of one block and the head are measured; all blocks have the same shapes.

    Args:
        model: on a CPU, in evaluation mode.
        slots: largest batch size.
    """
    width = model.config.n_embd
    x = torch.linspace(-2, 2, slots * width).view(slots, 1, width)  # (B, 1, C)
    sizes = [size for size in range(1, slots) if size <= ALL_TRIED or size % ALL_TRIED in (0, 1) or size == slots - 1]
    expected = _block_and_head(model, x)
    varying = [size for size in sizes if not torch.equal(_block_and_head(model, x[:size]), expected[:size])]
    return max(varying, default=0) + 1


def _block_and_head(model: LanguageModel, x: Tensor) -> Tensor:
    return model.head(model.norm(model.blocks[0](x)))


class BatchInvariantDecoder(StepwiseDecoder):
    """A `StepwiseDecoder` for the CPU whose logits do not depend on the batch, to the bit; see `Decoder`."""

    def __init__(self, model: LanguageModel, vocab_size: int, slots: int, capacity: int) -> None:
        exact = computed_by_slot(model)
        self._rows = invariant_rows(exact, slots)
        super().__init__(exact, vocab_size, slots, capacity)

    def decode(self, sequences: Sequence[SequenceState]) -> list[tuple[SequenceState, int]]:
        """See `Decoder`."""
        spare = max(0, self._rows - len(sequences))
        last = [*([sequence.last_token] for sequence in sequences), *[[PADDING]] * spare]
        cache = self._cache.first_slots(len(last))
        cache.truncate([*(sequence.n_visible - 1 for sequence in sequences), *[0] * spare])
        logits = self._model(torch.tensor(last), cache)[: len(sequences), 0, : self._vocab_size]  # (B, V)
        return list(zip(sequences, sample_tokens(logits.float(), sequences), strict=True))
