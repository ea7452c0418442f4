"""The reasons of a replay, which the message that ends a run quotes. The catalogue of the diagnosis has their texts."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

FILE = Path(__file__).parents[2] / "diagnosis" / "catalogue" / "reasons.toml"
PLACEHOLDER = re.compile(r"\{(\w+)\}")


def reason_templates() -> dict[str, str]:
    """Return the catalogue's reasons as templates: English with `{}` for each value, Korean with the values by number."""
    reasons = tomllib.loads(FILE.read_text(encoding="utf-8"))
    return dict(_template(**texts) for texts in reasons.values())


def _template(en: str, ko: str) -> tuple[str, str]:
    names = PLACEHOLDER.findall(en)
    return PLACEHOLDER.sub("{}", en), PLACEHOLDER.sub(lambda match: f"{{{names.index(match[1])}}}", ko)
