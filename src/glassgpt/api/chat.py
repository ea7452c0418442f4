"""Chatting with a run that is loaded in this process."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from glassgpt.api.load_run import load
from glassgpt.api.loaded_model import LoadedModel
from glassgpt.api.multimodal import require_encoders
from glassgpt.api.serving import chat_template
from glassgpt.data.chat.jinja_template import Template
from glassgpt.generation.options import GenerationOptions
from glassgpt.generation.precision import Precision
from glassgpt.generation.strategies import stream_samples
from glassgpt.model.vectors import vector_table
from glassgpt.multimodal.documents import begin_ids
from glassgpt.multimodal.media import Modality
from glassgpt.multimodal.media_input import read_medium
from glassgpt.multimodal.prompting import encode_medium
from glassgpt.serving.chat_session import SETTINGS, Message
from glassgpt.serving.content_parts import MediaContent
from glassgpt.serving.errors import APIError
from glassgpt.serving.generation_call import build_options
from glassgpt.serving.limits import ServerLimits
from glassgpt.serving.media import conversation_ids, filled, require_order


class LocalChat:
    """A loaded run that answers conversations; see `ChatBackend`.

    Args:
        name: of the model, for the user.
        loaded: the run's model.
        template: turns messages into a prompt.
    """

    def __init__(self, name: str, loaded: LoadedModel, template: Template) -> None:
        self.name, self.context_length = name, loaded.model.config.context_length
        self._loaded, self._template = loaded, template

    def answer(self, messages: Sequence[Message], settings: Mapping[str, Any]) -> Generator[str]:
        """Yield the answer piece by piece; closing the generator stops it.

        Raises:
            GenerationError: a setting cannot be used, or the conversation does not fit the context.
            APIError: the template lacks a role.
        """
        unknown = next((message.role for message in messages if message.role not in self._template.roles), None)
        if unknown is not None:
            raise APIError(f"the chat template has no role {unknown}; remove the message with /{unknown}")
        values = {name: field.default for name, field in SETTINGS.items()} | {"n": 1} | dict(settings)
        if isinstance(values["json_schema"], Mapping):
            values["json_schema"] = json.dumps(values["json_schema"])
        options = build_options(values, ServerLimits(), {}, self._template.stop, values["max_tokens"])
        model, tokenizer = self._loaded.decoding_model, self._loaded.tokenizer
        is_first = True
        with ExitStack() as held:
            prompt = self._prompt(messages, options, held)
            chunks = held.enter_context(closing(stream_samples(model, tokenizer, prompt, options)))  # type: ignore[type-var]  # pyright: ignore
            for chunk in chunks:
                if chunk.text:  # without the space that separates it from the prompt
                    yield chunk.text.removeprefix(" ") if is_first else chunk.text
                    is_first = False

    def _prompt(self, messages: Sequence[Message], options: GenerationOptions, held: ExitStack) -> list[int]:
        """Return the ids of a conversation; those of its pictures and sounds are valid while `held` is open.

        Raises:
            GenerationError: the model does not know them, they cannot be decoded, or a message spells the begin token of one.
        """
        loaded, tokenizer = self._loaded, self._loaded.tokenizer
        turns = [
            (each.role, (*(MediaContent(one.modality, one.path.name, "") for one in each.media), each.text))
            for each in messages
        ]
        tokens = conversation_ids(tokenizer, self._template, turns, parse_special_tokens=options.parse_special_tokens)
        media = [one for each in messages for one in each.media]
        if not media:
            return tokens
        model, table = require_encoders(loaded.model), vector_table(loaded.decoding_model)
        items = [read_medium(one.raw, one.modality, model.multimodal) for one in media]
        begins: dict[int, Modality] = {token: modality for modality, token in begin_ids(tokenizer).items()}
        require_order(tokens, begins, [one.modality for one in media])
        ids = [held.enter_context(table.holding(encode_medium(model, item))) for item in items]
        return [*filled(tokens, begins, ids)]


def load_chat(
    run: Path,
    *,
    template: Path | None = None,
    checkpoint: str = "best",
    device: str = "auto",
    precision: Precision = "auto",
) -> LocalChat:
    """Load a run to chat with it.

    Args:
        run: the run's folder.
        template: file of the chat template; None takes that of the run's folder, or a plain transcript.
        checkpoint: see `load`, as are `device` and `precision`.

    Raises:
        ConfigError: the template cannot be read.
        GlassGPTError: see `load`.
    """
    found = chat_template(run, template)
    return LocalChat(run.resolve().name, load(run, checkpoint=checkpoint, device=device, precision=precision), found)
