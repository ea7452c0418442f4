"""The list of export formats. Free of torch."""

from __future__ import annotations

import difflib
from pathlib import Path

from glassgpt.errors import UsageError, require_extra
from glassgpt.interchange.formats import ct2, gguf, hf, onnx, peft, pt2, web
from glassgpt.interchange.formats.base import EXTRA, ExportFormat, ExportOptions
from glassgpt.model.config import ModelConfig
from glassgpt.model.lora_config import LoRAConfig

FORMATS: dict[str, ExportFormat] = {
    each.name: each for each in (hf.FORMAT, onnx.FORMAT, gguf.FORMAT, ct2.FORMAT, pt2.FORMAT, web.FORMAT, peft.FORMAT)
}
"""Export formats by name."""


def find_format(name: str) -> ExportFormat:
    """Return a format by its name.

    Raises:
        UsageError: there is none of this name.
    """
    if name in FORMATS:
        return FORMATS[name]
    close = difflib.get_close_matches(name.lower(), FORMATS, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    raise UsageError(f"unknown format {name}; --format must be one of {', '.join(FORMATS)}{hint}")


def export_options(export_format: ExportFormat, weights: str | None, library: Path | None = None) -> ExportOptions:
    """Return the options of an export, with the format's default weights for None.

    Raises:
        UsageError: the format does not have these weights, or uses no library.
    """
    if library is not None and not export_format.takes_library:
        raise UsageError(f"--library is {library}, but {export_format.name} uses none; leave it out")
    if weights is not None and weights not in export_format.weights:
        raise UsageError(f"--weights is {weights}; {export_format.name} has {', '.join(export_format.weights)}")
    return ExportOptions(weights or export_format.weights[0], library)


def require_exportable(
    export_format: ExportFormat, config: ModelConfig, options: ExportOptions, *, check: bool = False
) -> None:
    """Check before torch is loaded that a model can be exported.

    Args:
        export_format: the format.
        config: the model's shape.
        options: of the export.
        check: whether the export will be run in its engine.

    Raises:
        UsageError: the format cannot express the architecture, or cannot be checked here.
        MissingExtraError: a package that the format or its engine needs is not installed.
    """
    if config.plugins:
        raise UsageError(
            f"{export_format.name} cannot express {config.plugins[0]}, which does not compute what {config.arch} does"
        )
    if config.arch not in export_format.architectures:
        others = [each.name for each in FORMATS.values() if config.arch in each.architectures and not each.is_adapter]
        if not others:
            raise UsageError(
                f"no export format can express the architecture {config.arch}: the engines have no operation for its state; "
                "serve it with: glassgpt serve RUN"
            )
        raise UsageError(
            f"{export_format.name} ({export_format.summary}) cannot express the architecture {config.arch}; "
            f"export it with --format {' or '.join(others)}"
        )
    if problem := export_format.problem(config, options):
        raise UsageError(problem)
    for package in export_format.packages:
        require_extra(package, EXTRA, f"export --format {export_format.name}")
    if check and export_format.open_engine is None:
        raise UsageError(f"--check cannot run {export_format.name} from Python; leave it out")
    for package, extra in export_format.engine_packages.items() if check else ():
        require_extra(package, extra, f"export --format {export_format.name} --check")


def require_adapter(export_format: ExportFormat, run: str, lora: LoRAConfig) -> None:
    """Check that a run is an adapter if the format holds one.

    Raises:
        UsageError: it is none.
    """
    if export_format.is_adapter and not lora.rank:
        raise UsageError(f"{run} is not an adapter; export it with --format hf")
