"""A loss of the user's own, named by the setting `train.loss` as `module:function`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from glassgpt import plugin
from glassgpt.model.transformer import LanguageModel
from glassgpt.training.loss import TrainingLoss

PARAMETERS = ("logits", "targets")
"""Arguments of the function, by position."""
TRIED_TOKENS = 2, 4
"""Shape of the tokens with which a function is tried before training starts."""


class CustomLoss(TrainingLoss):
    """Maps tokens to what a function makes of logits and targets. The model is validated with the loss on the text itself.

    Args:
        model: the model.
        function: maps logits (B, T, V) and targets (B, T) to the mean loss, a scalar.
        name: of the function, for errors.
        chunk_tokens: see `TrainingLoss`; applies to validation, because the function needs all logits.
    """

    def __init__(
        self, model: LanguageModel, function: Callable[[Tensor, Tensor], Any], name: str, chunk_tokens: int = 0
    ) -> None:
        super().__init__(model, chunk_tokens)
        self._function, self._name = function, name

    def of(self, model: LanguageModel, chunk_tokens: int = 0) -> CustomLoss:
        """See `TrainingLoss.of`."""
        return CustomLoss(model, self._function, self._name, chunk_tokens)

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of inputs and targets (B, T): a scalar.

        Raises:
            PluginError: the function returns something else.
        """
        if not self.model.training:
            return super().forward(inputs, targets)
        return _checked(self._function(self.model(inputs), targets), self._name)


def _checked(loss: Any, name: str) -> Tensor:
    if not isinstance(loss, Tensor) or loss.ndim or not loss.requires_grad:
        raise plugin.PluginError(
            f"{name} returned {_described(loss)}; it must return the mean loss as a tensor without dimensions "
            "that depends on the logits"
        )
    return loss


def _described(loss: object) -> str:
    if not isinstance(loss, Tensor):
        return f"a {type(loss).__name__}"
    return f"a tensor {tuple(loss.shape)}" if loss.ndim else "a tensor that does not depend on the logits"


def custom_loss(model: LanguageModel, spec: str) -> CustomLoss:
    """Return the loss that `module:function` names.

    Raises:
        PluginError: it is not allowed, or cannot be imported or called with logits and targets.
    """
    return CustomLoss(model, plugin.load_function(spec, PARAMETERS), spec)


def try_loss(spec: str, vocab_size: int, device: torch.device) -> None:
    """Call the function that `module:function` names with random logits of a few tokens.

    Raises:
        PluginError: it is not allowed, cannot be imported or called with logits and targets, or returns something else.
        PluginFailedError: it fails.
    """
    function = plugin.load_function(spec, PARAMETERS)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(*TRIED_TOKENS, vocab_size, generator=generator).to(device).requires_grad_()
    targets = torch.randint(vocab_size, TRIED_TOKENS, generator=generator).to(device)
    try:
        loss = function(logits, targets)
    except (Exception, SystemExit) as error:
        raise plugin.failed(spec, error) from error
    _checked(loss, spec)
