"""Run the main commands of an installed glassgpt from an empty folder: `make test-dist`.

It is run by the Python of an environment into which only the wheel was installed, without extras.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

COMMANDS = (
    ("prepare grammar --out data --tokenizer bpe:300", "wrote the dataset data"),
    ("train nano --data data --out run --train.max-steps 20 --train.device cpu", "bits per byte"),
    ("generate run --prompt today --max-tokens 10 --seed 1", "today"),
    ("evaluate run", "perplexity"),
    ("inspect run --prompt today --text", "Next token"),
    ("inspect run --prompt today --save page.html", "wrote page.html"),
    ("doctor run --report", "wrote run/report.html"),
    ("doctor GG-NAN-002", "GG-NAN-002"),
    ("generate run --settings creative --max-tokens 5", "checkpoint"),
    ("config list", "gpt2"),
    ("export run exported", "wrote exported"),
)  # fmt: skip
"""Command lines, and a text that each must print."""


def main() -> None:
    """Run every command; exit with the output of the first one that fails."""
    command = Path(sysconfig.get_path("scripts")) / "glassgpt"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    with tempfile.TemporaryDirectory() as folder:
        for arguments, expected in COMMANDS:
            print(f"$ glassgpt {arguments}", flush=True)  # noqa: T201 - a script
            done = subprocess.run(
                [command, *arguments.split()], cwd=folder, env=environment, capture_output=True, text=True
            )
            if done.returncode or expected not in done.stdout + done.stderr:
                sys.exit(f"exit code {done.returncode}, expected {expected!r}:\n{done.stdout}\n{done.stderr}")
        typed = Path(sysconfig.get_path("purelib"), "glassgpt", "py.typed")
        if not typed.is_file():
            sys.exit(f"{typed} is missing: the wheel is not installed in {sys.prefix}, or lacks it")


if __name__ == "__main__":
    main()
