"""The queue: each cell is taken once, whoever asks, and none is lost with its worker."""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import optuna
import pytest
from conftest import Notes
from optuna.storages.journal import JournalFileSymlinkLock
from sqlalchemy.exc import IntegrityError, OperationalError

from distilkit.config import SweepConfig
from distilkit.errors import UserError
from distilkit.progress import SILENT
from distilkit.workflows.sweeping import queue, storage
from distilkit.workflows.sweeping.cells import make_cells
from distilkit.workflows.sweeping.folder import JOURNAL, SweepFolder
from distilkit.workflows.sweeping.leases import Lease
from distilkit.workflows.sweeping.queue import MAX_DEATHS, WORKER, CellQueue
from distilkit.workflows.sweeping.storage import StorageLost, SweepStorage, open_storage


class Workers:
    """Workers of one sweep in this process."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        config = SweepConfig(dataset="sst2", alpha=1, seed="1..6", output_dir=folder)
        self.folder, self.cells = SweepFolder.open(config, make_cells(config))
        self._stack = stack
        self.reporter = Notes()

    def join(self) -> CellQueue:
        """A new worker's view of the queue, which it has filled."""
        self.lease = self._stack.enter_context(Lease(self.folder.path / "workers"))
        joined = CellQueue(self.folder, self.lease, self.reporter, SweepStorage(self.folder, self.reporter))
        joined.fill(self.cells, retries_failures=True)
        return joined


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Workers]:
    with ExitStack() as stack:
        yield Workers(tmp_path / "sweep", stack)


def test_each_cell_is_taken_once_by_workers_that_start_at_the_same_moment(workers: Workers) -> None:
    """All of them queue every cell; two would train the same."""
    ready, taken = threading.Barrier(4), []

    def work(joined: CellQueue) -> None:
        ready.wait()
        joined.fill(workers.cells, retries_failures=True)
        while group := joined.take(1):
            taken.append(group[0][0].id)
            joined.finish(group[0][1], 0.5)

    with ExitStack() as stack:
        queues = []
        for _ in range(4):
            lease = stack.enter_context(Lease(workers.folder.path / "workers"))
            queues.append(CellQueue(workers.folder, lease, SILENT, SweepStorage(workers.folder, SILENT)))
        threads = [threading.Thread(target=work, args=(joined,)) for joined in queues]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(taken) == sorted(cell.id for cell in workers.cells)


def test_what_a_worker_takes_no_other_gets(workers: Workers) -> None:
    first, second = workers.join(), workers.join()
    mine = {cell.id for cell, _ in first.take(4)}
    second.fill(workers.cells, retries_failures=True)
    rest = {cell.id for cell, _ in second.take(10)}
    assert len(mine) == 4 and mine | rest == {cell.id for cell in workers.cells} and not mine & rest
    assert not first.take(1)


def test_the_cell_of_a_dead_worker_is_taken_over_and_counted(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cell that kills whoever trains it, by taking all memory, must not do so for ever."""
    dead: set[str] = set()
    monkeypatch.setattr(Lease, "is_alive", lambda lease, name: name not in dead)
    workers.cells = [cell] = workers.cells[:1]
    for death in range(1, MAX_DEATHS):
        assert len(workers.join().take(10)) == 1
        dead.add(workers.lease.name)
        assert workers.join().count_waiting() == 1
        assert (
            workers.reporter.notes[-1] == f"{cell.name}: its worker died (death {death}), so it waits again"
        )
    assert len(workers.join().take(10)) == 1
    dead.add(workers.lease.name)
    assert workers.join().count_waiting() == 0
    assert workers.folder.failures()[cell.id].error == f"{MAX_DEATHS} workers died while they trained it"


def test_what_is_given_back_waits_again_and_is_no_failure(workers: Workers) -> None:
    """SIGTERM of a scheduler is not the cell's fault."""
    joined = workers.join()
    joined.release([trial for _, trial in joined.take(2)])
    assert joined.count_waiting() == 4
    joined.fill(workers.cells, retries_failures=False)
    assert joined.count_waiting() == 6
    assert not workers.folder.failures()


def test_a_failed_cell_is_tried_again_only_when_asked(workers: Workers) -> None:
    joined = workers.join()
    ((cell, trial),) = joined.take(1)
    workers.folder.record_failure(cell, "it diverged")
    joined.fail(trial)
    joined.fill(workers.cells, retries_failures=False)
    assert joined.count_waiting() == 5
    joined.fill(workers.cells, retries_failures=True)
    assert joined.count_waiting() == 6


def test_a_lost_or_damaged_journal_is_made_again(workers: Workers) -> None:
    """The runs tell what is done; a journal is no more than a queue."""
    assert workers.join().take(1)
    journal = workers.folder.path / JOURNAL
    journal.write_bytes(journal.read_bytes()[:-20] + b"\x00garbage\n{")
    joined = workers.join()
    assert any("is damaged" in note for note in workers.reporter.notes)
    assert len(joined.take(10)) == 6
    journal.unlink()
    assert len(workers.join().take(10)) == 6


def test_a_storage_that_goes_away_is_waited_for(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "RETRY_SECONDS", 0.01)
    joined = workers.join()
    get_trials: Any = optuna.Study.get_trials
    failures = iter([OperationalError("SELECT", {}, Exception("no route to host"))] * 3)

    def refuse(*arguments: Any, **options: Any) -> Any:
        for failure in failures:
            raise failure
        return get_trials(*arguments, **options)

    monkeypatch.setattr(optuna.Study, "get_trials", refuse)
    assert len(joined.take(10)) == 6
    assert "does not answer" in workers.reporter.notes[-2] and "answers again" in workers.reporter.notes[-1]


def test_a_storage_that_stays_away_ends_the_worker(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(storage, "RETRY_SECONDS", 0.01)
    joined = workers.join()

    def refuse(*_: Any, **__: Any) -> Any:
        raise OperationalError("SELECT", {}, Exception("no route to host"))

    monkeypatch.setattr(optuna.Study, "get_trials", refuse)
    with pytest.raises(StorageLost, match=r"does not answer: .* What is trained is kept"):
        joined.take(1)


def test_the_lock_of_a_killed_worker_is_removed_by_one_that_is_alone(workers: Workers) -> None:
    """`kill -9` in the middle of a write leaves it; beside living workers it may be one of theirs."""
    SweepStorage(workers.folder, SILENT).open_study()
    lock = workers.folder.path / f"{JOURNAL}.lock"
    JournalFileSymlinkLock(str(workers.folder.path / JOURNAL)).acquire()
    with Lease(workers.folder.path / "workers") as lease:
        with Lease(workers.folder.path / "workers"):
            SweepStorage(workers.folder, SILENT, lease=lease)
            assert lock.is_symlink()
        opened = SweepStorage(workers.folder, SILENT, lease=lease)
        assert not lock.is_symlink()
        started = time.monotonic()
        opened.open_study().ask()
        assert time.monotonic() - started < 15, "Optuna waits for 30 seconds where one is left"


def take_between(second: CellQueue, workers: Workers, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let `second` fill and take all it gets when another took a trial and has not put its name to it."""
    taken: list[str] = []
    moments = iter([True])
    set_user_attr = optuna.Trial.set_user_attr

    def fill_first(trial: optuna.Trial, name: str, value: Any) -> None:
        if name == WORKER and next(moments, False):
            second.fill(workers.cells, retries_failures=True)
            taken.extend(cell.id for cell, _ in second.take(10))
        set_user_attr(trial, name, value)

    monkeypatch.setattr(optuna.Trial, "set_user_attr", fill_first)
    return taken


def test_a_trial_that_is_just_being_taken_is_not_taken_over(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commands that start at the same moment meet between the two steps: Optuna's, and the worker's name."""
    one, two = workers.join(), workers.join()
    taken = take_between(two, workers, monkeypatch)
    cells = [cell.id for cell, _ in one.take(10)]
    assert len(cells) == 1 and len(taken) == 5 and len({*cells, *taken}) == 6


def test_a_trial_in_nobodys_name_is_taken_over_in_the_end(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its worker may have been killed between the two steps, whoever else is alive; or was only slow."""
    one, two = workers.join(), workers.join()
    monkeypatch.setattr(queue, "NAMING_SECONDS", -1.0)
    taken = take_between(two, workers, monkeypatch)
    assert not one.take(10)
    assert len(taken) == len(set(taken)) == 6


def test_a_queue_in_two_storages_is_refused(workers: Workers) -> None:
    """Workers would not see each other, and train every cell twice."""
    workers.join()
    with pytest.raises(UserError, match=r"is a journal in the folder, not postgresql://u:\*\*\*@h/d"):
        SweepStorage(workers.folder, SILENT, url="postgresql://u:secret@h/d")


def test_workers_that_make_the_tables_of_a_database_at_once_try_again(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL's CREATE TABLE IF NOT EXISTS fails for all but one of them, also between machines."""
    monkeypatch.setattr(storage, "RETRY_SECONDS", 0.01)
    failures = iter([IntegrityError("CREATE TABLE", {}, Exception("duplicate key value"))] * 2)

    def open_database(*_: Any, **__: Any) -> str:
        for failure in failures:
            raise failure
        return "the storage"

    monkeypatch.setattr(storage, "RDBStorage", open_database)
    assert open_storage("postgresql://h/d", workers.folder, SILENT) == "the storage"


@pytest.mark.parametrize("url", ["postgresql+psycopg://user:secret@127.0.0.1:1/x", "nonsense", "oracle9://x"])
def test_a_storage_that_cannot_be_used_is_refused(url: str, workers: Workers) -> None:
    """A password must not stand in a log."""
    with pytest.raises(UserError, match="--storage") as error:
        open_storage(url, workers.folder, SILENT)
    assert "secret" not in str(error.value)
