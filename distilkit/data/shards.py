"""Names that stand for several files: a folder of shards, or a pattern such as `parts/*.parquet`."""

import glob
from hashlib import file_digest, sha256
from pathlib import Path

from distilkit.data.formats import READABLE, is_readable, split_name
from distilkit.errors import UserError

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
        UserError: where there is none.
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
        return shards
    problem = "there is no file with columns in this folder" if is_folder else "no file has such a name"
    raise UserError(f"{flag} {name}: {problem}. Give a file, or a folder or pattern of files: {READABLE}.")


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
