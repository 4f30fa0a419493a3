"""How torch's OpenMP threads behave: what has to be set before torch is loaded."""

import math
import os
import sys
from contextlib import suppress
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def set_openmp_defaults() -> None:
    """Let waiting threads sleep, and use no more threads than the container has cores.

    Threads that spin while they wait slow down every other process, and beside a busy one also this one,
    several times over. A person's own settings are kept; once torch is loaded, nothing can be changed.
    """
    if "torch" in sys.modules:
        return
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & os.environ.keys():
        os.environ["OMP_WAIT_POLICY"] = "passive"
    limit = cpu_limit()
    if limit and limit < len(available_cores()) and "OMP_NUM_THREADS" not in os.environ:
        os.environ["OMP_NUM_THREADS"] = str(limit)


def available_cores() -> list[int]:
    """Return the numbers of the cores that this process may run on."""
    affinity = getattr(os, "sched_getaffinity", None)
    return sorted(affinity(0)) if affinity else list(range(os.cpu_count() or 1))


def cpu_limit(cgroups: Path = CGROUPS, membership: Path = Path("/proc/self/cgroup")) -> int | None:
    """Return the cores that the process's control groups allow, rounded up; `None` without a limit.

    OpenMP counts the cores that a process may run on, but not the share of time it gets there: in a container
    with 2 of 64 cores it would start 64 threads.

    Args:
        cgroups: where control groups are mounted, version 2 or 1.
        membership: the file that names the process's groups.
    """
    limits = [
        _quota(*text.split()[:2])
        for folder in _folders(cgroups, membership)
        if (text := _read(folder / "cpu.max"))
    ]
    first = cgroups / "cpu"
    limits.append(_quota(_read(first / "cpu.cfs_quota_us"), _read(first / "cpu.cfs_period_us")))
    return min((limit for limit in limits if limit), default=None)


def _folders(cgroups: Path, membership: Path) -> list[Path]:
    """Return the folders of the process's group and of the groups above it."""
    lines = _read(membership).splitlines()
    path = next((line[3:].strip("/") for line in lines if line.startswith("0::")), "")
    parts = [part for part in path.split("/") if part not in ("", "..")]
    return [cgroups.joinpath(*parts[:depth]) for depth in range(len(parts) + 1)]


def _quota(quota: str, period: str = "") -> int | None:
    """Return the cores of a quota of microseconds per period; `None` for `max`, -1 and what is unreadable."""
    with suppress(ValueError, ZeroDivisionError, OverflowError):
        cores = math.ceil(int(quota) / int(period))
        return cores if cores > 0 else None
    return None


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""
