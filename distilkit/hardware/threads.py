"""Threads of the CPU: one for a small model, a spare core, work done ahead."""

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar

import torch

from distilkit.hardware.neighbours import count_busy_cores
from distilkit.hardware.openmp import available_cores
from distilkit.progress import Reporter

Item = TypeVar("Item")


def prefetch(items: Iterable[Item], spare_core: Executor) -> Iterator[Item]:
    """Yield the items; `spare_core` makes the next while the caller works on the current."""
    iterator, end = iter(items), object()
    upcoming: Any = spare_core.submit(next, iterator, end)
    while (item := upcoming.result()) is not end:
        upcoming = spare_core.submit(next, iterator, end)
        yield item


@cache
def make_spare_core() -> ThreadPoolExecutor:
    """Return the thread that computes on a second core while the caller's computes on the first."""
    return ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,))


@contextmanager
def single_threaded() -> Iterator[None]:
    """Use a single core within, which computes the same bits as in a lane."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def training_threads(model: Any) -> Iterator[Executor | None]:
    """Train a small model within it on one thread, with a spare core, where there is one, for side work."""
    spare_core = make_spare_core() if torch.get_num_threads() > 1 else None
    if hasattr(model.base_model, "uses_spare_core"):
        model.base_model.uses_spare_core = spare_core is not None
    with single_threaded():
        yield spare_core


def leave_busy_cores(reporter: Reporter) -> None:
    """Compute on the cores that other processes have left idle since `watch_other_processes`.

    Threads that share a product wait for the slowest of them: on two cores beside a busy process, two threads
    fine-tune half as fast as one (`benchmarks/neighbour.py`). Nothing changes where nobody watched, as in
    Python functions, or where OMP_NUM_THREADS is set.
    """
    busy = count_busy_cores()
    if "OMP_NUM_THREADS" in os.environ:
        return
    cores, threads = len(available_cores()), torch.get_num_threads()
    free = max(1, cores - busy)
    if free < threads:
        torch.set_num_threads(free)
        reporter.note(
            f"threads: {free} of {threads}, because other processes keep {min(busy, cores)} of {cores} cores "
            f"busy (OMP_NUM_THREADS={threads} takes them all)"
        )


@contextmanager
def using_threads(threads: int | None) -> Iterator[int]:
    """Let torch compute on `threads` cores within; yield their count."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield threads or before
    finally:
        torch.set_num_threads(before)
