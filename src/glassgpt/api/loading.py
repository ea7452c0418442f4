"""A model that is ready to be used, and what goes with it: its tokenizer, its data, a second model that guesses."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glassgpt.config import load_config
from glassgpt.data.shards import TokenDataset
from glassgpt.data.tokenizers import Tokenizer, load_tokenizer
from glassgpt.device import pick_device
from glassgpt.errors import GenerationError, TokenizerError, UsageError
from glassgpt.evaluation.loss import require_same_tokenizer
from glassgpt.generation.decoding_trace import DecodingTrace, explain
from glassgpt.generation.engine.generate import stream
from glassgpt.generation.engine.output import Sample, TokenChunk
from glassgpt.generation.engine.speculative import SpeculativeDecoding
from glassgpt.generation.options import GenerationOptions, options_from_kwargs
from glassgpt.generation.precision import Precision, prepare_for_decoding
from glassgpt.generation.strategies import DecodingStrategy, decode_batch_size, strategy_defaults, write
from glassgpt.generation.strategy_options import DRAFT_TOKENS, SpeculativeOptions, StrategyOptions
from glassgpt.inspection.trace import Trace, trace
from glassgpt.model.transformer import LanguageModel
from glassgpt.training.checkpoint import find_checkpoint, load_model, read_state
from glassgpt.training.run_folder import RunFolder


@dataclass(frozen=True)
class LoadedModel:
    """A model that is ready to be used, with the tokenizer that it speaks.

    Attributes:
        model: in evaluation mode; `model(tokens)` gives logits.
        tokenizer: `tokenizer.encode(text)` and `tokenizer.decode(tokens)`.
        step: how many steps it was trained for.
        precision: of the weights while it writes; see `prepare_for_decoding`.
        rows: texts at once that writing is made fast for.
    """

    model: LanguageModel
    tokenizer: Tokenizer
    step: int
    precision: Precision = "auto"
    rows: int = 1

    @functools.cached_property
    def writer(self) -> LanguageModel:
        """The model's twin that writes fastest on this machine, made when it is first needed."""
        return prepare_for_decoding(self.model, self.precision, batch_size=self.rows)

    def generate(self, prompt: str | None = None, *, method: DecodingStrategy | None = None, **options: Any) -> str:
        """The continuation of a prompt.

        Args:
            prompt: text to continue; None begins a document.
            method: `BeamOptions`, `ContrastiveOptions` or what `speculation` makes; None draws token by token.
            options: of `GenerationOptions` (`max_tokens`, `seed`, …).

        Raises:
            GenerationError: the prompt or an option cannot be used.
        """
        return self.generate_many([prompt], method=method, **options)[0]

    def generate_many(
        self, prompts: Sequence[str | None], *, method: DecodingStrategy | None = None, **options: Any
    ) -> list[str]:
        """The continuation of each prompt, written together, each as if it were alone; see `generate`."""
        results = self.samples_many(prompts, method=method, **_of_one_sample(options))
        return [samples[0].text for samples in results]

    def samples(
        self, prompt: str | None = None, *, method: DecodingStrategy | None = None, **options: Any
    ) -> list[Sample]:
        """Several continuations with their tokens and finish reasons; see `generate`.

        By beam search the `best` that were found, each a `ScoredSample`.
        """
        return self.samples_many([prompt], method=method, **options)[0]

    def samples_many(
        self, prompts: Sequence[str | None], *, method: DecodingStrategy | None = None, **options: Any
    ) -> list[list[Sample]]:
        """Several continuations of each prompt; see `samples`."""
        _require_list(prompts)
        asked = _without_logprobs({**strategy_defaults(method), **options})
        return list(write(self.writer, self.tokenizer, prompts, asked, method))

    def stream(
        self, prompt: str | None = None, *, speculation: SpeculativeDecoding | None = None, **options: Any
    ) -> Iterator[str]:
        """The continuation piece by piece, as it comes; joined, the pieces are `generate`'s text."""
        pieces = self.pieces(prompt, speculation=speculation, **_of_one_sample(options))
        return (piece.text for piece in pieces if piece.text)

    def pieces(
        self, prompt: str | None = None, *, speculation: SpeculativeDecoding | None = None, **options: Any
    ) -> Iterator[TokenChunk]:
        """All samples piece by piece, with their tokens."""
        return stream(self.writer, self.tokenizer, prompt, _without_logprobs(options), speculation)

    def explain(self, prompt: str | None = None, *, top: int = 5, **options: Any) -> list[tuple[Sample, DecodingTrace]]:
        """Continuations, and what each of their tokens was chosen from.

        Args:
            prompt: text to continue; None begins a document.
            top: of how many of the most probable tokens it is told, before and after the processors.
            options: of `GenerationOptions`.

        Returns:
            Each sample with the log-probabilities of its tokens and of the candidates, raw and after each processor.

        Raises:
            GenerationError: the prompt or an option cannot be used.
        """
        return explain(self.writer, self.tokenizer, prompt, options_from_kwargs(options), top=top)

    def speculation(self, draft: LoadedModel | None = None, *, tokens: int = DRAFT_TOKENS) -> SpeculativeDecoding:
        """A method for `generate` that writes the same text in fewer passes of this model.

        Args:
            draft: a small model that guesses; None looks for guesses in the text itself.
            tokens: guesses for each pass.

        Returns:
            Also counts, in its `stats`, how many guesses were right.

        Raises:
            TokenizerError: the small model speaks other tokens.
        """
        if draft is not None and draft.tokenizer.fingerprint != self.tokenizer.fingerprint:
            raise TokenizerError(
                f"the draft model's tokenizer is another ({draft.tokenizer.name}) than the model's "
                f"({self.tokenizer.name}), so it cannot guess tokens; train it on data that was prepared with the same one"
            )
        return SpeculativeDecoding(draft.writer if draft is not None else None, tokens)

    def trace(self, text: str | None = None, **options: Any) -> Trace:
        """Everything that the model computes between a text and its next token, by name; see `inspection.trace`.

        Args:
            text: without one, the token that begins a document.
            options: those of `GenerationOptions`, whose processors the next token passes.

        Raises:
            InspectionError: the text is empty or too long.
            GenerationError: an option cannot be used.
        """
        return trace(self.model, self.tokenizer, text, options_from_kwargs(options))


def _of_one_sample(options: dict[str, Any]) -> dict[str, Any]:
    if (asked := options.get("num_samples", 1)) != 1:
        raise GenerationError(
            f"num_samples is {asked}, and one text is given back here; ask for several with samples(…) or pieces(…)"
        )
    return options


def _without_logprobs(options: dict[str, Any]) -> GenerationOptions:
    asked = options_from_kwargs(options)
    if asked.logprobs:
        raise GenerationError(
            f"logprobs is {asked.logprobs}, and these texts carry none; ask with explain(…, top={asked.logprobs})"
        )
    return asked


def _require_list(prompts: object) -> None:
    if isinstance(prompts, str):
        raise GenerationError(
            f"prompts is the text {prompts!r}; give a list of texts, or use the method for one prompt"
        )


def load(
    run: str | Path, *, checkpoint: str = "best", device: str = "auto", precision: Precision = "auto", rows: int = 1
) -> LoadedModel:
    """Load a run's model.

    Args:
        run: the run's folder.
        checkpoint: `best` (the newest, where none was validated), `latest`, or `step-NNNNNN`.
        device: `auto`, `cpu`, `cuda` or `mps`.
        precision: of the weights while it writes: `auto`, `float32`, `bfloat16` or `int8`.
        rows: texts at once that writing is made fast for.

    Raises:
        CheckpointError: there is no run, no such checkpoint, or it is damaged.
        TokenizerError: the run's tokenizer is not the one that the model was trained with.
    """
    folder = RunFolder(Path(run)).require()
    path = find_checkpoint(folder, checkpoint)
    state = read_state(path)
    tokenizer = load_tokenizer(folder.tokenizer)
    if tokenizer.fingerprint != state.tokenizer_fingerprint:
        raise TokenizerError(f"{folder.tokenizer} is not the tokenizer that {path.name} was trained with")
    model = load_model(path).to(pick_device(device))
    return LoadedModel(model, tokenizer, state.step, precision, rows)


def load_for_generation(
    run: str | Path,
    options: GenerationOptions,
    method: StrategyOptions | None,
    prompts: int,
    checkpoint: str,
    device: str,
    precision: Precision,
) -> tuple[LoadedModel, DecodingStrategy | None]:
    """Load what a generation needs: the run's model, made fast for it, and the model that guesses, if one is to.

    Args:
        run: see `load`, as are `checkpoint`, `device` and `precision`.
        options: of the generation.
        method: how it is written.
        prompts: how many.

    Raises:
        GlassGPTError: see `load` and `LoadedModel.speculation`.
    """
    rows = decode_batch_size(prompts * options.num_samples, method)
    loaded = load(run, checkpoint=checkpoint, device=device, precision=precision, rows=rows)
    if not isinstance(method, SpeculativeOptions):
        return loaded, method
    draft = None if method.draft is None else load(method.draft, device=device, rows=prompts * options.num_samples)
    return loaded, loaded.speculation(draft, tokens=method.draft_tokens)


def held_out_text(run: str | Path, tokenizer: Tokenizer) -> TokenDataset | None:
    """The data set that a run was trained on, if it is still there and speaks the same tokens."""
    folder = load_config(Path(run)).data
    if not folder or not Path(folder).is_dir():
        return None
    dataset = TokenDataset.open(Path(folder))
    return dataset if dataset.tokenizer_fingerprint == tokenizer.fingerprint else None


def load_with_dataset(
    run: str | Path, data: Path | None = None, *, checkpoint: str = "best", device: str = "auto", rows: int = 1
) -> tuple[LoadedModel, TokenDataset]:
    """A run's model, and a data set to measure it on.

    Args:
        run: the run's folder.
        data: the data set; None takes the one that the run was trained on.
        checkpoint: see `load`, as are `device` and `rows`.

    Raises:
        UsageError: the run names no data, or one that is not there any more.
        TokenizerError: the data set was made with another tokenizer than the model's.
        GlassGPTError: see `load` and `TokenDataset.open`.
    """
    loaded = load(run, checkpoint=checkpoint, device=device, rows=rows)
    folder = data or load_config(Path(run)).data
    if not folder:
        raise UsageError(f"{run} was not trained here and names no data; give a data set with --data DIR")
    if data is None and not Path(folder).is_dir():
        raise UsageError(f"{run} was trained on {folder}, which is not there any more; say where it is with --data DIR")
    dataset = TokenDataset.open(Path(folder))
    require_same_tokenizer(loaded.tokenizer.fingerprint, dataset)
    return loaded, dataset
