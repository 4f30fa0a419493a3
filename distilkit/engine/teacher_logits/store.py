"""The teacher's logits on disk, so that it reads a text once, however often something is distilled from it.

<root>/teacher-logits/<key>/     key: SHA-256 of all that the logits depend on, 64 hex digits
    teacher.json                 what the key stands for, for people; its mtime is the last use
    <sha256>.safetensors         a shard: `keys` uint8 [n, 16] ascending and distinct, `logits` float32 [n, C]
    .lock                        locked by the process that computes
    .*.unfinished                a write that goes on, or was killed

A shard appears whole, under the checksum of its bytes, and is never changed: readers need no lock, and damage
shows.
"""

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from distilkit.engine.teacher_logits.shards import (
    Damaged,
    Keys,
    Shard,
    as_keys,
    is_damaged,
    open_shard,
    serialise,
)
from distilkit.runs import drafts, environment
from distilkit.runs import folder as folder_run

FOLDER, TEACHER, LOCK = "teacher-logits", "teacher.json", ".lock"


KEY = re.compile(r"[0-9a-f]{64}")


SHARD = re.compile(r"[0-9a-f]{64}\.safetensors")


@dataclass(frozen=True)
class _Segment:
    """Sorted `keys` of some shards, and where each one's logits are: rows are counted through all shards."""

    keys: Keys
    rows: NDArray[np.int64]


class LogitStore:
    """The stored logits of one teacher, by row key.

    `damaged` names the shards that are not used, with why. `refused` is a sentence for the user when nothing
    can be written; what is added then is known to this process alone.
    """

    def __init__(self, root: Path, key: str, description: Mapping[str, Any]) -> None:
        """Open what is stored under `key` (64 hex digits), or nothing yet.

        Args:
            root: as `cache_root()`.
            description: what is written to teacher.json; its `classes` are the teacher's, in its order.
        """
        if not KEY.fullmatch(key):
            raise ValueError(f"{key!r} is no SHA-256 in hex digits")
        self.key, self.description = key, dict(description)
        self.folder = root / FOLDER / key
        self.classes = len(self.description["classes"])
        self.damaged: dict[str, str] = {}
        self.refused: str | None = None
        self._used: set[str] = set()
        self._shards: list[Shard] = []
        self._starts = [0]
        self._segments: list[_Segment] = []
        self.refresh()

    def refresh(self) -> None:
        """Take in the shards that were written since. Each one's checksum is verified as it is opened."""
        try:
            names = shard_names(self.folder)
        except OSError:
            return  # the work goes on without it
        for name in sorted(names - self._used):
            try:
                shard = open_shard(self.folder / name, self.classes)
            except FileNotFoundError:
                continue  # pruned since the folder was listed
            except Damaged as damage:
                self.damaged[name] = str(damage)
            except OSError as error:
                self.damaged[name] = f"it cannot be read: {error.strerror}"
            else:
                self._take(shard)
                self._used.add(name)

    def find(self, keys: Sequence[bytes] | NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Look up N rows.

        Returns:
            Logits float32 `[N, C]`, NaN where nothing is stored, and whether it is, bool `[N]`.
        """
        rows = self._find_rows(as_keys(keys))
        is_stored = rows >= 0
        logits = np.full((len(rows), self.classes), np.nan, np.float32)
        order = np.argsort(rows, kind="stable")
        bounds = np.searchsorted(rows[order], self._starts)
        for shard, start, first, last in zip(
            self._shards, self._starts[:-1], bounds[:-1], bounds[1:], strict=True
        ):
            here = order[first:last]
            logits[here] = shard.logits[rows[here] - start]
        if is_stored.any():
            with suppress(OSError):  # it only tells `prune` of the last use
                os.utime(self.folder / TEACHER)
        return logits, is_stored

    def add(self, keys: Sequence[bytes] | NDArray[Any], logits: NDArray[Any]) -> None:
        """Store the logits `[n, C]` of n rows, as a shard; rows that are stored already are left out.

        Where the disk refuses, `refused` says so and the rows are kept in memory.

        Raises:
            ValueError: on another shape, or numbers that are not finite.
        """
        new_keys, values = as_keys(keys), np.asarray(logits, np.float32)
        if values.shape != (len(new_keys), self.classes):
            raise ValueError(f"logits {list(values.shape)} for {len(new_keys)} rows, {self.classes} classes")
        if not np.isfinite(values).all():
            raise ValueError("logits that are not finite cannot be stored")
        distinct, first = np.unique(new_keys, return_index=True)
        new = self._find_rows(distinct) < 0
        if not new.any():
            return
        shard = Shard(distinct[new], values[first[new]])
        if self.refused is None:
            self._write(shard)
        self._take(shard)

    @contextmanager
    def lock(self, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Keep every other process from computing for this teacher; `refresh` first, it may be done.

        The system ends the lock of a killed process. Where the folder cannot be written there is no lock, and
        `refused` says why. A block that ends well has replaced what was damaged, which is then removed.

        Args:
            waiting: called once, if another process holds the lock.
        """
        lock = self._acquire(waiting)
        try:
            if lock:
                remove_files(unfinished_files(self.folder))
            yield
            if lock:
                remove_files(file for file in map(self.folder.joinpath, self.damaged) if is_damaged(file))
        finally:
            if lock:
                lock.release()

    def _find_rows(self, keys: Keys) -> NDArray[np.int64]:
        """Return where the logits of each key are, -1 for nowhere, int64 `[N]`."""
        rows = np.full(len(keys), -1, np.int64)
        for segment in self._segments:
            left = np.flatnonzero(rows < 0)
            at = np.searchsorted(segment.keys, keys[left])
            at[at == len(segment.keys)] = 0
            hit = segment.keys[at] == keys[left]
            rows[left[hit]] = segment.rows[at[hit]]
        return rows

    def _take(self, shard: Shard) -> None:
        segment = _Segment(shard.keys, np.arange(len(shard.keys), dtype=np.int64) + self._starts[-1])
        self._shards.append(shard)
        self._starts.append(self._starts[-1] + len(shard.keys))
        # Like the carries of a binary counter: a lookup sees few segments, and no key is sorted often.
        while self._segments and len(self._segments[-1].keys) <= len(segment.keys):
            before = self._segments.pop()
            keys, rows = (
                np.concatenate([before.keys, segment.keys]),
                np.concatenate([before.rows, segment.rows]),
            )
            order = np.argsort(keys, kind="stable")
            segment = _Segment(keys[order], rows[order])
        self._segments.append(segment)

    def _write(self, shard: Shard) -> None:
        name, data = serialise(shard)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not read_description(self.folder):
                about = {"created": environment.now()} | self.description
                text = json.dumps(about, indent=2, ensure_ascii=False) + "\n"
                folder_run.write_whole(self.folder / TEACHER, text.encode("utf-8", "backslashreplace"))
            folder_run.write_whole(self.folder / name, data)
            folder_run.sync(self.folder)  # the names too outlast a power cut
        except OSError as error:
            self._refuse(error)
        else:
            self._used.add(name)

    def _acquire(self, waiting: Callable[[], None]) -> Any:
        lock = FileLock(self.folder / LOCK)
        try:
            while not lock.is_locked:
                self.folder.mkdir(parents=True, exist_ok=True)
                with suppress(FileNotFoundError):  # `prune` has removed the folder meanwhile
                    try:
                        lock.acquire(timeout=0)
                    except Timeout:
                        waiting()
                        waiting = lambda: None  # noqa: E731
                        lock.acquire()
        except OSError as error:
            self._refuse(error)
            return None
        except NotImplementedError:
            self.refused = self.refused or f"the teacher's logits are not kept: {self.folder} has no locks."
            return None
        return lock

    def _refuse(self, error: OSError) -> None:
        reason = f"the teacher's logits are not kept: {self.folder} cannot be written ({error.strerror})."
        self.refused = self.refused or reason


def remove_files(files: Iterable[Path]) -> None:
    """Delete `files`, leaving alone those that cannot be deleted."""
    for file in files:
        with suppress(OSError):
            file.unlink()


def shard_names(folder: Path) -> set[str]:
    """Return the names of the shards in `folder`; none when there is no such folder."""
    try:
        return {name for name in os.listdir(folder) if SHARD.fullmatch(name)}
    except (FileNotFoundError, NotADirectoryError):
        return set()


def unfinished_files(folder: Path) -> list[Path]:
    """Return the files that writers left half-written in `folder`."""
    return sorted(file for file in folder.glob(f".*{drafts.UNFINISHED}") if file.is_file())


def read_description(folder: Path) -> dict[str, Any]:
    """Read teacher.json; return an empty description when it is missing or broken."""
    return folder_run.read_object(folder / TEACHER)


def teacher_name(about: Mapping[str, Any]) -> str | None:
    """Return the teacher's name from its description, if it has one."""
    return str(about["name"]) if "name" in about else None


def file_size(file: Path) -> int:
    """Return the bytes of `file`; 0 when it cannot be read."""
    try:
        return file.stat().st_size
    except OSError:
        return 0
