"""`Served`: a student that answers requests, with the teacher it falls back on."""

import asyncio
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from distilkit.config import ServeConfig
from distilkit.data.texts import Texts
from distilkit.engine.inference.posting import Refusal as EndpointRefusal
from distilkit.engine.inference.predictor import Predictions, Predictor
from distilkit.errors import UserError
from distilkit.progress import Reporter
from distilkit.workflows.serving.batcher import Batch, Batcher, BatcherClosed, QueueFull
from distilkit.workflows.serving.metrics import Metrics
from distilkit.workflows.serving.teachers import Teacher
from distilkit.workflows.serving.thresholds import Threshold, find_threshold

WARM_UP = ("a text", "a text of some more words than the first")


class TeacherFailure(Exception):
    """The teacher did not answer what the student is unsure of; the message holds no text."""


@dataclass(frozen=True)
class ServedAnswer:
    """Hold the answers to the texts of a request.

    Attributes:
        teacher_rows: which of them the teacher gave, ascending int64.
    """

    predictions: Predictions
    teacher_rows: NDArray[np.int64]


@dataclass(frozen=True)
class Comparison:
    """Hold what the student and the teacher each answer to the same texts."""

    student: Predictions
    teacher: Predictions | None


class Served:
    """Answer texts with a student, and with a teacher where the student is unsure.

    Attributes:
        users: requests that are being answered; it changes in the event loop alone.
    """

    def __init__(
        self,
        config: ServeConfig,
        student: Batcher,
        *,
        class_names: tuple[str, ...],
        wants_pairs: bool = False,
        teacher: Batcher | None = None,
        threshold: Threshold | None = None,
    ) -> None:
        self.name, self.teacher_name = config.model, config.fallback
        self.class_names, self.wants_pairs, self.threshold = class_names, wants_pairs, threshold
        self._student, self._teacher = student, teacher
        self._stack = ExitStack()
        self.users = 0

    def __enter__(self) -> Self:
        for batcher in filter(None, (self._student, self._teacher)):
            self._stack.enter_context(batcher)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Answer what waits, and end the threads."""
        self._stack.close()

    @property
    def is_alive(self) -> bool:
        """Return whether requests can be answered at all."""
        return all(batcher.is_alive for batcher in (self._student, self._teacher) if batcher)

    @property
    def queued_rows(self) -> int:
        """Return how many texts wait."""
        return sum(batcher.queued_rows for batcher in (self._student, self._teacher) if batcher)

    async def answer(self, texts: Texts) -> ServedAnswer:
        """Answer texts.

        Raises:
            QueueFull: when too many texts wait already, for the student or for the teacher.
            TeacherFailure: when the teacher is asked and does not answer.
        """
        self.users += 1
        try:
            student = await asyncio.wrap_future(self._student.submit(texts))
            if self._teacher is None or self.threshold is None:
                return ServedAnswer(student, np.empty(0, np.int64))
            unsure = np.flatnonzero(student.scores < self.threshold.value)
            if not len(unsure):
                return ServedAnswer(student, unsure)
            teacher = await self._ask_teacher(self._teacher.submit(texts.take(unsure)))
            probabilities = student.probabilities.copy()
            probabilities[unsure] = teacher.probabilities
            return ServedAnswer(Predictions(student.class_names, probabilities), unsure)
        finally:
            self.users -= 1

    async def compare(self, texts: Texts) -> Comparison:
        """Return what each model answers to texts. Raises as `answer`."""
        self.users += 1
        try:
            student = self._student.submit(texts)
            teacher = self._teacher.submit(texts) if self._teacher else None
            answers = await asyncio.wrap_future(student)
            return Comparison(answers, await self._ask_teacher(teacher) if teacher else None)
        finally:
            self.users -= 1

    async def _ask_teacher(self, answer: "Future[Predictions]") -> Predictions:
        try:
            return await asyncio.wrap_future(answer)
        except (QueueFull, BatcherClosed):
            raise
        except EndpointRefusal as refusal:
            raise TeacherFailure(f"status {refusal.status}") from None
        except Exception as error:
            raise TeacherFailure(type(error).__name__) from None


def prepare(
    config: ServeConfig, predictor: Predictor, teacher: Teacher | None, metrics: Metrics, reporter: Reporter
) -> Served:
    """Return what serves a student, once it has answered some texts and its threshold is known.

    Raises:
        UserError: when a model cannot answer, or the two do not fit each other.
    """
    wants_pairs = warm_up(predictor)

    def answer(texts: Texts) -> Predictions:
        return predictor.predict(texts.first, texts.second)

    student = Batcher(
        answer,
        batch_size=config.batch_size,
        wait_seconds=config.wait_ms / 1000,
        queue_size=config.queue_size,
        observe=metrics.observe_batch,
    )
    if teacher is None:
        return Served(config, student, class_names=predictor.class_names, wants_pairs=wants_pairs)
    ask = teacher.fit(predictor.class_names)
    return Served(
        config,
        student,
        class_names=predictor.class_names,
        wants_pairs=wants_pairs,
        teacher=Batcher(
            ask,
            batch_size=teacher.batch_size,
            wait_seconds=config.wait_ms / 1000,
            queue_size=config.queue_size,
            observe=_ignore,
            threads=teacher.threads,
        ),
        threshold=find_threshold(config, predictor, teacher, ask, reporter),
    )


def warm_up(predictor: Predictor) -> bool:
    """Answer some texts, so that the first request is no slower; return whether the model wants pairs.

    Raises:
        UserError: when the model cannot answer.
    """
    try:
        predictor.predict(WARM_UP)
        return False
    except UserError:
        predictor.predict(WARM_UP, WARM_UP)  # it compares two texts, or fails again
        return True


def _ignore(batch: Batch) -> None:
    """Count nothing: the metrics of batches are the student's."""
