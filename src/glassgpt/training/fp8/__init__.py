"""Training with 8-bit floating-point products on GPUs that have them (Micikevicius et al. 2022).

`quantize.py` defines the number formats and scales, `head.py` the loss with its head, `linear.py` the linear layers of
the blocks, `kernels.py` the GPU kernels of both. Weights, optimizer and checkpoints stay as they are.
"""

from __future__ import annotations

from torch import nn

from glassgpt.model.transformer import LanguageModel
from glassgpt.training.config import TrainConfig
from glassgpt.training.fp8.checks import require_fp8
from glassgpt.training.fp8.head import FP8HeadLoss
from glassgpt.training.fp8.linear import FP8Linear, convert, layers_in_8_bits
from glassgpt.training.loss import TrainingLoss

__all__ = ["fp8_loss", "leave_8_bits"]


def fp8_loss(model: LanguageModel, train: TrainConfig) -> FP8HeadLoss:
    """Return the loss for `train.fp8`; with `mlp` and `all`, linear layers of the model's blocks are converted in place.

    Raises:
        ConfigError: the device has no 8-bit products, or sizes do not fit.
    """
    require_fp8(model, train)
    for layer in layers_in_8_bits(model, train.fp8).values():
        if type(layer) is nn.Linear:
            convert(layer)
    return FP8HeadLoss(model, train.loss_chunk_tokens)


def leave_8_bits(loss: TrainingLoss) -> None:
    """Let a loss and its model compute in 16 bits from now on, in place; a compiled loss is compiled once more.

    Nothing happens if it does already. The classes of the loss and of layers change, so that no forward pass has to ask.
    """
    if type(loss) is not FP8HeadLoss:
        return
    for module in loss.model.modules():
        if isinstance(module, FP8Linear):
            module.__class__ = nn.Linear  # type: ignore[assignment]
    loss.__class__ = TrainingLoss  # type: ignore[assignment]
