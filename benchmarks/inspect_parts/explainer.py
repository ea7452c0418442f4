"""Download sizes of Transformer Explainer, from its repository: it runs in the browser, with GPT-2 only."""

from __future__ import annotations

from typing import Any

COMMIT = "6e2ec372b1d7c73d3cf82704ec0b878522fc4085"
"""Commit of github.com/poloclub/transformer-explainer, 27 February 2026."""
PARTS = 63
PART_BYTES = 10 << 20
"""The model is split into parts of 10 MiB; the last may be smaller (`src/utils/model/chunk.py`)."""


def explainer_rows() -> list[dict[str, Any]]:
    """Return the sizes of the program, its runtime and its model; nothing was timed."""
    return [
        _row("program", 9_538_175, "JavaScript and CSS of a production build, uncompressed (2,992,393 with gzip); "
             "built with vite 6.3, because the locked vite 5 does not load the locked Svelte plugin"),
        _row("runtime", 23_696_346, "ort-wasm-simd-threaded.jsep.wasm of onnxruntime-web 1.23.0, from a CDN"),
        _row("model", (PARTS - 1) * PART_BYTES, "62 of its 63 parts of 10 MiB; the last may be smaller"),
    ]  # fmt: skip


def _row(what: str, size: int, settings: str) -> dict[str, Any]:
    unmeasured = dict.fromkeys(("threads", "clock", "seconds", "least", "most"))
    details = f"commit {COMMIT}; {settings}"
    return {"what": what, "system": "Transformer Explainer", "bytes": size, "settings": details, **unmeasured}
