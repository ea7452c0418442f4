"""A model made ready to write on this machine: in which precision, and on a CPU, multiplied by which kernel.

Writing few texts at once reads every weight once a token. In float32 that is half a gigabyte for GPT-2's smallest,
in int8 an eighth of a gigabyte; which kernel reads it fastest differs from processor to processor and with the
number of texts. So the kernels of the wanted precision are timed, once, on matrices of the model's width, and the
model's twin is built with the best: it shares embeddings and norms with the model, its large matrices are packed.

`auto` chooses among exact kernels only. int8 and bfloat16 change the model a little, so they are used where asked
for; what they cost is measured by `evaluation.precision_cost`. A GPU is the exception: it was trained in bfloat16
there (`training.step`), and writes in it unless float32 is asked for.
"""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from glassgpt import console
from glassgpt.errors import GenerationError
from glassgpt.generation.cpu.kernels import KERNELS, DecodingPrecision, Kernel, Product
from glassgpt.model.config import ModelConfig
from glassgpt.model.gpt2 import GPT2
from glassgpt.model.transformer import LanguageModel

Precision = Literal["auto", "float32", "bfloat16", "int8"]
"""What may be asked for: `auto` is the fastest exact way."""

ON_OTHER_DEVICES: dict[str, tuple[Precision, ...]] = {"cuda": ("auto", "float32", "bfloat16")}
LARGE = 2**18
"""Numbers in a matrix from which it does not stay in a core's own cache: below, calls cost more than memory."""
NUMBERS_TIMED = 2**24
"""Numbers in the matrices that kernels are timed on: more than a processor's own memory holds in float32."""
MOST_MATRICES = 48
ROUNDS = 4
WORTH_IT = 0.9
"""A kernel must take less than this share of the plainest one's time, else noise would choose."""


class PackedLinear(nn.Module):
    """A linear layer as a function: its weights are packed and cannot be trained."""

    def __init__(self, product: Product) -> None:
        super().__init__()
        self.product = product

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) -> (…, out)."""
        return self.product(x.reshape(-1, x.size(-1))).view(*x.shape[:-1], -1)


class PackedGPT2(GPT2):
    """GPT-2 whose head is still the embedding's values, but packed for multiplying."""

    tied_head: PackedLinear

    def head(self, features: Tensor) -> Tensor:
        """Similarity with each token's embedding."""
        return self.tied_head(features)


@dataclass(frozen=True)
class Choice:
    """A kernel and why.

    Attributes:
        kernel: the one to use.
        milliseconds: by kernel name, what the same products took with each; empty where none was timed.
        rows: texts at once that it was chosen for.
    """

    kernel: Kernel
    milliseconds: dict[str, float]
    rows: int

    def describe(self) -> str:
        """One line for the user."""
        times = ", ".join(f"{name} {taken:.1f}" for name, taken in self.milliseconds.items())
        tried = f" (timed with {self.rows} rows, ms: {times})" if self.milliseconds else ""
        return f"decoding on the CPU in {self.kernel.precision}, {self.kernel.name}{tried}"


def prepare_for_decoding(model: LanguageModel, precision: Precision = "auto", *, rows: int = 1) -> LanguageModel:
    """A twin of the model for writing, and a line on standard error that says which kernel it uses and why.

    The twin computes what the model did when this was called; it is not trained, and does not follow training.
    On a CPU it shares embeddings and norms with the model. Drop the model to free the matrices that were packed.

    Args:
        model: float32. On Apple's GPU only `auto` is possible, and changes nothing.
        precision: of the weights; `auto` is float32 on a CPU, bfloat16 on a CUDA GPU that computes with it.
        rows: texts that will be written at once.

    Returns:
        The model itself where nothing is to be gained.

    Raises:
        GenerationError: there is no such precision, or not for this model's weights or device.
    """
    _require_possible(model, precision)
    device = next(model.parameters()).device.type
    if device == "cuda" and precision != "float32" and torch.cuda.is_bf16_supported(including_emulation=False):
        return in_bfloat16(model)
    if is_packed(model) or device != "cpu":
        return model
    choice = choose_kernel(model.config, "float32" if precision == "auto" else precision, rows)
    if choice.milliseconds:
        console.info(choice.describe())
    return pack_model(model, choice.kernel)


def in_bfloat16(model: LanguageModel) -> LanguageModel:
    """The model's twin with its parameters rounded to bfloat16; tables that are computed stay as they are."""
    twin = copy.deepcopy(model).eval()
    for parameter in twin.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)
    return twin


def is_packed(model: nn.Module) -> bool:
    """Whether a model's layers are packed already."""
    return any(isinstance(module, PackedLinear) for module in model.modules())


def _require_possible(model: LanguageModel, precision: str) -> None:
    if precision not in get_args(Precision):
        raise GenerationError(f"precision is {precision}; allowed is {', '.join(get_args(Precision))}")
    parameter = next(model.parameters())
    possible = ON_OTHER_DEVICES.get(parameter.device.type, ("auto",))
    if parameter.device.type != "cpu" and precision not in possible:
        raise GenerationError(
            f"precision is {precision}, and the model is on {parameter.device.type}, where it may be "
            f"{' or '.join(possible)}; add --device cpu for {precision}"
        )
    if parameter.device.type == "cpu" and parameter.dtype != torch.float32:
        raise GenerationError(
            f"the model's weights are {str(parameter.dtype).removeprefix('torch.')}; decoding on the CPU is prepared "
            f"from float32: convert them with model.float()"
        )


def pack_model(model: LanguageModel, kernel: Kernel) -> LanguageModel:
    """The model's twin with every linear layer, and the tied head, multiplied by the given kernel."""
    if kernel is KERNELS[0]:
        return model
    shared: dict[int, object] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    twin = copy.deepcopy(model, shared).eval()
    for name, module in list(twin.named_modules()):
        if isinstance(module, nn.Linear):
            twin.set_submodule(name, _packed(module, kernel))
    if isinstance(twin, GPT2):
        head = PackedLinear(kernel.pack(twin.token_embedding.weight.detach(), None))
        twin.__class__ = PackedGPT2
        twin.add_module("tied_head", head)
    return twin


def _packed(linear: nn.Linear, kernel: Kernel) -> PackedLinear:
    parameters = dict(linear.named_parameters())  # without a bias where there is none
    bias = parameters.get("bias")
    return PackedLinear(kernel.pack(linear.weight.detach(), None if bias is None else bias.detach()))


def choose_kernel(config: ModelConfig, precision: DecodingPrecision, rows: int) -> Choice:
    """The fastest kernel of a precision on this machine for so many rows; timed once a process.

    Models so small that their matrices stay in a core's own cache get the plainest.

    Raises:
        GenerationError: this PyTorch has no kernel of that precision.
    """
    kernels = [kernel for kernel in KERNELS if kernel.precision == precision and kernel.exists()]
    if not kernels:
        raise GenerationError(
            f"this PyTorch ({torch.__version__}) has no kernel for {precision} on this CPU; use --precision float32"
        )
    plainest = kernels[0]
    if len(kernels) == 1 or 4 * config.n_embd**2 < LARGE:
        return Choice(plainest, {}, rows)
    milliseconds = _time_kernels(tuple(kernels), config.n_embd, rows, torch.get_num_threads())
    best = min(kernels, key=lambda kernel: milliseconds[kernel.name])
    is_worth_it = milliseconds[best.name] < WORTH_IT * milliseconds[plainest.name]
    return Choice(best if is_worth_it else plainest, dict(milliseconds), rows)


@functools.cache
def _time_kernels(kernels: Sequence[Kernel], width: int, rows: int, threads: int) -> dict[str, float]:
    """Milliseconds that each kernel takes for the same products, each product's least of some rounds."""
    count = max(1, min(MOST_MATRICES, NUMBERS_TIMED // (4 * width**2)))
    matrix = torch.linspace(-1, 1, 4 * width**2).view(4 * width, width)
    x = torch.linspace(-1, 1, rows * width).view(rows, width)
    return {kernel.name: _time([kernel.pack(matrix.clone(), None) for _ in range(count)], x) for kernel in kernels}


@torch.inference_mode()
def _time(products: Sequence[Product], x: Tensor) -> float:
    # All products in each round: the same one again at once would find its matrix still in the processor.
    rounds = [[_seconds(product, x) for product in products] for _ in range(ROUNDS)]
    return 1e3 * sum(min(taken) for taken in zip(*rounds, strict=True))


def _seconds(product: Product, x: Tensor) -> float:
    start = time.perf_counter()
    product(x)
    return time.perf_counter() - start
