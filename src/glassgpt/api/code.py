"""Fill gaps in source code."""

from __future__ import annotations

from typing import Unpack

from glassgpt.api.loaded_model import LoadedModel
from glassgpt.code.completion import Candidate, CodeModel, fill_gap
from glassgpt.code.gap import Extent, Gap
from glassgpt.generation.arguments import GenerationArguments
from glassgpt.generation.options import options_from_kwargs


def complete(
    model: LoadedModel,
    prefix: str,
    suffix: str = "",
    *,
    extent: Extent = "block",
    name: str = "",
    **options: Unpack[GenerationArguments],
) -> list[Candidate]:
    """Return texts for a gap between two texts, the best first.

    Args:
        model: of a run whose tokenizer has the special tokens of fill-in-the-middle; for another one, the suffix only orders the texts.
        prefix: the text before the gap.
        suffix: the text after it.
        extent: what a text fills at most: `block`, `line`, or `document` for all that the model writes.
        name: of the file; whether candidates are valid is checked if it ends in .py.
        options: generation options; `num_samples` texts are generated, of which equal ones are returned once.

    Raises:
        GenerationError: an option is invalid.
    """
    code = CodeModel(model.model, model.decoding_model, model.tokenizer)
    return fill_gap(code, Gap(prefix, suffix), options_from_kwargs(options), extent=extent, name=name)
