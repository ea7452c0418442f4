"""Ids of answers, requests and messages."""

from __future__ import annotations

import os
import random

_source = random.Random(os.urandom(32))


def new_id(prefix: str) -> str:
    """Return a new id. It is unique, but no secret: drawing it costs no system call, as a UUID's would."""
    return f"{prefix}{_source.getrandbits(128):032x}"
