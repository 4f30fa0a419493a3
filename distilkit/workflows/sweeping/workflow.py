"""Run `sweep`: train what is missing of a sweep, on one process or several, and compare the runs."""

import multiprocessing
import os
import queue
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.process import BaseProcess
from typing import Any

import torch

from distilkit.config import SweepConfig
from distilkit.errors import UserError, list_names
from distilkit.hardware.device import select_device
from distilkit.progress import SILENT, Reporter
from distilkit.reports.parts import check_report_dir
from distilkit.stopping import check_stop, handling_signals
from distilkit.workflows.sweeping.cells import (
    Cell,
    count_settings,
    describe_cells,
    describe_search,
    make_cells,
    make_sample,
)
from distilkit.workflows.sweeping.folder import WORKERS, SweepFolder
from distilkit.workflows.sweeping.leases import Lease
from distilkit.workflows.sweeping.reporting import REPORT, SweepResult, report_sweep

INSTALL = "sweep needs Optuna: pip install 'distilkit[sweep]'"
POLL_SECONDS = 0.5
STOP_SECONDS = 30.0  # that a process has to clear up


def sweep(config: SweepConfig, reporter: Reporter = SILENT) -> SweepResult:
    """Train a student for each combination of values that has none in `config.output_dir` yet; compare all.

    Several commands on the same folder share the work, also from several machines; what a killed one leaves
    is taken over. A cell that fails is recorded, and the others go on.

    Returns:
        The comparison of all runs in the folder, as `sweep_report`.

    Raises:
        UserError: on anything wrong with the options, a combination of them, the data, the models or the
            folder; when too many cells fail; when the storage is lost.
    """
    if config.dry_run:
        raise UserError("dry_run trains nothing, so there is nothing to compare: use plan_sweep.")
    cells = make_cells(config)
    reporter.note(f"sweep: {describe_search(config) if config.search else describe_cells(cells)}")
    if config.search:
        make_sample(config)  # which refuses options that do not go together
    SweepFolder.check(config.output_dir)
    check_report_dir(config.output_dir / REPORT, "report")
    select_device(config.device, reporter)
    deadline = None if config.time_limit is None else time.monotonic() + config.time_limit
    folder, cells = SweepFolder.open(config, cells)
    missing = folder.list_missing(cells)
    if len(missing) < len(cells):
        reporter.note(f"sweep: {len(cells) - len(missing):,} of {len(cells):,} cells are complete already")
    if not missing and not config.search:
        timed_out = False
    elif config.jobs == 1:
        timed_out = work(folder, cells, config, reporter, deadline)
    else:
        timed_out = _work_in_processes(config, reporter, deadline)
    if timed_out:
        reporter.warn(f"--time-limit: {_describe_left(folder, cells, config)}. The same command goes on.")
    return report_sweep(folder, reporter)


def _describe_left(folder: SweepFolder, cells: Sequence[Cell], config: SweepConfig) -> str:
    if config.search:
        tried = sum(setting.state != "running" for setting in folder.settings())
        return f"{tried:,} of {sum(count_settings(config)):,} settings were tried"
    left = [cell.name for cell in folder.list_missing(cells)]
    return f"{len(left):,} of {len(cells):,} cells were not trained: {list_names(left)}"


def work(
    folder: SweepFolder,
    cells: Sequence[Cell],
    config: SweepConfig,
    reporter: Reporter,
    deadline: float | None,
) -> bool:
    """Be a worker of the sweep until nothing is left; return whether the time limit ended it.

    Each of the processes that a command starts takes no more than its share of the cells at a time.

    Raises:
        UserError: as `sweep`.
    """
    try:
        from distilkit.workflows.sweeping.queue import CellQueue
        from distilkit.workflows.sweeping.search import SettingSearch, make_studies
        from distilkit.workflows.sweeping.storage import SweepStorage
        from distilkit.workflows.sweeping.worker import MAX_TOGETHER, TimeIsUp, Worker
    except ImportError as error:
        raise UserError(f"{INSTALL} ({error})") from None
    with Lease(folder.path / WORKERS) as lease:
        higher_is_better = config.metric != "loss"
        storage = SweepStorage(
            folder, reporter, url=config.storage, higher_is_better=higher_is_better, lease=lease
        )
        cell_queue = CellQueue(folder, lease, reporter, storage)
        worker = Worker(folder, cells, cell_queue, config, reporter, deadline)
        try:
            if config.search:
                worker.notes_cells = False
                SettingSearch(worker, make_studies(folder, config, storage, lease, reporter), lease).run()
            else:
                share = -(-len(folder.list_missing(cells)) // config.jobs)
                worker.limit = min(MAX_TOGETHER, share or 1)
                worker.run(lease.count_alive)
        except TimeIsUp:
            return True
    return False


class _QueueReporter(Reporter):
    """Sends what a process reports to the one that started it."""

    def __init__(self, messages: "multiprocessing.Queue[tuple[Any, ...]]") -> None:
        self._messages = messages

    def note(self, message: str) -> None:
        """Send a line."""
        self._messages.put(("note", message))

    def warn(self, message: str) -> None:
        """Send a warning."""
        self._messages.put(("warn", message))

    def advance(self, task: str, done: int, total: int, detail: str = "") -> None:
        """Send the progress of the sweep alone: that of single trainings would come from all processes."""
        if task.startswith("sweep"):
            self._messages.put(("advance", task, done, total, detail))


def _run_process(
    config: SweepConfig, threads: int, seconds_left: float | None, messages: "multiprocessing.Queue[Any]"
) -> None:
    """Work in a process of its own; send its last word, an error or none, as a message."""
    with handling_signals():
        torch.set_num_threads(threads)
        deadline = None if seconds_left is None else time.monotonic() + seconds_left
        try:
            select_device(config.device)
            folder, cells = SweepFolder.open(config, make_cells(config))
            timed_out = work(folder, cells, config, _QueueReporter(messages), deadline)
            messages.put(("ended", timed_out, None))
        except UserError as error:
            messages.put(("ended", False, str(error)))


def _work_in_processes(config: SweepConfig, reporter: Reporter, deadline: float | None) -> bool:
    """Let `config.jobs` processes work, the threads of this one shared out among them.

    Raises:
        UserError: when one of them ends with an error; the others are ended too.
    """
    context = multiprocessing.get_context("spawn")
    messages = context.Queue()
    threads = max(1, torch.get_num_threads() // config.jobs)
    seconds_left = None if deadline is None else deadline - time.monotonic()
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = str(threads)
    processes = [
        context.Process(target=_run_process, args=(config, threads, seconds_left, messages))
        for _ in range(config.jobs)
    ]
    try:
        for process in processes:
            process.start()
        return _follow(processes, messages, reporter)
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before
        _stop(processes)


def _follow(processes: Sequence[BaseProcess], messages: Any, reporter: Reporter) -> bool:
    """Report what processes send until all have ended; return whether the time limit ended one.

    Raises:
        UserError: when one ends with an error, or without a word.
    """
    ended, timed_out = 0, False
    report: dict[str, Callable[..., None]] = {
        "note": reporter.note,
        "warn": reporter.warn,
        "advance": reporter.advance,
    }
    while ended < len(processes):
        try:
            kind, *content = messages.get(timeout=POLL_SECONDS)
        except queue.Empty:
            check_stop()
            if any(process.is_alive() for process in processes):
                continue
            lost = len(processes) - ended
            problem = f"{lost} of {len(processes)} processes ended without a word, perhaps for lack of memory"
            if ended:  # the others have taken over their cells
                reporter.warn(f"{problem}; fewer --jobs need less")
                return timed_out
            raise UserError(
                f"{problem}. What is trained is kept: type the command again with fewer --jobs."
            ) from None
        if kind != "ended":
            report[kind](*content)
            continue
        ended += 1
        was_timed_out, error = content
        timed_out |= was_timed_out
        if error:
            raise UserError(error)
    return timed_out


def _stop(processes: Sequence[BaseProcess]) -> None:
    """End the processes that still run; give them time to clear up."""
    for process in processes:
        if process.is_alive():
            process.terminate()
    for process in processes:
        with suppress(AssertionError):  # it was never started
            process.join(STOP_SECONDS)
            if process.is_alive():
                process.kill()
                process.join()
