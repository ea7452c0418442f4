"""Commands that are printed can be pasted into a shell, whatever the paths are called."""

import re
import shlex
from pathlib import Path

import glassgpt
from glassgpt.data.sources import pattern_for

COMMAND = re.compile(r"glassgpt (?:train|generate|prepare|doctor|inspect|evaluate|export|import) [^\n]*?(\{[^\n]*)")
HARMLESS = re.compile(r"\{(?:finding\.code|option|preset)\}")


def test_paths_in_printed_commands_are_quoted():
    found = 0
    for path in Path(glassgpt.__path__[0]).rglob("*.py"):
        if path.parent.name == "ko":  # translations of the others, with the quoted values
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            command = COMMAND.search(line)
            if command and '"' in line[: command.start()]:
                found += 1
                first = HARMLESS.sub("", command[1])
                assert not first.startswith("{") or first.startswith(("{shlex.", "{_quoted(")), (
                    f"{path}:{number}: {line.strip()}"
                )
    assert found > 8


def test_pattern_for_a_folder_with_an_apostrophe_can_be_pasted():
    assert shlex.split(pattern_for(Path("/d/it's #1"), ".py")) == ["/d/it's #1/**/*.py"]
