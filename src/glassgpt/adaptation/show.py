"""Terminal output of fine-tuning."""

from __future__ import annotations

from glassgpt import console
from glassgpt.evaluation.loss_changes import LossChange
from glassgpt.model.accounting import MemoryEstimate
from glassgpt.training.preference import PreferenceValidation


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


def print_pairs(train: int, held_out: int) -> None:
    """Print how many pairs there are."""
    console.info(f"{train:,} pairs of replies to train on, {held_out:,} held out")


def print_preferences(result: PreferenceValidation) -> None:
    """Print what tuning did to the held-out replies."""
    rows: list[tuple[str, str, str, str]] = []
    for index, name in enumerate(("chosen replies", "rejected replies")):
        tokens = result.reply_tokens[index]
        before, after = result.reference_nats[index] / tokens, result.reply_nats[index] / tokens
        rows.append((console.translated(name), f"{before:.4f}", f"{after:.4f}", f"{after - before:+.4f}"))
    columns = ("replies", "before", "after", "change")
    console.table("loss on held-out replies, nats per token", columns, rows, numeric_from=1)
    console.result(
        f"held-out preference accuracy: {result.accuracy:.1%} of {result.tokens:,} pairs, mean reward margin "
        f"{result.margin / result.tokens:.3f}"
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
