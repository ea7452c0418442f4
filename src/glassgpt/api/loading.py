"""Loading a run: its model and tokenizer, its dataset, and a draft model."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glassgpt.config import held_out_folder, load_config
from glassgpt.data.shards import TokenDataset
from glassgpt.data.tokenizers import Tokenizer, load_tokenizer
from glassgpt.data.verification import verify_once
from glassgpt.device import pick_device
from glassgpt.errors import GenerationError, TokenizerError
from glassgpt.evaluation.loss import require_same_tokenizer
from glassgpt.generation.decoding_trace import DecodingTrace, generate_with_traces
from glassgpt.generation.engine.output import Sample, TokenChunk
from glassgpt.generation.engine.speculative import SpeculativeDecoding
from glassgpt.generation.options import GenerationOptions, options_from_kwargs
from glassgpt.generation.precision import Precision, prepare_for_decoding
from glassgpt.generation.strategies import (
    DecodingStrategy,
    decode_batch_size,
    generate_samples,
    strategy_defaults,
    stream_samples,
)
from glassgpt.generation.strategy_options import DRAFT_TOKENS, SpeculativeOptions, StrategyOptions
from glassgpt.inspection.trace import Trace, trace
from glassgpt.model.transformer import LanguageModel
from glassgpt.training.checkpoint import find_checkpoint, list_checkpoints, load_model, read_state, resolve_pointer
from glassgpt.training.run_folder import RunFolder


@dataclass(frozen=True)
class LoadedModel:
    """A model with its tokenizer, ready to generate.

    Keyword arguments called `options` are those of `GenerationOptions` (`max_tokens`, `temperature`, `seed`, …).

    Attributes:
        model: in evaluation mode; `model(tokens)` returns logits.
        tokenizer: `tokenizer.encode(text)` and `tokenizer.decode(tokens)`.
        step: number of steps that the model was trained for.
        checkpoint: description of the checkpoint that it was loaded from, for messages.
        precision: of the weights during generation; see `prepare_for_decoding`.
        batch_size: number of sequences at once for which generation is optimized.
    """

    model: LanguageModel
    tokenizer: Tokenizer
    step: int
    precision: Precision = "auto"
    batch_size: int = 1
    checkpoint: str = ""

    @functools.cached_property
    def decoding_model(self) -> LanguageModel:
        """The model prepared for fast generation on its device; created at first use."""
        return prepare_for_decoding(self.model, self.precision, batch_size=self.batch_size)

    def generate(self, prompt: str | None = None, *, strategy: DecodingStrategy | None = None, **options: Any) -> str:
        """Return the continuation of a prompt.

        Args:
            prompt: text to continue; None begins a document.
            strategy: `BeamOptions`, `ContrastiveOptions` or the result of `speculative_decoding`; None samples token by
                token.
            options: generation options.

        Raises:
            GenerationError: the prompt or an option is invalid.
        """
        return self.generate_many([prompt], strategy=strategy, **options)[0]

    def generate_many(
        self, prompts: Sequence[str | None], *, strategy: DecodingStrategy | None = None, **options: Any
    ) -> list[str]:
        """Return the continuation of each prompt, generated together; each is the same as if it were alone."""
        results = self.samples_many(prompts, strategy=strategy, **_single_sample(options))
        return [samples[0].text for samples in results]

    def samples(
        self, prompt: str | None = None, *, strategy: DecodingStrategy | None = None, **options: Any
    ) -> list[Sample]:
        """Return `num_samples` continuations of a prompt with their tokens and finish reasons; see `generate`.

        Beam search returns `best` continuations instead, each a `ScoredSample`.
        """
        return self.samples_many([prompt], strategy=strategy, **options)[0]

    def samples_many(
        self, prompts: Sequence[str | None], *, strategy: DecodingStrategy | None = None, **options: Any
    ) -> list[list[Sample]]:
        """Return several continuations of each prompt; see `samples`."""
        _require_list(prompts)
        parsed = _without_logprobs({**strategy_defaults(strategy), **options})
        return list(generate_samples(self.decoding_model, self.tokenizer, prompts, parsed, strategy))

    def stream(
        self, prompt: str | None = None, *, strategy: DecodingStrategy | None = None, **options: Any
    ) -> Iterator[str]:
        """Yield the continuation piece by piece as it is generated; joined, the pieces are the text of `generate`.

        Args:
            prompt: text to continue; None begins a document.
            strategy: the result of `speculative_decoding`, or None.
            options: generation options.

        Raises:
            GenerationError: the prompt or an option is invalid, or the strategy cannot stream.
        """
        chunks = self.stream_chunks(prompt, strategy=strategy, **_single_sample(options))
        return (chunk.text for chunk in chunks if chunk.text)

    def stream_chunks(
        self, prompt: str | None = None, *, strategy: DecodingStrategy | None = None, **options: Any
    ) -> Iterator[TokenChunk]:
        """Yield all samples of a prompt token by token; see `stream`."""
        parsed = _without_logprobs(options)
        return stream_samples(self.decoding_model, self.tokenizer, prompt, parsed, strategy)

    def explain(self, prompt: str | None = None, *, top: int = 5, **options: Any) -> list[tuple[Sample, DecodingTrace]]:
        """Return continuations, each with the candidates of every token.

        Args:
            prompt: text to continue; None begins a document.
            top: number of the most probable tokens, before and after the logits processors, to report.
            options: generation options.

        Returns:
            Each sample with the log-probabilities of its tokens and of the candidates before and after each processor.

        Raises:
            GenerationError: the prompt or an option is invalid.
        """
        parsed = options_from_kwargs(options)
        return generate_with_traces(self.decoding_model, self.tokenizer, prompt, parsed, top=top)

    def speculative_decoding(
        self, draft: LoadedModel | None = None, *, tokens: int = DRAFT_TOKENS
    ) -> SpeculativeDecoding:
        """Return a strategy that generates the same text in fewer forward passes of this model.

        Args:
            draft: a small model that proposes tokens; None proposes tokens from the text itself.
            tokens: tokens proposed for each forward pass.

        Returns:
            The strategy; its `stats` count proposed and accepted tokens.

        Raises:
            TokenizerError: the draft model has another tokenizer.
        """
        if draft is not None and draft.tokenizer.fingerprint != self.tokenizer.fingerprint:
            raise TokenizerError(
                f"the draft model's tokenizer ({draft.tokenizer.name}) differs from the model's "
                f"({self.tokenizer.name}); use a draft model that was trained on data prepared with the same tokenizer"
            )
        return SpeculativeDecoding(draft.decoding_model if draft is not None else None, tokens)

    def trace(self, text: str | None = None, **options: Any) -> Trace:
        """Return every activation between a text and its next token, by name; see `inspection.trace`.

        Args:
            text: None stands for the token that begins a document.
            options: generation options, whose logits processors are applied to the next token's logits.

        Raises:
            InspectionError: the text is empty or too long.
            GenerationError: an option is invalid.
        """
        return trace(self.model, self.tokenizer, text, options_from_kwargs(options))


def _single_sample(options: dict[str, Any]) -> dict[str, Any]:
    if (count := options.get("num_samples", 1)) != 1:
        raise GenerationError(
            f"num_samples is {count}, but this method returns one text; use samples(…) or stream_chunks(…)"
        )
    return options


def _without_logprobs(options: dict[str, Any]) -> GenerationOptions:
    parsed = options_from_kwargs(options)
    if parsed.logprobs:
        raise GenerationError(
            f"logprobs is {parsed.logprobs}, but this method returns none; use explain(…, top={parsed.logprobs})"
        )
    return parsed


def _require_list(prompts: object) -> None:
    if isinstance(prompts, str):
        raise GenerationError(
            f"prompts is the string {prompts!r}; it must be a list of strings; for a single prompt use generate(…)"
        )


def load(
    run: str | Path,
    *,
    checkpoint: str = "best",
    device: str = "auto",
    precision: Precision = "auto",
    batch_size: int = 1,
) -> LoadedModel:
    """Load a run's model.

    Args:
        run: the run's folder.
        checkpoint: `best` (the latest, if none was validated), `latest`, or `step-NNNNNN`, a checkpoint or snapshot.
        device: `auto`, `cpu`, `cuda` or `mps`.
        precision: of the weights during generation: `auto`, `float32`, `bfloat16` or `int8`.
        batch_size: number of sequences at once for which generation is optimized.

    Raises:
        CheckpointError: the run or the checkpoint does not exist, or the checkpoint is damaged.
        TokenizerError: the run's tokenizer is not the one that the model was trained with.
    """
    folder = RunFolder(Path(run)).require()
    path = find_checkpoint(folder, checkpoint)
    state = read_state(path)
    tokenizer = load_tokenizer(folder.tokenizer)
    if tokenizer.fingerprint != state.tokenizer_fingerprint:
        raise TokenizerError(f"{folder.tokenizer} is not the tokenizer that {path.name} was trained with")
    model = load_model(path).to(pick_device(device))
    return LoadedModel(model, tokenizer, state.step, precision, batch_size, _described(folder, path))


def _described(run: RunFolder, checkpoint: Path) -> str:
    """Return which checkpoint of a run this is, such as `step-000250, the best; the newest is step-000446`."""
    newest = next(reversed(list_checkpoints(run)), None)
    best = resolve_pointer(run, "best")
    roles = [name for name, path in (("best", best), ("newest", newest)) if path == checkpoint]
    role = f", the {' and '.join(roles)}" if roles else ", a snapshot" if checkpoint.parent == run.snapshots else ""
    described = checkpoint.name + role
    return described if newest in (checkpoint, None) else f"{described}; the newest is {newest.name}"


def load_for_generation(
    run: str | Path,
    options: GenerationOptions,
    strategy: StrategyOptions | None,
    n_prompts: int,
    checkpoint: str,
    device: str,
    precision: Precision,
) -> tuple[LoadedModel, DecodingStrategy | None]:
    """Load a run's model, optimized for the workload, and the draft model if there is one.

    Args:
        run: see `load`, as are `checkpoint`, `device` and `precision`.
        options: generation options.
        strategy: None samples token by token.
        n_prompts: number of prompts.

    Raises:
        GlassGPTError: see `load` and `LoadedModel.speculative_decoding`.
    """
    n_texts = n_prompts * options.num_samples
    batch_size = decode_batch_size(n_texts, strategy)
    loaded = load(run, checkpoint=checkpoint, device=device, precision=precision, batch_size=batch_size)
    if not isinstance(strategy, SpeculativeOptions):
        return loaded, strategy
    draft = None if strategy.draft is None else load(strategy.draft, device=device, batch_size=n_texts)
    return loaded, loaded.speculative_decoding(draft, tokens=strategy.draft_tokens)


def held_out_dataset(run: str | Path, tokenizer: Tokenizer) -> TokenDataset | None:
    """Return the dataset that a run was trained on, or None if it no longer exists or uses another tokenizer."""
    folder = load_config(Path(run)).data
    if not folder or not Path(folder).is_dir():
        return None
    dataset = TokenDataset.open(Path(folder))
    return dataset if dataset.tokenizer_fingerprint == tokenizer.fingerprint else None


def load_with_dataset(
    run: str | Path,
    data: Path | None = None,
    *,
    checkpoint: str = "best",
    device: str = "auto",
    batch_size: int = 1,
) -> tuple[LoadedModel, TokenDataset]:
    """Load a run's model, and a dataset to evaluate it on.

    Args:
        run: the run's folder.
        data: folder of the dataset; None takes the one that the run was trained on.
        checkpoint: see `load`, as are `device` and `batch_size`.

    Raises:
        UsageError: the run names no dataset, or one that no longer exists.
        TokenizerError: the dataset was prepared with another tokenizer than the model's.
        GlassGPTError: see `load` and `TokenDataset.open`.
    """
    RunFolder(Path(run)).require()
    dataset = TokenDataset.open(held_out_folder(Path(run), data))
    loaded = load(run, checkpoint=checkpoint, device=device, batch_size=batch_size)
    require_same_tokenizer(loaded.tokenizer.fingerprint, dataset)
    verify_once(dataset, ("validation",))
    return loaded, dataset
