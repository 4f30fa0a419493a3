"""The queue of cells: Optuna's trials, from which workers on one machine or many take what waits.

A trial is an attempt at a cell. Two workers may queue the same attempt at the same moment; the trial with the
lower number counts, and the other is dropped, so that no lock between machines is needed.
"""

import json
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

import optuna
from optuna import Trial
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, ProgrammingError, SQLAlchemyError

from distilkit.errors import UserError
from distilkit.progress import Reporter
from distilkit.workflows.sweeping.cells import Cell
from distilkit.workflows.sweeping.folder import JOURNAL, SweepFolder
from distilkit.workflows.sweeping.leases import Lease

Answer = TypeVar("Answer")
CELL, RUN, ATTEMPT, WORKER, OUTCOME = "cell", "run", "attempt", "worker", "outcome"
# Outcomes of a failed trial; where there is none, its worker died.
ERROR, RELEASED, DUPLICATE = "error", "released", "duplicate"
MAX_DEATHS = 3  # of workers at one cell, which then counts as failed
PATIENCE_SECONDS = 600.0  # that a storage may be away
RETRY_SECONDS = 2.0
OPENING_ATTEMPTS = 5


class StorageLost(UserError):
    """The storage has not answered for a long time."""


def open_storage(url: str | None, folder: SweepFolder, reporter: Reporter) -> BaseStorage:
    """Open the storage of a sweep: a journal in its folder, or a database.

    A journal that cannot be read is put aside: the runs tell what is done.

    Raises:
        UserError: when the database cannot be reached or is of no known kind.
    """
    if url is None:
        journal = folder.path / JOURNAL
        try:
            return _open_journal(journal)
        except (ValueError, LookupError, AssertionError) as error:
            damaged = journal.with_name(f"{JOURNAL}.damaged-{time.time_ns()}")
            journal.rename(damaged)
            reporter.warn(
                f"{journal} is damaged ({str(error)[:100]}); it is now {damaged.name}, and made again"
            )
            return _open_journal(journal)
    try:
        return _open_database(url)
    except ImportError as error:
        raise UserError(f"--storage: {error}. Install the driver of the database.") from None
    except (SQLAlchemyError, StorageInternalError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"--storage {hide_password(url)} cannot be used: {reason}") from None


def _open_database(url: str) -> BaseStorage:
    """Open a database; try again where another worker was making its tables at the same moment."""
    for attempt in range(1, OPENING_ATTEMPTS + 1):
        try:
            return RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
        except (IntegrityError, ProgrammingError):
            if attempt == OPENING_ATTEMPTS:
                raise
            time.sleep(RETRY_SECONDS)
    raise AssertionError("an attempt returns or raises")


def _open_journal(file: Path) -> BaseStorage:
    return JournalStorage(JournalFileBackend(str(file)))


def hide_password(url: str) -> str:
    """Return a storage's URL as messages show it."""
    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return "URL"


class CellQueue:
    """Cells that wait, are trained, and are done, shared with other workers."""

    def __init__(
        self,
        folder: SweepFolder,
        lease: Lease,
        reporter: Reporter,
        *,
        url: str | None = None,
        higher_is_better: bool = True,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._folder, self._lease, self._reporter = folder, lease, reporter
        study_name = folder.open_study(hide_password(url) if url else "a journal in the folder")
        with folder.lock():
            storage = open_storage(url, folder, reporter)
        open_study = partial(optuna.create_study, storage=storage, study_name=study_name)
        direction = "maximize" if higher_is_better else "minimize"
        self._study = self._ask(partial(open_study, load_if_exists=True, direction=direction))
        self._held: Trial | None = None

    def _ask(self, call: Callable[[], Answer]) -> Answer:
        """Ask the storage; where it does not answer, again and again for some minutes.

        Raises:
            StorageLost: when it has not answered for that long.
        """
        deadline, was_away = time.monotonic() + PATIENCE_SECONDS, False
        while True:
            try:
                answer = call()
            except (OSError, StorageInternalError, SQLAlchemyError, json.JSONDecodeError) as error:
                reason = " ".join(str(error).split())[:200]
                if time.monotonic() > deadline:
                    raise StorageLost(
                        f"the storage of the sweep does not answer: {reason}. What is trained is kept; type "
                        "the command again when it is there."
                    ) from None
                if not was_away:
                    self._reporter.warn(f"the storage of the sweep does not answer ({reason}); trying again")
                was_away = True
                time.sleep(RETRY_SECONDS)
            else:
                if was_away:
                    self._reporter.note("the storage of the sweep answers again")
                return answer

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self._ask(partial(self._study.get_trials, deepcopy=False, states=states or None))

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
                if not self._lease.is_alive(str(trial.user_attrs.get(WORKER))):
                    self._take_over(cell, trial)
            elif cell.id not in failures or retries_failures:
                self._enqueue(cell, trial.user_attrs[ATTEMPT] + 1)

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
        self._ask(partial(self._study.enqueue_trial, numeric, user_attrs=texts | facts))

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
                self._ask(partial(trial.suggest_float, name, value, value))
            group.append((cell, trial))
        return group

    def _pop(self) -> Trial | None:
        if self._held:
            trial, self._held = self._held, None
            return trial
        while self._trials(TrialState.WAITING):
            trial = self._ask(self._study.ask)
            if CELL not in trial.user_attrs:  # another worker took the last one, and Optuna made this one up
                self._tell(trial.number, state=TrialState.FAIL)
                return None
            self._ask(partial(trial.set_user_attr, WORKER, self._lease.name))
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
            self._ask(partial(trial.set_user_attr, OUTCOME, outcome))
        self._tell(trial.number, state=TrialState.FAIL)

    def _tell(self, trial_number: int, state: TrialState, values: float | None = None) -> None:
        tell = partial(self._study.tell, trial_number, values, state=state, skip_if_finished=True)
        with suppress(UpdateFinishedTrialError):
            self._ask(tell)


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
