"""A TCP proxy that cuts connections in the middle, and limits how fast a server answers."""

import socket
import threading
import time
from contextlib import suppress


class Proxy:
    """Passes connections on to a port of this machine.

    Args:
        port: of the server.
        cuts: number of connections that are cut.
        cut_after: bytes in either direction after which.
        bytes_per_second: of all answers together; 0 is no limit.
    """

    def __init__(self, port, *, cuts=0, cut_after=100_000, bytes_per_second=0):
        self.cut, self._left, self._cut_after, self._rate = 0, cuts, cut_after, bytes_per_second
        self._server, self._lock, self._free_at = socket.create_server(("127.0.0.1", 0)), threading.Lock(), 0.0
        self._target = port
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        self._server.close()

    def _accept(self):
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._target))
            count = [0]
            for source, target, answers in ((client, server, False), (server, client, True)):
                threading.Thread(target=self._pass, args=(source, target, answers, count), daemon=True).start()

    def _pass(self, source, target, answers, count):
        try:
            while data := source.recv(1 << 15):
                count[0] += len(data)
                if answers and self._rate:
                    self._wait(len(data))
                if count[0] > self._cut_after and self._may_cut():
                    break
                target.sendall(data)
        except OSError:
            pass
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _may_cut(self):
        with self._lock:
            self._left -= 1
            self.cut += self._left >= 0
            return self._left >= 0

    def _wait(self, size):
        with self._lock:
            self._free_at = max(self._free_at, time.monotonic()) + size / self._rate
            pause = self._free_at - time.monotonic()
        time.sleep(max(0, pause))
