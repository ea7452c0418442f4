"""openapi.json, derived from the same fields that parse the requests."""

from __future__ import annotations

from collections.abc import Iterable
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import glassgpt
from glassgpt.schema import Setting
from glassgpt.schema.type_hints import alternatives, is_mapping
from glassgpt.serving import fields
from glassgpt.serving.content_parts import AUDIO_FORMATS, AUDIO_TYPE, IMAGE_TYPES, TEXT_TYPES
from glassgpt.serving.limits import ServerLimits

JSON_TYPES: dict[Any, str] = {int: "integer", float: "number", str: "string", bool: "boolean"}
REQUIRED = {"messages", "input"}
IDS = ("prompt", "input", "tokens", "stop_token_ids")
"""Fields with token ids."""
NOT_EMPTY = {"stop", "choice", "ban"}
"""Fields whose texts must not be empty."""
ERROR = {
    "description": "An error, in OpenAI's shape.",
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
}
ERRORS = dict.fromkeys(("400", "401", "403", "404", "408", "413", "415", "429", "500", "501", "503", "504"), ERROR)


def openapi(limits: ServerLimits, *, has_key: bool, vocab_size: int) -> dict[str, Any]:
    """Return the description of the server's API.

    Args:
        limits: of the server.
        has_key: the server asks for an API key.
        vocab_size: the smallest one of the models.
    """
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "glassgpt serve", "version": glassgpt.__version__},
        "paths": {
            "/v1/completions": _post("Continue prompts.", "Completion", streams=True),
            "/infill": _post("Fill the gap at an editor's cursor, as llama.cpp does.", "Infill"),
            "/v1/chat/completions": _post("Answer a conversation.", "Chat", streams=True),
            "/v1/responses": _post("Answer a text or a conversation, stateless.", "Responses", streams=True),
            "/v1/embeddings": _post("Embed texts: the mean of their last hidden states.", "Embedding"),
            "/tokenize": _post("Split a text into tokens.", "Tokenize"),
            "/detokenize": _post("Join tokens to a text.", "Detokenize"),
            "/v1/models": _get("List the models."),
            "/v1/models/{model}": _get("Describe a model.", "model"),
            "/tokenizer_info": _get("Describe the tokenizer."),
            "/health": _get("Tell whether the engine works; needs no key."),
            "/ready": _get("Tell whether the server has warmed up."),
            "/metrics": _get("Prometheus metrics.", media_type="text/plain"),
        },
        "components": {
            "schemas": {
                "Completion": _object(fields.COMPLETION_FIELDS, limits),
                "Infill": _object(fields.INFILL_FIELDS, limits),
                "Chat": _object(fields.CHAT_FIELDS, limits, ["messages"]),
                "Responses": _object(fields.RESPONSES_FIELDS, limits, ["input"]),
                "Embedding": _object(fields.EMBEDDING_FIELDS, limits, ["input"]),
                "Tokenize": _object(fields.TOKENIZE_FIELDS, limits),
                "Detokenize": _object(fields.DETOKENIZE_FIELDS, limits),
                "Error": {
                    "type": "object",
                    "required": ["error"],
                    "properties": {
                        "error": {
                            "type": "object",
                            "required": ["message", "type", "param", "code"],
                            "properties": {
                                "message": {"type": "string"},
                                "type": {"type": "string"},
                                "param": {"type": ["string", "null"]},
                                "code": {"type": ["string", "null"]},
                            },
                        }
                    },
                },
            }
        },
    }
    for name, properties in (("Chat", ("messages",)), ("Responses", ("input",))):
        for each in properties:
            _describe_messages(document["components"]["schemas"][name]["properties"][each])
    _describe_media(document["components"]["schemas"]["Completion"]["properties"]["media"], limits)
    _limit_ids(document["components"]["schemas"], vocab_size)
    if has_key:
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}]
        document["paths"]["/health"]["get"]["security"] = []
    return document


def _post(summary: str, schema: str, *, streams: bool = False) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {"schema": {"type": "object"}}}
    if streams:
        content["text/event-stream"] = {}
    reference = {"schema": {"$ref": f"#/components/schemas/{schema}"}}
    return {
        "post": {
            "summary": summary,
            "requestBody": {"required": True, "content": {"application/json": reference}},
            "responses": {"200": {"description": "The answer.", "content": content}, **ERRORS},
        }
    }


def _get(summary: str, parameter: str | None = None, media_type: str = "application/json") -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": summary,
        "responses": {"200": {"description": "The answer.", "content": {media_type: {}}}, **ERRORS},
    }
    if parameter is not None:
        operation["parameters"] = [
            {"name": parameter, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        ]
    return {"get": operation}


def _object(settings: Iterable[Setting], limits: ServerLimits, required: Iterable[str] = ()) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {each.name: _property(each, limits) for each in settings},
        "required": [*required],
    }


def _property(field: Setting, limits: ServerLimits) -> dict[str, Any]:
    options = [_schema(kind, field, limits) for kind in alternatives(field.type) if kind is not NoneType]
    if field.name not in REQUIRED:
        options.append({"type": "null"})  # stands for the default
    default = {} if field.default is None or field.name in REQUIRED else {"default": _json(field.default)}
    group = {"x-group": field.details.group} if field.details.group else {}  # for forms, such as the page's
    return {"anyOf": options, "description": field.help, **default, **group}


def _json(value: Any) -> Any:
    return [*value] if isinstance(value, tuple) else value


def _schema(kind: Any, field: Setting, limits: ServerLimits, *, is_item: bool = False) -> dict[str, Any]:
    """Return the JSON schema of one type of a field."""
    details, origin, parts = field.details, get_origin(kind), get_args(kind)
    if origin is Literal:
        return {"enum": list(parts)}
    if origin is tuple:
        items = parts if parts[-1] is not Ellipsis else parts[:1]
        if parts[-1] is not Ellipsis:
            each = [_schema(part, field, limits, is_item=True) for part in items]
            return {"type": "array", "prefixItems": each, "minItems": len(each), "maxItems": len(each)}
        return {"type": "array", "items": _schema(items[0], field, limits, is_item=True), **_list_limits(field, limits)}
    if is_mapping(kind):
        return {"type": "object"} if parts[1] is object else _numbers_by_token()
    schema: dict[str, Any] = {"type": JSON_TYPES[kind]}
    if kind is str and (field.name in NOT_EMPTY or (field.name == "input" and not is_item)):
        schema["minLength"] = 1
    if kind in (int, float):
        bounds = {"minimum": details.minimum, "exclusiveMinimum": details.above, "maximum": details.maximum}
        schema |= {name: bound for name, bound in bounds.items() if bound is not None}
        if field.name in ("n", "n_cmpl"):
            schema["maximum"] = limits.max_samples
    return schema


_TEXT_PART = {
    "type": "object",
    "required": ["type", "text"],
    "properties": {"type": {"enum": [*TEXT_TYPES]}, "text": {"type": "string"}},
}
_URL = {"type": "string", "minLength": 1, "description": "A data: URL in base64, or a file: URL in --media-folder."}
_MEDIA_PARTS = [
    {
        "type": "object",
        "required": ["type", "image_url"],
        "properties": {
            "type": {"enum": [*IMAGE_TYPES]},
            "image_url": {"anyOf": [_URL, {"type": "object", "required": ["url"], "properties": {"url": _URL}}]},
        },
    },
    {
        "type": "object",
        "required": ["type", "input_audio"],
        "properties": {
            "type": {"const": AUDIO_TYPE},
            "input_audio": {
                "type": "object",
                "required": ["data"],
                "properties": {
                    "data": {"type": "string", "minLength": 1, "description": "A file of sound in base64."},
                    "format": {"enum": [*AUDIO_FORMATS]},
                },
            },
        },
    },
]


def _describe_media(field: dict[str, Any], limits: ServerLimits) -> None:
    for option in field["anyOf"]:
        if option.get("type") == "array":
            option |= {"items": {"anyOf": _MEDIA_PARTS}, "maxItems": limits.max_media}


def _describe_messages(field: dict[str, Any]) -> None:
    part = {"anyOf": [_TEXT_PART, *_MEDIA_PARTS]}
    message = {
        "type": "object",
        "required": ["role", "content"],
        "properties": {
            "role": {"enum": ["system", "developer", "user", "assistant"]},
            "content": {"anyOf": [{"type": "string"}, {"type": "array", "minItems": 1, "items": part}]},
            "type": {"const": "message"},
        },
    }
    for option in field["anyOf"]:
        if option.get("type") == "array":
            option["items"] = message


def _limit_ids(schemas: dict[str, Any], vocab_size: int) -> None:
    """Give the range of token ids to every list of integers."""

    def limit(schema: dict[str, Any]) -> None:
        items = schema.get("items", {})
        if items.get("type") == "integer":
            schema["items"] = {"type": "integer", "minimum": 0, "maximum": vocab_size - 1}
        elif items:
            limit(items)

    for schema in schemas.values():
        for name in IDS:
            for option in schema["properties"].get(name, {}).get("anyOf", []):
                limit(option)


def _list_limits(field: Setting, limits: ServerLimits) -> dict[str, int]:
    least = {"minItems": 1} if field.name in ("messages", "input", "prompt") else {}
    most = {"maxItems": limits.max_stops} if field.name in ("stop", "stop_token_ids", "choice", "ban") else {}
    return least | most


def _numbers_by_token() -> dict[str, Any]:
    number = {"type": "number", "minimum": -100, "maximum": 100}
    return {"type": "object", "propertyNames": {"pattern": "^[0-9]{1,9}$"}, "additionalProperties": number}
