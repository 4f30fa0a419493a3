"""Files and folders that are written whole or not at all."""

import errno
import json
import os
import secrets
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from distilkit.errors import UserError

# What a disk or its owner says no with.
REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)


UNFINISHED = ".unfinished"  # ends the names of what is still being written


def check_folder(folder: Path, option: str, check_contents: Callable[[], None]) -> None:
    """Refuse early, before any work, a folder that could not be written.

    Args:
        option: what names it on the command line.
        check_contents: called when something lies in it; raises `UserError` where that must stay.

    Raises:
        UserError: when it must stay as it is or cannot be made.
    """
    try:
        if Path.cwd().is_relative_to(folder.resolve()):
            raise UserError(f"{option} {folder} is the folder you are in. Name a new one.")
        if os.path.ismount(folder):
            raise UserError(f"{option} {folder} is a mount point. Name a folder inside it.")
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{option} {folder} is a file. Name a folder that does not exist yet.")
        if folder.is_dir() and any(folder.iterdir()):
            check_contents()
        check_home(folder, option)
    except OSError as error:
        raise UserError(f"{option} {folder} cannot be used: {error.strerror}.") from None


def check_home(folder: Path, option: str) -> None:
    """Refuse early a file or folder that could not be made where it is to be.

    Raises:
        UserError: when the nearest folder that is there cannot be written to.
    """
    home = next(parent for parent in folder.absolute().parents if parent.exists())
    if not home.is_dir() or not os.access(home, os.W_OK):
        raise UserError(f"{option} {folder}: {home} is not a folder you can write to.")


@contextmanager
def writing_folder(folder: Path, option: str, what: str, check: Callable[[], None]) -> Iterator[Path]:
    """Yield a folder to build in, which becomes `folder` when the block ends well and else disappears.

    Args:
        option: what names it on the command line.
        what: is built.
        check: raises `UserError` where `folder` must not be replaced; called before and after the work.

    Raises:
        UserError: as `check`, or when the disk refuses.
    """
    check()
    folder = folder.resolve()  # a link keeps pointing at what is replaced
    try:
        draft = _make_draft(folder)
        draft.chmod(0o777 & ~_umask())
        try:
            yield draft
            _sync(draft)
        except BaseException as error:
            shutil.rmtree(draft, ignore_errors=True)
            if isinstance(error, OSError) and error.errno in REFUSALS:
                raise UserError(f"{option} {folder}: {error.strerror}. Nothing was kept.") from None
            raise
        try:
            check()  # somebody may have filled it while we worked
            _move_in(draft, folder)
        except (OSError, UserError) as error:
            raise UserError(f"{error} The {what} is complete and lies in {draft}.") from None
    finally:
        _remove_empty_parents(folder.parent)


# Folders that this process has made for runs. Whoever is the last to leave an empty one removes it: several
# runs may be on their way into it.
_made: set[Path] = set()


_making = threading.Lock()


def _make_draft(output_dir: Path) -> Path:
    home = output_dir.parent
    with _making:
        for parent in [parent for parent in (home, *home.parents) if not parent.exists()][::-1]:
            parent.mkdir(exist_ok=True)
            _made.add(parent)
        return Path(tempfile.mkdtemp(prefix=f".{output_dir.name}.", suffix=UNFINISHED, dir=home))


def _remove_empty_parents(folder: Path) -> None:
    with _making:
        for parent in (folder, *folder.parents):
            if parent not in _made or any(parent.iterdir()):
                return
            parent.rmdir()
            _made.discard(parent)


def _umask() -> int:
    with _making:  # it can only be read by setting it, for all threads
        mask = os.umask(0)
        os.umask(mask)
    return mask


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        sync(path)


def _move_in(draft: Path, output_dir: Path) -> None:
    old = draft.with_suffix(".replaced")
    if output_dir.exists():
        output_dir.rename(old)
    try:
        draft.rename(output_dir)
    except BaseException:
        if old.exists():
            old.rename(output_dir)
        raise
    shutil.rmtree(old, ignore_errors=True)


def write_json(file: Path, value: object) -> None:
    """Write `value` to `file` atomically: readers see the old file or the new one."""
    write_text(file, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_text(file: Path, text: str) -> None:
    """Write `text` to `file` atomically, its folder made if need be."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, text.encode("utf-8"))


def write_whole(file: Path, data: bytes) -> None:
    """Write `file` so that others see the old one or all of the new. Its folder must exist."""
    with replacing(file) as draft:
        draft.write_bytes(data)


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Yield a file to write, which replaces `file` when the block ends well and else disappears."""
    draft = file.with_name(f".{file.name[:16]}.{os.getpid()}.{secrets.token_hex(4)}{UNFINISHED}")
    try:
        yield draft
        sync(draft)
        draft.replace(file)
    finally:
        with suppress(OSError):
            draft.unlink()


def append_line(file: Path, value: object) -> None:
    """Append `value` as one line of JSON."""
    with file.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(value, ensure_ascii=False) + "\n")
