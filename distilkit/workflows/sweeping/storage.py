"""The storage of a sweep, a journal in its folder or a database, and the studies of Optuna in it."""

import json
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import optuna
from optuna import Study
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, ProgrammingError, SQLAlchemyError

from distilkit.errors import UserError
from distilkit.progress import Reporter
from distilkit.workflows.sweeping.folder import JOURNAL, SweepFolder
from distilkit.workflows.sweeping.leases import Lease

Answer = TypeVar("Answer")
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


def _release_dead_lock(folder: SweepFolder) -> None:
    """Remove the lock on the journal that a worker left when it was killed as it wrote.

    Optuna would wait for half a minute before it takes that lock for a dead one.
    """
    with suppress(RuntimeError):  # there is none
        JournalFileSymlinkLock(str(folder.path / JOURNAL)).release()


class SweepStorage:
    """The storage, asked again where it does not answer at once.

    Args:
        lease: of the worker that opens it; where it is the only one alive, what dead ones locked is free.
    """

    def __init__(
        self,
        folder: SweepFolder,
        reporter: Reporter,
        *,
        url: str | None = None,
        higher_is_better: bool = True,
        lease: Lease | None = None,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._reporter = reporter
        self._direction: Literal["maximize", "minimize"] = "maximize" if higher_is_better else "minimize"
        self._name = folder.open_study(hide_password(url) if url else "a journal in the folder")
        with folder.lock():  # so that no worker that starts meanwhile can write before this one has counted
            if url is None and lease and lease.count_alive() == 1:
                _release_dead_lock(folder)
            self._storage = open_storage(url, folder, reporter)

    def open_study(self, suffix: str = "", **options: Any) -> Study:
        """Return a study of the sweep, made if need be.

        Args:
            suffix: what its name has after that of the sweep's queue.
            options: of `optuna.create_study`.
        """
        create = partial(optuna.create_study, storage=self._storage, direction=self._direction, **options)
        return self.ask(partial(create, study_name=self._name + suffix, load_if_exists=True))

    def ask(self, call: Callable[[], Answer]) -> Answer:
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
