"""The interface of a compression method."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, ClassVar

from glassgpt.model.config import ModelConfig

if TYPE_CHECKING:  # torch takes seconds to import, and the options of a method are checked before that
    from torch import Tensor

    from glassgpt.model.transformer import LanguageModel

Progress = Callable[[str, int, str], AbstractContextManager[Callable[[int], None]]]
"""(label, total, its unit in the plural) -> a context manager that yields a function to call with the amount just done."""


def uneven_widths(config: ModelConfig, multiple: int) -> str:
    """Return which widths of a block's matrices are not multiples of a number, in words; empty if all are."""
    widths = {"n_embd": config.n_embd, "the MLP's width": config.inner_width}
    if config.attention_width != config.n_embd:
        widths |= {"the heads' width": config.attention_width}
    return " and ".join(f"{name} is {width}" for name, width in widths.items() if width % multiple)


class CompressionMethod(ABC):
    """A compression method with its options, as a frozen dataclass.

    Attributes:
        name: of its option on the command line.
        quantizes: whether it turns weights into integers; only one method of a command may.
        trains: whether the smaller model that it makes is then trained to predict what the original predicts.
        excludes: methods that undo it, by name, with the reason.
    """

    name: ClassVar[str]
    quantizes: ClassVar[bool] = False
    trains: ClassVar[bool] = False
    excludes: ClassVar[Mapping[str, str]] = {}

    @property
    def reads_text(self) -> bool:
        """True if `apply` needs calibration text."""
        return False

    @property
    def label(self) -> str:
        """Short name of the method with its options, for tables."""
        return self.name

    @classmethod
    @abstractmethod
    def variants(cls, config: ModelConfig) -> Sequence[CompressionMethod]:
        """Return the choices of options that `--target` tries with a model; those that do not fit it are left out."""

    @abstractmethod
    def problems(self, config: ModelConfig) -> list[str]:
        """Return why it cannot be applied to a model, one line each; empty if it can."""

    @abstractmethod
    def describe(self) -> str:
        """Return the method and its options in one line, for the lineage and the report."""

    def shrunk(self, config: ModelConfig) -> ModelConfig:
        """Return the shape of the model that `apply` returns."""
        return config

    @abstractmethod
    def apply(self, model: LanguageModel, text: Tensor | None, progress: Progress) -> LanguageModel:
        """Return a compressed copy of a model.

        Args:
            model: in evaluation mode; it is not changed.
            text: (N, T) tokens of the training text if `reads_text`, else None.
            progress: shows progress.
        """
