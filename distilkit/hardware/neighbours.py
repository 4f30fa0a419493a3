"""Other processes on the same cores, and how many of the cores they keep busy."""

import time
from dataclasses import dataclass

import psutil

from distilkit.hardware.openmp import available_cores

BUSY_SHARE = 0.7  # of a core's time: from there on it counts as busy
MIN_SECONDS = 0.3  # the system counts in hundredths of a second


@dataclass(frozen=True)
class CpuTimes:
    """Seconds since some moment in the past."""

    clock: float
    by_others: float  # that other processes have computed on the cores that this one may use

    @classmethod
    def read(cls) -> "CpuTimes":
        """Read the counters of the system and of this process."""
        every = psutil.cpu_times(percpu=True)
        # Without `nice`: processes of low priority make way.
        system = sum(every[core].user + every[core].system for core in available_cores() if core < len(every))
        process = psutil.Process().cpu_times()
        by_this = process.user + process.system
        return cls(time.monotonic(), system - by_this)


class _Watch:
    """When this process began to watch others, if it did."""

    began: CpuTimes | None = None


def watch_other_processes() -> None:
    """Begin to count what other processes compute; the next `count_busy_cores` ends it."""
    _Watch.began = CpuTimes.read()


def count_busy_cores() -> int:
    """Return how many cores other processes have kept busy since `watch_other_processes`.

    It is 0 where that was not called, or a moment ago.
    """
    began, _Watch.began = _Watch.began, None
    return _count(began, CpuTimes.read()) if began else 0


def _count(began: CpuTimes, ended: CpuTimes) -> int:
    seconds = ended.clock - began.clock
    if seconds < MIN_SECONDS:
        return 0
    return max(0, int((ended.by_others - began.by_others) / seconds + 1 - BUSY_SHARE))
