"""The settings that fine-tuning derives from the model and the amount of text. Does not import torch.

Rates were measured on small models and on SmolLM2 (docs/log.md, "Adapters"); the best one falls with the width, as in pretraining.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from glassgpt.errors import UsageError
from glassgpt.model.config import ModelConfig
from glassgpt.training.config import divisors

FULL_RATE_TIMES_WIDTH = 0.0768
"""Learning rate of all weights times the model's width: 1e-4 for GPT-2 124M."""
LORA_RATE_RATIO = 10.0
"""Learning rate of an adapter over that of all weights. On SmolLM2 20 learned 0.007 to 0.033 nats more and forgot 0.03 more."""
STEPS_PER_EPOCH = 40
"""Fewest steps in an epoch, unless the text is too short: a step must not average over most of the text."""
LARGEST_BATCH_TOKENS = 16384
MICRO_BATCH_SIZE, MICRO_BATCH_TOKENS = 8, 8192
"""Most sequences in a forward pass, or as many short ones as have these tokens; the rest of a batch is accumulated."""
PAIRS_PER_STEP = 16
PREFERENCE_RATE_RATIOS = {"adapter": 0.3, "full": 0.1}
"""Learning rate for preferences over that for text; the adapter's was measured on SmolLM2 (docs/log.md, "Preferences")."""
CHOSEN_WEIGHT = 0.1
"""Weight of the chosen replies' own loss: without it an adapter made them less likely by 0.5 nats per token within 66 steps.
With all weights it was not measured."""
PRESET = "finetune-domain"


def learning_rate(n_embd: int, *, lora: bool) -> float:
    """Return the learning rate for a model of this width, to two digits."""
    rate = FULL_RATE_TIMES_WIDTH / n_embd * (LORA_RATE_RATIO if lora else 1.0)
    return float(f"{rate:.1e}")


def batch_tokens(train_tokens: int, context_length: int, processes: int = 1) -> int:
    """Return the tokens of a step: whole sequences for each process, few enough to leave an epoch enough steps."""
    sequences = min(LARGEST_BATCH_TOKENS, train_tokens // STEPS_PER_EPOCH) // (context_length * processes)
    return max(1, sequences) * context_length * processes


def _model_settings(model: ModelConfig) -> dict[str, Any]:
    """Return the settings of the model that is fine-tuned, by dotted name, without token dropout.

    A text that is read once or twice is hardly memorized. Preferences compare the model with a reference that sees all tokens.
    """
    return {f"model.{item.name}": getattr(model, item.name) for item in fields(model)} | {"model.token_dropout": 0.0}


@dataclass(frozen=True)
class Finetuning:
    """A request to fine-tune a run.

    Attributes:
        run: the run to fine-tune.
        model: its shape.
        data: dataset of the new text.
        train_tokens: tokens of its training text.
        epochs: passes over the new text.
        full: train all weights instead of an adapter.
        replay: dataset of old text and its share of the training text; None mixes nothing in.
        processes: number of processes that train.
        sequence_length: tokens of a training sequence; 0 is the model's context.
    """

    run: Path
    model: ModelConfig
    data: Path
    train_tokens: int
    epochs: float = 2.0
    full: bool = False
    replay: tuple[Path, float] | None = None
    processes: int = 1
    sequence_length: int = 0

    def settings(self) -> dict[str, Any]:
        """Return the settings that do not depend on a preset, by dotted name."""
        chosen = _model_settings(self.model)
        chosen |= {"init_from": str(self.run.absolute()), "data": str(self.data)}
        if self.full:
            chosen["lora.rank"] = 0
        if self.sequence_length:
            chosen["train.sequence_length"] = self.sequence_length
        if self.replay is not None:
            chosen |= {"replay.data": str(self.replay[0]), "replay.share": self.replay[1]}
        return chosen

    def recipe(self, tokens: int = 0) -> dict[str, Any]:
        """Return learning rate, batch, steps, and validations eight times in all, by dotted name.

        Args:
            tokens: of a step, if the user chose them; 0 derives them from the amount of text.
        """
        length = self.sequence_length or self.model.context_length
        tokens = tokens or batch_tokens(self.train_tokens, length, self.processes)
        share = 0.0 if self.replay is None else self.replay[1]
        steps = max(1, round(self.epochs * self.train_tokens / (1 - share) / tokens))
        sequences = max(1, tokens // (length * self.processes))
        return {
            "train.learning_rate": learning_rate(self.model.n_embd, lora=not self.full),
            "train.batch_tokens": tokens,
            "train.micro_batch_size": max(
                n for n in divisors(sequences) if n <= max(MICRO_BATCH_SIZE, MICRO_BATCH_TOKENS // length)
            ),
            "train.max_steps": steps,
            "train.eval_every_steps": max(1, steps // 8),
            "schedule.warmup_steps": min(25, steps // 10),
        }


@dataclass(frozen=True)
class PreferenceTuning:
    """A request to tune a run on preferences.

    Attributes:
        run: the run to tune.
        model: its shape.
        data: JSON Lines file of the preferences.
        rows: preferences in it to train on.
        epochs: passes over them.
        full: train all weights instead of an adapter.
    """

    run: Path
    model: ModelConfig
    data: Path
    rows: int
    epochs: float = 2.0
    full: bool = False

    def settings(self) -> dict[str, Any]:
        """Return the settings that do not depend on a preset, by dotted name."""
        chosen = _model_settings(self.model)
        chosen |= {"init_from": str(self.run.absolute()), "preference.data": str(self.data)}
        chosen["train.compile"] = "off"  # pairs have many lengths, and each would be compiled
        if self.full:
            chosen |= {"lora.rank": 0, "preference.reference": str(self.run.absolute())}
        return chosen

    def recipe(self, tokens: int = 0) -> dict[str, Any]:
        """Return learning rate, batch, steps, and validations eight times in all, by dotted name.

        Args:
            tokens: of a step, if the user chose them: a pair counts as one sequence of the model's context; 0 derives
                them from the number of pairs.
        """
        context = self.model.context_length
        pairs = max(1, tokens // context if tokens else min(PAIRS_PER_STEP, self.rows // STEPS_PER_EPOCH))
        steps = max(1, round(self.epochs * self.rows / pairs))
        ratio = PREFERENCE_RATE_RATIOS["full" if self.full else "adapter"]
        rate = learning_rate(self.model.n_embd, lora=not self.full) * ratio
        return {
            "preference.chosen_weight": CHOSEN_WEIGHT,
            "train.learning_rate": float(f"{rate:.1e}"),
            "train.batch_tokens": pairs * context,
            "train.micro_batch_size": max(n for n in divisors(pairs) if n <= MICRO_BATCH_SIZE // 2),
            "train.max_steps": steps,
            "train.eval_every_steps": max(1, steps // 8),
            "schedule.warmup_steps": min(25, steps // 10),
        }


def parse_replay(text: str) -> tuple[Path, float]:
    """Return the dataset and the share in `DATA=SHARE`.

    Raises:
        UsageError: it has another form.
    """
    folder, _, share = text.rpartition("=")
    try:
        parsed = float(share)
    except ValueError:
        parsed = math.nan
    if not folder or not 0 < parsed < 1:
        raise UsageError(
            f"--replay is {text}; it must be DATA=SHARE with a share between 0 and 1, such as data/old=0.2"
        )
    return Path(folder), parsed
