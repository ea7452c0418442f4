"""Ctrl-C and SIGTERM: the first asks the loop to stop at the next step boundary, the second ends the process."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Records that the user asked to stop, and by which signal.

    Attributes:
        signal_number: the signal, or None until there is one.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None


@contextmanager
def stop_requests(on_request: Callable[[], None]) -> Generator[StopRequest]:
    """Handle the signals within a `with` block, then restore the previous handlers.

    Outside the main thread Python delivers no signals; there the request never comes.

    Args:
        on_request: called in the signal handler at the first signal, so that the user gets an immediate reply.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if request.signal_number is not None:  # the second signal: the default action ends the process here and now
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        request.signal_number = number
        on_request()

    previous = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
