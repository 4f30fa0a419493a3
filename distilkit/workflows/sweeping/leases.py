"""Which workers are alive: each holds a file that it locks, and touches from time to time.

On one machine the lock tells at once that a worker is dead, also after `kill -9`. Between machines locks
cannot be relied on, so there the age of the file tells, by the clock of the file system.
"""

import fcntl
import json
import os
import secrets
import socket
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from distilkit.runs.folder import read_object

TOUCH_SECONDS = 10.0
DEAD_SECONDS = 60.0  # since the last touch
SUFFIX = ".json"


def describe_machine() -> str:
    """Return what tells machines apart, and boots of one machine."""
    boot = ""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    return f"{socket.gethostname()} {boot}"


class Lease:
    """A worker's sign of life, from `with` to its end."""

    def __init__(self, folder: Path) -> None:
        self.name = f"{socket.gethostname()[:40]}-{os.getpid()}-{secrets.token_hex(3)}"
        self._folder = folder
        self._file = folder / f"{self.name}{SUFFIX}"
        self._descriptor = -1
        self._ended = threading.Event()

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT, 0o666)
        with suppress(OSError):  # where there are no locks, the age tells
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        facts = {"machine": describe_machine(), "pid": os.getpid()}
        os.write(self._descriptor, json.dumps(facts).encode())
        threading.Thread(target=self._touch, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        with suppress(OSError):
            self._file.unlink()
        os.close(self._descriptor)

    def _touch(self) -> None:
        while not self._ended.wait(TOUCH_SECONDS):
            with suppress(OSError):
                os.utime(self._file)

    def is_alive(self, name: str) -> bool:
        """Return whether the worker of that name is alive, as far as can be told."""
        file = self._folder / f"{name}{SUFFIX}"
        if name == self.name:
            return True
        facts = read_object(file)
        if facts.get("machine") == describe_machine():
            return _is_locked(file)
        try:
            os.utime(self._file)
            return self._file.stat().st_mtime - file.stat().st_mtime < DEAD_SECONDS
        except OSError:
            return False

    def count_alive(self) -> int:
        """Return how many workers are alive, this one among them, and remove what dead ones left."""
        names = [file.name.removesuffix(SUFFIX) for file in self._folder.glob(f"*{SUFFIX}")]
        alive = [name for name in names if self.is_alive(name)]
        for name in set(names) - set(alive):
            with suppress(OSError):
                (self._folder / f"{name}{SUFFIX}").unlink()
        return max(1, len(alive))


def _is_locked(file: Path) -> bool:
    try:
        descriptor = os.open(file, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False
