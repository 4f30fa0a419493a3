"""The teacher's logits on disk, so that it reads a text once, however often something is distilled from it.

<root>/teacher-logits/<key>/     key: SHA-256 of all that the logits depend on, 64 hex digits
    teacher.json                 what the key stands for, for people; its mtime is the last use
    <sha256>.safetensors         a shard: `keys` uint8 [n, 16] ascending and distinct, `logits` float32 [n, C]
    .lock                        locked by the process that computes
    .*.unfinished                a write that goes on, or was killed

A shard appears whole, under the checksum of its bytes, and is never changed: readers need no lock, and damage
shows.
"""

import errno
import hashlib
import json
import mmap
import os
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import safetensors.numpy
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from platformdirs import user_cache_path

from distilkit.runs import run

FOLDER, TEACHER, LOCK = "teacher-logits", "teacher.json", ".lock"
KEY = re.compile(r"[0-9a-f]{64}")
SHARD = re.compile(r"[0-9a-f]{64}\.safetensors")
KEY_BYTES = 16
HEADER_LIMIT = 4096  # bytes; ours have under 200
# The work goes on where nothing can be kept: the disk is read-only or full, or the root is no folder.
REFUSALS = (*run.REFUSALS, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.ENOENT)

# Fixed-width bytes compare like the 16 bytes they are: numpy hides trailing zeros, but pads with them too.
Keys = NDArray[np.bytes_]


def cache_root() -> Path:
    """The folder of all caches: `$DISTILKIT_CACHE`, else the user's cache folder."""
    given = os.environ.get("DISTILKIT_CACHE")
    return Path(given).expanduser() if given else user_cache_path("distilkit")


def as_keys(keys: Sequence[bytes] | NDArray[Any]) -> Keys:
    """Row keys as an array `S16 [N]`, from 16 bytes each, `S16 [N]` or uint8 `[N, 16]`.

    Raises:
        ValueError: when a key has another length.
    """
    if isinstance(keys, np.ndarray):
        if keys.dtype == f"S{KEY_BYTES}" and keys.ndim == 1:
            return keys
        if keys.dtype == np.uint8 and keys.ndim == 2 and keys.shape[1] == KEY_BYTES:
            return np.ascontiguousarray(keys).view(f"S{KEY_BYTES}").reshape(-1)
        raise ValueError(f"row keys are S16 [N] or uint8 [N, 16], not {keys.dtype} {list(keys.shape)}")
    if wrong := set(map(len, keys)) - {KEY_BYTES}:
        raise ValueError(f"a row key has {KEY_BYTES} bytes, not {min(wrong)}")
    return np.frombuffer(b"".join(keys), f"S{KEY_BYTES}")


class Damaged(Exception):
    """A shard is not what was written."""


@dataclass(frozen=True)
class _Shard:
    keys: Keys
    logits: NDArray[np.float32]


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
        self._shards: list[_Shard] = []
        self._starts = [0]
        self._segments: list[_Segment] = []
        self.refresh()

    def refresh(self) -> None:
        """Take in the shards that were written since. Each one's checksum is verified as it is opened."""
        try:
            names = _shard_names(self.folder)
        except PermissionError:
            return
        for name in sorted(names - self._used):
            try:
                shard = _open_shard(self.folder / name, self.classes)
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
        found = rows >= 0
        logits = np.full((len(rows), self.classes), np.nan, np.float32)
        order = np.argsort(rows, kind="stable")
        bounds = np.searchsorted(rows[order], self._starts)
        for shard, start, first, last in zip(
            self._shards, self._starts[:-1], bounds[:-1], bounds[1:], strict=True
        ):
            here = order[first:last]
            logits[here] = shard.logits[rows[here] - start]
        if found.any():
            with suppress(OSError):  # it only tells `prune` of the last use
                os.utime(self.folder / TEACHER)
        return logits, found

    def add(self, keys: Sequence[bytes] | NDArray[Any], logits: NDArray[Any]) -> None:
        """Store the logits `[n, C]` of n rows, as a shard; rows that are stored already are left out.

        Where the disk refuses, `refused` says so and the rows are kept in memory.

        Raises:
            ValueError: on another shape, or numbers that are not finite.
        """
        wanted, values = as_keys(keys), np.asarray(logits, np.float32)
        if values.shape != (len(wanted), self.classes):
            raise ValueError(f"logits {list(values.shape)} for {len(wanted)} rows, {self.classes} classes")
        if not np.isfinite(values).all():
            raise ValueError("logits that are not finite cannot be stored")
        distinct, first = np.unique(wanted, return_index=True)
        new = self._find_rows(distinct) < 0
        if not new.any():
            return
        shard = _Shard(distinct[new], values[first[new]])
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
                _remove(_unfinished(self.folder))
            yield
            if lock:
                _remove(file for file in map(self.folder.joinpath, self.damaged) if _is_damaged(file))
        finally:
            if lock:
                lock.release()

    def _find_rows(self, wanted: Keys) -> NDArray[np.int64]:
        """Where the logits of each key are, -1 for nowhere, int64 `[N]`."""
        rows = np.full(len(wanted), -1, np.int64)
        for segment in self._segments:
            left = np.flatnonzero(rows < 0)
            at = np.searchsorted(segment.keys, wanted[left])
            at[at == len(segment.keys)] = 0
            hit = segment.keys[at] == wanted[left]
            rows[left[hit]] = segment.rows[at[hit]]
        return rows

    def _take(self, shard: _Shard) -> None:
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

    def _write(self, shard: _Shard) -> None:
        keys = shard.keys.view(np.uint8).reshape(-1, KEY_BYTES)
        data = safetensors.numpy.save({"keys": keys, "logits": shard.logits})
        name = hashlib.sha256(data).hexdigest() + ".safetensors"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not _read_description(self.folder):
                about = {"created": run.now()} | self.description
                text = json.dumps(about, indent=2, ensure_ascii=False) + "\n"
                run.write_whole(self.folder / TEACHER, text.encode("utf-8", "backslashreplace"))
            run.write_whole(self.folder / name, data)
            run.sync(self.folder)  # the names too outlast a power cut
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
        if error.errno not in REFUSALS:
            raise error
        reason = f"the teacher's logits are not kept: {self.folder} cannot be written ({error.strerror})."
        self.refused = self.refused or reason


# The functions of `distilkit cache` -------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """What is stored of one teacher; `None`: a broken teacher.json does not tell. Times are ISO, UTC."""

    key: str
    name: str | None
    rows: int
    classes: tuple[str, ...] | None
    max_length: int | None
    precision: str | None
    bytes: int
    shards: int
    created: str | None
    last_used: str


@dataclass(frozen=True)
class Check:
    """One shard that was read again; `damage` says what is wrong with it."""

    key: str
    name: str | None
    shard: str
    bytes: int
    damage: str | None


@dataclass(frozen=True)
class Removed:
    """Something that `prune` removed: `what` is "entry", "damaged shard" or "leftover"."""

    key: str
    name: str | None
    what: str
    bytes: int


@dataclass(frozen=True)
class Kept:
    """An entry that `prune` had to leave as it is, and why."""

    key: str
    name: str | None
    reason: str


@dataclass(frozen=True)
class Pruned:
    """What `prune` did."""

    removed: tuple[Removed, ...]
    kept: tuple[Kept, ...]


def entries(root: Path) -> list[Entry]:
    """What is stored, by key. Only headers are read: `verify` reads everything."""
    found = []
    for folder in _folders(root):
        about = _read_description(folder)
        shards = [folder / name for name in sorted(_shard_names(folder))]
        if not shards:
            continue  # its first writer has not ended, or was killed
        classes, max_length = about.get("classes"), about.get("max_length")
        found.append(
            Entry(
                key=folder.name,
                name=_name(about),
                rows=sum(map(_count_rows, shards)),
                classes=tuple(map(str, classes)) if isinstance(classes, list) else None,
                max_length=max_length if type(max_length) is int else None,
                precision=str(about["precision"]) if "precision" in about else None,
                bytes=sum(map(_size, shards)),
                shards=len(shards),
                created=str(about["created"]) if "created" in about else None,
                last_used=datetime.fromtimestamp(_last_used(folder), UTC).isoformat(timespec="seconds"),
            )
        )
    return found


def verify(root: Path, advance: Callable[[int, int], None] = lambda done, total: None) -> list[Check]:
    """Read every shard again: its checksum, its structure, and that keys ascend and logits are finite.

    Args:
        advance: called with finished and total shards.
    """
    files = [folder / name for folder in _folders(root) for name in sorted(_shard_names(folder))]
    checks = []
    for done, file in enumerate(files, 1):
        size, damage = _size(file), None
        try:
            _open_shard(file)
        except FileNotFoundError:
            continue  # pruned since the folder was listed
        except Damaged as found:
            damage = str(found)
        except OSError as error:
            damage = f"it cannot be read: {error.strerror}"
        checks.append(Check(file.parent.name, _name(_read_description(file.parent)), file.name, size, damage))
        advance(done, len(files))
    return checks


def prune(
    root: Path,
    *,
    keys: Collection[str] = (),
    unused_days: float | None = None,
    everything: bool = False,
) -> Pruned:
    """Remove damaged shards and what killed writers left, and whole entries where asked.

    Readers keep what they have opened. An entry is left alone while a process computes for it, and files that
    are not the cache's stay.

    Args:
        keys: full keys of entries to remove.
        unused_days: remove entries that served nobody for so many days.
        everything: remove every entry.
    """
    removed: list[Removed] = []
    kept: list[Kept] = []
    for folder in _folders(root):
        name = _name(_read_description(folder))

        def is_unwanted(folder: Path = folder) -> bool:
            unused = time.time() - _last_used(folder)
            return (
                everything
                or folder.name in keys
                or (unused_days is not None and unused > unused_days * 86_400)
                or not _shard_names(folder)
            )

        if not is_unwanted() and not _litter(folder):
            continue
        try:
            with FileLock(folder / LOCK, timeout=0):
                if is_unwanted():  # asked anew: meanwhile its writer may have ended
                    removed.append(Removed(folder.name, name, "entry", _remove_entry(folder)))
                    continue
                for file, what in _litter(folder).items():
                    size = _size(file)
                    file.unlink(missing_ok=True)
                    removed.append(Removed(folder.name, name, what, size))
                if not _shard_names(folder):
                    _remove_entry(folder)
        except Timeout:
            kept.append(Kept(folder.name, name, "a running process is computing for it"))
        except (OSError, NotImplementedError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            kept.append(Kept(folder.name, name, f"it cannot be changed: {reason}"))
    return Pruned(tuple(removed), tuple(kept))


def _litter(folder: Path) -> dict[Path, str]:
    """What is of no use in an entry: each file, and what it is."""
    shards = map(folder.joinpath, sorted(_shard_names(folder)))
    return dict.fromkeys(_unfinished(folder), "leftover") | {
        shard: "damaged shard" for shard in shards if _is_damaged(shard)
    }


def _remove_entry(folder: Path) -> int:
    """Remove an entry whose lock is held, and say how many bytes that freed."""
    shards = [folder / name for name in sorted(_shard_names(folder))]
    freed = 0
    for file in (*shards, *_unfinished(folder), folder / TEACHER):
        size = _size(file)
        file.unlink(missing_ok=True)
        freed += size
    # The lock goes last; who waits for it sees that it is gone and makes a new one.
    _remove([folder / LOCK])
    with suppress(OSError):  # it may hold files that are not ours
        folder.rmdir()
    return freed


# Files ------------------------------------------------------------------------------------------------------


def _open_shard(file: Path, classes: int | None = None) -> _Shard:
    """A shard, mapped into memory once its checksum is verified.

    Raises:
        Damaged: when it is not what was written.
        OSError: when it cannot be read.
    """
    with file.open("rb") as stream:
        if hashlib.file_digest(stream, "sha256").hexdigest() != file.stem:
            raise Damaged("its bytes do not match its checksum")
        layout = _read_layout(stream)
        mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    keys = np.frombuffer(mapped, f"S{KEY_BYTES}", layout.rows, layout.keys)
    logits = np.frombuffer(mapped, "<f4", layout.rows * layout.classes, layout.logits)
    if not (keys[1:] > keys[:-1]).all():
        raise Damaged("its keys do not ascend")
    if not np.isfinite(logits).all():
        raise Damaged("it has logits that are not finite")
    if classes not in (None, layout.classes):
        raise Damaged(f"it has {layout.classes} classes, not {classes}")
    return _Shard(keys, logits.reshape(layout.rows, layout.classes))


@dataclass(frozen=True)
class _Layout:
    """Rows and classes of a shard, and where in the file its two tensors begin."""

    rows: int
    classes: int
    keys: int
    logits: int


def _read_layout(stream: BinaryIO) -> _Layout:
    """Where things are in a safetensors file, which `safetensors` itself would copy into memory."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    length = int.from_bytes(stream.read(8), "little")
    try:
        header = json.loads(stream.read(length if length <= HEADER_LIMIT else 0))
        keys, logits = header["keys"], header["logits"]
        (rows, width), (same_rows, classes) = keys["shape"], logits["shape"]
        (first, first_end), (second, second_end) = keys["data_offsets"], logits["data_offsets"]
        numbers = (rows, width, same_rows, classes, first, first_end, second, second_end)
        fits = (
            all(type(number) is int and number >= 0 for number in numbers)
            and (keys["dtype"], logits["dtype"]) == ("U8", "F32")
            and width == KEY_BYTES
            and rows == same_rows > 0 < classes
            and first_end - first == rows * KEY_BYTES
            and second_end - second == rows * classes * 4
            and 8 + length + max(first_end, second_end) <= size
        )
    except (KeyError, TypeError, ValueError, RecursionError):
        fits = False
    if not fits:
        raise Damaged("it is no shard of keys and logits")
    return _Layout(rows, classes, 8 + length + first, 8 + length + second)


def _is_damaged(file: Path) -> bool:
    """Whether a shard may be thrown away. One that is gone, or that we may not read, is not ours to judge."""
    try:
        _open_shard(file)
    except Damaged:
        return True
    except OSError:
        return False
    return False


def _remove(files: Iterable[Path]) -> None:
    for file in files:
        with suppress(OSError):
            file.unlink()


def _folders(root: Path) -> list[Path]:
    """The entries' folders, by key."""
    try:
        inside = list((root / FOLDER).iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(folder for folder in inside if KEY.fullmatch(folder.name) and folder.is_dir())


def _shard_names(folder: Path) -> set[str]:
    try:
        return {name for name in os.listdir(folder) if SHARD.fullmatch(name)}
    except (FileNotFoundError, NotADirectoryError):
        return set()


def _unfinished(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob(f".*{run.UNFINISHED}") if file.is_file())


def _read_description(folder: Path) -> dict[str, Any]:
    """What teacher.json says; nothing, when it is missing or broken."""
    try:
        about = json.loads((folder / TEACHER).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return about if isinstance(about, dict) else {}


def _name(about: Mapping[str, Any]) -> str | None:
    return str(about["name"]) if "name" in about else None


def _count_rows(shard: Path) -> int:
    try:
        with shard.open("rb") as stream:
            return _read_layout(stream).rows
    except (OSError, Damaged):
        return 0


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _last_used(folder: Path) -> float:
    """When an entry last served rows, seconds since 1970; one that was just removed counts as used now."""
    for path in (folder / TEACHER, folder):
        with suppress(OSError):
            return path.stat().st_mtime
    return time.time()
