"""A client that leaves ends its request, and nothing else does; the server finds the endpoint of a path."""

import asyncio

import pytest
from serving_helpers import run_with

from glassgpt.serving.http import ClientDisconnectedError, _unless_disconnected
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
