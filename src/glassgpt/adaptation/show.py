"""Terminal output of fine-tuning."""

from __future__ import annotations

from glassgpt import console
from glassgpt.evaluation.loss_changes import LossChange
from glassgpt.model.accounting import MemoryEstimate


def print_memory(trained: int, total: int, memory: MemoryEstimate, full: MemoryEstimate) -> None:
    """Print what is trained, and the predicted memory beside that of training all weights."""
    amount = console.format_amount
    console.info(f"training {trained:,} of {total:,} parameters ({trained / total:.2%})")
    states = memory.gradients + memory.optimizer
    if trained < total:
        console.info(
            f"predicted memory: {amount(memory.total, 'B')}, of which gradients and optimizer {amount(states, 'B')}; "
            f"training all weights would take {amount(full.total, 'B')}"
        )
    else:
        console.info(
            f"predicted memory: {amount(memory.total, 'B')}, of which gradients and optimizer {amount(states, 'B')}"
        )


def print_changes(changes: list[LossChange]) -> None:
    """Print the loss before and after on each text."""
    rows = [
        (
            console.translated("new text") if change.text == "new" else console.translated("old text"),
            change.data,
            f"{change.before:.4f}",
            f"{change.after:.4f}",
            f"{change.change:+.4f}",
        )
        for change in changes
    ]
    console.table(
        "loss on held-out text, nats per token", ("text", "dataset", "before", "after", "change"), rows, numeric_from=2
    )
