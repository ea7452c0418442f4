"""Chatting with a run that is loaded in this process."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from glassgpt.api.loaded_model import LoadedModel
from glassgpt.api.loading import load
from glassgpt.api.serving import chat_template
from glassgpt.data.chat.jinja_template import Template
from glassgpt.generation.precision import Precision
from glassgpt.generation.strategies import stream_samples
from glassgpt.serving.chat_session import SETTINGS, Message
from glassgpt.serving.errors import APIError
from glassgpt.serving.generation_call import build_options
from glassgpt.serving.limits import ServerLimits


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
        turns = [(message.role, message.text) for message in messages]
        prompt = self._template.encode(tokenizer, turns, parse_special_tokens=options.parse_special_tokens)
        with closing(stream_samples(model, tokenizer, prompt, options)) as chunks:  # type: ignore[type-var]  # pyright: ignore
            for chunk in chunks:
                if chunk.text:  # without the space that separates it from the prompt
                    yield chunk.text.removeprefix(" ") if is_first else chunk.text
                    is_first = False


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
