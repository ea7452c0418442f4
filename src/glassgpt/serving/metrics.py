"""Prometheus metrics (extra: serve), under vLLM's names with the prefix `glassgpt:`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from glassgpt.errors import MissingExtraError
from glassgpt.serving.jobs import Burst, Job, Result

FIRST_TOKEN_BUCKETS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.25, 2.5, 5, 10, 20, 40, 80)
TOKEN_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
QUEUE_BUCKETS = (0.001, 0.01, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 120)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Counts tokens, requests and times.

    Args:
        counts: returns (model, running, waiting, share of the KV cache in use) for each model.
    """

    def __init__(self, counts: Callable[[], Iterable[tuple[str, int, int, float]]]) -> None:
        try:
            from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
        except ImportError as error:
            raise MissingExtraError("prometheus_client", "serve", "the server") from error
        self._counts = counts
        self._registry = CollectorRegistry()

        def named(kind: Any, name: str, text: str, *labels: str, **options: Any) -> Any:
            return kind(f"glassgpt:{name}", text, ["model_name", *labels], registry=self._registry, **options)

        self._running = named(Gauge, "num_requests_running", "Texts that are being generated.")
        self._waiting = named(Gauge, "num_requests_waiting", "Texts that wait for a slot.")
        self._cache = named(Gauge, "kv_cache_usage_perc", "Share of the KV cache in use; 1 means all of it.")
        self._prompt = named(Counter, "prompt_tokens", "Prompt tokens processed.")
        self._generated = named(Counter, "generation_tokens", "Tokens generated.")
        self._success = named(Counter, "request_success", "Complete texts.", "finished_reason")
        self._first = named(
            Histogram, "time_to_first_token_seconds", "From submission to the first token.", buckets=FIRST_TOKEN_BUCKETS
        )
        self._between = named(
            Histogram, "inter_token_latency_seconds", "Between tokens of a text.", buckets=TOKEN_BUCKETS
        )
        self._queue = named(
            Histogram,
            "request_queue_time_seconds",
            "From submission to the engine's first token.",
            buckets=QUEUE_BUCKETS,
        )
        self._rejections = Counter(
            "glassgpt:admission_rejections", "Requests refused before they ran.", ["reason"], registry=self._registry
        )

    def of_model(self, model: str) -> ModelMetrics:
        """Return what counts the results of one model: looking a name up takes longer than counting."""
        return ModelMetrics(
            self._prompt.labels(model),
            self._generated.labels(model),
            self._first.labels(model),
            self._between.labels(model),
            self._queue.labels(model),
            {reason: self._success.labels(model, reason) for reason in ("length", "stop")},
        )

    def rejected(self, reason: str) -> None:
        """Count a request that was refused before it ran."""
        self._rejections.labels(reason).inc()

    def render(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        from prometheus_client import generate_latest

        for model, running, waiting, cached in self._counts():
            self._cache.labels(model).set(cached)
            self._running.labels(model).set(running)
            self._waiting.labels(model).set(waiting)
        return generate_latest(self._registry)


@dataclass(frozen=True)
class ModelMetrics:
    """Counts the results of one model.

    Attributes:
        prompt_tokens: see `Metrics`, as are all others.
        generated_tokens: a counter.
        first_token: histogram of seconds.
        between_tokens: histogram of seconds.
        queued: histogram of seconds.
        success: counters by reason.
    """

    prompt_tokens: Any
    generated_tokens: Any
    first_token: Any
    between_tokens: Any
    queued: Any
    success: Mapping[str, Any]

    def record(self, job: Job, event: Result) -> None:
        """Count a result."""
        if not isinstance(event, Burst):
            return
        now, times = time.monotonic(), job.delivered
        if not times:
            self.prompt_tokens.inc(len(job.request.prompt) if job.request else 0)
            started = job.started or now
            self.queued.observe(started - job.submitted)
            # Without streaming, the first delivery is the complete text.
            self.first_token.observe((now if job.streaming else started) - job.submitted)
        elif event.index in times and event.tokens:
            self.between_tokens.observe((now - times[event.index]) / len(event.tokens))
        times[event.index] = now
        self.generated_tokens.inc(len(event.tokens))
        if event.finish_reason is not None:
            self.success["length" if event.finish_reason == "length" else "stop"].inc()
