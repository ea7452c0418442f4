"""Pack a model's matrices for the fastest kernel on this CPU.

Generating few texts at a time reads every weight once per token. In float32 that is half a gigabyte for the smallest
GPT-2, in int8 an eighth of a gigabyte. Which kernel reads it fastest differs with the processor and the batch size, so
the kernels of the requested precision are timed, once per process, on matrices of the model's width.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import glassgpt
from glassgpt.errors import GenerationError
from glassgpt.generation.cpu.gpt2_step import BlocksInC, StepsInC, step_bits
from glassgpt.generation.cpu.int4 import Int4Product, can_multiply
from glassgpt.generation.cpu.kernel_times import KernelTimes, remembered_times
from glassgpt.generation.cpu.kernels import KERNELS, DecodingPrecision, Kernel, Product
from glassgpt.generation.cpu.packed_product import LEVELS, PackedProduct, instruction_level, use_huge_pages
from glassgpt.model.config import ModelConfig
from glassgpt.model.copying import copy_sharing_weights
from glassgpt.model.gpt2 import GPT2
from glassgpt.model.quantized import QuantizedMatrix, still_quantized
from glassgpt.model.transformer import LanguageModel

MIN_TIMED_ELEMENTS = 2**18
"""Smaller matrices stay in a core's own cache, where the overhead of calls costs more than memory."""
TIMED_ELEMENTS = 2**24
"""Elements of all matrices that kernels are timed on: in float32, more than a processor's caches hold."""
MAX_TIMED_MATRICES = 48
TIMING_ROUNDS = 4
AND = " + "
"""Between the names of two kernels."""
MAX_PACKING_THREADS = 8
"""Matrices that are packed at once, at most: each of the threads gets threads of OpenMP of its own, as many as there are cores."""
MIN_GAIN = 0.9
"""A kernel must take less than this fraction of the simplest one's time, or noise would decide."""


class PackedLinear(nn.Module):
    """A linear layer whose weights are packed for a kernel and cannot be trained."""

    def __init__(self, product: Product) -> None:
        super().__init__()
        self.product = product

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) -> (…, out)."""
        return self.product(x.reshape(-1, x.size(-1))).view(*x.shape[:-1], -1)


class PackedHead(LanguageModel):
    """Mixed into an architecture whose head is the token embedding: its head is a copy, packed for a kernel."""

    tied_head: PackedLinear

    def head(self, features: Tensor) -> Tensor:
        """See `LanguageModel.head`."""
        return self.tied_head(features)


@dataclass(frozen=True)
class KernelChoice:
    """The kernel to use, and the measurements behind it.

    Attributes:
        kernel: the fastest one.
        milliseconds: by kernel name, the time of the same products; empty if none was timed.
        batch_size: sequences per decoding step that it was chosen for.
        int4: name of the kernel that multiplies stored 4-bit matrices instead, or empty.
        are_earlier: the measurements are those of an earlier process.
    """

    kernel: Kernel
    milliseconds: dict[str, float]
    batch_size: int
    int4: str = ""
    are_earlier: bool = False

    @property
    def name(self) -> str:
        """Names of the kernels that compute the products."""
        return f"{self.kernel.name}{AND}{self.int4}" if self.int4 else self.kernel.name

    def describe(self) -> str:
        """Return one line for the user."""
        times = ", ".join(f"{name} {taken:.1f}" for name, taken in self.milliseconds.items())
        timed = f" (timed with batch size {self.batch_size}, ms: {times})" if self.milliseconds else ""
        if self.are_earlier:
            timed = f" (timed at an earlier start with batch size {self.batch_size}, ms: {times})"
        return f"decoding on the CPU in {self.kernel.precision}, {self.name}{timed}"


def choose_kernel(
    config: ModelConfig,
    precision: DecodingPrecision,
    batch_size: int,
    *,
    remembers: bool = False,
    preferred: str = "",
) -> KernelChoice:
    """Return the fastest kernel of a precision on this machine; kernels are timed once per process.

    Models so small that their matrices stay in a core's own cache get the simplest kernel.

    Args:
        config: of the model.
        precision: of the weights.
        batch_size: sequences per decoding step.
        remembers: take the times that an earlier process has measured, and keep them for later ones.
        preferred: `KernelChoice.name` of an earlier choice, which is made again without timing if that kernel exists here.

    Raises:
        GenerationError: this PyTorch has no kernel of that precision.
    """
    kernels = [kernel for kernel in KERNELS if kernel.precision == precision and kernel.is_available()]
    if not kernels:
        raise GenerationError(
            f"PyTorch {torch.__version__} has no {precision} kernel for this CPU; use --precision float32"
        )
    earlier = [kernel for kernel in kernels if kernel.name == preferred.partition(AND)[0]]
    if earlier:
        return KernelChoice(earlier[0], {}, batch_size)
    simplest = kernels[0]
    if len(kernels) == 1 or 4 * config.n_embd**2 < MIN_TIMED_ELEMENTS:
        return KernelChoice(simplest, {}, batch_size)
    conditions = (tuple(kernels), config.n_embd, batch_size, torch.get_num_threads())
    times = _remembered_times(*conditions) if remembers else KernelTimes(_time_kernels(*conditions), 1)
    milliseconds = times.milliseconds
    best = min(kernels, key=lambda kernel: milliseconds[kernel.name])
    is_faster = milliseconds[best.name] < MIN_GAIN * milliseconds[simplest.name]
    chosen = best if is_faster else simplest
    return KernelChoice(chosen, dict(milliseconds), batch_size, are_earlier=times.are_earlier)


@functools.cache
def _remembered_times(kernels: Sequence[Kernel], *conditions: int) -> KernelTimes:
    """Return the times of `_time_kernels`, of earlier processes if there are any."""
    versions = [f"{kernel.precision} {kernel.name}" for kernel in kernels], torch.__version__, glassgpt.__version__
    names = [kernel.name for kernel in kernels]
    return remembered_times(names, (*versions, *conditions), functools.partial(_time_kernels, kernels, *conditions))


@functools.cache
def _time_kernels(kernels: Sequence[Kernel], width: int, batch_size: int, threads: int) -> dict[str, float]:
    """Return the milliseconds that each kernel takes for the same products: for each, the minimum over the rounds."""
    count = max(1, min(MAX_TIMED_MATRICES, TIMED_ELEMENTS // (4 * width**2)))
    matrix = torch.linspace(-1, 1, 4 * width**2).view(4 * width, width)
    x = torch.linspace(-1, 1, batch_size * width).view(batch_size, width)
    return {kernel.name: _time([kernel.pack(matrix.clone(), None) for _ in range(count)], x) for kernel in kernels}


@torch.inference_mode()
def _time(products: Sequence[Product], x: Tensor) -> float:
    # All products in each round: the same one twice in a row would find its matrix in the processor's cache.
    rounds = [[_seconds(product, x) for product in products] for _ in range(TIMING_ROUNDS)]
    return 1e3 * sum(min(taken) for taken in zip(*rounds, strict=True))


def _seconds(product: Product, x: Tensor) -> float:
    start = time.perf_counter()
    product(x)
    return time.perf_counter() - start


def is_packed(model: nn.Module) -> bool:
    """Return whether a model's layers are packed."""
    return any(isinstance(module, PackedLinear) for module in model.modules())


def multiplies_stored_integers(model: LanguageModel) -> bool:
    """Return whether a model was loaded with quantized weights and still has them, and integers are faster here.

    Models so small that their matrices stay in a core's own cache are as fast, and exact, in float32.
    """
    if not model.quantized or 4 * model.config.n_embd**2 < MIN_TIMED_ELEMENTS:
        return False
    if not any(kernel.precision == "int8" and kernel.is_available() for kernel in KERNELS):
        return False
    return still_quantized(dict(model.named_parameters()), model.quantized).keys() == model.quantized.keys()


def int4_kernel_name(model: LanguageModel) -> str:
    """Return the name of the kernel that multiplies the 4-bit matrices of a model, or an empty string without any."""
    is_used = any(can_multiply(matrix) for matrix in model.quantized.values())
    return f"int4 ({LEVELS[instruction_level(4)]})" if is_used else ""


def pack_model(model: LanguageModel, kernel: Kernel) -> LanguageModel:
    """Return a copy of the model whose linear layers and tied head use a kernel; it shares all other parameters.

    Returns:
        The model itself for the first of `KERNELS`, which is what it computes anyway.
    """
    if kernel is KERNELS[0]:
        return model
    linears = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    packed = copy_sharing_weights(model, linears.values())
    packed.quantized = {}  # the packed matrices hold the integers
    stored = still_quantized(dict(model.named_parameters()), model.quantized) if kernel.precision == "int8" else {}
    is_tied = "head" not in model.parameter_kinds().values()
    workers = min(torch.get_num_threads(), MAX_PACKING_THREADS)
    with ThreadPoolExecutor(workers, thread_name_prefix="glassgpt-pack") as pool:  # many pack on one core
        head = pool.submit(_pack_tied_head, packed, kernel) if is_tied else None  # first: the largest
        layers = {
            name: pool.submit(_pack_linear, linear, kernel, stored.get(f"{name}.weight"))
            for name, linear in linears.items()
        }
        for name, layer in layers.items():
            packed.set_submodule(name, layer.result())
    packed.eval()  # not before: it would change the layers of the model
    if head is not None:
        packed.__class__ = type(f"Packed{type(model).__name__}", (PackedHead, type(model)), {})
        packed.add_module("tied_head", head.result())
    modules = [vars(module).get("product") for module in packed.modules()]
    use_huge_pages([product for product in modules if isinstance(product, PackedProduct)])
    if type(model) is GPT2 and step_bits(packed):
        packed.__class__ = type(f"Fused{type(packed).__name__}", (StepsInC, type(packed)), {})
        vars(packed)["blocks_in_c"] = BlocksInC(packed)
    return packed


def _pack_tied_head(model: LanguageModel, kernel: Kernel) -> PackedLinear:
    return PackedLinear(kernel.pack(model.get_parameter("token_embedding.weight").detach(), None))


def _pack_linear(linear: nn.Linear, kernel: Kernel, stored: QuantizedMatrix | None) -> PackedLinear:
    bias = dict(linear.named_parameters()).get("bias")  # missing where the layer has none
    bias = None if bias is None else bias.detach()
    if stored is not None and can_multiply(stored):
        return PackedLinear(Int4Product(stored, bias))
    return PackedLinear(kernel.pack(linear.weight.detach(), bias))
