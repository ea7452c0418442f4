"""The manifest of an exported folder: where its weights come from, and the checksum of each file."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

import glassgpt
from glassgpt.data.tokenizers import Tokenizer
from glassgpt.interchange.formats.base import ExportFormat, ExportOptions
from glassgpt.model.transformer import LanguageModel

MANIFEST = "glassgpt-export.json"


@dataclass(frozen=True)
class Origin:
    """The run that a model comes from.

    Attributes:
        run: name of its folder, without the path: an export may be published.
        checkpoint: name of the checkpoint.
        step: number of training steps.
    """

    run: str
    checkpoint: str
    step: int


def weights_fingerprint(model: LanguageModel) -> str:
    """Return the SHA-256 (hex) of the names, shapes and values of all parameters."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_manifest(
    folder: Path,
    model: LanguageModel,
    tokenizer: Tokenizer,
    origin: Origin,
    export_format: ExportFormat,
    options: ExportOptions,
) -> None:
    """Write the manifest of a folder whose other files are complete."""
    content = {
        "format": export_format.name,
        "weights": options.weights,
        "origin": asdict(origin),
        "model": asdict(model.config),
        "weights_sha256": weights_fingerprint(model),
        "tokenizer": {"name": tokenizer.name, "fingerprint": tokenizer.fingerprint},
        "versions": _versions(export_format.packages),
        "files": {
            str(path.relative_to(folder)): {"size": path.stat().st_size, "sha256": _sha256(path)}
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        },
    }
    (folder / MANIFEST).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _versions(packages: tuple[str, ...]) -> dict[str, str]:
    found = {"glassgpt": glassgpt.__version__, "torch": str(torch.__version__)}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # the distribution has another name than the package
            found[package] = "unknown"
    return found


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
