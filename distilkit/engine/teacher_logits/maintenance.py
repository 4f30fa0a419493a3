"""Maintenance of the cache: list, verify and prune its entries."""

import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from distilkit.engine.teacher_logits.shards import Damaged, count_rows, is_damaged, open_shard
from distilkit.engine.teacher_logits.store import (
    FOLDER,
    KEY,
    LOCK,
    TEACHER,
    file_size,
    read_description,
    remove_files,
    shard_names,
    teacher_name,
    unfinished_files,
)

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
    """List what is stored, by key. Only headers are read: `verify` reads everything."""
    found_entries = []
    for folder in _folders(root):
        about = read_description(folder)
        shards = [folder / name for name in sorted(shard_names(folder))]
        if not shards:
            continue  # its first writer has not ended, or was killed
        classes, max_length = about.get("classes"), about.get("max_length")
        found_entries.append(
            Entry(
                key=folder.name,
                name=teacher_name(about),
                rows=sum(map(count_rows, shards)),
                classes=tuple(map(str, classes)) if isinstance(classes, list) else None,
                max_length=max_length if type(max_length) is int else None,
                precision=str(about["precision"]) if "precision" in about else None,
                bytes=sum(map(file_size, shards)),
                shards=len(shards),
                created=str(about["created"]) if "created" in about else None,
                last_used=datetime.fromtimestamp(_last_used(folder), UTC).isoformat(timespec="seconds"),
            )
        )
    return found_entries


def verify(root: Path, advance: Callable[[int, int], None] = lambda done, total: None) -> list[Check]:
    """Read every shard again: its checksum, its structure, and that keys ascend and logits are finite.

    Args:
        advance: called with finished and total shards.
    """
    files = [folder / name for folder in _folders(root) for name in sorted(shard_names(folder))]
    checks = []
    for done, file in enumerate(files, 1):
        size, damage = file_size(file), None
        try:
            open_shard(file)
        except FileNotFoundError:
            continue  # pruned since the folder was listed
        except Damaged as error:
            damage = str(error)
        except OSError as error:
            damage = f"it cannot be read: {error.strerror}"
        checks.append(
            Check(file.parent.name, teacher_name(read_description(file.parent)), file.name, size, damage)
        )
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
        name = teacher_name(read_description(folder))

        def is_unwanted(folder: Path = folder) -> bool:
            unused = time.time() - _last_used(folder)
            return (
                everything
                or folder.name in keys
                or (unused_days is not None and unused > unused_days * 86_400)
                or not shard_names(folder)
            )

        if not is_unwanted() and not _litter(folder):
            continue
        try:
            with FileLock(folder / LOCK, timeout=0):
                if is_unwanted():  # asked anew: meanwhile its writer may have ended
                    removed.append(Removed(folder.name, name, "entry", _remove_entry(folder)))
                    continue
                for file, what in _litter(folder).items():
                    size = file_size(file)
                    file.unlink(missing_ok=True)
                    removed.append(Removed(folder.name, name, what, size))
                if not shard_names(folder):
                    _remove_entry(folder)
        except Timeout:
            kept.append(Kept(folder.name, name, "a running process is computing for it"))
        except (OSError, NotImplementedError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            kept.append(Kept(folder.name, name, f"it cannot be changed: {reason}"))
    return Pruned(tuple(removed), tuple(kept))


def _litter(folder: Path) -> dict[Path, str]:
    """Yield the useless files of an entry, and what each is."""
    shards = map(folder.joinpath, sorted(shard_names(folder)))
    return dict.fromkeys(unfinished_files(folder), "leftover") | {
        shard: "damaged shard" for shard in shards if is_damaged(shard)
    }


def _remove_entry(folder: Path) -> int:
    """Remove an entry whose lock is held, and say how many bytes that freed."""
    shards = [folder / name for name in sorted(shard_names(folder))]
    freed = 0
    for file in (*shards, *unfinished_files(folder), folder / TEACHER):
        size = file_size(file)
        file.unlink(missing_ok=True)
        freed += size
    # The lock goes last; who waits for it sees that it is gone and makes a new one.
    remove_files([folder / LOCK])
    with suppress(OSError):  # it may hold files that are not ours
        folder.rmdir()
    return freed


def _folders(root: Path) -> list[Path]:
    """Return the folders of the entries, by key."""
    try:
        inside = list((root / FOLDER).iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(folder for folder in inside if KEY.fullmatch(folder.name) and folder.is_dir())


def _last_used(folder: Path) -> float:
    """Return when an entry last served rows, in seconds since 1970; a removed one counts as used now."""
    for path in (folder / TEACHER, folder):
        with suppress(OSError):
            return path.stat().st_mtime
    return time.time()
