"""A model, a reference and pairs that depend on no random generator, whose DPO loss TRL computed once."""

import torch

from glassgpt.data.preferences.batches import IGNORED
from glassgpt.model.build import build_model
from glassgpt.model.config import ModelConfig

BETA = 0.3
LENGTHS = ((4, 3, 6), (5, 2, 2), (3, 6, 1))
"""Tokens of prompt, chosen reply and rejected reply of each pair."""


def wave_model(phase):
    """Return a small GPT-2 whose weights are values of the sine."""
    model = build_model(ModelConfig(vocab_size=50, context_length=16, n_layer=2, n_head=2, n_embd=16)).eval()
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            values = torch.sin(torch.arange(parameter.numel(), dtype=torch.float64) * 1.7 + number + phase)
            gain = 1.0 if parameter.ndim == 1 and number % 2 == 0 else 0.0
            parameter.copy_((gain + 0.4 * values).view_as(parameter))
    return model


def wave_pairs():
    """Return inputs and targets, (3, 2, 9)."""
    inputs = torch.zeros(3, 2, 9, dtype=torch.long)
    targets = torch.full_like(inputs, IGNORED)
    for pair, (prompt, *replies) in enumerate(LENGTHS):
        for side, reply in enumerate(replies):
            text = [(7 * at + 3 * pair) % 50 for at in range(prompt)]
            text += [(11 * at + 5 * pair + 23 * side + 1) % 50 for at in range(reply)]
            inputs[pair, side, : len(text) - 1] = torch.tensor(text[:-1])
            targets[pair, side, prompt - 1 : len(text) - 1] = torch.tensor(text[prompt:])
    return inputs, targets
