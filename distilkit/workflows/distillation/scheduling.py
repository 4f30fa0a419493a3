"""Small trainings in one process: a thread and a core for each, several side by side.

A BiLSTM's tensors are too small to be worth dividing between cores: a second core makes a step a tenth
faster, but two students on a core each nearly twice as fast. And threads that wait for each other at every
operation fall behind many times over when any other process wants a core.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from distilkit.errors import UserError
from distilkit.models.bilstm import second_core
from distilkit.progress import NamedReporter, Reporter

Result = TypeVar("Result")


class _Stopped(BaseException):
    """Thrown into a lane that is to end early."""


class _LaneReporter(NamedReporter):
    """Puts a name before what one lane tells, and ends the lane at the next word after `stop` is set."""

    def __init__(self, name: str, reporter: Reporter, stop: threading.Event) -> None:
        super().__init__(name, reporter)
        self._stop = stop

    def note(self, message: str) -> None:
        self._check()
        super().note(message)

    def advance(self, task: str, done: int, total: int, detail: str = "") -> None:
        self._check()
        super().advance(task, done, total, detail)

    def _check(self) -> None:
        if self._stop.is_set():
            raise _Stopped


@contextmanager
def one_thread() -> Iterator[None]:
    """What runs within uses one core, and computes the same numbers as in a lane."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def one_core(bilstm: Any) -> Iterator[Executor | None]:
    """`one_thread` to train a BiLSTM in, and another core, where there is one, for what it does beside."""
    aside = second_core() if torch.get_num_threads() > 1 else None
    bilstm.base_model.at_once = aside is not None
    with one_thread():
        yield aside


def run_in_lanes(
    tasks: Sequence[tuple[str, Callable[[Reporter], Result]]], lanes: int, reporter: Reporter
) -> list[Result]:
    """Run named tasks, `lanes` at a time, each on one thread of the CPU; their results in the order given.

    Whatever ends the caller (Ctrl-C) ends the lanes at their next word to the reporter, and is raised when
    they have cleared up. A task's `UserError` lets the others finish.

    Raises:
        UserError: naming every task that raised one.
    """
    stop = threading.Event()
    running: list[Future[Result]] = []
    # `one_thread` for what it puts back: the lanes' number is also what threads that start later begin with.
    with one_thread(), ThreadPoolExecutor(lanes, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            for name, task in tasks:
                running.append(pool.submit(task, _LaneReporter(name, reporter, stop)))
            going = set(running)
            while going:  # with a timeout: a signal that comes just before the wait would not end it
                done, going = wait(going, timeout=0.2, return_when=FIRST_COMPLETED)
                for future in done:
                    if not isinstance(future.exception(), UserError | None):
                        future.result()
        except BaseException:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return all_well([name for name, _ in tasks], [_outcome(future) for future in running])


def _outcome(future: "Future[Any]") -> Any:
    error = future.exception()
    return error if isinstance(error, UserError) else future.result()


def all_well(names: Sequence[str], outcomes: Sequence[Result | UserError]) -> list[Result]:
    """The results.

    Raises:
        UserError: when some are errors, with each under its name.
    """
    results = [outcome for outcome in outcomes if not isinstance(outcome, UserError)]
    if len(results) == len(outcomes):
        return results
    problems = [
        f"{name}: {outcome}"
        for name, outcome in zip(names, outcomes, strict=True)
        if isinstance(outcome, UserError)
    ]
    raise UserError("\n".join([*problems, f"The other {len(results)} finished."]))
