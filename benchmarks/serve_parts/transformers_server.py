"""`transformers serve` with continuous batching, on the weights of a run.

Its libraries (`transformers[serving]`) are those of another environment; transformers and PyTorch are those of this one.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sysconfig
from pathlib import Path

from glassgpt import api
from serve_parts.load import until_ok

NAME = "transformers serve, continuous batching"


class TransformersServer:
    """A running `transformers serve`.

    Args:
        run: folder of the run whose weights it serves.
        folder: where the run is exported to.
        python: interpreter of an environment with fastapi, openai and pydantic.
        port: where it listens.
    """

    def __init__(self, run: Path, folder: Path, python: Path, port: int) -> None:
        exported = folder / "hf"
        api.export(run, exported)
        environment = os.environ | {"PYTHONPATH": sysconfig.get_paths()["purelib"], "HF_HUB_OFFLINE": "1"}
        command = [str(python), "-m", "transformers.cli.transformers", "serve", str(exported), "--device", "cpu"]
        command += ["--continuous-batching", "--port", str(port), "--host", "127.0.0.1", "--log-level", "error"]
        self.port = port
        self._process = subprocess.Popen(command, env=environment, start_new_session=True)

    def wait(self) -> TransformersServer:
        """Wait until it answers.

        Raises:
            RuntimeError: it ended instead.
        """
        while True:
            try:
                asyncio.run(asyncio.wait_for(until_ok(self.port, "/health"), 60))
            except ConnectionRefusedError:
                if self._process.poll() is not None:
                    raise RuntimeError("transformers serve could not be started; see above") from None
                continue
            return self

    def stop(self) -> None:
        """End the server."""
        os.killpg(self._process.pid, signal.SIGTERM)
        self._process.wait(60)
