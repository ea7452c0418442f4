"""Settings, declared once as dataclass fields, and checks of values by type hints."""

from __future__ import annotations

from glassgpt.schema.settings import (
    Setting,
    convert,
    did_you_mean,
    parse_text,
    range_errors,
    setting,
    settings_of,
    type_errors,
)
from glassgpt.schema.type_hints import describe_type, matches

__all__ = [
    "Setting",
    "convert",
    "describe_type",
    "did_you_mean",
    "matches",
    "parse_text",
    "range_errors",
    "setting",
    "settings_of",
    "type_errors",
]
