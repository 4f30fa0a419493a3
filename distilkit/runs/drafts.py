"""Drafts: what is being written beside its final name, and what killed processes left of it.

.<name>.<digest>.<token>.unfinished    being written; locked by its writer, so a lock that is free tells that
                                       the writer is dead
                        .complete      written whole, about to be moved in
                        .replaced      what was there before, about to be removed
                        .kept          could not be moved in; its writer has told the user, so it stays
"""

import errno
import fcntl
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from distilkit.stopping import shielded

UNFINISHED, COMPLETE, REPLACED, KEPT = ".unfinished", ".complete", ".replaced", ".kept"
NAME_BYTES = 40  # of the final name that a draft's name shows: the longest final name leaves room for no more


@dataclass
class Draft:
    """A file or folder that is being written, and the lock that tells others that its writer is alive."""

    path: Path
    descriptor: int

    def rename(self, suffix: str) -> None:
        """Change what its name says of its state."""
        self.path = self.path.rename(self.path.with_suffix(suffix))

    def remove(self) -> None:
        """Delete it, if it is still there, whatever signals come."""
        with shielded():
            _remove(self.path)


@contextmanager
def open_draft(target: Path, *, is_folder: bool) -> Iterator[Draft]:
    """Make and lock an empty draft of `target`, whose folder must exist; release it after the block.

    Raises:
        OSError: when it cannot be made.
    """
    draft = _make(target, is_folder)
    try:
        yield draft
    finally:
        os.close(draft.descriptor)


def _make(target: Path, is_folder: bool) -> Draft:
    while True:
        path = target.with_name(f"{_prefix(target)}{secrets.token_hex(4)}{UNFINISHED}")
        if is_folder:
            path.mkdir()
        else:
            path.touch(exist_ok=False)
        with suppress(FileNotFoundError):
            descriptor = os.open(path, os.O_RDONLY)
            with suppress(OSError):  # where there are no locks, nobody can take this one either
                fcntl.flock(descriptor, fcntl.LOCK_SH)
            if path.exists():
                return Draft(path, descriptor)
            os.close(descriptor)
        # Another process has taken it for a dead one's, between its making and its lock.


def _prefix(target: Path) -> str:
    name = os.fsencode(target.name)
    shown = name[:NAME_BYTES].decode("utf-8", "ignore")
    return f".{shown}.{hashlib.sha256(name).hexdigest()[:8]}."


def settle_leftovers(target: Path) -> None:
    """Remove the drafts of `target` whose writers are dead; finish a move that a kill has interrupted."""
    prefix = _prefix(target)
    with suppress(OSError):  # what cannot be listed or removed does no harm
        names = sorted(name for name in os.listdir(target.parent) if name.startswith(prefix))
        for name in names:  # a complete draft comes before what it replaces
            path = target.with_name(name)
            with _taking_dead(path) as is_dead:
                if is_dead:
                    _settle(path, target)


def _settle(path: Path, target: Path) -> None:
    if path.suffix == UNFINISHED:
        _remove(path)
    elif path.suffix == COMPLETE and not os.path.lexists(target):
        path.rename(target)
    elif path.suffix == REPLACED and not path.with_suffix(COMPLETE).exists():
        _remove(path)


@contextmanager
def _taking_dead(path: Path) -> Iterator[bool]:
    """Lock a draft and say whether that was possible, which it is not while its writer lives."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        yield False
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_dead = True
        except OSError:
            is_dead = False
        yield is_dead
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def move_in(draft: Draft, target: Path) -> None:
    """Give a draft folder its final name; what is there is replaced, and what comes there meanwhile too.

    A kill in between leaves what `settle_leftovers` finishes.

    Raises:
        OSError: when it cannot be renamed; what was there is there again.
    """
    draft.rename(COMPLETE)
    old = draft.path.with_suffix(REPLACED)
    with shielded():
        while True:
            if target.exists():
                with suppress(FileNotFoundError):  # another draft of the same target is on its way in
                    target.rename(old)
            try:
                draft.path.rename(target)
                break
            except BaseException as error:
                if isinstance(error, OSError) and error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                    _remove(old)  # another draft has moved in, and what it would be put back for is gone
                    continue
                if old.exists():
                    old.rename(target)
                raise
        shutil.rmtree(old, ignore_errors=True)
