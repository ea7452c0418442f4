"""Contrastive search: of the most probable tokens the one that is most unlike the text so far (Su et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from glassgpt.data.tokenizers import Tokenizer
from glassgpt.errors import GenerationError
from glassgpt.generation.engine.output import Sample
from glassgpt.generation.options import GenerationOptions
from glassgpt.generation.processors.base import TokenHistory
from glassgpt.generation.processors.pipeline import apply_processors
from glassgpt.generation.search.context import Prompt, SearchContext, in_batches
from glassgpt.generation.strategy_options import ContrastiveOptions
from glassgpt.model.transformer import LanguageModel


def contrastive_search(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompts: Sequence[str | None],
    options: GenerationOptions,
    search: ContrastiveOptions,
) -> list[Sample]:
    """The text of each prompt.

    Args:
        model: in evaluation mode; the likeness of two tokens is that of its features.
        tokenizer: the model's.
        prompts: texts to continue; None begins a document.
        options: length, ends, penalties, words, form; nothing of sampling, so `temperature=0`.
        search: how much unlikeness weighs.

    Raises:
        GenerationError: a prompt or a setting cannot be used, or the rules together forbid every token.
    """
    search.check()
    searcher = SearchContext(model, tokenizer, options, "contrastive search")
    return in_batches(searcher.encode(prompts), search.k, lambda batch: _Search(searcher, search, batch).run())


@dataclass(eq=False)
class _Text:
    """A text on its way.

    Attributes:
        prompt: its tokens.
        limit: most tokens that may follow.
        directions: features of each token read so far, of length 1: (T, C).
        logits: of its next token, (V,).
        output: its tokens so far.
    """

    prompt: Prompt
    limit: int
    directions: Tensor
    logits: Tensor
    output: list[int] = field(default_factory=list[int])


class _Search:
    """All texts of a batch; the cache holds each k times, so that its candidates can be read side by side."""

    def __init__(self, searcher: SearchContext, options: ContrastiveOptions, prompts: Sequence[Prompt]) -> None:
        self._searcher, self._alpha = searcher, options.alpha
        self._k = min(options.k, searcher.tokenizer.vocab_size)
        self._prompts = prompts

    @torch.inference_mode()
    def run(self) -> list[Sample]:
        """Go on until each text is complete."""
        texts = self._begin()
        running = texts
        while running:
            running = self._advance(running)
        return [self._searcher.sample(0, text.output) for text in texts]

    def _begin(self) -> list[_Text]:
        """Read the prompts, all at once, and keep the features of all their tokens."""
        limits = [self._limit(prompt) for prompt in self._prompts]
        lengths = [len(prompt) for prompt in self._prompts]
        self._cache = self._searcher.cache(len(lengths), max(map(sum, zip(lengths, limits, strict=True))))
        features = self._searcher.features(self._prompts, self._cache)  # (B, T, C)
        self._cache.truncate(lengths)
        logits = self._searcher.logits(features[range(len(lengths)), [length - 1 for length in lengths]])
        self._cache.select([row for row in range(len(lengths)) for _ in range(self._k)])
        return [
            _Text(prompt, limit, _directions(features[row, : len(prompt)]), logits[row])
            for row, (prompt, limit) in enumerate(zip(self._prompts, limits, strict=True))
        ]

    def _limit(self, prompt: Prompt) -> int:
        # Candidates are read before one is taken, so the last token too needs a place in the context.
        context = self._searcher.model.config.context_length
        if len(prompt) == context:
            raise GenerationError(
                f"the prompt fills the context of {context:,} tokens, and contrastive search reads each token before "
                "it is taken; shorten the prompt"
            )
        return min(self._searcher.options.max_tokens, context - len(prompt))

    def _advance(self, texts: list[_Text]) -> list[_Text]:
        """One token more for each text; those that go on."""
        probabilities, tokens = self._candidates(texts)  # (B, k) each
        features = self._searcher.features(tokens.view(-1, 1).tolist(), self._cache)[:, 0]  # (B k, C)
        candidates = features.view(len(texts), self._k, -1)
        chosen = [
            choose(probabilities[at], (_directions(candidates[at]) @ text.directions.T).cpu(), self._alpha)
            for at, text in enumerate(texts)
        ]
        taken = candidates[range(len(texts)), chosen]  # (B, C)
        for text, token, own, logits in zip(
            texts, tokens[range(len(texts)), chosen].tolist(), taken, self._searcher.logits(taken), strict=True
        ):
            text.output.append(token)
            text.directions = torch.cat((text.directions, _directions(own[None])))
            text.logits = logits
        going = [at for at, text in enumerate(texts) if not self._is_complete(text)]
        if going:
            self._cache.select([at * self._k + chosen[at] for at in going for _ in range(self._k)])
        return [texts[at] for at in going]

    def _candidates(self, texts: Sequence[_Text]) -> tuple[Tensor, Tensor]:
        """The most probable tokens of each text, as processors leave them: probabilities and ids, (B, k) each."""
        logits = torch.stack([text.logits for text in texts])
        histories = [TokenHistory(text.prompt, text.output) for text in texts]
        processed = apply_processors(logits, self._searcher.processors, histories)
        probabilities, tokens = processed.softmax(dim=-1).topk(self._k)
        return probabilities, tokens

    def _is_complete(self, text: _Text) -> bool:
        return len(text.output) == text.limit or self._searcher.is_end(text.output)


def choose(probabilities: Tensor, likeness: Tensor, alpha: float) -> int:
    """Which candidate weighs most (Su et al. 2022, equation 5): (1 - alpha) · probability - alpha · degeneration.

    Args:
        probabilities: of the candidates, (k,); what is impossible is never chosen.
        likeness: cosine of each candidate with each token of the text so far, (k, T); the largest is its degeneration.
        alpha: weight of the latter.
    """
    scores = (1 - alpha) * probabilities - alpha * likeness.amax(dim=1)
    return int(scores.masked_fill(probabilities == 0, -torch.inf).argmax())


def _directions(features: Tensor) -> Tensor:
    return F.normalize(features.float(), dim=-1)
