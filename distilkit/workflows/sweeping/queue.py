"""The queue of cells: Optuna's trials, from which workers on one machine or many take what waits.

A trial is an attempt at a cell. Two workers may queue the same attempt at the same moment; the trial with the
lower number counts, and the other is dropped, so that no lock between machines is needed.
"""

import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import partial

from optuna import Trial
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from distilkit.progress import Reporter
from distilkit.workflows.sweeping.cells import Cell
from distilkit.workflows.sweeping.folder import SweepFolder
from distilkit.workflows.sweeping.leases import Lease
from distilkit.workflows.sweeping.storage import SweepStorage

CELL, RUN, ATTEMPT, WORKER, OUTCOME = "cell", "run", "attempt", "worker", "outcome"
# Outcomes of a failed trial; where there is none, its worker died.
ERROR, RELEASED, DUPLICATE = "error", "released", "duplicate"
MAX_DEATHS = 3  # of workers at one cell, which then counts as failed
NAMING_SECONDS = 10.0  # that a living worker may need from taking a trial to putting its name to it


class CellQueue:
    """Cells that wait, are trained, and are done, shared with other workers."""

    def __init__(self, folder: SweepFolder, lease: Lease, reporter: Reporter, storage: SweepStorage) -> None:
        self._folder, self._lease, self._reporter, self._storage = folder, lease, reporter, storage
        self._study = storage.open_study()
        self._held: Trial | None = None
        self._nameless: dict[int, float] = {}  # when a trial in nobody's name was seen first

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self._storage.ask(partial(self._study.get_trials, deepcopy=False, states=states or None))

    def fill(self, cells: Iterable[Cell], *, retries_failures: bool) -> None:
        """Queue each cell that is neither complete, nor waiting, nor in the hands of a living worker.

        Args:
            retries_failures: whether cells that have failed are tried again.
        """
        latest, failures = _latest_attempts(self._trials()), self._folder.failures()
        for cell in cells:
            trial = latest.get(cell.id)
            if self._folder.find_run(cell.name) or (trial and trial.state == TrialState.WAITING):
                continue
            if trial is None:
                self._enqueue(cell, 0)
            elif trial.state == TrialState.RUNNING:
                if self._is_abandoned(trial):
                    self._take_over(cell, trial)
            elif cell.id not in failures or retries_failures:
                self._enqueue(cell, trial.user_attrs[ATTEMPT] + 1)

    def _is_abandoned(self, trial: FrozenTrial) -> bool:
        """Return whether the worker of a running trial is dead.

        A worker takes a trial and then puts its name to it: beside living workers, a trial in nobody's name
        may be in their hands.
        """
        worker = trial.user_attrs.get(WORKER)
        if worker is not None:
            return not self._lease.is_alive(worker)
        seen = self._nameless.setdefault(trial.number, time.monotonic())
        return time.monotonic() - seen > NAMING_SECONDS or self._lease.count_alive() == 1

    def _take_over(self, cell: Cell, trial: FrozenTrial) -> None:
        """Queue the cell of a dead worker again; give up on one that several have died at."""
        self._tell(trial.number, state=TrialState.FAIL)
        ends = [
            (attempt.state, attempt.user_attrs.get(OUTCOME)) == (TrialState.FAIL, None)
            for attempt in self._trials()
            if attempt.user_attrs.get(CELL) == cell.id
        ]
        deaths = sum(ends)
        if deaths >= MAX_DEATHS:
            self._folder.record_failure(cell, f"{deaths} workers died while they trained it")
            return
        self._reporter.note(f"{cell.name}: its worker died (death {deaths}), so it waits again")
        self._enqueue(cell, trial.user_attrs[ATTEMPT] + 1)

    def _enqueue(self, cell: Cell, attempt: int) -> None:
        numeric = _numeric_values(cell)
        facts = {CELL: cell.id, RUN: cell.name, ATTEMPT: attempt}
        texts = {name: str(value) for name, value in cell.values.items() if name not in numeric}
        self._storage.ask(partial(self._study.enqueue_trial, numeric, user_attrs=texts | facts))

    def count_waiting(self) -> int:
        """Return how many cells wait."""
        return len(self._trials(TrialState.WAITING)) + (self._held is not None)

    def take(self, limit: int) -> list[tuple[Cell, Trial]]:
        """Take up to `limit` cells of one shape that wait."""
        group: list[tuple[Cell, Trial]] = []
        while len(group) < limit and (trial := self._pop()):
            cell = self._folder.read_cell(trial.user_attrs[CELL])
            if group and cell.shape != group[0][0].shape:
                self._held = trial
                break
            for name, value in _numeric_values(cell).items():  # shown by optuna-dashboard
                self._storage.ask(partial(trial.suggest_float, name, value, value))
            group.append((cell, trial))
        return group

    def _pop(self) -> Trial | None:
        if self._held:
            trial, self._held = self._held, None
            return trial
        while self._trials(TrialState.WAITING):
            trial = self._storage.ask(self._study.ask)
            if CELL not in trial.user_attrs:  # another worker took the last one, and Optuna made this one up
                self._tell(trial.number, state=TrialState.FAIL)
                return None
            try:
                self._storage.ask(partial(trial.set_user_attr, WORKER, self._lease.name))
            except UpdateFinishedTrialError:  # this worker was taken for dead, and the cell is queued again
                continue
            if self._is_first(trial):
                return trial
            self._end(trial, DUPLICATE)
        return None

    def _is_first(self, trial: Trial) -> bool:
        attributes = trial.user_attrs
        return not any(
            earlier.number < trial.number
            and earlier.user_attrs.get(CELL) == attributes[CELL]
            and earlier.user_attrs.get(ATTEMPT) == attributes[ATTEMPT]
            for earlier in self._trials()
        )

    def finish(self, trial: Trial, score: float) -> None:
        """Tell that the cell is complete."""
        self._tell(trial.number, values=score, state=TrialState.COMPLETE)

    def fail(self, trial: Trial) -> None:
        """Tell that the cell has failed."""
        self._end(trial, ERROR)

    def release(self, trials: Iterable[Trial]) -> None:
        """Give back what was taken and is not done; `fill` queues it again."""
        spare, self._held = self._held, None
        for trial in [*trials, *([spare] if spare else [])]:
            self._end(trial, RELEASED)

    def _end(self, trial: Trial, outcome: str) -> None:
        with suppress(UpdateFinishedTrialError):  # others took this worker for dead
            self._storage.ask(partial(trial.set_user_attr, OUTCOME, outcome))
        self._tell(trial.number, state=TrialState.FAIL)

    def _tell(self, trial_number: int, state: TrialState, values: float | None = None) -> None:
        tell = partial(self._study.tell, trial_number, values, state=state, skip_if_finished=True)
        with suppress(UpdateFinishedTrialError):
            self._storage.ask(tell)


def _numeric_values(cell: Cell) -> dict[str, float]:
    return {
        name: value
        for name, value in cell.values.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _latest_attempts(trials: Sequence[FrozenTrial]) -> dict[str, FrozenTrial]:
    """Return the last attempt at each cell; of trials for the same attempt the one that counts."""
    latest: dict[str, FrozenTrial] = {}
    for trial in trials:
        cell_id = trial.user_attrs.get(CELL)
        previous = latest.get(cell_id) if cell_id else None
        if cell_id and (previous is None or previous.user_attrs[ATTEMPT] < trial.user_attrs[ATTEMPT]):
            latest[cell_id] = trial
    return latest
