"""The help of commands and options in Korean. Free of torch."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from cyclopts.help import DefaultFormatter, HelpPanel, InlineText
from rich.text import Text

from glassgpt.locale import to_korean

if TYPE_CHECKING:
    from cyclopts.help import HelpEntry


def help_in_korean(text: str) -> str:
    """Translate the help of an option: sentences, then notes in brackets, such as `[default: 1; 0 disables it]`."""
    match = re.fullmatch(r"(.*?)(?:\s+\[([^\]]+)\])?", text.strip(), re.DOTALL)
    assert match is not None
    sentences = _sentences_in_korean(" ".join(match[1].split()))
    notes = [to_korean(note) for note in match[2].split("; ")] if match[2] else []
    return sentences + (f" [{'; '.join(notes)}]" if notes else "")


def _sentences_in_korean(text: str) -> str:
    """Translate the longest known run of sentences, then the others."""
    ends = [*(match.start() + 1 for match in re.finditer(r"\. ", text)), len(text)]
    for end in reversed(ends):
        if (korean := to_korean(text[:end])) != text[:end]:
            rest = text[end:].strip()
            return f"{korean} {_sentences_in_korean(rest)}" if rest else korean
    return text


class KoreanHelp(DefaultFormatter):
    """The help of cyclopts with every text translated."""

    def __call__(self, console: Any, options: Any, panel: HelpPanel) -> None:
        """Print a panel of commands or options."""
        entries = [self._entry(each) for each in panel.entries]
        super().__call__(console, options, panel.copy(title=to_korean(str(panel.title)), entries=entries))

    def render_usage(self, console: Any, options: Any, usage: Any) -> None:
        """Print the usage line."""
        line = str(usage).replace("COMMAND", "명령").replace("[OPTIONS]", "[옵션]").replace("[ARGS]", "[인자]")
        console.print(Text(f"사용법: {line}", style="bold"))

    def render_description(self, console: Any, options: Any, description: Any) -> None:
        """Print the description of a command."""
        super().render_description(console, options, self._text(description))

    def _entry(self, entry: HelpEntry) -> HelpEntry:
        """Translate an entry; choices and default, which cyclopts would add in English, become part of its text."""
        text = self._text(entry.description)
        notes = [f"[가능한 값: {', '.join(entry.choices)}]"] if entry.choices else []
        notes += [f"[기본값: {entry.default}]"] if entry.default is not None else []
        notes += ["[필수]"] if entry.required else []
        for note in notes:
            text.append(Text(note, "grey58"))
        return entry.copy(description=text, choices=(), default=None, required=False)

    @staticmethod
    def _text(text: Any) -> InlineText:
        """Translate a text that cyclopts has wrapped as Markdown."""
        source = getattr(getattr(text, "primary_renderable", text), "markup", None)
        english = source if isinstance(source, str) else str(text or "")
        return InlineText.from_format(help_in_korean(english), "markdown")
