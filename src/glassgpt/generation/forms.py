"""Check whether a text matches the form (regular expression, choice, JSON schema) that its options ask for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from glassgpt.data.tokenizers import Tokenizer
from glassgpt.generation.constrained import Constraint
from glassgpt.generation.options import GenerationOptions
from glassgpt.generation.processors.pipeline import build_processors


def form_check(options: GenerationOptions, tokenizer: Tokenizer) -> Callable[[Sequence[int]], bool]:
    """Return a function that says whether an output (token ids) matches the form that some options ask for, if any.

    Raises:
        GenerationError: the form is invalid.
    """
    constraints = [each.apply for each in build_processors(options, tokenizer) if isinstance(each.apply, Constraint)]
    return lambda output: all(constraint.is_complete(output) for constraint in constraints)
