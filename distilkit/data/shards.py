"""Names that stand for several files: a folder of shards, or a pattern such as `parts/*.parquet`."""

import glob
import re
from collections.abc import Sequence
from hashlib import file_digest, sha256
from pathlib import Path

from distilkit.data.formats import READABLE, is_readable, split_name
from distilkit.errors import UserError, join_first

PART = re.compile(r"part-([0-9]+)-of-([0-9]+)\.parquet")  # as `label --part` names its files
MARKS = frozenset("*?[")  # of a pattern


def is_sharded(name: str) -> bool:
    """Return whether a name is that of a folder, or a pattern and no file."""
    path = Path(name)
    return path.is_dir() or (bool(MARKS & set(name)) and not path.exists())


def list_shards(name: str, flag: str) -> list[Path]:
    """Return the files that a name stands for, by their names; a single file is itself.

    Of a folder they are the Parquet files, or all files with columns where it has no Parquet. Hidden files,
    and those that begin with `_`, as Spark writes them, are no shards.

    Args:
        flag: what the name was given to, for messages.

    Raises:
        UserError: where there is none, or parts that `label` writes are missing.
    """
    if not is_sharded(name):
        return [Path(name)]
    is_folder = Path(name).is_dir()
    paths = Path(name).iterdir() if is_folder else map(Path, glob.glob(name, recursive=True))
    files = sorted(
        path
        for path in paths
        if path.is_file() and not path.name.startswith((".", "_")) and (is_readable(path) or not is_folder)
    )
    parquet = [file for file in files if split_name(file)[1] == ".parquet"]
    if shards := (parquet or files) if is_folder else files:
        _check_parts(name, shards, flag)
        return [file for file in shards if not _is_empty(file)] or shards
    problem = "there is no file with columns in this folder" if is_folder else "no file has such a name"
    raise UserError(f"{flag} {name}: {problem}. Give a file, or a folder or pattern of files: {READABLE}.")


def _check_parts(name: str, shards: Sequence[Path], flag: str) -> None:
    """Raise `UserError` where some parts of a `label` are there and others are not yet."""
    matches = [match for file in shards if (match := PART.fullmatch(file.name))]
    for total in sorted({int(match[2]) for match in matches}):
        present = {int(match[1]) for match in matches if int(match[2]) == total}
        if missing := [str(i) for i in range(1, total + 1) if i not in present]:
            raise UserError(
                f"{flag} {name}: of {total} parts that label writes, {join_first(missing)} are missing. "
                f"Complete them, such as with label --part {missing[0]}/{total}."
            )


def _is_empty(file: Path) -> bool:
    """Return whether a Parquet file has no rows, as a part of few rows may; a broken one is not empty."""
    import pyarrow  # no help needs it
    import pyarrow.parquet

    if split_name(file)[1] != ".parquet":
        return False
    try:
        return int(pyarrow.parquet.read_metadata(file).num_rows) == 0
    except (OSError, pyarrow.ArrowException):
        return False


def fingerprint_files(name: str, flag: str) -> str:
    """Return the SHA-256 of a file's bytes; of shards, that of theirs in order, whatever their names.

    Raises:
        UserError: where one cannot be read.
    """
    digests = []
    for file in list_shards(name, flag):
        try:
            with file.open("rb") as stream:
                digests.append(file_digest(stream, "sha256").hexdigest())
        except OSError as error:
            raise UserError(f"{flag} {file} cannot be read: {error.strerror}.") from None
    return sha256("\n".join(digests).encode()).hexdigest() if is_sharded(name) else digests[0]
