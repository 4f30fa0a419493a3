"""Blocks of new rows: finished ones are kept when a run is killed."""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from distilkit.config import AugmentConfig
from distilkit.errors import DISK_ERRORS, UserError
from distilkit.progress import Reporter
from distilkit.runs import folder as run
from distilkit.runs.resumable import IDENTITY, LOCK, holds_something, parts_folder, remove_if_empty
from distilkit.workflows.augmentation.rules import Ints

BLOCK = 1 << 14  # words of training rows in a block, the unit that is saved and resumed


class Busy(UserError):
    """Another process is writing the output."""


class AlreadyThere(UserError):
    """The output exists and `overwrite` is not set."""


def split_into_blocks(sides: list[list[str]]) -> list[Ints]:
    """Return the indices of the rows, in blocks of about `BLOCK` words."""
    words = np.array([sum(len(text.split()) for text in row) for row in zip(*sides, strict=True)])
    return np.split(np.arange(len(words)), np.flatnonzero(np.diff(np.cumsum(words) // BLOCK)) + 1)


# Files ---------------------------------------------------------------------------------------------------


def check_output(config: AugmentConfig) -> None:
    """Refuse an output that cannot be written, before any work."""
    output = config.output
    try:
        if output.is_dir():
            raise UserError(f"--output {output} is a folder. Name a file in it.")
        if output.exists() and not config.overwrite:
            raise AlreadyThere(
                f"--output {output} is there already. Choose another, or replace it with --overwrite."
            )
        data = config.data_dir and config.data_dir.resolve()  # a folder with a file for each split, or a file
        is_split = output.resolve().parent == data and output.stem in ("train", "validation", "test")
        if output.exists() and (is_split or output.resolve() == data):
            raise UserError(f"--output {output} is read from --data-dir. Name another file.")
        run.check_home(output, "--output")
    except OSError as error:
        raise UserError(f"--output {output} cannot be used: {error.strerror}.") from None


def check_not_locked(config: AugmentConfig) -> None:
    """Refuse an output that another process is writing; a process that starts later meets the lock."""
    lock = parts_folder(config.output) / LOCK
    try:
        if lock.exists():
            with FileLock(lock, timeout=0):
                pass
    except Timeout:
        raise _busy(config) from None
    except OSError:
        pass  # `open_parts_folder` says what is wrong with the folder, if it is there by then


def _busy(config: AugmentConfig) -> Busy:
    return Busy(f"--output {config.output}: another process is writing it. Wait for it.")


@contextmanager
def open_parts_folder(config: AugmentConfig, identity: str, reporter: Reporter) -> Iterator[Path]:
    """Lock and yield the folder of finished blocks; remove it when the `with` block ends without an error."""
    folder = parts_folder(config.output)
    try:
        if holds_something(folder) and not (folder / IDENTITY).is_file():
            raise UserError(
                f"{folder} exists and has no finished blocks in it. Rename it, or choose another --output."
            )
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(
            folder / LOCK, timeout=0
        ):  # the folder is removed under the lock, so no other process starts in it
            try:
                check_output(config)  # another process may have written it since
                reusable = _known_blocks(folder, identity, config.overwrite)
            except UserError:
                remove_if_empty(folder)
                raise
            try:
                if not reusable:
                    for file in folder.glob("*.parquet"):
                        file.unlink()
                    run.write_text(folder / IDENTITY, identity)
                yield folder
            except BaseException:
                if any(folder.glob("*.parquet")):
                    reporter.note(
                        f"finished blocks are kept in {folder}; the same command goes on from there"
                    )
                else:
                    shutil.rmtree(folder, ignore_errors=True)
                raise
            shutil.rmtree(folder, ignore_errors=True)
    except Timeout:
        raise _busy(config) from None
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        raise UserError(f"--output {config.output}: {error.strerror}.") from None


def _known_blocks(folder: Path, identity: str, overwrite: bool) -> bool:
    """Return whether the folder's blocks have this `identity`; blocks of another one need `overwrite`."""
    identity_file = folder / IDENTITY
    if not identity_file.is_file():
        return False
    if identity_file.read_text(encoding="utf-8") == identity:
        return True
    if not overwrite:
        raise UserError(
            f"{folder} holds the finished blocks of another command, "
            f"of {_differing(identity_file, identity)}. "
            "Repeat that command to complete it, or drop them with --overwrite."
        )
    return False


def _differing(identity_file: Path, identity: str) -> str:
    old, new = json.loads(identity_file.read_text(encoding="utf-8")), json.loads(identity)
    flat = [values | values.pop("config") for values in (old, new)]
    names = [name for name in flat[0] | flat[1] if flat[0].get(name) != flat[1].get(name)]
    return f"another {', '.join(names)}" if names else "different data"


def read_finished_block(file: Path) -> pa.Table | None:
    """Read a block that an earlier command made; return `None` where it is missing or damaged."""
    try:
        return pq.read_table(file)
    except (OSError, pa.ArrowException):  # not there, or damaged
        return None


def parquet_bytes(part: pa.Table) -> bytes:
    """Return a table as the bytes of a Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(part, sink)
    return bytes(sink.getvalue())


def join_blocks(files: Sequence[Path], output: Path, schema: pa.Schema) -> None:
    """Write the blocks to `output`, one row group per block; replace an old file in one step."""
    with run.replacing(output) as draft, pq.ParquetWriter(draft, schema) as writer:
        for file in files:
            writer.write_table(pq.read_table(file).replace_schema_metadata(schema.metadata))
