"""What `/metrics` tells Prometheus, with the names of text-embeddings-inference."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

from distilkit.workflows.serving.batcher import Batch

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
ROWS = tuple(2**power for power in range(13))


@dataclass(frozen=True)
class Counts:
    """Say how many requests came, and what became of them."""

    requests: int
    answered: int
    refused: int
    texts: int
    fallback_texts: int


def share_registry(folder: Path) -> CollectorRegistry:
    """Return a registry of the sums over all workers that write, or wrote, into a folder."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(folder))
    return registry


def read_counts(registry: CollectorRegistry) -> Counts:
    """Return the sums of the counters over their labels."""
    totals: dict[str, float] = {}
    for metric in registry.collect():
        for sample in metric.samples:
            totals[sample.name] = totals.get(sample.name, 0) + sample.value
    names = ("request_count", "request_success", "request_failure", "predict_count", "fallback_count")
    return Counts(*(int(totals.get(f"te_{name}_total", 0)) for name in names))


class Metrics:
    """Count requests, and time them. A server has its own, so that several can be in a process.

    Args:
        folder: where the metrics of several workers lie, which are rendered as sums.
    """

    def __init__(self, folder: Path | None = None) -> None:
        disable_created_metrics()  # a time for each counter, which no dashboard reads
        self._folder = folder
        self.registry = CollectorRegistry()
        if not folder:
            ProcessCollector(registry=self.registry)
        self._requests = Counter("te_request_count", "Requests.", registry=self.registry)
        self._successes = Counter(
            "te_request_success", "Requests that were answered.", ["method"], registry=self.registry
        )
        self._failures = Counter(
            "te_request_failure", "Requests that were not answered.", ["err"], registry=self.registry
        )
        self._rows = Counter("te_predict_count", "Texts that were answered.", registry=self.registry)
        self._fallbacks = Counter(
            "te_fallback_count", "Texts that the teacher answered.", registry=self.registry
        )
        self._duration = self._histogram("te_request_duration", "Seconds of an answered request.", SECONDS)
        self._wait = self._histogram("te_request_queue_duration", "Seconds a request waited.", SECONDS)
        self._inference = self._histogram(
            "te_request_inference_duration", "Seconds that the model took for a request's batch.", SECONDS
        )
        self._batch = self._histogram("te_batch_next_size", "Texts of a batch.", ROWS)
        self._queue = Gauge(
            "te_queue_size", "Texts that wait.", registry=self.registry, multiprocess_mode="livesum"
        )
        self._count_queued: Callable[[], int] = lambda: 0

    def _histogram(self, name: str, description: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, description, buckets=buckets, registry=self.registry)

    def watch_queue(self, count_rows: Callable[[], int]) -> None:
        """Report how many texts wait."""
        self._count_queued = count_rows

    def count_request(self) -> None:
        """Count a request that arrived."""
        self._requests.inc()

    def count_success(self, seconds: float, rows: int, *, is_batch: bool) -> None:
        """Count a request that was answered."""
        self._successes.labels("batch" if is_batch else "single").inc()
        self._rows.inc(rows)
        self._duration.observe(seconds)

    def count_failure(self, kind: str) -> None:
        """Count a request that was not answered."""
        self._failures.labels(kind).inc()

    def count_fallback(self, rows: int) -> None:
        """Count texts that the teacher answered."""
        self._fallbacks.inc(rows)

    def observe_batch(self, batch: Batch) -> None:
        """Count a batch that was answered."""
        self._batch.observe(batch.rows)
        for wait in batch.waits:
            self._wait.observe(wait)
            self._inference.observe(batch.seconds)
        self._queue.set(self._count_queued())  # other workers read it from a file

    def read_counts(self) -> Counts:
        """Return what was counted so far, here and in other workers."""
        return read_counts(self._readable())

    def _readable(self) -> CollectorRegistry:
        return share_registry(self._folder) if self._folder else self.registry

    def render(self) -> bytes:
        """Return all of them in Prometheus's text format."""
        self._queue.set(self._count_queued())
        # The library ends the names of counters with `_total`; text-embeddings-inference does not.
        return re.sub(rb"\b(te_\w+)_total\b", rb"\1", generate_latest(self._readable()))
