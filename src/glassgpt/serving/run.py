"""Run the server: load, warm up, serve, follow a run that is still training, drain, stop."""

from __future__ import annotations

import asyncio
import functools
import gc
import ipaddress
import logging
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from glassgpt.data.chat.jinja_template import Template
from glassgpt.errors import GlassGPTError, MissingExtraError, UsageError
from glassgpt.openmp import in_short_thread
from glassgpt.serving.app import create_app
from glassgpt.serving.context import ServerContext
from glassgpt.serving.document_answers import Documents, documents_model_name
from glassgpt.serving.limits import ServerLimits
from glassgpt.serving.media_folder import MediaFolder
from glassgpt.serving.metrics import Metrics
from glassgpt.serving.recording import Recorder
from glassgpt.serving.served_model import ModelVersion, ServedModel, Weights

logger = logging.getLogger(__name__)

CHECK_SECONDS = 1.0
FOLLOW_SECONDS = 2.0
"""Seconds between two looks for a newer checkpoint."""
SWITCH_SECONDS = 5e-4
"""Seconds after which Python makes a thread that computes let another one run: the engine must not wait for the event loop
for Python's 5 ms, in which a GPU generates hundreds of tokens."""
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")


class ServerError(GlassGPTError):
    """A server that cannot start."""


@dataclass(frozen=True)
class ModelSource:
    """A model to serve.

    Attributes:
        name: as in requests.
        load: loads the weights.
        template: turns messages into a prompt.
        newest: returns the newest checkpoint's name, or None if there is none; None does not follow the run.
        adapters: the templates of the adapters that share its weights, by their names in `Weights.adapters`.
        documents: what it also answers from, by the name of the index.
    """

    name: str
    load: Callable[[], Weights]
    template: Template
    newest: Callable[[], str | None] | None = None
    adapters: Mapping[str, Template] = field(default_factory=dict[str, Template])
    documents: Mapping[str, Documents] = field(default_factory=dict[str, Documents])


@dataclass(frozen=True)
class ServerSettings:
    """The address to serve at, and all other settings of the server.

    Attributes:
        host: address to listen on.
        port: 0 means a free one.
        slots: most sequences decoded at once, per model.
        limits: of requests.
        api_keys: one of them must be sent with each request; empty asks for none, on loopback only.
        hosts: further host names that requests may name.
        record: file for answers.
        media_folder: whose files requests may name.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    slots: int = 8
    limits: ServerLimits = field(default_factory=ServerLimits)
    api_keys: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    record: Path | None = None
    media_folder: Path | None = None

    def check(self) -> None:
        """Validate the address.

        Raises:
            UsageError: the address is not loopback and no key is asked for.
        """
        if not self.api_keys and not is_loopback(self.host):
            raise UsageError(
                f"--host {self.host} is reachable from other machines, so it needs keys: give a file with --api-key FILE, "
                "or set GLASSGPT_API_KEY"
            )

    @property
    def allowed_hosts(self) -> tuple[str, ...]:
        """Host names that requests may name; empty accepts any, where a key protects the server."""
        if is_loopback(self.host):
            return (*LOOPBACK_NAMES, self.host, *self.hosts)
        return (*LOOPBACK_NAMES, self.host, *self.hosts) if self.hosts else ()


def adapter_model_name(base: str, adapter: str) -> str:
    """Return the name under which an adapter of a served model is requested."""
    return f"{base}:{adapter}"


def is_loopback(host: str) -> bool:
    """Return whether an address can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def serve(sources: Sequence[ModelSource], settings: ServerSettings, announce: Callable[[str], None]) -> None:
    """Serve until a signal ends it.

    Args:
        sources: the models, the default one first.
        settings: where and how.
        announce: called with what the user should know.

    Raises:
        UsageError: the address cannot be used.
        GlassGPTError: a model cannot be loaded.
        MissingExtraError: a library is not installed.
    """
    settings.check()
    settings.limits.check()
    try:
        import uvicorn

        from glassgpt.serving.connections import listen
    except ImportError as error:
        raise MissingExtraError(error.name or "uvicorn", "serve", "the server") from error
    try:
        listener = listen(settings.host, settings.port)
    except OSError as error:
        raise UsageError(
            f"{settings.host}:{settings.port} cannot be used ({error.strerror}); choose another --port"
        ) from error
    sys.setswitchinterval(SWITCH_SECONDS)
    # Looking for cycles among all objects of PyTorch would stop every thread for a tenth of a second, again and again.
    gc.freeze()
    with listener:
        weights = [in_short_thread(source.load) for source in sources]
        with asyncio.Runner(loop_factory=uvicorn.Config("").get_loop_factory()) as runner:
            runner.run(_serve(sources, weights, settings, listener, announce))


async def _serve(
    sources: Sequence[ModelSource],
    weights: list[Weights],
    settings: ServerSettings,
    listener: socket.socket,
    announce: Callable[[str], None],
) -> None:
    from glassgpt.serving.connections import create_server

    loop, limits = asyncio.get_running_loop(), settings.limits
    models: dict[str, ServedModel] = {}
    metrics = Metrics(lambda: [(name, *model.counts()) for name, model in models.items()])
    new = functools.partial(ServedModel, slots=settings.slots, limits=limits, metrics=metrics)
    for source in sources:  # taken out of the list, so that a newer checkpoint frees them
        models |= start_models(source, weights.pop(0), new, loop)
    recorder = None if settings.record is None else Recorder(settings.record)
    documents = {
        documents_model_name(source.name, name): each for source in sources for name, each in source.documents.items()
    }
    folder = None if settings.media_folder is None else MediaFolder.open(settings.media_folder)
    context = ServerContext(models, limits, metrics, recorder, documents, media_folder=folder)
    app = create_app(context, hosts=settings.allowed_hosts, api_keys=settings.api_keys)

    def drain() -> None:
        announce(f"finishing running requests, for at most {limits.drain_seconds:g} seconds; a second signal ends them")
        for model in models.values():
            model.drain()

    def abort() -> None:
        for model in models.values():
            model.shut_down()

    server = create_server(app, limits, on_drain=drain, abort=abort)
    is_followed = any(source.newest for source in sources)
    starting = asyncio.create_task(_announce_ready(models, listener, announce, keeps_models=not is_followed))
    starting.add_done_callback(server.stop_if_failed)
    tasks = [asyncio.create_task(_watch(models)), starting]
    tasks += [asyncio.create_task(follow(models[source.name], source, announce)) for source in sources if source.newest]
    try:
        await server.serve(sockets=[listener])
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        abort()
        for model in models.values():
            model.stop()
        context.executor.shutdown(wait=False, cancel_futures=True)
        if recorder is not None:
            recorder.close()
    if not starting.cancelled() and (failure := starting.exception()) is not None:
        raise failure


def start_models(
    source: ModelSource, weights: Weights, new: Callable[[str, Template], ServedModel], loop: asyncio.AbstractEventLoop
) -> dict[str, ServedModel]:
    """Return the model of a source and those of the adapters that share its weights, by name; their thread is started.

    Args:
        source: of the weights.
        weights: loaded from it.
        new: returns a model without weights.
        loop: on which requests get their results.
    """
    model = new(source.name, source.template)
    version = model.start(weights, loop)
    model.activate(version)
    models = {source.name: model}
    for name, template in source.adapters.items():
        full = adapter_model_name(source.name, name)
        models[full] = new(full, template)
        models[full].activate(version.with_adapter(weights.adapters[name]))
    for name in source.documents:
        full = documents_model_name(source.name, name)
        models[full] = new(full, source.template)
        models[full].activate(version.with_adapter(weights))
    return models


async def _watch(models: dict[str, ServedModel]) -> None:
    while True:
        await asyncio.sleep(CHECK_SECONDS)
        for model in models.values():
            model.check()


async def _announce_ready(
    models: dict[str, ServedModel], listener: socket.socket, announce: Callable[[str], None], *, keeps_models: bool
) -> None:
    for model in models.values():
        if not await _until_ready(model.current):
            raise ServerError(f"{model.name} could not be started: {model.current.thread.failure}")
    if keeps_models:
        gc.freeze()  # again, with all that the warm-up has loaded
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    announce(
        f"serving {', '.join(models)} at http://{shown}:{port}/v1 and a page for the browser at / (press Ctrl-C to stop)"
    )


async def _until_ready(version: ModelVersion) -> bool:
    """Wait until a version has warmed up; return False if its thread ends before."""
    while not version.thread.is_ready.is_set():
        if not version.thread.is_alive:
            return False
        await asyncio.sleep(0.005)
    return True


async def follow(
    model: ServedModel, source: ModelSource, announce: Callable[[str], None], seconds: float = FOLLOW_SECONDS
) -> None:
    """Serve the newest checkpoint of a run that is still training, as soon as it is loaded and warm.

    Args:
        model: gets the new versions.
        source: of the weights.
        announce: see `serve`.
        seconds: between two looks for a newer checkpoint.
    """
    assert source.newest is not None
    loop = asyncio.get_running_loop()
    failed = ""
    while True:
        await asyncio.sleep(seconds)
        newest = None
        try:
            newest = await loop.run_in_executor(None, source.newest)
            if newest is None or newest in (model.current.weights.checkpoint, failed):
                continue
            # Without a name for the weights: it would keep them in memory after their engine could not be built.
            version = await loop.run_in_executor(None, lambda: model.start(in_short_thread(source.load), loop))
        except (GlassGPTError, OSError) as error:  # it may be pruned while it is being read; the next one will come
            logger.warning("%s could not be loaded: %s", newest or model.name, error)
            continue
        except (MemoryError, RuntimeError) as error:  # of PyTorch, such as no memory for a second version
            logger.warning("%s could not be loaded: %s: %s", newest or model.name, type(error).__name__, error)
            failed = newest or failed  # it would fail again
            continue
        if await _until_ready(version):
            model.activate(version)
            announce(f"{model.name}: serving step {version.weights.step} now")
        else:  # it would fail again
            failed = newest
            logger.warning("%s could not be started: %s", newest, version.thread.failure)
        del version
