"""The fields of requests: one schema, from which parsing, error messages and openapi.json follow. Free of torch.

Fields that control sampling are the settings of `GenerationOptions`, so that a new logits processor appears here by
itself. Fields that only HTTP knows are declared below in the same way.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Any, Literal, cast

from glassgpt.generation.options import MAX_LOGPROBS, MAX_SEED, GenerationOptions
from glassgpt.schema import Setting, convert, setting, settings_of
from glassgpt.schema.type_hints import alternatives
from glassgpt.serving.errors import APIError

MAX_EXPLAINED_CANDIDATES = 20
MAX_CHAT_LOGPROBS = 20
SHOWN_CHARACTERS = 100
"""Characters of an invalid value that its error message repeats."""

Prompt = str | tuple[str, ...] | tuple[int, ...] | tuple[tuple[int, ...], ...] | None
Json = Mapping[str, object]


@dataclass(frozen=True)
class CommonFields:
    """Fields of every request that generates text."""

    model: str | None = setting(None, help="Name of the model, from /v1/models; the first one by default.")
    stream: bool = setting(False, help="Send the text as server-sent events while it is generated.")
    stream_options: Json | None = setting(
        None, help="With stream: include_usage sends the number of tokens in a last event."
    )
    ignore_eos: bool = setting(False, help="Continue after end-of-text; the token is generated but not shown.")
    explain: int = setting(
        0,
        help="Return this many candidates of each token, with their log-probabilities before and after each logits "
        "processor; not with stream.",
        minimum=0,
        maximum=MAX_EXPLAINED_CANDIDATES,
    )


@dataclass(frozen=True)
class CompletionFields(CommonFields):
    """Fields of /v1/completions besides those of `GenerationOptions`."""

    prompt: Prompt = setting(
        None,
        help="Text to continue, a list of texts, token ids, or a list of lists of token ids; without one a document begins.",
        must_be="a string, a list of strings, a list of token ids, or a list of lists of token ids",
    )
    suffix: str | None = setting(
        None,
        help="Text after a gap: the answer is what belongs between prompt and suffix. For one prompt that is a text, and a "
        "model that was trained to fill in the middle.",
    )
    media: tuple[Json, ...] = setting(
        (),
        help="Pictures and sounds before the prompt, which is one text: parts as in the content of messages, image_url or "
        "input_audio. For a model that was trained on them.",
    )
    echo: bool = setting(False, help="Return the prompt before the text; with logprobs, its log-probabilities too.")
    logprobs: int | None = setting(
        None,
        help="Return the log-probability of each token, and of this many of the most probable tokens.",
        minimum=0,
        maximum=MAX_LOGPROBS,
    )
    prompt_logprobs: int | None = setting(
        None,
        help="Return the log-probability of each prompt token, and of this many of the most probable tokens.",
        minimum=0,
        maximum=MAX_LOGPROBS,
    )


@dataclass(frozen=True)
class InfillFields:
    """Fields of /infill, with the names of llama.cpp. Others that its clients send are ignored, as input_extra."""

    model: str | None = setting(None, help="Name of the model, from /v1/models; the first one by default.")
    input_prefix: str = setting("", help="Text before the line with the cursor.")
    prompt: str = setting("", help="Text of that line before the cursor.")
    input_suffix: str = setting("", help="Text after the cursor.")
    n_predict: int = setting(
        128, help="Most new tokens, at most half of the context; 0 returns an empty text.", minimum=0
    )
    n_cmpl: int = setting(1, help="Number of completions; several are returned as a list.", minimum=1)
    n_indent: int = setting(
        0, help="End before the first line with fewer blanks at its beginning; 0 is no such end.", minimum=0
    )
    t_max_predict_ms: int = setting(
        0,
        help="Milliseconds after the first token, after which a text with a line break ends; 0 is no limit.",
        minimum=0,
    )
    temperature: float = setting(0.2, help="As in /v1/completions.", minimum=0)
    top_k: int = setting(40, help="As in /v1/completions; 0 disables it.", minimum=0)
    top_p: float = setting(0.95, help="As in /v1/completions.", minimum=0, maximum=1)
    seed: int | None = setting(None, help="As in /v1/completions.", minimum=-(2**63))
    stop: tuple[str, ...] = setting((), help="Texts that end a completion and are left out.")
    response_fields: tuple[str, ...] = setting(
        (), help="Fields of the answer to return, such as content and timings/predicted_ms; by default all."
    )


@dataclass(frozen=True)
class ChatFields(CommonFields):
    """Fields of /v1/chat/completions besides those of `GenerationOptions`."""

    messages: tuple[Json, ...] = setting(
        (),
        help="The conversation: objects with role (system, developer, user, assistant) and content, a text or a list of parts: "
        "text, and for a model that was trained on them image_url and input_audio.",
        is_valid=bool,
        must_be="a list of messages that is not empty",
    )
    max_completion_tokens: int | None = setting(
        None,
        help="Most tokens of the answer; by default as many as the context holds. Wins over max_tokens.",
        minimum=1,
    )
    logprobs: bool = setting(False, help="Return the log-probability of each token.")
    top_logprobs: int | None = setting(
        None,
        help="With logprobs: also those of this many of the most probable tokens.",
        minimum=0,
        maximum=MAX_CHAT_LOGPROBS,
    )
    response_format: Json | None = setting(
        None, help='The form of the answer: {"type": "text"}, {"type": "json_object"} or {"type": "json_schema", …}.'
    )


@dataclass(frozen=True)
class ResponsesFields(CommonFields):
    """Fields of /v1/responses besides those of `GenerationOptions`."""

    input: str | tuple[Json, ...] = setting(
        "", help="Text or messages to answer.", is_valid=bool, must_be="a string or a list of messages, not empty"
    )
    instructions: str | None = setting(None, help="Text of a system message before the input.")
    max_output_tokens: int | None = setting(
        None, help="Most tokens of the answer; by default as many as the context holds.", minimum=1
    )
    text: Json | None = setting(None, help="format: the form of the answer, as in response_format.")
    metadata: Json | None = setting(None, help="Returned as given.")


@dataclass(frozen=True)
class EmbeddingFields:
    """Fields of /v1/embeddings."""

    model: str | None = setting(None, help="Name of the model, from /v1/models; the first one by default.")
    input: Prompt = setting(
        "",
        help="Text, list of texts, token ids, or list of lists of token ids.",
        is_valid=bool,
        must_be="a string, a list of strings, a list of token ids, or a list of lists of token ids, not empty",
    )
    encoding_format: Literal["float", "base64"] = setting("float", help="base64: little-endian float32.")


@dataclass(frozen=True)
class TokenizeFields:
    """Fields of /tokenize."""

    model: str | None = setting(None, help="Name of the model, from /v1/models; the first one by default.")
    prompt: str = setting("", help="The text.")
    add_special_tokens: bool = setting(
        True, help="Read the spelling of a special token, such as <|endoftext|>, as that token."
    )
    return_token_strs: bool = setting(False, help="Return the text of each token too.")


@dataclass(frozen=True)
class DetokenizeFields:
    """Fields of /detokenize."""

    model: str | None = setting(None, help="Name of the model, from /v1/models; the first one by default.")
    tokens: tuple[int, ...] = setting((), help="Token ids.")


def _is_token_bias(bias: Mapping[str, float]) -> bool:
    return all(key.isdecimal() and len(key) < 10 and abs(value) <= 100 for key, value in bias.items())


OPTION_NAMES = {"num_samples": "n", "stop_tokens": "stop_token_ids", "choices": "choice"}
"""Settings that have another name over HTTP."""
HTTP_CHANGES: dict[str, dict[str, Any]] = {
    "temperature": {"default": 1.0},
    "top_p": {"default": 1.0},
    "top_k": {"minimum": -1, "note": "0 and -1 disable it"},
    "max_tokens": {"default": 16, "minimum": 0},
    "seed": {"minimum": -(2**63), "must_be": "an integer of 64 bits"},
    "presence_penalty": {"minimum": -2, "maximum": 2, "must_be": ""},
    "frequency_penalty": {"minimum": -2, "maximum": 2, "must_be": ""},
    "stop": {"type": str | tuple[str, ...]},
    "logit_bias": {
        "type": Mapping[str, float],
        "is_valid": _is_token_bias,
        "must_be": "an object that maps token ids to numbers between -100 and 100",
        "help": "Add to the logits of tokens, given by their ids; -100 practically forbids a token.",
        "parse_key": None,
    },
    "json_schema": {"type": str | Json | None, "must_be": "a JSON schema, as an object or as text"},
}
"""Differences of settings over HTTP: defaults and ranges are OpenAI's, and JSON has other types."""
LEFT_OUT = {"logprobs", "processors"}
"""Settings that endpoints declare themselves, or that JSON cannot express."""


def _http_setting(option: Setting) -> Setting:
    changes = dict(HTTP_CHANGES.get(option.name, {}))
    own = {name: changes.pop(name) for name in ("type", "default", "help") if name in changes}
    details = dataclasses.replace(option.details, **changes)
    return dataclasses.replace(option, name=OPTION_NAMES.get(option.name, option.name), details=details, **own)


OPTION_FIELDS = tuple(_http_setting(each) for each in settings_of(GenerationOptions) if each.name not in LEFT_OUT)
"""The settings of `GenerationOptions` as fields of requests."""


def _with_options(own: type[Any], **defaults: Any) -> tuple[Setting, ...]:
    options = [
        dataclasses.replace(each, type=each.type | None, default=None) if each.name in defaults else each
        for each in OPTION_FIELDS
    ]
    return tuple(map(_bounded, (*settings_of(own), *options)))


def _bounded(field: Setting) -> Setting:
    """Return an integer field with a largest value: JSON's integers have none."""
    if int not in alternatives(field.type) or field.details.maximum is not None:
        return field
    return dataclasses.replace(field, details=dataclasses.replace(field.details, maximum=MAX_SEED))


COMPLETION_FIELDS = _with_options(CompletionFields)
CHAT_FIELDS = _with_options(ChatFields, max_tokens=None)
RESPONSES_FIELDS = _with_options(ResponsesFields, max_tokens=None)
INFILL_FIELDS = tuple(map(_bounded, settings_of(InfillFields)))
EMBEDDING_FIELDS = settings_of(EmbeddingFields)
TOKENIZE_FIELDS = settings_of(TokenizeFields)
DETOKENIZE_FIELDS = settings_of(DetokenizeFields)


def parse_fields(body: Mapping[str, Any], fields: Iterable[Setting], unsupported: Sequence[str] = ()) -> dict[str, Any]:
    """Return the values of all fields; null stands for the default, unknown fields are ignored.

    Args:
        body: the JSON object of a request.
        fields: of the endpoint.
        unsupported: fields that OpenAI's API has and this server lacks.

    Raises:
        APIError: names the first invalid or unsupported field.
    """
    for name in unsupported:
        if body.get(name) not in (None, False, "", [], {}, "none", "auto"):
            raise APIError(
                f"{name} is not supported by this server; leave it out", param=name, code="unsupported_parameter"
            )
    values: dict[str, Any] = {}
    for each in fields:
        value = body.get(each.name)
        if value is not None:
            values[each.name] = _parse(value, each)
        elif each.is_required:
            raise APIError(f"{each.name} is missing; it must be {each.expected}", param=each.name)
        else:
            values[each.name] = each.default
    return values


def _parse(value: Any, field: Setting) -> Any:
    if field.type is not float:
        value = _with_integers(value)
    try:
        converted = convert(value, field)
    except (ValueError, OverflowError):
        raise _invalid(value, field) from None
    if not field.is_in_range(converted):
        raise _invalid(value, field)
    return converted


INTEGERS = frozenset((int,))


def _with_integers(value: Any) -> Any:
    """Return a number, or the numbers in lists, as integers where they are: JSON has one type of number, so 5.0 is 5."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list) and not INTEGERS.issuperset(map(type, cast("list[Any]", value))):
        return [_with_integers(each) for each in cast("list[Any]", value)]
    return value


def _invalid(value: Any, field: Setting) -> APIError:
    shown = repr(value)
    if len(shown) > SHOWN_CHARACTERS:
        shown = f"{shown[:SHOWN_CHARACTERS]}…"
    return APIError(f"{field.name} is {shown}; it must be {field.expected}", param=field.name)


def is_optional(field: Setting) -> bool:
    """Return whether null is one of a field's own values."""
    return NoneType in alternatives(field.type)
