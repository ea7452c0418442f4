"""The language of the user, for messages through `console` and for the help. Free of torch."""

from __future__ import annotations

from glassgpt import console
from glassgpt.locale import to_korean, user_language

KOREAN_LETTER = "가"


def use_user_language() -> bool:
    """Print messages in the language of the user, in English if the terminal has no Korean letters.

    Returns:
        Whether that is Korean.

    Raises:
        UsageError: see `user_language`.
    """
    is_korean = user_language() == "ko" and _can_print(KOREAN_LETTER)
    console.use_translation(to_korean if is_korean else None)
    return is_korean


def _can_print(letter: str) -> bool:
    try:
        letter.encode(console.out.encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True
