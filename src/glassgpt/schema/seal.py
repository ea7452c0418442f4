"""The checksum in the last line of a run's `config.toml`, which tells damage and edits."""

import hashlib
import re
from pathlib import Path

from glassgpt.errors import ConfigError


def sealed(text: str) -> str:
    """Return the content of a run's `config.toml` with its checksum as the last line."""
    return f"{text}# sha256 {hashlib.sha256(text.encode()).hexdigest()}\n"


def check_seal(path: Path, content: bytes) -> None:
    """Compare a configuration with the checksum in its last line, if it has one; see `sealed`.

    Raises:
        ConfigError: it is another one.
    """
    seal = re.search(rb"# sha256 ([0-9a-f]{64})\s*\Z", content)
    if seal and hashlib.sha256(content[: seal.start()]).hexdigest().encode() != seal[1]:
        raise ConfigError(
            [
                f"{path} does not match the checksum in its last line: it is damaged, or was edited; "
                "if you edited it, delete that line"
            ]
        )
