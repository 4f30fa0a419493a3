"""What it costs to run a model on this device."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from distilkit.data.inputs import evenly
from distilkit.data.texts import Texts

REQUESTS = 200  # rows that are timed, one at a time, spread over the split
WARM_UP = 20
AT_LEAST = 30  # of them, however slow
PATIENCE = 10.0  # seconds, after which no further row is timed


@dataclass(frozen=True)
class Latency:
    """Milliseconds a request of one row takes, text in and logits out: tokenizing is part of it."""

    p50: float
    p95: float
    p99: float
    requests: int


def measure_latency(answer: Callable[[Texts], object], texts: Texts) -> Latency:
    """Time `answer` on single rows of `texts`, one after the other, the same rows each time.

    `WARM_UP` rows go first untimed: set-up, caches and clocks of the device.
    """
    requests = [texts.take([row]) for row in evenly(len(texts), REQUESTS).tolist()]
    for i in range(WARM_UP):
        answer(requests[i % len(requests)])
    seconds: list[float] = []
    begun = time.perf_counter()
    for i in range(max(len(requests), AT_LEAST)):
        started = time.perf_counter()
        answer(requests[i % len(requests)])
        seconds.append(time.perf_counter() - started)
        if len(seconds) >= AT_LEAST and time.perf_counter() - begun > PATIENCE:
            break
    p50, p95, p99 = (1000 * float(value) for value in np.percentile(seconds, (50, 95, 99)))
    return Latency(p50, p95, p99, len(seconds))


@dataclass(frozen=True)
class Cost:
    """Of answering a split on this device; what is not known of a file or an endpoint is `None`.

    `rows_per_second` is of all rows at once, in batches as large as suits the device; `peak_memory_bytes` the
    most that was in use in that time, on a CPU by the whole process: known where it held one model alone.
    """

    rows_per_second: float | None = None
    parameters: int | None = None
    parameters_without_embeddings: int | None = None
    bytes: int | None = None
    peak_memory_bytes: int | None = None
    latency: Latency | None = None


@contextmanager
def watch() -> Iterator[Callable[[], float]]:
    """Yield a function that returns how many seconds the block took."""
    started = time.perf_counter()
    ended: list[float] = []
    yield lambda: (ended[0] if ended else time.perf_counter()) - started
    ended.append(time.perf_counter())
