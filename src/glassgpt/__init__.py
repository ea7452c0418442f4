"""glassgpt: a complete, readable GPT-2.

    m = glassgpt.load("runs/demo")  # a run created by glassgpt train or import
    m.generate("ROMEO:", max_tokens=100)

`load` returns a `LoadedModel`. Its methods `generate`, `stream` and `generate_many` return text; `iterate_many` yields each
text when it is complete; `samples` and `samples_many` also return the tokens and the finish reason; `trace` captures
every activation between a text and its next token. `agenerate`, `agenerate_many`, `aiterate_many` and `astream` are for
coroutines. Keyword arguments are the settings of `GenerationOptions`. `model` and `tokenizer` are its parts. `load_config` reads a preset, a file or a run, and `train` trains:

    glassgpt.train(glassgpt.load_config("tiny", {"data": "data/mine"}), "runs/mine")

`BeamOptions` and `ContrastiveOptions` select decoding strategies other than sampling. Errors that a user can fix are
`GlassGPTError`s. `glassgpt.api` has functions for the other commands (`evaluate`, `doctor`, `sweep_decoding`, …).

Importing this package does not import torch; the first use of something that needs torch does.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from glassgpt.errors import GlassGPTError
from glassgpt.lazy import lazy_attribute

if TYPE_CHECKING:
    from glassgpt import data
    from glassgpt.api import LoadedModel, load, train
    from glassgpt.config import RunConfig, load_config
    from glassgpt.generation.arguments import GenerationArguments
    from glassgpt.generation.engine.output import Completion
    from glassgpt.generation.options import GenerationOptions
    from glassgpt.generation.strategy_options import BeamOptions, ContrastiveOptions

__version__ = "0.1.0"
__all__ = [
    "BeamOptions",
    "Completion",
    "ContrastiveOptions",
    "GenerationArguments",
    "GenerationOptions",
    "GlassGPTError",
    "LoadedModel",
    "RunConfig",
    "__version__",
    "data",
    "load",
    "load_config",
    "train",
]

_MODULES = {
    "BeamOptions": "glassgpt.generation.strategy_options",
    "Completion": "glassgpt.generation.engine.output",
    "ContrastiveOptions": "glassgpt.generation.strategy_options",
    "GenerationArguments": "glassgpt.generation.arguments",
    "GenerationOptions": "glassgpt.generation.options",
    "LoadedModel": "glassgpt.api",
    "load": "glassgpt.api.load_run",
    "train": "glassgpt.api",
    "RunConfig": "glassgpt.config",
    "load_config": "glassgpt.config",
}
_RENAMED = {"Loaded": "LoadedModel"}


def __getattr__(name: str) -> Any:
    if name == "data":
        return import_module("glassgpt.data")
    hint = f"; it is now called {_RENAMED[name]}" if name in _RENAMED else ""
    return lazy_attribute(__name__, _MODULES, name, hint)


def __dir__() -> list[str]:
    return sorted(__all__)
