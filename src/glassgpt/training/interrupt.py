"""Ctrl-C and SIGTERM: the first asks the loop to stop at the next step boundary, the second stops at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

from glassgpt import console

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Whether and by which signal the user asked to stop.

    Attributes:
        signal_number: the signal, or None as long as nobody asked.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None


@contextmanager
def stop_requests(*, aloud: bool = True) -> Generator[StopRequest]:
    """Listen for the signals as long as the context lasts; then the handlers before are back in place.

    With `aloud`, what was asked is confirmed at once, so that nobody asks twice in doubt. Outside the main thread
    Python delivers no signals; there the request simply never comes.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if request.signal_number is not None:
            # Asked twice: the default action ends the process here and now.
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        request.signal_number = number
        if aloud:
            console.info("stopping after this step and saving; once more to leave at once, losing what is unsaved")

    before = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
