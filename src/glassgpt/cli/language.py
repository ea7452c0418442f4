"""The command line in the language of the user: messages through `console`, and the help. Free of torch."""

from __future__ import annotations

from cyclopts import App

from glassgpt import console
from glassgpt.locale import to_korean, user_language

KOREAN_LETTER = "가"


def use_user_language(app: App) -> None:
    """Print messages and help in the language of the user, in English if the terminal has no Korean letters.

    Raises:
        UsageError: see `user_language`.
    """
    if user_language() != "ko" or not _can_print(KOREAN_LETTER):
        console.use_translation(None)
        return
    from glassgpt.cli.korean_help import KoreanHelp

    console.use_translation(to_korean)
    app.help_formatter = KoreanHelp()
    _translate_epilogues(app)


def _can_print(letter: str) -> bool:
    try:
        letter.encode(console.out.encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _translate_epilogues(app: App) -> None:
    if isinstance(app.help_epilogue, str):
        app.help_epilogue = "\n\n".join(map(to_korean, app.help_epilogue.split("\n\n")))
    for name in app:
        if not name.startswith("-"):
            _translate_epilogues(app[name])
