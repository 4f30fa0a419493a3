"""How much memory there is, and how much of it a process has held."""

import resource
import sys
from pathlib import Path

import psutil
import torch

CGROUP = Path("/sys/fs/cgroup")


def peak(device: torch.device) -> int:
    """The most bytes that this process has held on the device so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def available(device: torch.device) -> int:
    """Bytes on the device that this process holds or could have; on a CPU within the limit of a container."""
    if device.type == "cuda":
        unused, _ = torch.cuda.mem_get_info(device)
        return unused + torch.cuda.memory_reserved(device)
    held: int = psutil.Process().memory_info().rss
    free: int = psutil.virtual_memory().available
    left = container_left(CGROUP)
    return held + (free if left is None else min(free, left))


def container_left(folder: Path) -> int | None:
    """Bytes that a container (control group, version 2) leaves unused; `None` where there is no limit.

    What files it has read fill is counted as unused: the system gives it back when it is asked for.
    """
    try:
        limit = (folder / "memory.max").read_text().strip()
        used = int((folder / "memory.current").read_text())
        lines = (folder / "memory.stat").read_text().splitlines()
    except (OSError, ValueError):
        return None
    if limit == "max":
        return None
    cached = {name: int(value) for name, value in (line.split() for line in lines)}.get("inactive_file", 0)
    return max(0, int(limit) - used + cached)
