"""What `/metrics` tells Prometheus, with the names of text-embeddings-inference."""

import re

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from distilkit.workflows.serving.batcher import Batch, Batcher

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
ROWS = tuple(2**power for power in range(13))


class Metrics:
    """Count requests, and time them. A server has its own, so that several can be in a process."""

    def __init__(self) -> None:
        disable_created_metrics()  # a time for each counter, which no dashboard reads
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._requests = Counter("te_request_count", "Requests.", registry=self.registry)
        self._successes = Counter(
            "te_request_success", "Requests that were answered.", ["method"], registry=self.registry
        )
        self._failures = Counter(
            "te_request_failure", "Requests that were not answered.", ["err"], registry=self.registry
        )
        self._rows = Counter("te_predict_count", "Texts that were answered.", registry=self.registry)
        self._duration = self._histogram("te_request_duration", "Seconds of an answered request.", SECONDS)
        self._wait = self._histogram("te_request_queue_duration", "Seconds a request waited.", SECONDS)
        self._inference = self._histogram(
            "te_request_inference_duration", "Seconds that the model took for a request's batch.", SECONDS
        )
        self._batch = self._histogram("te_batch_next_size", "Texts of a batch.", ROWS)
        self._queue = Gauge("te_queue_size", "Texts that wait.", registry=self.registry)

    def _histogram(self, name: str, description: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, description, buckets=buckets, registry=self.registry)

    def watch_queue(self, batcher: Batcher) -> None:
        """Report how many texts wait."""
        self._queue.set_function(lambda: batcher.queued_rows)

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

    def observe_batch(self, batch: Batch) -> None:
        """Count a batch that was answered."""
        self._batch.observe(batch.rows)
        for wait in batch.waits:
            self._wait.observe(wait)
            self._inference.observe(batch.seconds)

    def read_count(self, name: str) -> int:
        """Return the sum of a counter over its labels."""
        samples = (sample for metric in self.registry.collect() for sample in metric.samples)
        return int(sum(sample.value for sample in samples if sample.name == f"{name}_total"))

    def render(self) -> bytes:
        """Return all of them in Prometheus's text format."""
        # The library ends the names of counters with `_total`; text-embeddings-inference does not.
        return re.sub(rb"\b(te_\w+)_total\b", rb"\1", generate_latest(self.registry))
