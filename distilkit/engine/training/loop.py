"""The training loop: teachers and students, one model or K as one, all go through `fit`."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from distilkit.engine.training.checkpoints import Checkpoints, Position
from distilkit.engine.training.learners import Learner
from distilkit.engine.training.losses import Losses
from distilkit.errors import UserError
from distilkit.runs.records import EpochRecord
from distilkit.stopping import check_stop

REMEDY = "No run was written. Lower --learning-rate, or use --precision fp32."
# Reading the losses makes the loop wait for the device, so it is done this often, whichever comes first.
LOG_STEPS, LOG_SECONDS = 50, 15.0


@dataclass(frozen=True)
class StepRecord:
    """Where training stands, every 50 optimizer steps or 15 seconds; the loss is the students' mean."""

    step: int
    steps: int
    loss: float


class StudentRecord(NamedTuple):
    """A student's finished epoch, or the `UserError` that ended its training."""

    student: int
    outcome: EpochRecord | UserError


class StepLoader(Protocol):
    """An epoch's optimizer steps, each a list of batches."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Any]: ...

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of rows, from 0 on."""

    def skip(self, steps: int) -> None:
        """Leave out the first steps of this epoch."""


def fit(
    learner: Learner,
    loader: StepLoader,
    *,
    epochs: int,
    validate: Callable[[int], dict[str, float]],
    metric: str,
    higher_is_better: bool = True,
    patience: int | None = None,
    checkpoints: Checkpoints | None = None,
) -> Iterator[StepRecord | StudentRecord | Position]:
    """Train the students of `learner` in place; yield records and print nothing.

    The best epoch and patience are each student's own. Of epochs with equal metrics the one with the lower
    validation loss is better (the entry `loss` of `validate`, where there is one), then the earlier one. A
    student that diverges, or whose patience ends, keeps the parameters it has; the others go on.

    Args:
        learner: takes the steps.
        loader: gives them, in an order that each epoch changes.
        validate: returns the metrics of a student, by its index, after every epoch.
        metric: the entry of `validate`'s result that decides which epoch is better.
        patience: stop after that many epochs without a better one.
        checkpoints: where to start, and when to yield a `Position`; for one student.

    Yields:
        A `StepRecord` every 50 steps or 15 seconds; a `StudentRecord` for each student that still trains
        after every epoch, or once with the error that ends its training. When its record is `improved` the
        student's parameters are its best so far: save them before asking for the next record. A `Position`
        where a checkpoint is due, its losses and parameters finite: save the learner's state likewise.
    """
    stopping = [EarlyStopping(patience, higher_is_better) for _ in learner.students]
    for record in checkpoints.history if checkpoints else ():
        stopping[0].improved(record.validation[metric], record.validation.get("loss", 0.0))
    if stopping[0].ended:
        return
    steps = _Steps(learner, loader, epochs, checkpoints)
    active = steps.active
    with _flushing(learner, active):
        for epoch in range(steps.start.epoch, epochs + 1):
            yield from steps.take(epoch)
            means = steps.meter.means()  # waits for the device, so the time below is that of the work
            learner.flush(active)
            seconds = time.perf_counter() - steps.started
            for student in list(active):
                error = non_finite_means(means[student], steps.step)
                error = error or non_finite_parameters(learner.students[student], steps.step)
                scores, error = ({}, error) if error else score_student(validate, student, steps.step)
                if error:
                    yield steps.end_student(student, error)
                    continue
                record = EpochRecord(
                    epoch=epoch,
                    step=steps.step,
                    learning_rate=learner.learning_rate,
                    validation=scores,
                    improved=stopping[student].improved(scores[metric], scores.get("loss", 0.0)),
                    examples_per_second=steps.meter.rows / seconds,
                    seconds=seconds,
                    **means[student],
                )
                if stopping[student].ended:
                    active.remove(student)
                yield StudentRecord(student, record)
            if checkpoints and checkpoints.is_stopping():
                yield Position(epoch + 1)
            if not active:
                return


class _Steps:
    """Take the optimizer steps of `fit`.

    Attributes:
        start: where the training starts.
        step: how many are taken.
        active: the students that still train.
        meter: sums the losses of the current epoch, which began when the clock was `started`.
    """

    def __init__(
        self, learner: Learner, loader: StepLoader, epochs: int, checkpoints: Checkpoints | None
    ) -> None:
        self._learner, self._loader, self._checkpoints = learner, loader, checkpoints
        self.start = (checkpoints and checkpoints.start) or Position()
        self._steps = epochs * len(loader)
        self.step = (self.start.epoch - 1) * len(loader) + self.start.steps
        self.active = list(range(len(learner.students)))
        self._logged = time.perf_counter()

    def end_student(self, student: int, error: UserError) -> StudentRecord:
        """End the training of a student."""
        self.active.remove(student)
        return StudentRecord(student, error)

    def take(self, epoch: int) -> Iterator[StepRecord | StudentRecord | Position]:
        """Take the steps of an epoch, or what is left of it, until no student is active."""
        learner, loader = self._learner, self._loader
        loader.set_epoch(epoch - 1)
        start = self.start if epoch == self.start.epoch else Position(epoch)
        if start.steps:
            loader.skip(start.steps)
        learner.start_epoch()
        self.meter = LossMeter(learner.unweighed_parts, start)
        self.started = time.perf_counter() - start.seconds
        for batches in loader:
            check_stop()
            losses = learner.step(batches, progress(self.step, self._steps))
            self.meter.add(losses, learner.count_rows(batches))
            self.step += 1
            if self.step % LOG_STEPS == 0 or time.perf_counter() - self._logged > LOG_SECONDS:
                yield from self._log()
            if self._checkpoints and self.active and self._checkpoints.is_due(self.step):
                yield self._checkpoint(epoch)
            if not self.active:
                return

    def _log(self) -> Iterator[StepRecord | StudentRecord]:
        """End the students whose losses are not finite, and say where those stand that go on."""
        self._logged, means = time.perf_counter(), self.meter.means()
        for student in list(self.active):
            if error := non_finite_means(means[student], self.step):
                yield self.end_student(student, error)
        if self.active:
            mean = sum(means[student]["loss"] or 0.0 for student in self.active) / len(self.active)
            yield StepRecord(self.step, self._steps, mean)

    def _checkpoint(self, epoch: int) -> Position | StudentRecord:
        """Return the position that is to be saved, or the error of a state that nobody could go on with."""
        error = non_finite_means(self.meter.means()[0], self.step)
        error = error or non_finite_parameters(self._learner.students[0], self.step)
        if error:
            return self.end_student(0, error)
        return self.meter.position(epoch, self.step - (epoch - 1) * len(self._loader), self.started)


@contextmanager
def _flushing(learner: Learner, active: Sequence[int]) -> Iterator[None]:
    """Leave whole models behind, however training ends."""
    try:
        yield
    finally:
        learner.flush(active)


def progress(step: int, steps: int) -> float:
    """Return how far training is at its step `step`, from 0: 0 at the first, 1 at the last of `steps`."""
    return step / max(1, steps - 1)


def non_finite_means(means: Mapping[str, float | None], step: int) -> UserError | None:
    """Return an error unless all mean losses are finite."""
    computed = {name: mean for name, mean in means.items() if mean is not None}
    if all(abs(mean) < float("inf") for mean in computed.values()):
        return None
    return UserError(f"the loss is not a finite number by step {step} ({computed}). {REMEDY}")


def non_finite_parameters(model: torch.nn.Module, step: int) -> UserError | None:
    """Return an error unless all parameters are finite.

    The loss of a step belongs to the parameters before it, so what the last step did shows only here.
    """
    finite = torch.stack([parameter.detach().isfinite().all() for parameter in model.parameters()])
    return (
        None if finite.all() else UserError(f"parameters are not finite numbers after step {step}. {REMEDY}")
    )


def score_student(
    validate: Callable[[int], dict[str, float]], student: int, step: int
) -> tuple[dict[str, float], UserError | None]:
    """Return a student's validation scores, or the error that ends its training and leaves the others alone.

    NaN would be no better than any score: training would go on and keep no epoch at all.
    """
    try:
        scores = validate(student)
    except UserError as error:
        return {}, error
    if all(abs(value) < float("inf") for value in scores.values()):
        return scores, None
    return {}, UserError(
        f"the validation scores are not finite numbers after step {step} ({scores}). {REMEDY}"
    )


class EarlyStopping:
    """Track the best epoch by its metric, ties by its loss, and whether patience has run out."""

    def __init__(self, patience: int | None, higher_is_better: bool = True) -> None:
        self._patience, self._sign = patience, 1 if higher_is_better else -1
        self._best, self._epochs_since = (float("-inf"), float("-inf")), 0

    def improved(self, value: float, loss: float) -> bool:
        """Take in an epoch's metric and loss; return whether it is better than all before."""
        quality = (value * self._sign, -loss)
        better = quality > self._best
        self._best, self._epochs_since = (quality, 0) if better else (self._best, self._epochs_since + 1)
        return better

    @property
    def ended(self) -> bool:
        """Return whether patience has run out."""
        return self._patience is not None and self._epochs_since >= self._patience


class LossMeter:
    """Sum the losses of an epoch on the device; read them only when asked.

    Args:
        unweighed_parts: per student the parts to report as `None`.
        start: the position in the epoch whose sums are gone on with.
    """

    def __init__(self, unweighed_parts: Sequence[frozenset[str]], start: Position) -> None:
        self._unweighed_parts = unweighed_parts
        self._sums: dict[str, Tensor | None] = dict(start.sums)
        self.rows = start.rows

    def position(self, epoch: int, steps: int, started: float) -> Position:
        """Return where the epoch stands that began at `started`, by `time.perf_counter`."""
        return Position(epoch, steps, self.rows, dict(self._sums), time.perf_counter() - started)

    def add(self, losses: Losses, rows: int) -> None:
        """Add losses that are means over `rows` rows."""
        self.rows += rows
        for name, value in zip(("loss", "hard_loss", "soft_loss", "layer_loss"), losses, strict=True):
            if value is None:
                self._sums[name] = None
            else:
                total = self._sums.get(name)
                self._sums[name] = value.detach() * rows + (0 if total is None else total)

    def means(self) -> list[dict[str, Any]]:
        """Return per student the mean of each part over all rows so far; `None` for what is not computed."""
        columns = {
            name: None if total is None else (total / self.rows).reshape(-1).tolist()
            for name, total in self._sums.items()
        }
        return [
            {
                name: None if column is None or name in unweighed else column[student]
                for name, column in columns.items()
            }
            for student, unweighed in enumerate(self._unweighed_parts)
        ]
