"""Cores that other processes keep busy are left to them."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from conftest import Notes

from distilkit.hardware import neighbours, openmp, threads
from distilkit.hardware.neighbours import CpuTimes, count_busy_cores, watch_other_processes
from distilkit.hardware.threads import leave_busy_cores


@pytest.fixture
def four_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine of four cores, on which nobody has asked for a number of threads."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "available_cores", lambda: [0, 1, 2, 3])
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def watch(monkeypatch: pytest.MonkeyPatch, others: float, seconds: float = 10.0) -> None:
    """Let other processes compute for `others` seconds during `seconds`."""
    readings = iter([CpuTimes(100.0, 50.0), CpuTimes(100.0 + seconds, 50.0 + others)])
    monkeypatch.setattr(CpuTimes, "read", lambda: next(readings))
    watch_other_processes()


@pytest.mark.parametrize(
    ("others", "expected"), [(0, 4), (6.9, 4), (7.1, 3), (10, 3), (16.9, 3), (17.1, 2), (29, 1), (80, 1)]
)
def test_a_core_that_is_busy_most_of_the_time_is_left_out(
    others: float, expected: int, four_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread on it would hold up all others at every product."""
    watch(monkeypatch, others)
    reporter = Notes()
    leave_busy_cores(reporter)
    assert torch.get_num_threads() == expected
    assert len(reporter.notes) == (expected < 4)
    if expected == 3:
        assert reporter.notes[0].startswith("threads: 3 of 4, because other processes keep 1 of 4 cores busy")


def test_a_number_of_threads_that_a_person_has_set_is_kept(
    four_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch(monkeypatch, 20)
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    leave_busy_cores(Notes())
    assert torch.get_num_threads() == 4


def test_python_functions_leave_the_number_of_threads_alone(
    four_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A notebook sets its own; only the command line watches, and each time for one command."""
    monkeypatch.setattr(CpuTimes, "read", lambda: pytest.fail("nobody watches"))
    assert count_busy_cores() == 0
    leave_busy_cores(Notes())
    watch(monkeypatch, 20)
    assert (count_busy_cores(), count_busy_cores()) == (2, 0)


def test_a_moment_is_too_short_to_judge_by(monkeypatch: pytest.MonkeyPatch) -> None:
    """One tick of the system's clock would look like a busy core."""
    watch(monkeypatch, 0.2, seconds=0.2)
    assert count_busy_cores() == 0


def test_only_others_on_this_process_cores_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither this process, nor what low priority does, nor cores that it may not use."""
    cores = [SimpleNamespace(user=10.0, system=1.0, nice=90.0, idle=5.0) for _ in range(4)]
    own = SimpleNamespace(user=3.0, system=0.5, children_user=7.0, children_system=0.0)
    monkeypatch.setattr(neighbours.psutil, "cpu_times", lambda percpu: cores)
    monkeypatch.setattr(neighbours.psutil, "Process", lambda: SimpleNamespace(cpu_times=lambda: own))
    monkeypatch.setattr(neighbours, "available_cores", lambda: [1, 3, 77])
    assert CpuTimes.read().by_others == 2 * 11 - 3.5


def test_the_counters_are_those_of_the_system() -> None:
    """A process that computes for half a second on our cores has computed for about that long."""
    began = CpuTimes.read()
    work = "import time\nwhile time.process_time() < 0.5: pass"
    subprocess.run([sys.executable, "-c", work], check=True)
    ended = CpuTimes.read()
    assert ended.by_others - began.by_others >= 0.4
    assert 0 < ended.clock - began.clock <= time.monotonic()
    assert set(openmp.available_cores()) <= set(range(os.cpu_count() or 1))
