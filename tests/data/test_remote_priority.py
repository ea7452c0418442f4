"""Copying shards in the background makes way for the windows that training reads, on a slow connection."""

import threading
import time

import pytest

from glassgpt.data.remote import priority
from glassgpt.data.remote.priority import FIRST_BLOCK_BYTES, MAX_BLOCK_BYTES, BlockSizes, WindowReads


@pytest.fixture
def clock(monkeypatch):
    """A clock that only `connection` moves."""

    class Clock:
        now = 0.0

    monkeypatch.setattr(priority.time, "monotonic", lambda: Clock.now)
    return Clock


def connection(clock, bytes_per_second, sizes=None):
    def read(count):
        clock.now += count / bytes_per_second
        if sizes is not None:
            sizes.append(count)
        return bytes(count)

    return read


def copied(blocks, read, size):
    left = size
    while left:
        left -= len(blocks.read(left, read))


def test_blocks_grow_on_a_fast_connection_and_shrink_on_a_slow_one(clock):
    blocks, sizes = BlockSizes(WindowReads()), []
    copied(blocks, connection(clock, 1e9, sizes), 40 << 20)
    assert sizes[0] == FIRST_BLOCK_BYTES
    assert max(sizes) == MAX_BLOCK_BYTES
    assert sum(sizes) == 40 << 20
    sizes.clear()
    copied(blocks, connection(clock, 100_000, sizes), 40 << 20)
    assert sizes[-2] == FIRST_BLOCK_BYTES
    assert sum(sizes) == 40 << 20


def test_small_files_do_not_make_blocks_grow(clock):
    blocks, sizes = BlockSizes(WindowReads()), []
    for _ in range(20):
        copied(blocks, connection(clock, 1e9), 1000)
    copied(blocks, connection(clock, 1e9, sizes), 1 << 20)
    assert sizes[0] == FIRST_BLOCK_BYTES


def test_slow_block_waits_for_windows_but_not_for_ever(clock):
    windows = WindowReads()
    waited = []
    windows.wait = waited.append
    blocks = BlockSizes(windows)
    blocks.read(1000, connection(clock, 250))
    blocks.read(1000, connection(clock, 1e6))
    assert waited == [8 * priority.SLOW_SECONDS, 8 * 4.0]
    blocks.read(1000, connection(clock, 1e6))  # after a fast one
    assert len(waited) == 2


def test_wait_ends_with_the_last_window():
    windows, order = WindowReads(), []
    copying = threading.Thread(target=lambda: (windows.wait(60), order.append("block")))
    with windows.one_more():
        with windows.one_more():
            copying.start()
        time.sleep(0.05)  # one is left
        order.append("window")
    copying.join(60)
    assert order == ["window", "block"]
    with windows.one_more():
        windows.wait(0.01)  # its limit
