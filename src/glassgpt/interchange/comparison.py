"""Compare an imported model with an independent forward pass, by transformers if it is installed."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from glassgpt.errors import InterchangeError
from glassgpt.interchange.files import reason
from glassgpt.model.transformer import LanguageModel

MAX_COMPARED_PARAMETERS = 10**9
"""The comparison holds a second copy of the weights."""
COMPARED_SEQUENCES, COMPARED_TOKENS = 2, 32
TOLERANCE = 1e-3
"""Largest difference of logits, relative to the largest logit: above the differences of kernels, below those of another function."""


@torch.no_grad()
def compare_logits(model: LanguageModel, folder: Path, notify: Callable[[str], None]) -> None:
    """Compare the logits of random tokens with those of transformers; do nothing if it is not installed.

    Args:
        model: imported from `folder`, in evaluation mode.
        folder: the Hugging Face model.
        notify: receives why nothing was compared, if transformers cannot load the model or it is too large.

    Raises:
        InterchangeError: the logits differ.
    """
    try:
        from transformers import AutoModelForCausalLM
    except ImportError:
        return
    if sum(p.numel() for p in model.parameters()) > MAX_COMPARED_PARAMETERS:
        notify("the model is too large to be compared with transformers on this machine")
        return
    try:
        theirs: Any = quietly(
            lambda: AutoModelForCausalLM.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, trust_remote_code=False
            )
        )
    except Exception as error:  # noqa: BLE001 - whatever fails in another library, the import itself has succeeded
        notify(f"not compared with transformers, which cannot load {folder}: {reason(error)}")
        return
    generator = torch.Generator().manual_seed(0)
    shape = (COMPARED_SEQUENCES, min(COMPARED_TOKENS, model.config.context_length))
    tokens = torch.randint(model.config.vocab_size, shape, generator=generator)
    expected = theirs.float().eval()(tokens).logits
    del theirs
    gc.collect()
    found = model(tokens)
    error = float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-30))
    if not error <= TOLERANCE:
        raise InterchangeError(
            f"{folder}: the logits differ from those of transformers by {error:.1e} of the largest one, so the model "
            f"is not the same function here; please report it, and use it with transformers"
        )


def quietly(load: Callable[[], Any]) -> Any:
    """Call `load` without transformers' progress bars and messages."""
    from transformers.utils import logging

    level, has_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        return load()
    finally:
        logging.set_verbosity(level)
        if has_bars:
            logging.enable_progress_bar()
