"""Training of tiny models in seconds, for lessons that compare architectures.

The text is the grammar of `data/grammar.py`, byte by byte. Its entropy is known, so a loss can be judged: no model gets
below it except by seeing the future.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from glassgpt.data.grammar import grammar_text
from glassgpt.model.transformer import LanguageModel

VOCAB_SIZE = 128
"""The grammar's text is ASCII."""
SENTENCES = 4000


def grammar_windows(batch_size: int, length: int, seed: int = 0) -> Iterator[Tensor]:
    """Yield random windows of the grammar's text, (batch_size, length + 1) int64, without end; reproducible by seed."""
    text = torch.tensor(list(grammar_text(SENTENCES, seed).encode()))
    generator = torch.Generator().manual_seed(seed)
    while True:
        starts = torch.randint(len(text) - length, (batch_size, 1), generator=generator)
        yield text[starts + torch.arange(length + 1)]


def window_loss(model: LanguageModel, windows: Tensor) -> Tensor:
    """Return the mean cross-entropy of each next byte, in nats."""
    logits = model(windows[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())


def train_losses(
    model: LanguageModel, steps: int, *, learning_rate: float = 1e-3, batch_size: int = 16, length: int = 48
) -> list[float]:
    """Train a model on the grammar with AdamW and a warmup of a tenth of the steps; return the loss of each step in nats."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.95))
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, 0.01, total_iters=max(1, steps // 10))
    losses: list[float] = []
    for _, windows in zip(range(steps), grammar_windows(batch_size, length), strict=False):
        loss = window_loss(model, windows)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        warmup.step()
        losses.append(loss.item())
    return losses


def first_gradient_norms(model: LanguageModel, *, batch_size: int = 8, length: int = 48) -> list[float]:
    """Return the norm of each block's gradient at the first step."""
    window_loss(model, next(grammar_windows(batch_size, length))).backward()
    norms = [
        float(torch.stack([p.grad.norm() for p in block.parameters() if p.grad is not None]).norm())
        for block in model.blocks
    ]
    model.zero_grad()
    return norms
