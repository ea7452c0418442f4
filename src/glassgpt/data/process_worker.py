"""Answer requests of the process that started this one: `python -m glassgpt.data.process_worker`.

A request is a pickled function and item; the answer says whether it is the result, or an exception. Nothing imports this
module, so that Python can run it.
"""

from __future__ import annotations

import os
import pickle
import sys
from typing import IO, Any

from glassgpt.data.tokenizers.worker import end_with_parent


def main() -> None:
    """Answer each request of standard input."""
    end_with_parent()
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is no answer
    while (request := _next_request(sys.stdin.buffer)) is not None:
        answers.write(pickle.dumps(_answer(*request)))
        answers.flush()


def _next_request(stream: IO[bytes]) -> tuple[Any, Any] | None:
    try:
        return pickle.load(stream)
    except EOFError:
        return None


def _answer(function: Any, item: Any) -> tuple[bool, Any]:
    try:
        return True, function(item)
    except Exception as error:  # noqa: BLE001 - raised again in the process that asked
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # noqa: BLE001 - an exception that cannot be carried is told in words
            return False, RuntimeError(f"{type(error).__name__}: {error}")
        return False, error


if __name__ == "__main__":
    main()
