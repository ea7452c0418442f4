"""One request to stop may come as two signals; only a later one ends the process at once."""

import os
import signal
import time

import pytest

from glassgpt.training import interrupt
from glassgpt.training.interrupt import stop_requests


@pytest.mark.parametrize("number", interrupt.SIGNALS)
def test_a_signal_that_timeout_sends_twice_is_one_request(number):
    before, seen = signal.getsignal(number), []

    def on_request():
        seen.append(number)
        os.kill(os.getpid(), number)  # while the first one is handled

    with stop_requests(on_request) as request:
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
        assert request.signal_number == number
    assert seen == [number]
    assert signal.getsignal(number) == before


def test_a_later_signal_ends_the_process(monkeypatch):
    monkeypatch.setattr(interrupt, "REPEAT_SECONDS", 0.02)
    child = os.fork()
    if child == 0:
        with stop_requests(lambda: None):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.1)
            os.kill(os.getpid(), signal.SIGTERM)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
