"""Describe the machine for result files."""

from __future__ import annotations

import platform

import torch

from cpu_parts.machine import cpu_model, package_version, usable_cores


def description() -> dict[str, str | int]:
    """Return names of the processors, and versions."""
    return {
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "cpu": cpu_model(),
        "cores": len(usable_cores()),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "pillow": package_version("pillow"),
    }
