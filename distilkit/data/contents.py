"""The content of files of rows: opened through its compression, and recognised where it is something else."""

import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote

import pyarrow as pa

from distilkit.data.formats import COMPRESSIONS, shorten, split_name
from distilkit.errors import UserError

PIECE_ROWS = 1024  # that are read and written at a time
HEAD_BYTES = 65536  # enough to tell text from something else
_BEGINNINGS = {
    b"PAR1": "it is a Parquet file. Rename it to {stem}.parquet",
    b"ARROW1": "it is an Arrow file. Rename it to {stem}.arrow",
    b"\x1f\x8b": "it is compressed with gzip. Rename it to {name}.gz",
    b"\x28\xb5\x2f\xfd": "it is compressed with Zstandard. Rename it to {name}.zst",
    b"PK\x03\x04": "it is a ZIP archive or an Excel workbook. Unzip it, or save its sheet as CSV",
    b"\xd0\xcf\x11\xe0": "it is an Excel workbook. Save its sheet as CSV",
    b"version https://git-lfs": "it is a Git LFS pointer. Fetch the file where it was cloned: git lfs pull",
    b"%PDF-": "it is a PDF. Export its table as CSV",
    b"<?xml": "it is XML. Export its rows as CSV",
}
_WEB_PAGE = re.compile(rb"\s*<(!doctype\s+html|html)\b", re.IGNORECASE)  # of a login, or of an error
REMEDY = "copy, download or write it again"
_COMPRESSED = {".gz": b"\x1f\x8b", ".bz2": b"BZh", ".zst": b"\x28\xb5\x2f\xfd"}
_MAGIC = {".parquet": b"PAR", ".arrow": b"ARROW"}


@dataclass
class Table:
    """What a file holds: batches with the selected columns alone, and the names of all columns.

    `class_names` are those that the file itself gives to the ids in a column. `hint` says what may be wrong
    where a column is missing.
    """

    column_names: list[str]
    schema: pa.Schema
    batches: Iterator[pa.RecordBatch]
    class_names: dict[str, list[str]] = field(default_factory=dict)
    hint: str = ""


def open_bytes(file: Path) -> pa.NativeFile:
    """Open a file for reading, decompressed where its name says that it is compressed."""
    return pa.input_stream(str(file), compression=COMPRESSIONS.get(split_name(file)[2]))


def open_text(file: Path, newline: str | None = None) -> io.TextIOWrapper:
    """Open a file of text without its byte order mark; bytes that are not UTF-8 become lone surrogates."""
    return io.TextIOWrapper(open_bytes(file), encoding="utf-8-sig", errors="surrogateescape", newline=newline)


def check_content(file: Path) -> None:
    """Raise `UserError` where a file with the ending of a text format holds something else, or UTF-16."""
    head = _read_head(file)
    _check_beginning(file, head)
    zeros = head.count(b"\0")
    if head.startswith((b"\xff\xfe", b"\xfe\xff")) or (zeros * 4 > len(head) and _alternates(head)):
        raise UserError(f"{file} is UTF-16, not UTF-8. {_conversion(file, 'UTF-16')}")
    if zeros * 100 > len(head):
        raise UserError(f"{file} is not what its ending says: it holds binary data, not text.")


def check_binary_content(file: Path) -> None:
    """Raise `UserError` where a file with the ending of Parquet or Arrow holds nothing, or something else."""
    check_not_empty(file)
    head, ending = _read_head(file), split_name(file)[1]
    if not head.startswith(_MAGIC[ending]):
        _check_beginning(file, head)
        if ending == ".parquet" and len(head) > len(_MAGIC[ending]):
            raise UserError(
                f"{file} is not what its ending says: a Parquet file begins with PAR1. Give it the ending of "
                f"its format, or {REMEDY}."
            )


def check_not_empty(file: Path) -> None:
    """Raise `UserError` where a file has no content, compressed or not."""
    if not _read_head(file):
        raise UserError(f"{file} is empty. {REMEDY.capitalize()}.")


def incomplete(file: Path, reason: object) -> UserError:
    """Return the error about a file that ends too early, or whose bytes are not those that were written."""
    what = shorten(" ".join(str(reason).split()), 200)
    return UserError(f"{file} is incomplete or damaged ({what}). {REMEDY.capitalize()}.")


@contextmanager
def explaining_damage(file: Path) -> Iterator[None]:
    """Turn what Arrow raises for a file that is cut short or altered into a `UserError` that says so."""
    try:
        yield
    except pa.ArrowNotImplementedError:  # the file is right, and Arrow cannot read it
        raise
    except (pa.ArrowInvalid, OSError) as error:
        if isinstance(error, OSError) and error.errno:  # the system's
            raise
        raise incomplete(file, error) from None


def explain_compression(file: Path) -> UserError | None:
    """Return the error about a file that cannot be decompressed to its end; `None` where it can be."""
    stem, ending, compression = split_name(file)
    if not compression:
        return None
    try:
        with file.open("rb") as raw:
            head = raw.read(len(_COMPRESSED[compression]))
        if not _COMPRESSED[compression].startswith(head):
            return UserError(
                f"{file} is not what its ending says: it is not compressed with {COMPRESSIONS[compression]}. "
                f"If it is not compressed at all, rename it to {stem}{ending}; else {REMEDY}."
            )
        with explaining_damage(file), open_bytes(file) as stream:
            while stream.read(HEAD_BYTES):
                pass
    except UserError as error:
        return error
    except OSError:
        return None
    return None


def _read_head(file: Path) -> bytes:
    with open_bytes(file) as stream:
        return bytes(stream.read(HEAD_BYTES))


def _check_beginning(file: Path, head: bytes) -> None:
    remedies = [remedy for beginning, remedy in _BEGINNINGS.items() if head.startswith(beginning)]
    if _WEB_PAGE.match(head.removeprefix(b"\xef\xbb\xbf")):
        remedies.append("it is a web page, perhaps that of a login or an error. Download the file again")
    for remedy in remedies:
        raise UserError(
            f"{file} is not what its ending says: {remedy.format(stem=split_name(file)[0], name=file.name)}."
        )


def _alternates(head: bytes) -> bool:
    """Return whether the zeros stand at even, or at odd places alone, as in UTF-16 without its mark."""
    return len(head) > 8 and (b"\0" not in head[::2] or b"\0" not in head[1::2])


def not_utf8(file: Path, where: str, value: bytes) -> UserError:
    """Return the error about a value that is not UTF-8, with a guess at what it is, and the remedy."""
    is_windows = any(0x80 <= byte < 0xA0 for byte in value)
    encoding, title = ("CP1252", "Windows-1252") if is_windows else ("LATIN1", "latin-1")
    start = max(0, next((i for i, byte in enumerate(value) if byte > 127), 0) - 10)
    shown = value[start : start + 20].decode(encoding, "replace")
    remedy = _conversion(file, encoding)
    if split_name(file)[1] in (".parquet", ".arrow"):
        remedy = "Write the file again, with its texts decoded first."
    return UserError(
        f"{file}, {where}: the text is not UTF-8. It may be {title}, in which it reads {shown!r}. {remedy}"
    )


def _conversion(file: Path, encoding: str) -> str:
    stem, ending, compression = split_name(file)
    if compression:
        return f"Decompress it, and convert it: iconv -f {encoding} -t UTF-8 {quote(stem + ending)}"
    new = quote(str(file.with_name(f"utf8{ending}")))
    return (
        f"Convert it: iconv -f {encoding} -t UTF-8 {quote(str(file))} > {new} && mv {new} {quote(str(file))}"
    )


def pick_columns(file: Path, column_names: Sequence[str], columns: Sequence[str]) -> list[str]:
    """Return which of `columns` there are, in the order of the file.

    Raises:
        UserError: where one of them is there twice; others may be.
    """
    picked = [name for name in column_names if name in columns]
    for name in picked:
        if picked.count(name) > 1:
            raise UserError(f"{file} has two columns {name!r}. Rename or drop one.")
    return picked


def unique_names(column_names: Sequence[str]) -> list[str]:
    """Return the names that only one column has."""
    counts = Counter(column_names)
    return [name for name in column_names if name and counts[name] == 1]
