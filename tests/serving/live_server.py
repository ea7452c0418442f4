"""A server of a small model on a real port, in a thread of this process."""

import asyncio
import contextlib
import threading

import pytest
from serving_helpers import serving


@contextlib.contextmanager
def live_server(model, **options):
    """The address of a server with this model, as `http://127.0.0.1:PORT`; see `serving` for the options."""
    for package in ("httptools", "msgspec", "prometheus_client", "starlette", "uvicorn"):
        pytest.importorskip(package)
    from glassgpt.serving.connections import create_server, listen
    from glassgpt.serving.limits import ServerLimits

    ready, found = threading.Event(), {}

    async def run(listener):
        async with serving(model, **options) as client:
            limits = options.get("limits") or ServerLimits(drain_seconds=0)
            found["server"] = create_server(client.app, limits, on_drain=lambda: None, abort=lambda: None)
            found["context"] = client.context
            ready.set()
            await found["server"].serve(sockets=[listener])

    with listen("127.0.0.1", 0) as listener:
        thread = threading.Thread(target=lambda: asyncio.run(run(listener)), daemon=True)
        thread.start()
        assert ready.wait(60)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            found["server"].should_exit = found["server"].force_exit = True
            thread.join(30)
