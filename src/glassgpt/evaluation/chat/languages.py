"""The language of a text, by langdetect, which IFEval's reference uses; free of torch."""

from __future__ import annotations

from typing import Any

from glassgpt.errors import require_extra

LANGDETECT = ("langdetect", "eval", "IFEval's check of languages")
"""Arguments of `require_extra`."""


def is_language(text: str, code: str) -> bool:
    """Return whether a text is in a language, by its ISO 639-1 code. A text without letters counts as in any.

    The same text always gets the same answer: langdetect samples, so its generator gets a fixed seed.

    Raises:
        MissingExtraError: langdetect is not installed.
    """
    require_extra(*LANGDETECT)
    import langdetect  # pyright: ignore[reportMissingImports]

    module: Any = langdetect
    module.DetectorFactory.seed = 0
    try:
        return module.detect(text) == code
    except module.LangDetectException:
        return True
