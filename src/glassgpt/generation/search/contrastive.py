"""Contrastive search: among the most probable tokens, the one least similar to the text so far (Su et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from glassgpt.data.tokenizers import Tokenizer
from glassgpt.errors import GenerationError
from glassgpt.generation.engine.output import Sample
from glassgpt.generation.engine.prompt import Prompt as GivenPrompt
from glassgpt.generation.options import GenerationOptions
from glassgpt.generation.processors.base import TokenHistory
from glassgpt.generation.processors.pipeline import apply_processors
from glassgpt.generation.search.context import Prompt, SearchContext, search_in_batches
from glassgpt.generation.strategy_options import ContrastiveOptions
from glassgpt.model.transformer import LanguageModel


def contrastive_search(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompts: Sequence[GivenPrompt],
    options: GenerationOptions,
    search: ContrastiveOptions,
) -> list[Sample]:
    """Return the continuation of each prompt.

    Args:
        model: in evaluation mode; the similarity of tokens is that of its features.
        tokenizer: the model's.
        prompts: texts to continue; None begins a document.
        options: everything but sampling, so `temperature=0`.
        search: number of candidates and weight of the similarity.

    Raises:
        GenerationError: a prompt or an option is invalid, or the options together forbid every token.
    """
    search.check()
    context = SearchContext(model, tokenizer, options, "contrastive search")
    return search_in_batches(context.encode(prompts), search.k, lambda batch: _Search(context, search, batch).run())


@dataclass(eq=False)
class _Text:
    """A text that is being generated.

    Attributes:
        prompt: token ids.
        limit: most new tokens.
        directions: features of each token so far, normalized to length 1: (T, C).
        logits: of the next token, (V,).
        output: new tokens so far.
    """

    prompt: Prompt
    limit: int
    directions: Tensor
    logits: Tensor
    output: list[int] = field(default_factory=list[int])


class _Search:
    """Searches for all texts of a batch; the cache holds each text k times, to process its candidates in one pass."""

    def __init__(self, context: SearchContext, options: ContrastiveOptions, prompts: Sequence[Prompt]) -> None:
        self._context, self._alpha = context, options.alpha
        self._k = min(options.k, context.tokenizer.vocab_size)
        self._prompts = prompts

    @torch.inference_mode()
    def run(self) -> list[Sample]:
        """Generate until each text is complete."""
        texts = self._prefill()
        running = texts
        while running:
            running = self._step(running)
        return [self._context.sample(0, text.output) for text in texts]

    def _prefill(self) -> list[_Text]:
        """Process all prompts at once and keep the features of all their tokens."""
        limits = [self._limit(prompt) for prompt in self._prompts]
        lengths = [len(prompt) for prompt in self._prompts]
        self._cache = self._context.new_cache(len(lengths), max(map(sum, zip(lengths, limits, strict=True))))
        self._cache.expect(lengths)
        features = self._context.features(self._prompts, self._cache)  # (B, T, C)
        self._cache.truncate(lengths)
        logits = self._context.logits(features[range(len(lengths)), [length - 1 for length in lengths]])
        self._cache.select([row for row in range(len(lengths)) for _ in range(self._k)])
        return [
            _Text(prompt, limit, _directions(features[row, : len(prompt)]), logits[row])
            for row, (prompt, limit) in enumerate(zip(self._prompts, limits, strict=True))
        ]

    def _limit(self, prompt: Prompt) -> int:
        # Candidates are processed before one is chosen, so the last token needs space in the context, too.
        context_length = self._context.model.config.context_length
        if len(prompt) == context_length:
            raise GenerationError(
                f"the prompt fills the context of {context_length:,} tokens, but contrastive search processes each new "
                "token before it is chosen; shorten the prompt"
            )
        return min(self._context.options.max_tokens, context_length - len(prompt))

    def _step(self, texts: list[_Text]) -> list[_Text]:
        """Add one token to each text; return the incomplete texts."""
        probabilities, tokens = self._candidates(texts)  # (B, k) each
        features = self._context.features(tokens.view(-1, 1).tolist(), self._cache)[:, 0]  # (B k, C)
        candidates = features.view(len(texts), self._k, -1)
        chosen = [
            choose(probabilities[i], (_directions(candidates[i]) @ text.directions.T).cpu(), self._alpha)
            for i, text in enumerate(texts)
        ]
        chosen_features = candidates[range(len(texts)), chosen]  # (B, C)
        chosen_tokens = tokens[range(len(texts)), chosen].tolist()
        next_logits = self._context.logits(chosen_features)
        for text, token, own, logits in zip(texts, chosen_tokens, chosen_features, next_logits, strict=True):
            text.output.append(token)
            text.directions = torch.cat((text.directions, _directions(own[None])))
            text.logits = logits
        running = [i for i, text in enumerate(texts) if not self._is_complete(text)]
        if running:
            self._cache.select([i * self._k + chosen[i] for i in running for _ in range(self._k)])
        return [texts[i] for i in running]

    def _candidates(self, texts: Sequence[_Text]) -> tuple[Tensor, Tensor]:
        """Return the most probable tokens of each text after the logits processors: probabilities and ids, (B, k)."""
        logits = torch.stack([text.logits for text in texts])
        histories = [TokenHistory(text.prompt, text.output) for text in texts]
        processed = apply_processors(logits, self._context.processors, histories)
        probabilities, tokens = processed.softmax(dim=-1).topk(self._k)
        return probabilities, tokens

    def _is_complete(self, text: _Text) -> bool:
        return len(text.output) == text.limit or self._context.is_complete(text.output)


def choose(probabilities: Tensor, similarity: Tensor, alpha: float) -> int:
    """Return the candidate with the largest (1 - alpha) · probability - alpha · degeneration penalty.

    Su et al. 2022, equation 5; the degeneration penalty is the largest similarity to a token of the text.

    Args:
        probabilities: of the candidates, (k,); a candidate with probability 0 is never chosen.
        similarity: cosine similarity of each candidate with each token of the text so far, (k, T).
        alpha: weight of the degeneration penalty.
    """
    scores = (1 - alpha) * probabilities - alpha * similarity.amax(dim=1)
    return int(scores.masked_fill(probabilities == 0, -torch.inf).argmax())


def _directions(features: Tensor) -> Tensor:
    return F.normalize(features.float(), dim=-1)
