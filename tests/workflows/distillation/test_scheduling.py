"""Trainings side by side: none waits for another's mistake, and none goes on after the caller has stopped."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Notes

from distilkit.config import DistillConfig
from distilkit.errors import UserError
from distilkit.hardware.threads import single_threaded
from distilkit.progress import SILENT, Reporter
from distilkit.workflows.distillation.scheduling import results_or_raise, run_in_parallel

Task = tuple[str, Callable[[Reporter], Any]]
SOON = 4.0  # seconds, on a machine that does other things too
LONG = 15.0  # what would take so long must be stopped


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    """The caller computes on two threads, so that a lane's one thread can be told from them."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def working(seconds: float = LONG, started: threading.Event | None = None) -> Callable[[Reporter], str]:
    """A task that tells of itself as a training does."""

    def task(reporter: Reporter) -> str:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            reporter.advance("train", 1, 2)
            if started:
                started.set()
            time.sleep(0.005)
        return "finished"

    return task


def failing(error: BaseException, after: threading.Event | None = None) -> Callable[[Reporter], Any]:
    def task(reporter: Reporter) -> Any:
        if after:
            assert after.wait(SOON)
        raise error

    return task


def answer(value: Any, seconds: float = 0) -> Callable[[Reporter], Any]:
    def task(reporter: Reporter) -> Any:
        time.sleep(seconds)
        return value

    return task


def configs(names: Iterable[str]) -> list[DistillConfig]:
    """A config for each run."""
    return [DistillConfig(dataset="sst2", alpha=1, output_dir=Path(name)) for name in names]


@pytest.mark.parametrize("lanes", [1, 2, 8])
def test_results_come_in_the_order_given_whichever_is_done_first(lanes: int) -> None:
    """In the order of finishing, alpha 0.1 would be reported with the numbers of alpha 0.9."""
    tasks: list[Task] = [(str(i), answer(i, seconds=0.05 * (5 - i))) for i in range(6)]
    assert run_in_parallel(tasks, lanes, SILENT) == list(range(6))


def test_as_many_run_at_once_as_there_are_lanes_and_no_more() -> None:
    """One at a time is right, and slow; all at once, they would fall behind on each other's cores."""
    running, most, lock = 0, 0, threading.Lock()

    def task(reporter: Reporter) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.1)
        with lock:
            running -= 1

    run_in_parallel([(str(i), task) for i in range(6)], 2, SILENT)
    assert most == 2


def test_a_mistake_in_one_lets_the_others_finish_and_names_it() -> None:
    """One learning rate of a sweep that diverges must not cost the night's other 32 runs."""
    finished: list[str] = []

    def good(name: str) -> Task:
        return name, lambda reporter: (time.sleep(0.1), finished.append(name))

    tasks = [good("a"), ("b", failing(UserError("it diverged"))), good("c"), good("d")]
    outcomes = run_in_parallel(tasks, 2, SILENT)
    assert sorted(finished) == ["a", "c", "d"]
    with pytest.raises(UserError) as error:
        results_or_raise(configs("abcd"), outcomes)
    assert "b: it diverged" in str(error.value) and "other 3 finished" in str(error.value)
    assert "a:" not in str(error.value)


def test_each_outcome_is_told_when_it_is_there() -> None:
    """A sweep that is killed in the middle must know what is finished by then."""
    finished: list[tuple[int, Any]] = []
    mistake = UserError("it diverged")

    def last(reporter: Reporter) -> int:
        end = time.perf_counter() + SOON
        while len(finished) < 2 and time.perf_counter() < end:
            time.sleep(0.01)
        return 3

    tasks: list[Task] = [("a", last), ("b", failing(mistake)), ("c", answer(2))]
    outcomes = run_in_parallel(tasks, 2, SILENT, lambda i, outcome: finished.append((i, outcome)))
    assert outcomes == [3, mistake, 2]
    assert sorted(finished[:2]) == [(1, mistake), (2, 2)] and finished[2:] == [(0, 3)]


def test_every_mistake_is_named_and_not_the_first_alone() -> None:
    tasks: list[Task] = [(name, failing(UserError(f"{name} is wrong"))) for name in ("one", "two")]
    outcomes = run_in_parallel([*tasks, ("three", answer(3))], 2, SILENT)
    with pytest.raises(UserError) as error:
        results_or_raise(configs(["one", "two", "three"]), outcomes)
    for text in ("one: one is wrong", "two: two is wrong", "other 1 finished"):
        assert text in str(error.value)


@pytest.mark.parametrize("error", [RuntimeError("a bug"), KeyboardInterrupt(), MemoryError()], ids=repr)
@pytest.mark.parametrize("place", ["first", "last"])
def test_whatever_else_goes_wrong_in_one_stops_the_rest_and_is_raised(
    error: BaseException, place: str
) -> None:
    """Swallowed, a bug would look like a finished run; not stopped, Ctrl-C would take hours.

    The lane that fails may be any: one that is waited for only after a long one must be heard at once too.
    """
    started, never = threading.Event(), []
    tasks: list[Task] = [
        ("long", working(seconds=8, started=started)),
        ("bad", failing(error, after=started)),
    ]
    tasks = tasks[::-1] if place == "first" else tasks

    def wait(reporter: Reporter) -> None:
        time.sleep(0.5)
        never.append(1)

    waiting: list[Task] = [("waiting", wait)]
    clock = time.perf_counter()
    with pytest.raises(type(error)):
        run_in_parallel(tasks + waiting * 3, 2, SILENT)
    assert time.perf_counter() - clock < SOON
    assert len(never) <= 1, "what had not begun does not begin (but for what a free lane took at once)"


@pytest.mark.parametrize("delay", [0.3, 0.0], ids=["later", "while the lanes are filled"])
def test_ctrl_c_in_the_caller_ends_the_lanes_at_their_next_word(delay: float) -> None:
    """Heard only when all tasks are done, it makes people kill the process, which leaves drafts behind."""
    started, ended = threading.Event(), []

    def task(reporter: Reporter) -> None:
        try:
            working(started=started)(reporter)
        finally:
            ended.append(1)

    def press() -> None:
        started.wait(SOON)
        time.sleep(delay)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    presser = threading.Thread(target=press)
    presser.start()
    clock = time.perf_counter()
    try:
        with pytest.raises(KeyboardInterrupt):
            run_in_parallel([(str(i), task) for i in range(50)], 2, SILENT)
    finally:
        presser.join()
        signal.signal(signal.SIGINT, before)
    assert time.perf_counter() - clock < SOON
    assert len(ended) <= 2, "both have cleared up by then, and the others never began"


def test_a_lane_that_is_stopped_cannot_take_it_for_an_error_of_its_own() -> None:
    """`except Exception` in a task must not swallow the stop and go on."""
    started = threading.Event()

    def stubborn(reporter: Reporter) -> None:
        for _ in range(10_000):
            try:
                reporter.note("on and on")
                started.set()
            except Exception:
                pass
            time.sleep(0.005)

    clock = time.perf_counter()
    with pytest.raises(RuntimeError, match="a bug"):
        run_in_parallel([("bad", failing(RuntimeError("a bug"), started)), ("long", stubborn)], 2, SILENT)
    assert time.perf_counter() - clock < SOON


def test_a_lane_computes_on_one_thread_and_leaves_the_callers_alone() -> None:
    """More threads than cores make a step many times slower; fewer for the caller, all that comes after."""
    counts = run_in_parallel(
        [(str(i), lambda reporter: torch.get_num_threads()) for i in range(4)], 2, SILENT
    )
    assert counts == [1] * 4
    assert torch.get_num_threads() == 2


def test_one_thread_is_put_back_after_an_error_too() -> None:
    with pytest.raises(RuntimeError), single_threaded():
        assert torch.get_num_threads() == 1
        raise RuntimeError
    assert torch.get_num_threads() == 2


def test_what_a_lane_tells_carries_its_name() -> None:
    """Without it nobody knows which of 33 runs an epoch's line belongs to."""
    notes = Notes()

    def task(reporter: Reporter) -> None:
        reporter.note("epoch 1")
        reporter.advance("train", 3, 4, "loss 0.5")

    run_in_parallel([("a", task), ("b", task)], 2, notes)
    assert sorted(notes.notes) == ["a: epoch 1", "b: epoch 1"]
    assert notes.progress == {"a: train": (3, 4), "b: train": (3, 4)}
