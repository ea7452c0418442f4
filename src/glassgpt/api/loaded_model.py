"""A trained model and its tokenizer in memory: generates text, explains it and records activations."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from glassgpt.api.async_generation import AsyncGeneration
from glassgpt.api.checked_options import as_list, require_text, require_texts, single_sample, without_logprobs
from glassgpt.api.multimodal import (
    MediaInput,
    PromptInput,
    encoded_prompts,
    media_before,
    prompt_with_media,
    text_of,
)
from glassgpt.api.releasing import ReleasingIterator
from glassgpt.data.tokenizers import Tokenizer
from glassgpt.errors import GenerationError, WrongTokenizerError
from glassgpt.generation.arguments import GenerationArguments
from glassgpt.generation.decoding_trace import DecodingTrace, generate_with_traces
from glassgpt.generation.engine.output import Completion, Sample, TokenChunk
from glassgpt.generation.engine.prompt import Prompt
from glassgpt.generation.engine.speculative import SpeculativeDecoding
from glassgpt.generation.options import GenerationOptions, options_from_kwargs
from glassgpt.generation.precision import Precision, prepare_for_decoding
from glassgpt.generation.strategies import (
    DecodingStrategy,
    generate_samples,
    iter_completions,
    strategy_defaults,
    stream_samples,
)
from glassgpt.generation.strategy_options import DRAFT_TOKENS
from glassgpt.model.config_checks import LINEAR
from glassgpt.model.transformer import LanguageModel
from glassgpt.multimodal.drawing_tokens import DrawingRecord
from glassgpt.multimodal.model import MultimodalModel
from glassgpt.multimodal.prompting import with_vector_table

if TYPE_CHECKING:
    from PIL.Image import Image

    from glassgpt.inspection.trace import Trace


@dataclass(frozen=True)
class LoadedModel(AsyncGeneration):
    """A model with its tokenizer, ready to generate.

    Keyword arguments called `options` are those of `GenerationOptions` (`max_tokens`, `temperature`, `seed`, …). The methods
    whose names begin with `a` are for coroutines; those of all coroutines are generated in one batch.

    Attributes:
        model: in evaluation mode; `model(tokens)` returns logits.
        tokenizer: `tokenizer.encode(text)` and `tokenizer.decode(tokens)`.
        step: number of steps that the model was trained for.
        checkpoint: description of the checkpoint that it was loaded from, for messages.
        precision: of the weights during generation; see `prepare_for_decoding`.
        batch_size: number of sequences at once for which generation is optimized.
        drawing: what its tokens of pictures mean, if it draws.
    """

    model: LanguageModel
    tokenizer: Tokenizer
    step: int
    precision: Precision = "auto"
    batch_size: int = 1
    checkpoint: str = ""
    drawing: DrawingRecord | None = None

    @functools.cached_property
    def decoding_model(self) -> LanguageModel:
        """The model prepared for fast generation on its device; created at first use."""
        if not isinstance(self.model, MultimodalModel):
            return prepare_for_decoding(self.model, self.precision, batch_size=self.batch_size, remembers=True)
        prepared = prepare_for_decoding(
            self.model.language_model, self.precision, batch_size=self.batch_size, remembers=True
        )
        return with_vector_table(prepared, self.model, self.tokenizer)

    def generate(
        self,
        prompt: PromptInput = None,
        *,
        images: Sequence[MediaInput] = (),
        audio: Sequence[MediaInput] = (),
        strategy: DecodingStrategy | None = None,
        **options: Unpack[GenerationArguments],
    ) -> str:
        """Return the continuation of a prompt.

        Args:
            prompt: text to continue; None begins a document.
            images: pictures before the text, or where it spells `<|image|>`: paths, bytes, arrays (height, width, 3) uint8 or
                images of Pillow.
            audio: sounds before the text, or where it spells `<|audio|>`: paths, bytes, or pairs of samples and rate.
            strategy: `BeamOptions`, `ContrastiveOptions` or the result of `speculative_decoding`; None samples token by
                token.
            options: generation options.

        Raises:
            GenerationError: the prompt or an option is invalid.
        """
        given = self._with_media(prompt, images, audio)
        return self.generate_many([given], strategy=strategy, **options)[0]

    def generate_many(
        self,
        prompts: Sequence[PromptInput],
        *,
        strategy: DecodingStrategy | None = None,
        **options: Unpack[GenerationArguments],
    ) -> list[str]:
        """Return the continuation of each prompt, generated together; each is the same as if it were alone."""
        results = self.samples_many(prompts, strategy=strategy, **single_sample(options))
        return [samples[0].text for samples in results]

    def iterate_many(
        self,
        prompts: Sequence[PromptInput],
        *,
        strategy: DecodingStrategy | None = None,
        **options: Unpack[GenerationArguments],
    ) -> ReleasingIterator[Completion]:
        """Yield the continuation of each prompt as soon as it is complete, which may be in another order.

        Args:
            prompts: texts to continue, generated together; None begins a document.
            strategy: see `generate`.
            options: generation options.

        Yields:
            A `Completion` with the prompt, its index and its samples; `text` is that of the first sample.

        Raises:
            GenerationError: a prompt or an option is invalid; raised before anything is generated.
        """
        prompts = as_list(prompts)
        parsed = without_logprobs({**strategy_defaults(strategy), **options})
        with ExitStack() as stack:
            encoded = stack.enter_context(self._encoded(prompts, parsed, strategy))
            found = iter_completions(self.decoding_model, self.tokenizer, encoded, parsed, strategy)
            named = (replace(each, prompt=text_of(prompts[each.index])) for each in found)
            return ReleasingIterator(named, stack.pop_all().close)

    def samples(
        self,
        prompt: PromptInput = None,
        *,
        images: Sequence[MediaInput] = (),
        audio: Sequence[MediaInput] = (),
        strategy: DecodingStrategy | None = None,
        **options: Unpack[GenerationArguments],
    ) -> list[Sample]:
        """Return `num_samples` continuations of a prompt with their tokens and finish reasons; see `generate`.

        Beam search returns `best` continuations instead, each a `ScoredSample`.
        """
        return self.samples_many([self._with_media(prompt, images, audio)], strategy=strategy, **options)[0]

    def samples_many(
        self,
        prompts: Sequence[PromptInput],
        *,
        strategy: DecodingStrategy | None = None,
        **options: Unpack[GenerationArguments],
    ) -> list[list[Sample]]:
        """Return several continuations of each prompt; see `samples`."""
        prompts = as_list(prompts)
        parsed = without_logprobs({**strategy_defaults(strategy), **options})
        with self._encoded(prompts, parsed, strategy) as encoded:
            return list(generate_samples(self.decoding_model, self.tokenizer, encoded, parsed, strategy))

    def stream(
        self,
        prompt: PromptInput = None,
        *,
        images: Sequence[MediaInput] = (),
        audio: Sequence[MediaInput] = (),
        strategy: DecodingStrategy | None = None,
        **options: Unpack[GenerationArguments],
    ) -> ReleasingIterator[str]:
        """Yield the continuation piece by piece as it is generated; joined, the pieces are the text of `generate`.

        Args:
            prompt: text to continue; None begins a document.
            images: see `generate`, as is `audio`.
            strategy: the result of `speculative_decoding`, or None.
            options: generation options.

        Raises:
            GenerationError: the prompt or an option is invalid, or the strategy cannot stream.
        """
        given = self._with_media(prompt, images, audio)
        chunks = self.stream_chunks(given, strategy=strategy, **single_sample(options))
        return ReleasingIterator((chunk.text for chunk in chunks if chunk.text), chunks.close)

    def stream_chunks(
        self,
        prompt: PromptInput = None,
        *,
        strategy: DecodingStrategy | None = None,
        **options: Unpack[GenerationArguments],
    ) -> ReleasingIterator[TokenChunk]:
        """Yield all samples of a prompt token by token; see `stream`."""
        parsed = without_logprobs(options)
        with ExitStack() as stack:
            (encoded,) = stack.enter_context(self._encoded([prompt], parsed, strategy))
            chunks = stream_samples(self.decoding_model, self.tokenizer, encoded, parsed, strategy)
            return ReleasingIterator(chunks, stack.pop_all().close)

    def explain(
        self, prompt: PromptInput = None, *, top: int = 5, **options: Unpack[GenerationArguments]
    ) -> list[tuple[Sample, DecodingTrace]]:
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
        with self._encoded([prompt], parsed) as (encoded,):
            return generate_with_traces(self.decoding_model, self.tokenizer, encoded, parsed, top=top)

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
            WrongTokenizerError: the draft model has another tokenizer.
            GenerationError: one of the models has linear attention.
        """
        for linear in (each.model.config.arch for each in (self, draft) if each and each.model.config.arch in LINEAR):
            raise GenerationError(
                f"speculative decoding takes back tokens, which the linear attention of {linear} cannot; generate without it"
            )
        if draft is not None and draft.tokenizer.fingerprint != self.tokenizer.fingerprint:
            raise WrongTokenizerError(
                f"the draft model's tokenizer ({draft.tokenizer.name}) differs from the model's "
                f"({self.tokenizer.name}); use a draft model that was trained on data prepared with the same tokenizer"
            )
        return SpeculativeDecoding(draft.decoding_model if draft is not None else None, tokens)

    def draw(
        self, caption: str, *, image_tokenizer: str | Path | None = None, **options: Unpack[GenerationArguments]
    ) -> Image:
        """Return a picture of a caption, as an image of Pillow; see `draw_many`."""
        checked = single_sample(options, "draw_many(…)")
        return self.draw_many([caption], image_tokenizer=image_tokenizer, **checked)[0][0]

    def draw_many(
        self,
        captions: Sequence[str],
        *,
        image_tokenizer: str | Path | None = None,
        **options: Unpack[GenerationArguments],
    ) -> list[list[Image]]:
        """Return `num_samples` pictures of each caption, drawn together; each is the same as if it were alone.

        Args:
            captions: what to draw.
            image_tokenizer: folder of the image tokenizer of the model's data; None takes the place where it was then.
            options: those of sampling: temperature, top_k, top_p, min_p, typical_p, seed, num_samples.

        Raises:
            GenerationError: an option or a caption is invalid.
            WrongTokenizerError: the model cannot draw, or the image tokenizer is another one, or no longer there.
        """
        from PIL.Image import fromarray

        from glassgpt.api.drawing import draw_pictures

        captions = as_list(captions, "captions", "draw(…)")
        require_texts(captions, "captions")
        drawn = draw_pictures(self, captions, image_tokenizer, **options)
        return [[fromarray(picture) for picture in pictures] for pictures in drawn]

    def _with_media(
        self, prompt: PromptInput, images: Sequence[MediaInput], audio: Sequence[MediaInput]
    ) -> PromptInput:
        return prompt_with_media(self.model, prompt, images, audio)

    def _encoded(
        self, prompts: Sequence[PromptInput], options: GenerationOptions, strategy: DecodingStrategy | None = None
    ) -> AbstractContextManager[list[Prompt]]:
        """Return a context manager of the prompts, of which those with media are ids; see `encoded_prompts`."""
        return encoded_prompts(self.model, self.decoding_model, self.tokenizer, prompts, options, strategy)

    def trace(
        self,
        text: str | None = None,
        *,
        images: Sequence[MediaInput] = (),
        audio: Sequence[MediaInput] = (),
        **options: Unpack[GenerationArguments],
    ) -> Trace:
        """Return every activation between a text and its next token, by name; see `inspection.trace`.

        Args:
            text: None stands for the token that begins a document.
            images: pictures before the text; see `generate`.
            audio: sounds before the text.
            options: generation options, whose logits processors are applied to the next token's logits.

        Raises:
            InspectionError: the text is empty or too long.
            GenerationError: an option is invalid, or a picture or sound cannot be used.
        """
        from glassgpt.inspection.trace import trace

        require_text(text, "text")
        media = media_before(self.model, images, audio)
        return trace(self.model, self.tokenizer, text, options_from_kwargs(options), media=media)
