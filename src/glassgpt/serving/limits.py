"""The server's limits: what one client can use, and how long anything may take. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass

from glassgpt.generation.processors.base import CheckedOptions
from glassgpt.schema import setting

SIZES = "Limits of a request"
TIMES = "Load and time limits"


@dataclass(frozen=True)
class ServerLimits(CheckedOptions):
    """Limits that apply to every client; each is a flag of `glassgpt serve`."""

    max_body_bytes: int = setting(4 << 20, help="Largest request body in bytes.", group=SIZES, minimum=1024)
    max_header_bytes: int = setting(16 << 10, help="Largest request header in bytes.", group=SIZES, minimum=1024)
    max_depth: int = setting(
        64, help="Deepest nesting of the JSON in a request, JSON schemas included.", group=SIZES, minimum=4, maximum=256
    )
    max_prompts: int = setting(128, help="Most prompts in a request.", group=SIZES, minimum=1)
    max_samples: int = setting(64, help="Most samples of a prompt (n).", group=SIZES, minimum=1)
    max_stops: int = setting(
        256, help="Most stop strings, stop tokens, choices, banned words or biases.", group=SIZES, minimum=1
    )
    max_total_tokens: int = setting(
        1 << 20,
        help="Most tokens that a request may use: prompts and what may be generated, over all samples.",
        group=SIZES,
        minimum=1,
    )
    max_media: int = setting(16, help="Most pictures and sounds in a request.", group=SIZES, minimum=0)
    max_media_bytes: int = setting(
        20 << 20, help="Largest file that a request names in --media-folder, in bytes.", group=SIZES, minimum=1024
    )
    max_pixels: int = setting(
        25_000_000, help="Most pixels of a picture; one with more is not decoded.", group=SIZES, minimum=1
    )
    max_seconds: float = setting(
        60.0, help="Most seconds of a sound; a longer one is not decoded.", group=SIZES, above=0, maximum=3600
    )
    max_queue: int = setting(
        256, help="Texts that may wait for a slot; beyond, the answer is 429 with Retry-After.", group=TIMES, minimum=0
    )
    max_connections: int = setting(1024, help="Open connections; beyond, the answer is 503.", group=TIMES, minimum=1)
    header_seconds: float = setting(
        10.0, help="Seconds in which a request's header must arrive.", group=TIMES, above=0, maximum=3600
    )
    body_seconds: float = setting(
        30.0, help="Seconds in which a request's body must arrive.", group=TIMES, above=0, maximum=3600
    )
    compile_seconds: float = setting(
        10.0, help="Seconds that compiling a regex or JSON schema may take.", group=TIMES, above=0, maximum=3600
    )
    request_seconds: float = setting(
        600.0, help="Seconds after which a request is ended with an error.", group=TIMES, above=0, maximum=86400
    )
    stuck_seconds: float = setting(
        120.0,
        help="Seconds without progress of the engine after which /health answers 503 and waiting requests get errors.",
        group=TIMES,
        above=0,
        maximum=86400,
    )
    drain_seconds: float = setting(
        30.0, help="Seconds that running requests get to finish after SIGTERM.", group=TIMES, minimum=0, maximum=86400
    )
