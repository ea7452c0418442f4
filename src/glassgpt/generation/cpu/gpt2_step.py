"""One decoding step through all blocks of a GPT-2 in C (`gpt2_step.c`), for models whose blocks have 4-bit or 8-bit matrices.

With so few bits, the 300 small operations of a step in PyTorch take longer than its products. The readable reference is the
model itself: `LanguageModel.features` with one token per sequence gives the same up to rounding.
"""

from __future__ import annotations

import copy
import ctypes
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Self

import torch
from torch import Tensor, nn

from glassgpt.generation.cpu.low_rank import LowRank
from glassgpt.generation.cpu.native import load_library
from glassgpt.generation.cpu.packed_product import PackedProduct, instruction_level
from glassgpt.model.cache import KVCache
from glassgpt.model.gpt2 import GPT2
from glassgpt.model.transformer import LanguageModel

LANES = 16
"""Numbers that `gpt2_step.c` computes at once: every width must be a multiple."""
MATRICES = ("attention.qkv", "attention.out", "mlp.up", "mlp.down")
ORDER = (
    "norm1.weight", "norm1.bias", "attention.qkv.weight", "attention.qkv.bias", "attention.out.weight", "attention.out.bias",
    "norm2.weight", "norm2.bias", "mlp.up.weight", "mlp.up.bias", "mlp.down.weight", "mlp.down.bias",
)  # fmt: skip
"""The fields of `Block` in `gpt2_step.c`."""
_Pointer = ctypes.c_void_p
_Size = ctypes.c_long


class _Block(ctypes.Structure):
    _fields_ = [(name.replace(".", "_"), _Pointer) for name in ORDER]


class _Shape(ctypes.Structure):
    _fields_ = [
        ("layers", _Size), ("width", _Size), ("inner", _Size), ("heads", _Size), ("head_width", _Size),
        ("eps", ctypes.c_float), ("bits", ctypes.c_int),
    ]  # fmt: skip


class _Cache(ctypes.Structure):
    _fields_ = [
        ("keys", _Pointer), ("values", _Pointer), ("layer", _Size), ("slot", _Size), ("head", _Size), ("positions", _Pointer),
    ]  # fmt: skip


class _LowRank(ctypes.Structure):
    _fields_ = [("a", _Pointer), ("b", _Pointer), ("rank", _Size)]


@functools.cache
def _library() -> ctypes.CDLL | None:
    library = load_library("gpt2_step")
    if library is not None:
        library.gpt2_blocks.argtypes = [_Pointer, _Size, *[_Pointer] * 3, _Size, *[_Pointer] * 2, *[ctypes.c_int] * 2]
        library.gpt2_blocks.restype = None
        library.gpt2_scratch.argtypes, library.gpt2_scratch.restype = [_Pointer, _Size, _Size], _Size
    return library


def step_bits(packed: LanguageModel) -> int:
    """Return the bits of the weights with which a packed model's blocks can be computed in C here, or 0 if they cannot."""
    config = packed.config
    is_known = isinstance(packed, GPT2) and config.activation == "gelu_tanh"
    widths = (config.n_embd, config.head_width, config.inner_width)
    if not is_known or any(width % LANES for width in widths) or _library() is None:
        return 0
    products = [_product(block, name) for block in packed.blocks for name in MATRICES]
    bits = {product.bits if isinstance(product, PackedProduct) else 0 for product in products}
    return bits.pop() if len(bits) == 1 else 0


def _product(block: nn.Module, name: str) -> object:
    return vars(block.get_submodule(name)).get("product")


class BlocksInC:
    """The blocks of a model for `gpt2_step.c`.

    Args:
        packed: a model for which `step_bits` is not 0.
    """

    def __init__(self, packed: LanguageModel) -> None:
        config = packed.config
        self._kept: list[Tensor] = []  # the structures hold addresses only
        self._blocks = (_Block * config.n_layer)(*map(self._block, packed.blocks))
        self._shape = _Shape(
            config.n_layer,
            config.n_embd,
            config.inner_width,
            config.n_head,
            config.head_width,
            config.norm_eps,
            step_bits(packed),
        )
        self._adapters: dict[str, ctypes.Array[_LowRank]] = {}
        self._names: Callable[[int], Sequence[str]] | None = None

    def with_adapters(
        self, adapters: Mapping[str, Mapping[str, LowRank]], names: Callable[[int], Sequence[str]]
    ) -> BlocksInC:
        """Return the blocks with adapters; they share the weights.

        Args:
            adapters: by name, the parts by the name of their layer.
            names: returns the name of the adapter of each of a number of sequences; an empty one is none.
        """
        adapted = copy.copy(self)
        adapted._kept = [*self._kept]
        adapted._adapters = {name: adapted._parts(layers) for name, layers in adapters.items()}
        adapted._names = names
        return adapted

    def _parts(self, layers: Mapping[str, LowRank]) -> ctypes.Array[_LowRank]:
        found: list[_LowRank] = []
        for layer in range(len(self._blocks)):
            for name in MATRICES:
                part = layers.get(f"blocks.{layer}.{name}")
                if part is None:
                    found.append(_LowRank())
                    continue
                a, b = part.a, part.b.t()  # both contiguous, see `LowRank`
                self._kept += [a, b]
                found.append(_LowRank(a.data_ptr(), b.data_ptr(), a.size(0)))
        return (_LowRank * len(found))(*found)

    def _adapters_of(self, count: int) -> ctypes.Array[_Pointer] | None:
        """Return the address of each sequence's adapter, or None if no sequence has one."""
        names = [] if self._names is None else self._names(count)
        if not any(names):
            return None
        return (_Pointer * count)(*(ctypes.addressof(self._adapters[name]) if name else None for name in names))

    def _block(self, block: nn.Module) -> _Block:
        tensors: dict[str, Tensor | None] = dict(block.named_parameters())
        for name in MATRICES:
            product = _product(block, name)
            assert isinstance(product, PackedProduct)
            tensors |= {f"{name}.weight": product.packed, f"{name}.bias": product.bias}
        found = [tensors.get(name) for name in ORDER]  # biases may be missing
        self._kept += [tensor for tensor in found if tensor is not None]
        return _Block(*(None if tensor is None else tensor.data_ptr() for tensor in found))

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        """Return itself: it never changes, and copies of a model share its weights."""
        return self

    def step(self, x: Tensor, cache: KVCache) -> None:
        """Replace the embeddings x (B, 1, C) by the output of the last block; append keys and values to the cache.

        Args:
            x: contiguous float32.
            cache: after `begin(1)` and before `commit`.
        """
        library = _library()
        assert library is not None
        keys, values, positions = cache.keys, cache.values, cache.positions().contiguous()
        layer, slot, head, *_ = keys.stride()
        n, extent, shape = x.size(0), cache.capacity, ctypes.byref(self._shape)
        place = _Cache(keys.data_ptr(), values.data_ptr(), layer, slot, head, positions.data_ptr())
        scratch = torch.empty(library.gpt2_scratch(shape, n, extent), dtype=torch.uint8)
        library.gpt2_blocks(
            x.data_ptr(), n, self._blocks, shape, ctypes.byref(place), extent, self._adapters_of(n), scratch.data_ptr(),
            instruction_level(8), torch.get_num_threads(),
        )  # fmt: skip


class StepsInC(LanguageModel):
    """Mixed into a packed GPT-2: one token per sequence goes through `BlocksInC`, anything else through PyTorch."""

    blocks_in_c: BlocksInC

    def features(self, tokens: Tensor, cache: KVCache | None = None) -> Tensor:
        """See `LanguageModel.features`."""
        if cache is None or tokens.size(1) != 1 or not tokens.size(0):
            return super().features(tokens, cache)
        cache.begin(1)
        x = self.embed(tokens, cache.positions()).contiguous()
        self.blocks_in_c.step(x, cache)
        cache.commit()
        return self.norm(x)
