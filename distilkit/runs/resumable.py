"""A file that takes long to write: what is finished of it outlives a kill, and is gone on with."""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from distilkit.errors import DISK_ERRORS, UserError, list_names
from distilkit.progress import Reporter
from distilkit.runs import folder
from distilkit.runs.drafts import UNFINISHED

IDENTITY, LOCK, JOURNAL, CONTENT = "made-of.json", ".lock", "journal.jsonl", "content"
COMPLETE = "complete"


class ResumableFile:
    """Content that grows part by part in `<output>.parts` until it becomes the output.

    A part counts once the journal has a line with the length of the content and the writer's state. What a
    killed process wrote after that is cut off.

    Attributes:
        state: what the writer said with the last part; empty before the first.
        has_parts: whether something is worth keeping after a failure: a part, or what the writer put into
            `folder`, which it then says here.
    """

    def __init__(self, output: Path, parts: Path) -> None:
        self.output, self.folder = output, parts
        lines = _read_journal(parts / JOURNAL)
        self.state: dict[str, Any] = lines[-1]["state"] if lines else {}
        self.is_complete: bool = bool(lines) and COMPLETE in lines[-1]
        self.has_parts = bool(lines)
        if not self.is_complete:
            self._open(lines)

    def _open(self, lines: list[dict[str, Any]]) -> None:
        (self.folder / CONTENT).touch()
        self._content = (self.folder / CONTENT).open("r+b")
        self._content.truncate(lines[-1]["bytes"] if lines else 0)
        self._content.seek(0, os.SEEK_END)
        folder.write_text(self.folder / JOURNAL, "".join(json.dumps(line) + "\n" for line in lines))

    def append(self, content: bytes, state: Mapping[str, Any]) -> None:
        """Add a part, which is on the disk when this returns."""
        self._content.write(content)
        self._content.flush()
        os.fsync(self._content.fileno())
        self._note({"bytes": self._content.tell(), "state": dict(state)})
        self.state, self.has_parts = dict(state), True

    def _note(self, line: dict[str, Any]) -> None:
        folder.append_line(self.folder / JOURNAL, line)
        folder.sync(self.folder / JOURNAL)

    def close(self) -> None:
        """Close the content; calling it again does no harm."""
        if not self.is_complete:
            self._content.close()

    def finish(self, convert: Callable[[Path, Path], None] | None = None) -> None:
        """Make the content the output, which replaces an older one in one step.

        Args:
            convert: writes the output, its second argument, from the content, its first.
        """
        content = self.folder / CONTENT
        if not self.is_complete:
            self._note({"bytes": self._content.tell(), "state": self.state, COMPLETE: True})
        self.close()
        if not content.exists():  # a kill came after it was moved
            return
        if convert:
            converted = self.folder / "converted"
            convert(content, converted)
            folder.sync(converted)
            converted.replace(self.output)
            content.unlink()
        else:
            content.replace(self.output)
        folder.sync(self.output.parent)


def _read_journal(file: Path) -> list[dict[str, Any]]:
    """Return the lines that were written whole."""
    lines = []
    try:
        text = file.read_text(encoding="utf-8")
    except OSError:
        return []
    for line in text.splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    return lines


@contextmanager
def open_resumable(
    output: Path, identity: Mapping[str, Any], reporter: Reporter, *, resume: bool, overwrite: bool
) -> Iterator[ResumableFile]:
    """Lock and yield the file; what is finished of it is kept where the block fails, unless that is nothing.

    Args:
        identity: all that the content depends on, as JSON. Parts of another identity are not gone on with.
        resume: whether to go on with the parts of an earlier process.
        overwrite: whether an output, and parts that do not fit, may be replaced.

    Raises:
        UserError: where that is needed and not allowed, or the disk refuses.
    """
    parts = parts_folder(output)
    missing = [parent for parent in parts.absolute().parents if not parent.exists()]
    try:
        _check_foreign(parts)
        parts.mkdir(parents=True, exist_ok=True)
        with FileLock(parts / LOCK, timeout=0):  # the folder is removed under the lock
            try:
                _prepare(output, parts, identity, resume=resume, overwrite=overwrite)
                file = ResumableFile(output, parts)
            except UserError:
                remove_if_empty(parts)
                raise
            try:
                yield file
            except BaseException:
                file.close()
                if file.has_parts and identity.get("resumable", True):
                    reporter.note(
                        f"finished rows are kept in {parts}; the same command with --resume goes on"
                    )
                else:
                    shutil.rmtree(parts, ignore_errors=True)
                raise
            shutil.rmtree(parts, ignore_errors=True)
    except Timeout:
        raise UserError(f"--output {output}: another process is writing it. Wait for it.") from None
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        raise UserError(f"--output {output}: {error.strerror}.") from None
    finally:
        with suppress(OSError):  # they hold something, or were there before
            for parent in missing:
                parent.rmdir()


def parts_folder(output: Path) -> Path:
    """Return where the parts of a file lie until it is complete."""
    return output.with_name(output.name + ".parts")


def _check_foreign(parts: Path) -> None:
    if holds_something(parts) and not (parts / IDENTITY).is_file():
        raise UserError(
            f"{parts} exists and has no finished rows in it. Rename it, or choose another --output."
        )


def holds_something(parts: Path) -> bool:
    """Return whether the folder has anything but its lock and unfinished drafts."""
    try:
        names = [file.name for file in parts.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return False
    return any(name != LOCK and not name.endswith(UNFINISHED) for name in names)


def remove_if_empty(parts: Path) -> None:
    """Remove the folder where it holds nothing."""
    if not holds_something(parts):
        shutil.rmtree(parts, ignore_errors=True)


def _prepare(
    output: Path, parts: Path, identity: Mapping[str, Any], *, resume: bool, overwrite: bool
) -> None:
    """Empty the folder, unless its parts are gone on with. Raises `UserError` where that is not allowed."""
    old = folder.read_object(parts / IDENTITY)
    lines = _read_journal(parts / JOURNAL)
    was_stopped = bool(lines) and old.get("resumable", True)
    differing = [name for name in old | dict(identity) if old.get(name) != identity.get(name)]
    goes_on = was_stopped and resume and not differing
    if was_stopped and not goes_on and not overwrite:
        if resume:
            raise UserError(
                f"{parts} holds finished rows of another command: it differs in {list_names(differing)}. "
                "Repeat that command to complete it, or drop its rows with --overwrite."
            )
        raise UserError(
            f"{parts} holds finished rows of a command that was stopped. Go on with --resume, or drop them "
            "with --overwrite."
        )
    may_be_moved = goes_on and COMPLETE in lines[-1]
    if output.exists() and not overwrite and not may_be_moved:
        raise UserError(
            f"--output {output} is there already. Choose another, or replace it with --overwrite."
        )
    if not goes_on:
        for name in (JOURNAL, CONTENT, "converted"):
            (parts / name).unlink(missing_ok=True)
        folder.write_text(parts / IDENTITY, json.dumps(identity, ensure_ascii=False, indent=1))
