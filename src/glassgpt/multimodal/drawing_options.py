"""The options with which a picture is drawn. Free of torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from glassgpt.errors import GenerationError
from glassgpt.generation.options import GenerationOptions, options_from_kwargs
from glassgpt.generation.processors.base import SAMPLING
from glassgpt.schema import settings_of

DEFAULTS: Mapping[str, Any] = {"temperature": 0.7, "top_p": 1.0}
"""One improbable code can spoil a picture. Of a small model's drawings about half of 20 were spoiled at temperature 1, 2 of 42 with top-p
0.9, none of 42 at 0.7."""


def drawing_options(given: Mapping[str, Any], **fixed: Any) -> GenerationOptions:
    """Return the options of a generation of pictures.

    Args:
        given: by name; they must concern sampling.
        fixed: others that the program sets.

    Raises:
        GenerationError: an option does not concern sampling, is unknown or has an invalid value.
    """
    options_from_kwargs(given)
    allowed = [each.name for each in settings_of(GenerationOptions) if each.details.group == SAMPLING]
    if others := [name for name in given if name not in allowed]:
        raise GenerationError(f"{others[0]} is for text; pictures are drawn with {', '.join(allowed)}")
    options = options_from_kwargs({**DEFAULTS, **given, **fixed})
    options.check()
    return options
