"""The options of `prepare --format multimodal`, and their checks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

from glassgpt.data.tokenizers import is_training_spec
from glassgpt.data.tokenizers.bpe import DEFAULT_PATTERN
from glassgpt.data.tokenizers.custom import is_custom_spec
from glassgpt.data.tokenizers.load import MIN_VOCAB_SIZE, pattern_problem
from glassgpt.multimodal.audio_files import MAX_SECONDS
from glassgpt.multimodal.image_files import MAX_PIXELS, PILLOW_PIXELS, Fit
from glassgpt.multimodal.media import BEGIN_TOKENS, Geometry

MAX_ROW_TOKENS = 1 << 20


@dataclass(frozen=True)
class MultimodalOptions:
    """Options of `prepare --format multimodal`.

    Attributes:
        sources: files of rows (JSON, one per line), folders of pictures and sounds, and files of text; see
            `glassgpt.multimodal.sources` and `glassgpt.multimodal.folders`.
        out: dataset folder to create.
        tokenizer: a name, a path, or bpe:SIZE to train one on the training text; it gets the begin tokens.
        pattern: how a BPE that is trained splits text into words.
        geometry: how media become positions.
        fit: how pictures become square.
        max_pixels: pictures with more pixels are refused.
        max_seconds: longer sounds are refused.
        row_tokens: positions that a model reads of a row; 0 chooses by the longest document.
        chat_template: file of a Jinja template that writes conversations; None takes that of the run whose tokenizer is used,
            or writes a plain transcript.
        validation_fraction: share of the documents used for validation.
        validation_sources: sources of the documents to validate on; all of `sources` is then for training.
        seed: of the split, and of the order of documents in rows.
        workers: number of threads that decode; 0 means one per core. The result does not depend on it.
        deduplicate: drop exact copies of documents.
        skip_bad: number of bad rows and files that may be skipped.
        follow_links: follow links that lead out of a folder that is a source.
        force: replace an existing dataset.
    """

    sources: tuple[str, ...]
    out: Path
    tokenizer: str = "gpt2"
    pattern: str = DEFAULT_PATTERN
    geometry: Geometry = field(default_factory=Geometry)
    fit: Fit = "pad"
    max_pixels: int = MAX_PIXELS
    max_seconds: float = MAX_SECONDS
    row_tokens: int = 0
    chat_template: Path | None = None
    validation_fraction: float = 0.1
    validation_sources: tuple[str, ...] = ()
    seed: int = 1337
    workers: int = 0
    deduplicate: bool = True
    skip_bad: int = 0
    follow_links: bool = False
    force: bool = False

    def problems(self) -> list[str]:
        """Return every invalid option as one line of text; empty if the options are valid."""
        checks = (
            (bool(self.sources), "no source given; name files of rows, or folders of pictures and sounds"),
            (
                0 < self.validation_fraction < 1,
                f"validation_fraction is {self.validation_fraction}; it must be between 0 and 1, exclusive",
            ),
            (self.fit in get_args(Fit), f"fit is {self.fit!r}; it must be one of {', '.join(get_args(Fit))}"),
            (
                1 <= self.max_pixels <= PILLOW_PIXELS,
                f"max_pixels is {self.max_pixels}; it must be from 1 to {PILLOW_PIXELS}",
            ),
            (0 < self.max_seconds <= 3600, f"max_seconds is {self.max_seconds}; it must be above 0 and at most 3600"),
            (
                self.row_tokens == 0 or 2 <= self.row_tokens <= MAX_ROW_TOKENS,
                f"row_tokens is {self.row_tokens}; it must be from 2 to {MAX_ROW_TOKENS}, or 0",
            ),
            (self.workers >= 0, f"workers is {self.workers}; it must not be negative"),
            (self.skip_bad >= 0, f"skip_bad is {self.skip_bad}; it must not be negative"),
        )
        problems = [message for is_valid, message in checks if not is_valid]
        return [*problems, *self.geometry.problems(), *self._tokenizer_problems()]

    def _tokenizer_problems(self) -> Iterator[str]:
        if not is_custom_spec(self.tokenizer) and (problem := pattern_problem(self.tokenizer, self.pattern)):
            yield problem
        is_other_training = is_training_spec(self.tokenizer) and not self.tokenizer.startswith("bpe:")
        if self.tokenizer == "bytes" or is_other_training or is_custom_spec(self.tokenizer):
            yield (
                f"the tokenizer {self.tokenizer} cannot have the special tokens of pictures and sound; use bpe:SIZE, or gpt2"
            )
        size, least = self.tokenizer.partition(":")[2], MIN_VOCAB_SIZE + len(BEGIN_TOKENS)
        if self.tokenizer.startswith("bpe:") and size.isdecimal() and int(size) < least:
            yield f"the tokenizer is {self.tokenizer}; with pictures and sound its SIZE must be at least {least}"

    def recorded(self) -> dict[str, Any]:
        """Return the options that determine the content, as stored in the dataset."""
        names = ("tokenizer", "fit", "max_pixels", "max_seconds", "row_tokens", "validation_fraction", "seed")
        names += ("deduplicate", "skip_bad", "follow_links")
        names += ("pattern",) if self.pattern != DEFAULT_PATTERN else ()
        lists = {name: list(getattr(self, name)) for name in ("sources", "validation_sources")}
        template = None if self.chat_template is None else str(self.chat_template)
        fixed = {"format": "multimodal", "geometry": asdict(self.geometry), "chat_template": template}
        return fixed | lists | {name: getattr(self, name) for name in names}
