"""How much memory there is, how much of it a process has held, and giving back what it no longer needs."""

import ctypes
import gc
import resource
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch

from distilkit.errors import UserError

CGROUP = Path("/sys/fs/cgroup")


# What errors say in which CUDA, cuBLAS and cuDNN find no memory. cuBLAS cannot even start without some.
OUT_OF_MEMORY = (
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
)


POLL_SECONDS = 0.005  # between two readings of the resident memory


_TRIM = getattr(ctypes.CDLL(None), "malloc_trim", None)


def peak(device: torch.device) -> int:
    """Return the most bytes that this process has used on the device so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@contextmanager
def peak_within(device: torch.device) -> Iterator[Callable[[], int]]:
    """Yield a function that returns how many bytes were in use at most so far.

    On CUDA what torch has allocated on the device; on a CPU the resident memory of the process.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield lambda: torch.cuda.max_memory_allocated(device)
        return
    process, stop = psutil.Process(), threading.Event()
    highest = process.memory_info().rss

    def look() -> None:
        nonlocal highest
        while not stop.wait(POLL_SECONDS):
            highest = max(highest, process.memory_info().rss)

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield lambda: highest
    finally:
        stop.set()
        watcher.join()


def trim_heap() -> None:
    """Return to the system what the C library keeps of freed memory (glibc only).

    Activations of ever new sizes leave gaps, and the resident memory grows with every new size.
    """
    if _TRIM is not None:
        _TRIM(0)


def available(device: torch.device) -> int:
    """Return the device bytes that this process uses or could use; on a CPU within a container's limit."""
    if device.type == "cuda":
        unused, _ = torch.cuda.mem_get_info(device)
        return unused + torch.cuda.memory_reserved(device)
    resident: int = psutil.Process().memory_info().rss
    free: int = psutil.virtual_memory().available
    left = container_left(CGROUP)
    return resident + (free if left is None else min(free, left))


def container_left(folder: Path) -> int | None:
    """Return the bytes that a container (control group, version 2) leaves unused; `None` without a limit.

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


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether a device has run out of memory, which its libraries say in plain `RuntimeError`s."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(reason in str(error) for reason in OUT_OF_MEMORY)
    )


def release_cached() -> None:
    """Give back what torch keeps of a CUDA device's memory, once nothing holds what was computed there."""
    gc.collect()
    torch.cuda.empty_cache()


@contextmanager
def explain_out_of_memory(advice: str) -> Iterator[None]:
    """Turn the device's running out of memory into what the user can do about it."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        reason = str(error).splitlines()[0].partition(". ")[0].removesuffix(".")
        raise UserError(f"{reason}. {advice}") from None
