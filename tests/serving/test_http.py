"""A client that leaves ends its request, and nothing else does; the server finds the endpoint of a path."""

import asyncio
import contextlib
import json
import socket
from urllib.parse import urlsplit

import pytest
from live_server import live_server
from serving_helpers import run_with

from glassgpt.serving.http import ClientDisconnectedError, _unless_disconnected
from glassgpt.serving.limits import ServerLimits
from small_models import attentive_model


def disconnect_after(seconds):
    async def receive():
        await asyncio.sleep(seconds)
        return {"type": "http.disconnect"}

    return receive


def test_a_client_that_leaves_cancels_its_answer_only():
    async def main():
        was_cancelled = False

        async def answer():
            nonlocal was_cancelled
            try:
                await asyncio.sleep(10)
            except asyncio.CancelledError:
                was_cancelled = True
                raise

        with pytest.raises(ClientDisconnectedError):
            await _unless_disconnected(disconnect_after(0), answer())
        assert was_cancelled
        assert asyncio.current_task().cancelling() == 0
        await asyncio.sleep(0)

    asyncio.run(main())


def test_an_answers_own_errors_are_no_disconnect():
    async def main():
        async def fails(error):
            await asyncio.sleep(0)
            raise error

        for error in (TimeoutError("own"), ValueError("own")):
            with pytest.raises(type(error), match="own"):
                await _unless_disconnected(disconnect_after(10), fails(error))
        done = asyncio.get_running_loop().create_future()
        done.set_result(None)
        await _unless_disconnected(disconnect_after(10), done)
        assert len(asyncio.all_tasks()) <= 4  # those that wait for the clients are cancelled
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())


def test_a_client_that_leaves_as_its_answer_ends_is_no_error():
    async def main():
        loop, errors = asyncio.get_running_loop(), []
        loop.set_exception_handler(lambda _, context: errors.append(context))
        answered, left = loop.create_future(), loop.create_future()

        async def receive():
            await left
            return {"type": "http.disconnect"}

        async def answer():
            await answered
            await asyncio.sleep(0)

        def both():  # the answer is complete in the very turn of the loop in which the disconnect is reported
            answered.set_result(None)
            left.set_result(None)

        loop.call_later(0.01, both)
        await _unless_disconnected(receive, answer())
        await asyncio.sleep(0)
        assert not errors

    asyncio.run(main())


def test_paths_and_methods_that_there_are_not():
    async def work(client):
        replies = [
            await client.get("/v1/completions"),
            await client.post("/health", {}),
            await client.get("/v1/models/other"),
            await client.get("/v1/models/tiny"),
            await client.get("/nothing"),
        ]
        assert [reply.status for reply in replies] == [405, 405, 404, 200, 404]
        assert replies[0].headers["allow"] == "POST"
        assert all("x-request-id" in reply.headers for reply in replies)

    run_with(attentive_model(), work)


def reply_to(connection, request):
    """Return status, headers and JSON of the reply, after which the server closes the connection."""
    connection.sendall(request)
    reply = b"".join(iter(lambda: connection.recv(4096), b""))
    head, _, body = reply.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    return int(status.split()[1]), dict(line.split(": ", 1) for line in lines), json.loads(body)


def test_what_is_refused_before_the_application_has_the_shape_of_every_answer():
    health = b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
    limits = ServerLimits(max_connections=2, max_header_bytes=1024, drain_seconds=0)
    with live_server(attentive_model(), limits=limits) as address, contextlib.ExitStack() as stack:
        place = urlsplit(address).hostname, urlsplit(address).port

        def connect():
            return stack.enter_context(socket.create_connection(place, timeout=10))

        refused = [reply_to(connect(), request) for request in (b"no HTTP\r\n\r\n", health + b"a: " + b"a" * 2000)]
        first, second, third = connect(), connect(), connect()
        refused.append(reply_to(third, health + b"\r\n"))
        assert [status for status, _, _ in refused] == [400, 431, 503]
        assert all(headers["x-request-id"] and body["error"]["message"] for _, headers, body in refused)
        assert refused[2][1]["retry-after"] == "1"
        third.close()
        assert reply_to(second, health + b"\r\n")[0] == 200
        first.close()


def test_a_running_stream_is_not_ended_by_too_many_connections():
    body = json.dumps(
        {"prompt": "a", "max_tokens": 600, "overflow": "re-prefill", "ignore_eos": True, "stream": True}
    ).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    with live_server(attentive_model(), limits=ServerLimits(max_connections=1, drain_seconds=0)) as address:
        place = urlsplit(address).hostname, urlsplit(address).port
        with socket.create_connection(place, timeout=60) as stream:
            stream.sendall(head.encode() + body)
            received = stream.recv(4096)
            with socket.create_connection(place, timeout=10), socket.create_connection(place, timeout=10) as refused:
                assert reply_to(refused, b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")[0] == 503
                stream.sendall(b"\r\n")  # as some clients do after a body; it counts as the next header
                received += b"".join(iter(lambda: stream.recv(4096), b""))
    assert b"data: [DONE]" in received
    assert b"too_many_connections" not in received
