"""Ctrl-C and SIGTERM: the first asks the loop to stop at the next step boundary, the second ends the process."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
REPEAT_SECONDS = 1.0
"""A signal so soon after the first one is the same request: `timeout` sends its signal to the process, then to its group."""


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

    requested_at = 0.0

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal requested_at
        if request.signal_number is None:
            request.signal_number, requested_at = number, time.monotonic()
            on_request()
        elif time.monotonic() - requested_at > REPEAT_SECONDS:  # the default action ends the process here and now
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    previous = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
