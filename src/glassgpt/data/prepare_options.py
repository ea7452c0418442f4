"""The options of `prepare`, and their checks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from glassgpt.data.code.prepare import code_problems
from glassgpt.data.encodings import is_text_encoding
from glassgpt.data.remarks import NORMALIZATIONS
from glassgpt.data.shard_writer import SHARD_TOKENS
from glassgpt.data.tokenizers.bpe import DEFAULT_PATTERN
from glassgpt.data.tokenizers.custom import is_custom_spec
from glassgpt.data.tokenizers.load import pattern_problem

LEAST_SIMILARITY = 0.5
Contamination = Literal["ignore", "warn", "remove", "refuse"]
Engine = Literal["pool", "ray"]


@dataclass(frozen=True)
class PrepareOptions:
    """Options of `prepare`.

    Attributes:
        sources: see `glassgpt.data.sources.resolve_sources`.
        out: dataset folder to create.
        tokenizer: a name, a path, or KIND:SIZE or MODULE:FUNCTION:SIZE to train one on the training text.
        pattern: how a BPE that is trained splits text into words; see `bpe.PATTERNS`.
        field: field or column that holds the text.
        validation_fraction: share of the documents (or of each one's characters) used for validation.
        validation_sources: sources of the validation text; all of `sources` is then training text.
        split: "document", or "tail" to cut each document.
        seed: of the split and of the grammar's text.
        workers: number of processes (of threads, for little text); 0 means one per core. The result does not depend on it.
        deduplicate: drop exact copies of documents.
        force: replace an existing dataset.
        encoding: encoding of text and JSON files; empty means UTF-8.
        separator: text between two documents of a text file; empty means one document per file.
        normalize: changes made to every text: "nfc" composes characters, "lf" drops carriage returns.
        skip_bad: number of bad rows of JSON, Parquet and hosted datasets that may be skipped.
        follow_links: follow links that lead out of a folder that is a source.
        shard_tokens: tokens per shard file.
        format: "text", or "code" for trees of source code, which are filtered; see `glassgpt.data.code`.
        suffixes: of the files of code to take from folders; empty takes those of `glassgpt.data.code.tree.SUFFIXES`.
        exclude: files and folders of problems whose text must not be in the code.
        near_duplicates: drop documents whose word sequences are this similar to an earlier one's (0.5 to 1); None drops
            none. Of text only: near-duplicates of code are dropped in any case.
        contamination: what to do with training documents that share 13 words in a row with a validation document: "ignore"
            them, "warn", "remove" them, or "refuse" to write the dataset.
        engine: what runs the work: "pool" for processes of this machine, "ray" for Ray. The result does not depend on it.
        ray_address: of a Ray cluster; empty starts one on this machine.
    """

    sources: tuple[str, ...]
    out: Path
    tokenizer: str = "gpt2"
    pattern: str = DEFAULT_PATTERN
    field: str = "text"
    validation_fraction: float = 0.1
    validation_sources: tuple[str, ...] = ()
    split: Literal["document", "tail"] = "document"
    seed: int = 1337
    workers: int = 0
    deduplicate: bool = True
    force: bool = False
    encoding: str = ""
    separator: str = ""
    normalize: tuple[str, ...] = ()
    skip_bad: int = 0
    follow_links: bool = False
    shard_tokens: int = SHARD_TOKENS
    format: Literal["text", "code"] = "text"
    suffixes: tuple[str, ...] = ()
    exclude: tuple[Path, ...] = ()
    near_duplicates: float | None = None
    contamination: Contamination = "ignore"
    engine: Engine = "pool"
    ray_address: str = ""

    def problems(self) -> list[str]:
        """Return every invalid option as one line of text; empty if the options are valid."""
        checks = (
            (bool(self.sources), "no source given; name files, folders, '-', or shakespeare"),
            (
                0 < self.validation_fraction < 1,
                f"validation_fraction is {self.validation_fraction}; it must be between 0 and 1, exclusive",
            ),
            (self.split in ("document", "tail"), f"split is {self.split!r}; it must be 'document' or 'tail'"),
            (self.workers >= 0, f"workers is {self.workers}; it must not be negative"),
            (
                not self.encoding or is_text_encoding(self.encoding),
                f"encoding is {self.encoding!r}, which is unknown; it must be one of Python, such as cp949 or utf-16",
            ),
            (
                all(name in NORMALIZATIONS for name in self.normalize),
                f"normalize is {', '.join(self.normalize)}; it must be of {', '.join(NORMALIZATIONS)}",
            ),
            (self.skip_bad >= 0, f"skip_bad is {self.skip_bad}; it must not be negative"),
            (
                self.near_duplicates is None or LEAST_SIMILARITY <= self.near_duplicates <= 1,
                f"near_duplicates is {self.near_duplicates}; it must be between {LEAST_SIMILARITY} and 1, such as 0.8",
            ),
            (
                self.contamination in get_args(Contamination),
                f"contamination is {self.contamination!r}; it must be one of {', '.join(get_args(Contamination))}",
            ),
            (
                self.engine in get_args(Engine),
                f"engine is {self.engine!r}; it must be one of {', '.join(get_args(Engine))}",
            ),
            (
                not self.ray_address or self.engine == "ray",
                "ray_address is for --engine ray; add that, or leave the address out",
            ),
            (self.shard_tokens > 0, f"shard_tokens is {self.shard_tokens}; it must be positive"),
            (
                not self.validation_sources or self.split == "document",
                "split 'tail' cannot be combined with validation sources; remove one of them",
            ),
            (
                [*self.sources, *self.validation_sources].count("-") < 2,
                "standard input can only be read once; name '-' once",
            ),
        )
        problems = [message for is_valid, message in checks if not is_valid]
        if not is_custom_spec(self.tokenizer) and (problem := pattern_problem(self.tokenizer, self.pattern)):
            problems.append(problem)
        return [*problems, *self._format_problems()]

    def _format_problems(self) -> Iterator[str]:
        return code_problems(
            is_code=self.format == "code",
            sources=self.sources,
            suffixes=self.suffixes,
            tokenizer=self.tokenizer,
            for_code={"suffix": bool(self.suffixes), "exclude": bool(self.exclude)},
            for_text={
                "field": self.field != "text",
                "encoding": bool(self.encoding),
                "separator": bool(self.separator),
                "skip_bad": bool(self.skip_bad),
                "near_duplicates": self.near_duplicates is not None,
                "validation_source": bool(self.validation_sources),
            },
        )

    def recorded(self) -> dict[str, Any]:
        """Return the options that determine the content, as stored in the dataset."""
        names = ("tokenizer", "field", "validation_fraction", "split", "seed", "deduplicate", "shard_tokens")
        names += ("encoding", "separator", "skip_bad", "follow_links")
        names += ("pattern",) if self.pattern != DEFAULT_PATTERN else ()
        names += ("near_duplicates",) if self.near_duplicates is not None else ()
        names += ("contamination",) if self.contamination == "remove" else ()
        lists = {name: list(getattr(self, name)) for name in ("sources", "validation_sources", "normalize")}
        code = {"format": self.format, "suffixes": list(self.suffixes), "exclude": list(map(str, self.exclude))}
        return lists | {name: getattr(self, name) for name in names} | (code if self.format == "code" else {})
