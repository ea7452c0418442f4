"""The ASGI application: which path is answered by which handler."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from glassgpt.errors import MissingExtraError
from glassgpt.serving import json_codec
from glassgpt.serving.chat import create_chat_completion
from glassgpt.serving.completions import create_completion
from glassgpt.serving.context import ServerContext
from glassgpt.serving.embeddings import create_embeddings
from glassgpt.serving.errors import APIError
from glassgpt.serving.guards import Guards
from glassgpt.serving.http import Answer, Call, Endpoint, Raw, Receive, Scope, Send
from glassgpt.serving.infill import create_infill
from glassgpt.serving.metrics import CONTENT_TYPE
from glassgpt.serving.openapi import openapi
from glassgpt.serving.pages import PAGE_FILES, docs_page, read_page
from glassgpt.serving.responses import create_response
from glassgpt.serving.served_model import ServedModel
from glassgpt.serving.tokenization import detokenize, tokenize, tokenizer_info

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

ContextHandler = Callable[[ServerContext, Call], Awaitable[Answer]]

POSTS: dict[str, ContextHandler] = {
    "/v1/completions": create_completion,
    "/infill": create_infill,
    "/v1/chat/completions": create_chat_completion,
    "/v1/responses": create_response,
    "/v1/embeddings": create_embeddings,
    "/tokenize": tokenize,
    "/detokenize": detokenize,
}


def create_app(context: ServerContext, *, hosts: Sequence[str] = (), api_keys: Sequence[str] = ()) -> Guards:
    """Return the ASGI application.

    Args:
        context: models, limits, metrics.
        hosts: see `Guards`, as are `api_keys`.

    Raises:
        MissingExtraError: starlette is not installed.
    """
    try:
        from starlette.applications import Starlette
        from starlette.exceptions import HTTPException
        from starlette.responses import Response
        from starlette.routing import Route
    except ImportError as error:
        raise MissingExtraError("starlette", "serve", "the server") from error

    async def openapi_document(context: ServerContext, call: Call) -> Answer:
        return openapi(context.limits, has_key=bool(api_keys), vocab_size=_vocab_size(context))

    gets: dict[str, ContextHandler] = {
        "/v1/models": list_models,
        "/tokenizer_info": tokenizer_info,
        "/health": health,
        "/ready": ready,
        "/metrics": metrics,
        "/openapi.json": openapi_document,
        "/docs": docs,
        **{path: _page_file(path) for path in PAGE_FILES},
    }

    def endpoint(handler: ContextHandler, *, has_body: bool) -> Endpoint:
        return Endpoint(lambda call: handler(context, call), context.limits, has_body=has_body)

    async def model(request: Request) -> Response:
        found = context.find(request.path_params["model"])
        return Response(json_codec.encode(_model_json(context, found)), media_type="application/json")

    async def failed(request: Request, raised: Exception) -> Response:
        headers: dict[str, str] = {}
        if isinstance(raised, HTTPException):
            headers.update(raised.headers or {})
            message = f"{request.method} {request.url.path[:200]}: {raised.detail.lower()}; see /docs"
            raised = APIError(message, status=raised.status_code)
        assert isinstance(raised, APIError)
        headers |= raised.headers()
        return Response(json_codec.encode(raised.body()), raised.status, headers, media_type="application/json")

    endpoints = {("POST", path): endpoint(handler, has_body=True) for path, handler in POSTS.items()}
    endpoints |= {("GET", path): endpoint(handler, has_body=False) for path, handler in gets.items()}
    routes = [Route(path, each, methods=[method]) for (method, path), each in endpoints.items()]
    routes.append(Route("/v1/models/{model:path}", model, methods=["GET"]))
    app = Starlette(routes=routes, exception_handlers={HTTPException: failed, APIError: failed})
    app.router.redirect_slashes = False
    return Guards(Dispatcher(app, endpoints), context.metrics, hosts, api_keys)


class Dispatcher:
    """Calls the endpoint of a path at once; everything else is left to `app`, which compares a path with every route.

    Args:
        app: knows all routes, and answers those that there are not.
        endpoints: by method and path.
    """

    def __init__(self, app: Any, endpoints: Mapping[tuple[str, str], Endpoint]) -> None:
        self._app, self._endpoints = app, endpoints

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        endpoint = self._endpoints.get((scope.get("method", ""), scope["path"])) if scope["type"] == "http" else None
        await (endpoint or self._app)(scope, receive, send)


def _vocab_size(context: ServerContext) -> int:
    return min(model.current.weights.tokenizer.vocab_size for model in context.models.values())


async def list_models(context: ServerContext, call: Call) -> Answer:
    """Answer GET /v1/models."""
    return {"object": "list", "data": [_model_json(context, model) for model in context.models.values()]}


def _model_json(context: ServerContext, model: ServedModel) -> dict[str, Any]:
    weights = model.current.weights
    return {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "glassgpt",
        "max_model_len": weights.model.config.context_length,
        "modalities": ["text", *(weights.encoder.multimodal.names if weights.encoder is not None else ())],
        "step": weights.step,
        **({"parent": model.name.removesuffix(f":{weights.adapter}")} if weights.adapter else {}),
        **({"passages": len(found.index)} if (found := context.documents.get(model.name)) is not None else {}),
        "checkpoint": weights.checkpoint,
        "system_fingerprint": weights.fingerprint,
        "identity": dict(weights.identity),
        "chat_template": model.template.source,
    }


async def health(context: ServerContext, call: Call) -> Answer:
    """Answer GET /health: 503 if an engine's thread is dead or stuck. Nothing is generated for it."""
    for model in context.models.values():
        problem = model.current.problem(context.limits.stuck_seconds)
        if problem is not None:
            raise APIError(f"{model.name}: {problem}", status=503, code="engine_stopped")
    return {"status": "ok", "time": int(time.time())}


async def ready(context: ServerContext, call: Call) -> Answer:
    """Answer GET /ready: 503 until every model has warmed up, and while the server shuts down."""
    for model in context.models.values():
        if model.is_shut_down or not model.current.thread.is_ready.is_set():
            raise APIError(f"{model.name} is not ready", status=503, code="not_ready", retry_after=1)
    return {"status": "ready"}


async def metrics(context: ServerContext, call: Call) -> Answer:
    """Answer GET /metrics."""
    return Raw(context.metrics.render(), CONTENT_TYPE)


def _page_file(path: str) -> ContextHandler:
    async def page_file(context: ServerContext, call: Call) -> Answer:
        call.headers["cache-control"] = "no-cache"
        return Raw(read_page(path), PAGE_FILES[path][1])

    return page_file


async def docs(context: ServerContext, call: Call) -> Answer:
    """Answer GET /docs."""
    return Raw(
        docs_page(openapi(context.limits, has_key=False, vocab_size=_vocab_size(context))).encode(),
        "text/html; charset=utf-8",
    )
