"""`Batcher`: answer the texts of several requests together, in threads of its own."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import groupby
from math import ceil
from types import TracebackType
from typing import Self

from distilkit.data.texts import Texts
from distilkit.engine.inference.predictor import Predictions

MEMORY = 0.8  # weight of the past in the mean seconds a row


class QueueFull(Exception):
    """The waiting texts leave no room for more; `seconds` says when there may be some."""

    def __init__(self, seconds: int) -> None:
        super().__init__(seconds)
        self.seconds = seconds


class BatcherClosed(Exception):
    """Nothing is taken any more, because the process is about to end."""


@dataclass(frozen=True)
class Job:
    """Hold the texts of a request, and what will be their answer."""

    texts: Texts
    arrived: float = field(default_factory=time.perf_counter)
    answer: "Future[Predictions]" = field(default_factory=Future)


@dataclass(frozen=True)
class Batch:
    """Say how a batch went: its texts, how long each request waited, and how long the model took."""

    rows: int
    waits: tuple[float, ...]
    seconds: float


class Batcher:
    """Collect the texts of requests for some milliseconds, and answer them with one call of a model.

    Texts that arrive while the model computes are the next batch. The queue is bounded. A request is never
    split, so that one with more texts than `batch_size` is a batch by itself; the model sorts the texts of a
    batch by length.

    Args:
        predict: answers texts; only ever called in the batcher's threads.
        batch_size: texts that are enough for a batch.
        wait_seconds: how long the first text of a batch waits for others.
        queue_size: texts that may wait.
        observe: called after each batch, in the batcher's threads.
        threads: batches that are answered at a time; more than one where another machine answers them.
    """

    def __init__(
        self,
        predict: Callable[[Texts], Predictions],
        *,
        batch_size: int,
        wait_seconds: float,
        queue_size: int,
        observe: Callable[[Batch], None] = lambda batch: None,
        threads: int = 1,
    ) -> None:
        self._predict, self._observe = predict, observe
        self._batch_size, self._wait_seconds, self._queue_size = batch_size, wait_seconds, queue_size
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._seconds_per_row = 0.0
        self.queued_rows = 0
        self._threads = [
            threading.Thread(target=self._run, name=f"batcher {i}", daemon=True) for i in range(threads)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take nothing more, answer what waits, and end the threads."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    @property
    def is_alive(self) -> bool:
        """Return whether the threads that answer are there."""
        return all(thread.is_alive() for thread in self._threads)

    def submit(self, texts: Texts) -> "Future[Predictions]":
        """Put the texts of a request into the queue. What is taken is answered, unless it is cancelled.

        Raises:
            QueueFull: when too many texts wait already.
            BatcherClosed: when the batcher ends.
        """
        job = Job(texts)
        with self._changed:
            if self._closed:
                raise BatcherClosed
            if self.queued_rows + len(texts) > self._queue_size:
                raise QueueFull(max(1, ceil(self.queued_rows * self._seconds_per_row)))
            self._jobs.append(job)
            self.queued_rows += len(texts)
            self._changed.notify()
        return job.answer

    def _run(self) -> None:
        while jobs := self._collect():
            # Those that are cancelled here have run out of time: nobody waits for them.
            jobs = [job for job in jobs if job.answer.set_running_or_notify_cancel()]
            for _, alike in groupby(sorted(jobs, key=_is_pair), key=_is_pair):
                self._answer(list(alike))

    def _collect(self) -> list[Job]:
        """Wait for texts, then for more of them; return the next batch, or nothing at the end."""
        with self._changed:
            while not self._has_batch():
                if self._closed:
                    return []
            jobs = [self._jobs.popleft()]
            rows = len(jobs[0].texts)
            while self._jobs and rows + len(self._jobs[0].texts) <= self._batch_size:
                jobs.append(self._jobs.popleft())
                rows += len(jobs[-1].texts)
            self.queued_rows -= rows
            if self._jobs:
                self._changed.notify()
        return jobs

    def _has_batch(self) -> bool:
        """Wait for texts, then for more of them; return whether another thread has not taken them since."""
        self._changed.wait_for(lambda: self._jobs or self._closed)
        if self._jobs:
            deadline = self._jobs[0].arrived + self._wait_seconds
            while self._jobs and self.queued_rows < self._batch_size and not self._closed:
                remaining = deadline - time.perf_counter()
                if remaining <= 0:
                    break
                self._changed.wait(remaining)
        return bool(self._jobs)

    def _answer(self, jobs: Sequence[Job]) -> None:
        """Answer jobs that are all texts, or all pairs. Where that fails, try each by itself."""
        started = time.perf_counter()
        texts = _join([job.texts for job in jobs])
        try:
            predictions = self._predict(texts)
        except Exception as error:
            if len(jobs) == 1:
                jobs[0].answer.set_exception(error)
            for job in jobs if len(jobs) > 1 else ():
                self._answer([job])
            return
        seconds = time.perf_counter() - started
        self._seconds_per_row *= MEMORY
        self._seconds_per_row += (1 - MEMORY) * seconds / len(texts)
        self._observe(Batch(len(texts), tuple(started - job.arrived for job in jobs), seconds))
        start = 0
        for job in jobs:
            stop = start + len(job.texts)
            part = Predictions(predictions.class_names, predictions.probabilities[start:stop])
            job.answer.set_result(part)
            start = stop


def _is_pair(job: Job) -> bool:
    return job.texts.second is not None


def _join(parts: Sequence[Texts]) -> Texts:
    """Return all texts of parts that are all pairs, or all not."""
    first = [text for part in parts for text in part.first]
    if parts[0].second is None:
        return Texts(first)
    return Texts(first, [text for part in parts for text in part.second or ()])
