"""Compression methods, one file each. The files are free of torch until a method is applied.

A new method is a file here and a line in `METHODS`. `glassgpt compress` gives it an option, and `report.py` measures
what it costs.
"""

from __future__ import annotations

from collections.abc import Sequence

from glassgpt.compression.methods.base import CompressionMethod
from glassgpt.compression.methods.distil import Distil
from glassgpt.compression.methods.int4 import Int4
from glassgpt.compression.methods.int8 import Int8
from glassgpt.compression.methods.prune import Prune
from glassgpt.compression.methods.sparsity import Sparsity
from glassgpt.errors import UsageError
from glassgpt.model.config import ModelConfig

METHODS: tuple[type[CompressionMethod], ...] = (Distil, Prune, Sparsity, Int8, Int4)
"""All methods, in the order in which those of one command are applied: weights are quantized last."""


def in_order(methods: Sequence[CompressionMethod]) -> list[CompressionMethod]:
    """Return methods in the order in which they are applied."""
    return sorted(methods, key=lambda method: METHODS.index(type(method)))


def check_methods(methods: Sequence[CompressionMethod], config: ModelConfig, *, trains: bool = True) -> None:
    """Check that methods can be applied to a model, and together.

    Args:
        methods: the methods.
        config: the shape of the model.
        trains: whether the model is trained after a method that asks for it.

    Raises:
        UsageError: lists all problems; or there is no method.
    """
    if not methods:
        names = ", ".join(f"--{method.name}" for method in METHODS)
        raise UsageError(f"no compression method is given; choose from {names}")
    quantizers = [method.name for method in methods if method.quantizes]
    if len(quantizers) > 1:
        raise UsageError(f"--{quantizers[0]} and --{quantizers[1]} cannot be combined; choose one")
    trained = [method.name for method in methods if method.trains and trains]
    others = [method.name for method in in_order(methods) if not method.trains]
    if trained and others:
        raise UsageError(
            f"--{trained[0]} trains its model, which --{others[0]} cannot be combined with; "
            f"compress its result with --{others[0]}, or add --no-training"
        )
    for method in methods:
        for name in others:
            if name in method.excludes:
                raise UsageError(f"--{method.name} and --{name} cannot be combined: {method.excludes[name]}")
    problems = [problem for method in methods for problem in method.problems(config)]
    if problems:
        raise UsageError("\n".join(problems))
