"""Threads of the CPU: one for a small model, a spare core, work done ahead."""

from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar

import torch

Item = TypeVar("Item")


def made_ahead(items: Iterable[Item], aside: Executor) -> Iterator[Item]:
    """The items, of which `aside` makes the next while the caller has one."""
    iterator, end = iter(items), object()
    upcoming: Any = aside.submit(next, iterator, end)
    while (item := upcoming.result()) is not end:
        upcoming = aside.submit(next, iterator, end)
        yield item


@cache
def second_core() -> ThreadPoolExecutor:
    """A thread that computes on one core, beside the caller's."""
    return ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,))


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


@contextmanager
def using_threads(threads: int | None) -> Iterator[int]:
    """Within, torch computes on so many cores; it yields how many that are."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield threads or before
    finally:
        torch.set_num_threads(before)
