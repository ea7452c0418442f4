"""glassgpt: a complete GPT-2 that one can see through.

    m = glassgpt.load("runs/demo")  # a run that glassgpt train or import made
    m.generate("ROMEO:", max_tokens=100)

`load` gives a `LoadedModel`: `generate`, `stream` and `generate_many` write, `samples` and `samples_many` also tell tokens and
why each text ended, `trace` shows everything between a text and its next token, `model` and `tokenizer` are the parts.
`load_config` reads a preset, a file or a run, and `train` makes a run of it:

    glassgpt.train(glassgpt.load_config("tiny", {"data": "data/mine"}), "runs/mine")

`BeamOptions` and `ContrastiveOptions` are ways to write other than drawing; whatever a user can mend is a
`GlassGPTError`. What else the commands do is in `glassgpt.api` (`evaluate`, `doctor`, `sweep_decoding`, …).

Importing this package does not import torch; the first use of something that needs it does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glassgpt.errors import GlassGPTError

if TYPE_CHECKING:
    from glassgpt import data
    from glassgpt.api import LoadedModel, load, train
    from glassgpt.config import RunConfig, load_config
    from glassgpt.generation.strategy_options import BeamOptions, ContrastiveOptions

__version__ = "0.1.0"
__all__ = [
    "BeamOptions",
    "ContrastiveOptions",
    "GlassGPTError",
    "LoadedModel",
    "RunConfig",
    "__version__",
    "data",
    "load",
    "load_config",
    "train",
]

_LAZY = {
    "BeamOptions": "glassgpt.generation.strategy_options",
    "ContrastiveOptions": "glassgpt.generation.strategy_options",
    "LoadedModel": "glassgpt.api",
    "load": "glassgpt.api",
    "train": "glassgpt.api",
    "RunConfig": "glassgpt.config",
    "load_config": "glassgpt.config",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name == "data":
        return import_module("glassgpt.data")
    if name not in _LAZY:
        raise AttributeError(f"module 'glassgpt' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
