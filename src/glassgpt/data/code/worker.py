"""Examine files whose paths come from standard input: `python -m glassgpt.data.code.worker SKETCHES EXCLUDE…`.

A path is a line of JSON, and so is the answer to it. Nothing imports this module, so that Python can run it.
"""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path

from glassgpt.data.code.examining import examine
from glassgpt.data.code.exclude import ExcludedText, read_excluded
from glassgpt.data.tokenizers.worker import end_with_parent
from glassgpt.errors import DataError


def main(sketches: str, *exclude: str) -> None:
    """Answer each line of standard input.

    Args:
        sketches: "1" to compute sketches, else "0".
        exclude: files and folders of problems whose text must not be in the files.
    """
    end_with_parent()
    excluded = read_excluded([Path(each) for each in exclude])
    answers = sys.stdout
    for line in sys.stdin:
        answers.write(json.dumps(_answer(Path(json.loads(line)), excluded, sketches == "1")) + "\n")
        answers.flush()


def _answer(path: Path, excluded: ExcludedText, sketches: bool) -> dict[str, object]:
    try:
        found = examine(path, excluded, sketches=sketches)
    except DataError as error:
        return {"error": str(error)}
    sketch = None if found.sketch is None else base64.b64encode(found.sketch).decode()
    return {"size": found.size, "reason": found.reason, "digest": found.digest, "sketch": sketch}


if __name__ == "__main__":
    main(*sys.argv[1:])
