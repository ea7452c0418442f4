"""Prepare a model for fast generation on its device: the precision of its weights and, on a CPU, the kernel.

`auto` uses exact kernels on a CPU, unless the checkpoint stores integers, which it then multiplies by. int8 and bfloat16 change the results a little, so a CPU uses them only on request;
`evaluation.precision_cost` measures what they cost. A CUDA GPU is the exception: models are trained in bfloat16 there,
and generate in it unless float32 is requested. There, `fp8` has the kernels read matrices in 8 bits, and `fp8-kv` the cache as
well (decision 87).
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Literal, get_args

import torch

from glassgpt.errors import GenerationError
from glassgpt.generation.cpu.kernels import DecodingPrecision
from glassgpt.generation.cpu.packing import (
    KernelChoice,
    choose_kernel,
    int4_kernel_name,
    is_packed,
    multiplies_stored_integers,
    pack_model,
)
from glassgpt.generation.engine.decoder_selection import fits_gpu_kernels
from glassgpt.model.e4m3 import round_to_e4m3
from glassgpt.model.transformer import LanguageModel

Precision = Literal["auto", "float32", "bfloat16", "int8", "fp8", "fp8-kv"]
"""`auto` is the fastest exact kernel on a CPU, and bfloat16 on a CUDA GPU that supports it."""

DEVICE_PRECISIONS: dict[str, tuple[Precision, ...]] = {
    "cpu": ("auto", "float32", "bfloat16", "int8"),
    "cuda": ("auto", "float32", "bfloat16", "fp8", "fp8-kv"),
}
FP8_CAPABILITY = (8, 9)
"""Compute capability of the first GPUs that convert 8-bit floats (Ada)."""


def prepare_for_decoding(
    model: LanguageModel,
    precision: Precision = "auto",
    *,
    batch_size: int = 1,
    remembers: bool = False,
    preferred: str = "",
) -> LanguageModel:
    """Return a copy of the model, optimized for generation on its device.

    The copy computes what the model does now; it cannot be trained and does not follow later training. On a CPU it
    shares embeddings and norms with the model. Delete the model to free the matrices that were packed.

    Args:
        model: float32. On devices other than `cpu` and `cuda` only `auto` is possible, which changes nothing.
        precision: of the weights.
        batch_size: sequences per decoding step.
        remembers: see `choose_kernel`, as is `preferred`.

    Returns:
        The model itself if nothing can be gained.

    Raises:
        GenerationError: the precision is unknown, or not available for the model's weights or device.
    """
    _require_available(model, precision)
    if next(model.parameters()).device.type == "cuda":
        if precision in ("fp8", "fp8-kv"):
            return to_fp8(model, cache=precision == "fp8-kv")
        uses_bfloat16 = precision != "float32" and torch.cuda.is_bf16_supported(including_emulation=False)
        return to_bfloat16(model) if uses_bfloat16 else model
    choice = kernel_choice(model, precision, batch_size=batch_size, remembers=remembers, preferred=preferred)
    return model if choice is None else pack_model(model, choice.kernel)


def kernel_choice(
    model: LanguageModel,
    precision: Precision = "auto",
    *,
    batch_size: int = 1,
    remembers: bool = False,
    preferred: str = "",
) -> KernelChoice | None:
    """Return the kernel that `prepare_for_decoding` uses with the same arguments.

    Returns:
        None if it packs nothing: the model is not on a CPU, packed already, or has parts of the user's own.

    Raises:
        GenerationError: PyTorch has no kernel of that precision on this machine.
    """
    if next(model.parameters()).device.type != "cpu" or is_packed(model) or model.config.plugins:
        return None
    exact: DecodingPrecision = "int8" if multiplies_stored_integers(model) else "float32"
    wanted = exact if precision == "auto" else precision
    if wanted == "fp8" or wanted == "fp8-kv":
        return None  # `prepare_for_decoding` says why not on a CPU
    choice = choose_kernel(model.config, wanted, batch_size, remembers=remembers, preferred=preferred)
    return replace(choice, int4=int4_kernel_name(model)) if choice.kernel.precision == "int8" else choice


def to_bfloat16(model: LanguageModel) -> LanguageModel:
    """Return a copy of the model with its parameters rounded to bfloat16; computed tables (buffers) stay as they are."""
    rounded = copy.deepcopy(model).eval()
    rounded.quantized = {}
    for parameter in rounded.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)
    return rounded


def to_fp8(model: LanguageModel, *, cache: bool = False) -> LanguageModel:
    """Return a copy of the model in bfloat16 whose matrices are rounded to 8 bits, with a power of two per output.

    The matrices are those of the linear layers and the head, also where it is the token embedding. The copy computes with
    the rounded values wherever it runs; the GPU's kernels read them as bytes.

    Args:
        model: float32.
        cache: whether caches keep 8 bits as well.
    """
    rounded, matrices = to_bfloat16(model), fp8_matrices(model)
    for (name, parameter), exact in zip(rounded.named_parameters(), model.parameters(), strict=True):
        if name in matrices:
            parameter.data = round_to_e4m3(exact.data).to(torch.bfloat16)
    rounded.fp8_weights, rounded.fp8_cache = True, cache
    return rounded


def fp8_matrices(model: LanguageModel) -> set[str]:
    """Return the names of the matrices that `to_fp8` rounds."""
    linear = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    has_head = any(isinstance(module, torch.nn.Linear) for module in model.children())
    return linear if has_head else {*linear, "token_embedding.weight"}


def _require_available(model: LanguageModel, precision: str) -> None:
    if precision not in get_args(Precision):
        raise GenerationError(f"precision is {precision}; it must be {', '.join(get_args(Precision))}")
    parameter = next(model.parameters())
    device = parameter.device.type
    available = DEVICE_PRECISIONS.get(device, ("auto",))
    if precision in ("fp8", "fp8-kv"):
        _require_fp8(model, precision, parameter.device)
    if precision not in available:
        raise GenerationError(
            f"precision is {precision}, but the model is on {device}, where it must be {' or '.join(available)}; "
            f"add --device cpu for {precision}"
        )
    if device == "cpu" and parameter.dtype != torch.float32:
        raise GenerationError(
            f"the model's weights are {str(parameter.dtype).removeprefix('torch.')}; preparing a model for a CPU needs "
            "float32 weights: convert them with model.float()"
        )


def _require_fp8(model: LanguageModel, precision: str, device: torch.device) -> None:
    if device.type != "cuda":
        raise GenerationError(
            f"precision is {precision}, which needs a GPU of compute capability 8.9 or newer, but the model is on {device.type}; "
            "use --precision auto"
        )
    major, minor = torch.cuda.get_device_capability(device)
    if (major, minor) < FP8_CAPABILITY:
        raise GenerationError(
            f"precision is {precision}, which needs a GPU of compute capability 8.9 or newer, and this one has {major}.{minor}; "
            "use --precision auto"
        )
    if not fits_gpu_kernels(model):
        raise GenerationError(
            f"precision is {precision}, but the GPU's kernels do not decode {type(model).__name__}; use --precision bfloat16"
        )
