"""What `glassgpt evaluate` prints."""

from __future__ import annotations

import json

from glassgpt import console
from glassgpt.training.loss import ValidationLoss


def show_validation(validation: ValidationLoss, *, as_json: bool) -> None:
    """Print a validation, for a person or as one JSON object."""
    if as_json:
        figures = {
            "validation_loss": validation.loss,
            "perplexity": validation.perplexity,
            "bits_per_byte": validation.bits_per_byte,
            "tokens": validation.tokens,
            "bytes": validation.n_bytes,
        }
        console.result(json.dumps(figures))
        return
    console.result(f"validation loss: {validation.loss:.4f} nats per token ({validation.tokens:,} tokens)")
    console.result(f"perplexity: {validation.perplexity:.2f}")
    console.result(f"validation: {validation.bits_per_byte:.4f} bits per byte ({validation.n_bytes:,} bytes)")
