"""What the watch can say, by code: how grave, in one line, and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from glassgpt.diagnosis.replay import Cause

Severity = Literal["note", "warning", "critical"]


@dataclass(frozen=True)
class Signal:
    """One thing that can be noticed.

    Attributes:
        severity: note costs time or quality, warning endangers the run, critical ends or undoes part of it.
        line: what was seen; `{names}` are filled from the figures.
        advice: what to change.
    """

    severity: Severity
    line: str
    advice: str


SIGNALS: dict[str, Signal] = {
    "GG-LOSS-001": Signal(
        "warning",
        "the loss jumped to {loss:.3f}, its median is {median:.3f}",
        "one spike heals by itself; if they return, lower train.learning_rate or train.clip_norm",
    ),
    "GG-LOSS-002": Signal(
        "critical",
        "the loss ran away: {median:.3f} now, {best:.3f} at its best",
        "lower train.learning_rate, lengthen schedule.warmup_steps",
    ),
    "GG-LOSS-003": Signal(
        "warning",
        "the loss stays at ln V = {level:.3f}: nothing is learned",
        "raise train.learning_rate; see whether gradients reach the weights (--watch full)",
    ),
    "GG-LOSS-004": Signal(
        "warning",
        "the loss stays at {level:.3f} nats, what the frequencies of tokens alone give: the context is ignored",
        "see whether targets are the inputs shifted by one, and whether attention learns (--watch full)",
    ),
    "GG-LOSS-005": Signal(
        "note",
        "the loss stays at {level:.3f} nats, what the token before alone gives: attention is weak",
        "train longer, or raise train.learning_rate or model.context_length",
    ),
    "GG-LOSS-006": Signal(
        "note",
        "the loss has not fallen over {steps} steps, above what the token before alone gives",
        "raise or lower train.learning_rate: glassgpt doctor can measure its range",
    ),
    "GG-LOSS-007": Signal(
        "warning",
        "it overfits: {count} validations in a row above the best ({validation:.3f}, best {best:.3f}) while the "
        "training loss falls",
        "stop early (train.early_stop_evaluations), take more text, dropout or a smaller model",
    ),
    "GG-GRAD-001": Signal(
        "note",
        "the gradient norm jumped to {norm:.3g}, its median is {median:.3g}",
        "look at the loss of the next steps; if it follows, lower train.learning_rate",
    ),
    "GG-GRAD-002": Signal(
        "note",
        "{share:.0%} of the gradients are clipped, the median norm is {median:.3g} against {limit:g}",
        "raise train.clip_norm, or lower train.learning_rate",
    ),
    "GG-GRAD-003": Signal(
        "warning",
        "the gradients of {large} are {ratio:.0f} times those of {small}",
        "look at initialisation and normalisation of these blocks",
    ),
    "GG-GRAD-004": Signal(
        "warning",
        "no gradient reaches {names}",
        "a layer is frozen or cut off; see requires_grad and the forward pass",
    ),
    "GG-UPDATE-001": Signal(
        "warning",
        "a step changes the weights by {ratio:.2g} of their size (median over matrices)",
        "lower train.learning_rate",
    ),
    "GG-UPDATE-002": Signal(
        "warning",
        "a step changes the weights by only {ratio:.2g} of their size (median over matrices)",
        "raise train.learning_rate",
    ),
    "GG-UPDATE-003": Signal(
        "note",
        "AdamW's averages are out of date: gradients are {ratio:.2g} times what they expect",
        "spikes may follow; lower optimizer.beta2",
    ),
    "GG-ATTENTION-001": Signal(
        "warning",
        "{share:.0%} of the heads look at one place alone (entropy below {limit})",
        "lower train.learning_rate, lengthen schedule.warmup_steps",
    ),
    "GG-ATTENTION-002": Signal(
        "warning",
        "attention's scores reach {score:.3g} in block {block}",
        "lower train.learning_rate; model.arch modern normalises queries and keys",
    ),
    "GG-LAYER-001": Signal(
        "note",
        "{share:.0%} of the units of block {block} are dead",
        "lower train.learning_rate; look at the initialisation",
    ),
    "GG-LAYER-002": Signal(
        "note",
        "the residual stream grows {ratio:.0f} times in block {block}",
        "look at model.init_std",
    ),
    "GG-LAYER-003": Signal(
        "note",
        "logits drift: their log-sum-exp is {now:.3g}, it was {before:.3g}",
        "lower train.learning_rate, or decay the head",
    ),
    "GG-FP16-001": Signal(
        "warning",
        "the gradient scaler has skipped {count} of the last {steps} steps",
        "take train.precision bf16, or fp32",
    ),
    "GG-SPEED-001": Signal(
        "note",
        "{share:.0%} of a step is spent waiting for data",
        "put the data set on a local, faster disk",
    ),
    "GG-SPEED-002": Signal(
        "note",
        "a step takes {ratio:.1f} times as long as at first ({now:.0f} ms)",
        "look for other work on this machine, for heat, and for growing memory",
    ),
    "GG-SPEED-003": Signal(
        "note",
        "the model was compiled again {count} times while training",
        "something changes its shape from step to step; train.compile off shows whether it pays",
    ),
    "GG-MEMORY-001": Signal(
        "warning",
        "memory grows: {before:.2f} GB at first, {now:.2f} GB now",
        "something is kept from step to step; look at what observers and hooks hold",
    ),
    "GG-MEMORY-002": Signal(
        "note",
        "memory is in pieces: {reserved:.2f} GB are held for {used:.2f} GB",
        "set PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True",
    ),
    "GG-MEMORY-003": Signal(
        "critical",
        "memory ran out in step {at}",
        "lower train.micro_batch_size, set train.loss_chunk_tokens or train.recompute_activations",
    ),
    "GG-NAN-001": Signal("critical", "step {at} is not finite because of its data: {why}", "look at the row's text"),
    "GG-NAN-002": Signal(
        "critical", "step {at} is not finite because of its precision: {why}", "take train.precision bf16 or fp32"
    ),
    "GG-NAN-003": Signal(
        "critical",
        "step {at} is not finite because of its weights: {why}",
        "go on from an earlier checkpoint; if it returns, test the memory of the machine",
    ),
    "GG-NAN-004": Signal(
        "critical", "step {at} is not finite because of its learning rate: {why}", "lower train.learning_rate"
    ),
    "GG-NAN-005": Signal(
        "critical",
        "step {at} is not finite because of the attention kernel: {why}",
        "use another version of PyTorch or of the driver; report it there",
    ),
    "GG-NAN-006": Signal(
        "critical", "step {at} is not finite because of the model itself: {why}", "look at the module that is named"
    ),
    "GG-NAN-007": Signal(
        "warning", "step {at} was not finite, and done again it is: {why}", "if it returns, test the machine's memory"
    ),
    "GG-NAN-008": Signal(
        "critical", "step {at} is not finite, and no cause was found: {why}", "lower train.learning_rate"
    ),
}

CODES: dict[Cause, str] = {
    "data": "GG-NAN-001",
    "precision": "GG-NAN-002",
    "weights": "GG-NAN-003",
    "learning rate": "GG-NAN-004",
    "kernel": "GG-NAN-005",
    "model": "GG-NAN-006",
    "not reproduced": "GG-NAN-007",
    "unknown": "GG-NAN-008",
}
"""Of a replay's verdict."""
