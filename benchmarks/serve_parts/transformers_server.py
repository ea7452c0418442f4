"""`transformers serve` with continuous batching, on the weights of a run.

Its libraries (`transformers[serving]`) are those of another environment; transformers and PyTorch are those of this one.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sysconfig
import time
from pathlib import Path

from glassgpt import api
from serve_parts.load import get

NAME = "transformers serve, continuous batching"
START_SECONDS = 180


class TransformersServer:
    """A running `transformers serve`.

    Args:
        run: folder of the run whose weights it serves.
        folder: where the run is exported to.
        python: interpreter of an environment with fastapi, openai and pydantic.
        port: where it listens.

    Attributes:
        fields: changes of a request's fields to its own form.
    """

    def __init__(self, run: Path, folder: Path, python: Path, port: int) -> None:
        exported = folder / "hf"
        api.export(run, exported)
        environment = os.environ | {"PYTHONPATH": sysconfig.get_paths()["purelib"], "HF_HUB_OFFLINE": "1"}
        command = [str(python), "-m", "transformers.cli.transformers", "serve", str(exported), "--device", "cpu"]
        command += ["--continuous-batching", "--port", str(port), "--host", "127.0.0.1", "--log-level", "error"]
        self.port = port
        self.fields = {
            "model": str(exported), "top_k": None, "ignore_eos": None, "stream_options": None,
            "generation_config": json.dumps({"do_sample": True, "top_k": 50, "eos_token_id": None}),
        }  # fmt: skip
        self._process = subprocess.Popen(command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL)

    def wait(self) -> TransformersServer:
        """Wait until it answers.

        Raises:
            RuntimeError: it ended instead.
        """
        ends = time.monotonic() + START_SECONDS
        while self._process.poll() is None and time.monotonic() < ends:
            try:
                if asyncio.run(get(self.port, "/health"))[0] == 200:
                    return self
            except ConnectionRefusedError:
                time.sleep(0.2)
        self.stop()
        raise RuntimeError(f"transformers serve did not start within {START_SECONDS} seconds; see above")

    def stop(self) -> None:
        """End the server."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:  # it waits for its generation thread
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
