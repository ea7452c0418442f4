"""/v1/embeddings: the mean of a text's last hidden states."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from typing import Any

import torch

from glassgpt.model.transformer import LanguageModel
from glassgpt.serving.context import ServerContext
from glassgpt.serving.errors import APIError
from glassgpt.serving.fields import EMBEDDING_FIELDS
from glassgpt.serving.generation_call import parse_prompts
from glassgpt.serving.http import Answer, Call
from glassgpt.serving.jobs import Inbox, Job, TaskDone

UNSUPPORTED = ("dimensions",)
NOTE = (
    "mean of the last hidden states (after the final norm) over the tokens, not normalized; not trained for retrieval"
)


class _Pooling:
    """The embedding of one text, as a task for the engine's thread; see `ModelTask`."""

    def __init__(self, model: LanguageModel, tokens: Sequence[int]) -> None:
        self._model, self._tokens = model, tokens
        self.result: list[float] = []

    @torch.inference_mode()
    def step(self) -> bool:
        device = next(self._model.parameters()).device
        features = self._model.features(torch.tensor([[*self._tokens]], device=device))  # (1, T, C)
        self.result = features[0].float().mean(dim=0).tolist()
        return True


async def create_embeddings(context: ServerContext, call: Call) -> Answer:
    """Answer POST /v1/embeddings."""
    values = await context.parse(call, EMBEDDING_FIELDS, UNSUPPORTED)
    model = context.find(values["model"])
    version = model.current
    loop = asyncio.get_running_loop()
    prompts = await loop.run_in_executor(
        context.executor, parse_prompts, values["input"], version, context.limits.max_prompts
    )
    _require_valid(prompts, version.weights.tokenizer.vocab_size, version.weights.model.config.context_length)
    inbox = Inbox()
    jobs = [Job(inbox, key, task=_Pooling(version.weights.model, prompt)) for key, prompt in enumerate(prompts)]
    vectors: list[list[float]] = [[] for _ in prompts]
    async with model.run(version, jobs, inbox) as results:
        async for arrived in results():
            for job, event in arrived:
                if isinstance(event, TaskDone):
                    vectors[job.key] = event.result
    call.headers["x-glassgpt-step"] = str(version.weights.step)
    n_tokens = sum(map(len, prompts))
    data = [
        {"object": "embedding", "index": index, "embedding": _encoded(vector, values["encoding_format"])}
        for index, vector in enumerate(vectors)
    ]
    return {
        "object": "list",
        "model": model.name,
        "data": data,
        "usage": {"prompt_tokens": n_tokens, "total_tokens": n_tokens},
        "pooling": NOTE,
        "system_fingerprint": version.weights.fingerprint,
    }


def _require_valid(prompts: Sequence[Sequence[int]], vocab_size: int, length: int) -> None:
    for prompt in prompts:
        if len(prompt) > length:
            raise APIError(
                f"an input has {len(prompt):,} tokens, more than the model's context of {length:,}; shorten it",
                param="input",
                code="context_length_exceeded",
            )
        invalid = next((token for token in prompt if not 0 <= token < vocab_size), None)
        if invalid is not None:
            raise APIError(
                f"input contains the token id {invalid}; ids must be between 0 and {vocab_size - 1}", param="input"
            )


def _encoded(vector: Sequence[float], encoding: str) -> Any:
    if encoding == "float":
        return vector
    return base64.b64encode(torch.tensor(vector, dtype=torch.float32).numpy().tobytes()).decode()
