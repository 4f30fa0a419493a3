"""A worker of a sweep: it takes cells that share data and student, and trains them together."""

import time
import traceback
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from optuna import Trial

from distilkit.config import SweepConfig
from distilkit.errors import UserError
from distilkit.hardware.memory import release_cached
from distilkit.progress import DistinctReporter, Reporter
from distilkit.runs.run import Run
from distilkit.workflows.distillation.inputs import DistillationInputs
from distilkit.workflows.distillation.scheduling import train_each
from distilkit.workflows.distillation.workflow import prepare_inputs
from distilkit.workflows.sweeping.cells import Cell
from distilkit.workflows.sweeping.folder import SweepChanged, SweepFolder
from distilkit.workflows.sweeping.queue import CellQueue
from distilkit.workflows.sweeping.storage import StorageLost

MAX_TOGETHER = 64  # cells that a worker takes at a time
WAIT_SECONDS = 2.0  # between looks at what other workers do
SAFETY = 1.25  # cells must fit into what is left of --time-limit with so much to spare


class TimeIsUp(Exception):
    """The time limit of the sweep has passed."""


class TooManyFailures(UserError):
    """More cells have failed than the sweep allows."""


class CellReporter(Reporter):
    """Pass on progress and warnings of trainings, but not their lines per epoch; end them when time is up.

    Args:
        silenced: names of cells whose warnings are left out: a search tries bad settings on purpose.
    """

    def __init__(
        self, reporter: Reporter, deadline: float | None, silenced: Collection[str] = frozenset()
    ) -> None:
        self._reporter, self._deadline = DistinctReporter(reporter), deadline
        self._silenced = silenced

    def warn(self, message: str) -> None:
        """Print a warning, once."""
        if message.partition(": ")[0] not in self._silenced:
            self._reporter.warn(message)

    def advance(self, task: str, done: int, total: int, detail: str = "") -> None:
        """Show progress; raise `TimeIsUp` after the deadline."""
        if self._deadline is not None and time.monotonic() > self._deadline:
            raise TimeIsUp
        self._reporter.advance(task, done, total, detail)


@dataclass
class Worker:
    """Trains cells until none is left.

    Attributes:
        cells: those of the command, with their run folders; a search changes them as it goes.
        deadline: on the monotonic clock; `None` without a limit.
        limit: of cells to take at a time.
        notes_cells: whether each cell that is complete gets a line.
    """

    folder: SweepFolder
    cells: Sequence[Cell]
    queue: CellQueue
    config: SweepConfig
    reporter: Reporter
    deadline: float | None = None
    limit: int = MAX_TOGETHER
    notes_cells: bool = True
    _seconds: list[float] = field(default_factory=list)  # per cell, of the groups that were trained
    _failed: int = 0

    def run(self, count_workers: Any) -> None:
        """Train what waits, and what dead workers leave, until every cell is complete or has failed.

        Args:
            count_workers: returns how many workers are alive, among which the cells are shared out.

        Raises:
            TimeIsUp: when the time limit ends it.
            TooManyFailures: when more than `config.max_failures` cells have failed.
        """
        self.queue.fill(self.cells, retries_failures=count_workers() == 1)
        while self.help(count_workers()) or self._wait():
            self.queue.fill(self.cells, retries_failures=False)

    def help(self, workers: int) -> bool:
        """Train some of the cells that wait, whoever queued them; return whether there were any.

        Args:
            workers: how many are alive.
        """
        waiting = self.queue.count_waiting()
        group = self.queue.take(self._group_size(waiting, workers)) if waiting else []
        if group:
            self._train(group)
        return bool(group)

    def _wait(self) -> bool:
        """Wait a moment for other workers; return whether they still have cells to complete."""
        pending = self._list_pending(self.folder.list_missing(self.cells))
        if pending:
            self.pause()
            self._report_done("sweep, waiting for other workers", pending)
        return bool(pending)

    def pause(self) -> None:
        """Wait a moment. Raises `TimeIsUp` after the deadline."""
        self._check_time()
        time.sleep(WAIT_SECONDS)

    def _group_size(self, waiting: int, workers: int) -> int:
        size = min(self.limit, -(-waiting // workers))
        if self.deadline is None:
            return size
        self._check_time()
        if not self._seconds:
            return min(size, torch.get_num_threads())  # to learn how long a cell takes
        left = self.deadline - time.monotonic()
        fitting = int(left / (SAFETY * max(self._seconds)))
        if fitting < 1:
            raise TimeIsUp
        return min(size, fitting)

    def _check_time(self) -> None:
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise TimeIsUp

    def _list_pending(self, missing: Sequence[Cell]) -> list[Cell]:
        """Return the cells of `missing` that have not failed."""
        failures = self.folder.failures()
        return [cell for cell in missing if cell.id not in failures]

    def _report_done(self, task: str, pending: Sequence[Cell]) -> None:
        self.reporter.advance(task, len(self.cells) - len(pending), len(self.cells))

    def _train(self, group: Sequence[tuple[Cell, Trial]]) -> None:
        """Train cells together; where that fails as a whole, each alone.

        What ends it gives back the cells that are not done.
        """
        group = [pair for pair in group if not self._is_complete(*pair)]
        if not group:
            return
        pending = dict(enumerate(group))

        def finished(i: int, outcome: Run | UserError) -> None:
            cell, trial = pending[i]
            if isinstance(outcome, UserError):
                self._record_failure(cell, trial, str(outcome))
            else:
                self._record_run(cell, trial, outcome)
            del pending[i]

        started = time.monotonic()
        try:
            inputs = self._prepare([cell for cell, _ in group])
            silenced = frozenset() if self.notes_cells else {cell.name for cell, _ in group}
            train_each(inputs, CellReporter(self.reporter, self.deadline, silenced), finished)
            self._seconds.append((time.monotonic() - started) / len(group))
        except (TimeIsUp, StorageLost, TooManyFailures, SweepChanged):
            self.queue.release([trial for _, trial in pending.values()])
            raise
        except Exception as error:
            self._end_broken_group(list(pending.values()), error)
        except BaseException:  # Ctrl-C, SIGTERM: no failure of theirs
            self.queue.release([trial for _, trial in pending.values()])
            raise

    def _end_broken_group(self, pending: Sequence[tuple[Cell, Trial]], error: Exception) -> None:
        """Find the cell that an error belongs to: the only one, or each is tried alone."""
        release_cached()
        if len(pending) > 1:
            for pair in pending:
                self._train([pair])
            return
        for cell, trial in pending:
            trace = None if isinstance(error, UserError) else "".join(traceback.format_exception(error))
            self._record_failure(cell, trial, str(error) or type(error).__name__, trace)

    def _prepare(self, cells: Sequence[Cell]) -> DistillationInputs:
        """Load what the cells share.

        Raises:
            SweepChanged: when data or teachers are not those of the sweep's other runs.
        """
        inputs = prepare_inputs([cell.config for cell in cells], CellReporter(self.reporter, self.deadline))
        data = inputs.data
        fingerprints = {
            split: data.fingerprint(split, labels=False)
            for split in ("train", "validation")
            if split in data.splits
        }
        if not data.labelled_by_teacher:
            fingerprints |= {f"labels of {split}": data.fingerprint(split) for split in data.labels_of}
        fingerprints |= {
            f"teacher {teacher['name']}": teacher["fingerprint"]
            for teacher in inputs.teacher_facts.get("teachers", ())
        }
        self.folder.check_material(fingerprints)
        return inputs

    def _is_complete(self, cell: Cell, trial: Trial) -> bool:
        run = self.folder.find_run(cell.name)
        if run:
            self._record_run(cell, trial, run)
        return run is not None

    def _record_run(self, cell: Cell, trial: Trial, run: Run) -> None:
        metrics: Mapping[str, Any] = run.metrics
        metric = metrics["metric"]
        score = float(metrics["validation"][metric])
        self.folder.forget_failure(cell)
        self.queue.finish(trial, score)
        if not self.notes_cells:
            return
        missing = self.folder.list_missing(self.cells)
        self.reporter.note(
            f"{cell.name}: {metric} {score:.4f}, epoch {metrics['best_epoch']} "
            f"({len(self.cells) - len(missing):,} of {len(self.cells):,} cells)"
        )
        self._report_done("sweep", self._list_pending(missing))

    def _record_failure(self, cell: Cell, trial: Trial, error: str, trace: str | None = None) -> None:
        """Keep an error and go on.

        Raises:
            TooManyFailures: when the sweep has seen enough.
            UserError: when the disk refuses even that.
        """
        self.reporter.warn(f"{cell.name} failed: {error}")
        try:
            self.folder.record_failure(cell, error, trace)
        except OSError as refusal:
            self.queue.release([trial])
            raise StorageLost(
                f"--output-dir {self.folder.path}: {refusal.strerror}. What is trained is kept; type the "
                "command again when there is room."
            ) from None
        self.queue.fail(trial)
        self.count_failure(error)

    def count_failure(self, error: str) -> None:
        """Count a failure. Raises `TooManyFailures` when the sweep has seen enough."""
        self._failed += 1
        if self._failed > self.config.max_failures:
            raise TooManyFailures(
                f"{self._failed} cells have failed, more than --max-failures {self.config.max_failures}. "
                f"The last: {error}"
            )
