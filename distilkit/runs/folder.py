"""Files and folders that are written whole or not at all."""

import difflib
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from distilkit.errors import DISK_ERRORS, UserError
from distilkit.runs.drafts import KEPT, Draft, move_in, open_draft, settle_leftovers
from distilkit.stopping import check_stop

DEEPEST_NAME_BYTES = 100  # of the longest path below a run or a report


def suggest_sibling(path: Path) -> str:
    """Return "Did you mean …?" where something with a similar name is in the same folder, else ""."""
    try:
        siblings = [sibling.name for sibling in path.parent.iterdir()]
    except OSError:
        return ""
    close = difflib.get_close_matches(path.name, siblings, n=1)
    return f"Did you mean {path.parent / close[0]}?" if close else ""


def check_folder(folder: Path, option: str, check_contents: Callable[[], None]) -> None:
    """Refuse early, before any work, a folder that could not be written.

    What killed processes left beside it is removed first, or moved in where it was complete.

    Args:
        option: what names it on the command line.
        check_contents: called when something lies in it; raises `UserError` where that must stay.

    Raises:
        UserError: when it must stay as it is or cannot be made.
    """
    try:
        _check_names(folder, option)
        settle_leftovers(folder.resolve())
        if Path.cwd().is_relative_to(folder.resolve()):
            raise UserError(f"{option} {folder} is the folder you are in. Name a new one.")
        if os.path.ismount(folder):
            raise UserError(f"{option} {folder} is a mount point. Name a folder inside it.")
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{option} {folder} is a file. Name a folder that does not exist yet.")
        if folder.is_dir() and any(folder.iterdir()):
            check_contents()
        check_home(folder, option)
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UserError(f"{option} {str(folder)[:300]} cannot be used: {reason}.") from None


def check_home(folder: Path, option: str) -> None:
    """Refuse early a file or folder that could not be made where it is to be.

    Raises:
        UserError: when the nearest folder that is there cannot be written to, or a name is too long for it.
    """
    try:
        _check_names(folder, option)
        home = next(parent for parent in folder.absolute().parents if parent.exists())
        if not home.is_dir() or not os.access(home, os.W_OK | os.X_OK):
            raise UserError(f"{option} {folder}: {home} is not a folder you can write to.")
    except OSError as error:
        raise UserError(f"{option} {str(folder)[:300]} cannot be used: {error.strerror}.") from None


def _check_names(folder: Path, option: str) -> None:
    """Refuse names that are too long to be made, before the work and not after it.

    Raises:
        OSError: when the whole path is too long.
    """
    path = folder.absolute()
    parent = Path(path.anchor)
    for name in path.parts[1:]:
        longest = os.pathconf(parent, "PC_NAME_MAX")
        if (size := len(os.fsencode(name))) > longest:
            raise UserError(
                f"{option}: a name of {size} bytes, {name[:40]}…, is too long here. Use {longest} at most."
            )
        parent = parent / name if (parent / name).is_dir() else parent
    with suppress(FileNotFoundError, NotADirectoryError):
        os.lstat(path / ("x" * DEEPEST_NAME_BYTES))


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
    with ExitStack() as stack:
        try:
            folder = folder.resolve()  # a link keeps pointing at what is replaced
            stack.callback(_remove_empty_parents, folder.parent)
            _make_parents(folder.parent)
            draft = stack.enter_context(open_draft(folder, is_folder=True))
        except OSError as error:
            raise UserError(f"{option} {folder}: {error.strerror}.") from None
        with _discarding(draft, folder, option):
            yield draft.path
            _sync(draft.path)
            check_stop()
        try:
            check()  # somebody may have filled it while we worked
            move_in(draft, folder)
        except (OSError, UserError) as error:
            with suppress(OSError):
                draft.rename(KEPT)
            raise UserError(f"{error} The {what} is complete and lies in {draft.path}.") from None


class PartComplete(Exception):
    """The disk refuses a small file at the end; a part that took hours is whole and must be kept."""

    def __init__(self, part: str, error: OSError) -> None:
        super().__init__(part)
        self.part, self.error = part, error


@contextmanager
def keeping(part: str) -> Iterator[None]:
    """Keep the draft, which holds a whole `part`, where the disk refuses what the block writes.

    Raises:
        PartComplete: for `writing_folder`.
    """
    try:
        yield
    except OSError as error:
        raise PartComplete(part, error) from None


@contextmanager
def _discarding(draft: Draft, folder: Path, option: str) -> Iterator[None]:
    """Remove the draft where the block fails; say what the disk refused.

    Only errors of files in the draft are the disk's that `option` names: libraries write elsewhere too.
    """
    try:
        yield
    except PartComplete as kept:
        draft.rename(KEPT)
        raise UserError(
            f"{option} {folder}: {kept.error.strerror}. "
            f"The {kept.part} is complete and lies in {draft.path / kept.part}."
        ) from None
    except BaseException as error:
        draft.remove()
        if isinstance(error, OSError) and is_inside(error, draft.path):
            raise UserError(f"{option} {folder}: {error.strerror}. Nothing was kept.") from None
        raise


def is_inside(error: OSError, folder: Path) -> bool:
    """Return whether an error is of a file in `folder`; without a file, whether it is one of a disk."""
    if isinstance(error.filename, str | bytes):
        return Path(os.fsdecode(error.filename)).is_relative_to(folder)
    return error.errno in DISK_ERRORS


# Folders that this process has made for runs. Whoever is the last to leave an empty one removes it: several
# runs may be on their way into it.
_made: set[Path] = set()


_making = threading.Lock()


def _make_parents(home: Path) -> None:
    with _making:
        for parent in [parent for parent in (home, *home.parents) if not parent.exists()][::-1]:
            parent.mkdir(exist_ok=True)
            _made.add(parent)


def _remove_empty_parents(folder: Path) -> None:
    with _making, suppress(OSError):
        for parent in (folder, *folder.parents):
            if parent not in _made or any(parent.iterdir()):
                return
            parent.rmdir()
            _made.discard(parent)


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


def read_object(file: Path) -> dict[str, Any]:
    """Return the object in a JSON file; an empty one where the file is missing, damaged or holds another."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def write_json(file: Path, value: object) -> None:
    """Write `value` to `file` atomically: readers see the old file or the new one."""
    write_text(file, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_text(file: Path, text: str) -> None:
    """Write `text` to `file` atomically, its folder made if need be."""
    file.parent.mkdir(parents=True, exist_ok=True)
    # A half of a surrogate pair, which JSON files can hold, has no UTF-8; its escape is JSON too.
    write_whole(file, text.encode("utf-8", "backslashreplace"))


def write_whole(file: Path, data: bytes) -> None:
    """Write `file` so that others see the old one or all of the new. Its folder must exist."""
    with replacing(file) as draft:
        draft.write_bytes(data)


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Yield a file to write, which replaces `file` when the block ends well and else disappears.

    What killed processes left of the same file is removed first.
    """
    settle_leftovers(file)
    with open_draft(file, is_folder=False) as draft:
        try:
            yield draft.path
            sync(draft.path)
            draft.path.replace(file)
        finally:
            with suppress(OSError):
                draft.remove()


def append_line(file: Path, value: object) -> None:
    """Append `value` as one line of JSON."""
    with file.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(value, ensure_ascii=False) + "\n")
