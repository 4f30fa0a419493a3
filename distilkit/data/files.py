"""Files of rows: Parquet, CSV, TSV and JSON lines, read so that memory does not grow with them."""

import json
import os
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from distilkit.errors import UserError

ENDINGS = (".parquet", ".csv", ".tsv", ".jsonl")
PIECE = 1024  # rows that are read and written at a time


def read_file(file: Path, columns: list[str]) -> datasets.Dataset:
    """Read the rows of a file through Arrow's format on disk, so that memory does not grow with them.

    Parquet is read piece by piece, the text formats at once.
    """
    readers: dict[str, Callable[[], pa.Table]] = {
        ".csv": lambda: _read_delimited(file, columns, delimiter=",", newlines_in_values=True),
        # As GLUE writes it: a quotation mark is a character, and a line is a row.
        ".tsv": lambda: _read_delimited(file, columns, delimiter="\t", quote_char=False),
        ".jsonl": lambda: _read_jsonl(file, columns),
    }
    try:
        if file.suffix == ".parquet":
            reader = pyarrow.parquet.ParquetFile(file)
            schema, pieces = reader.schema_arrow, reader.iter_batches(batch_size=PIECE)
        elif _is_binary(file):
            raise UserError(f"{file} is not what its ending says: it holds binary data, not text.")
        else:
            table = readers[file.suffix]()
            schema, pieces = table.schema, iter(table.to_batches(max_chunksize=PIECE))
        if twice := [name for name in schema.names if schema.names.count(name) > 1]:
            raise UserError(f"{file} has two columns {twice[0]!r}. Rename or drop one.")
        return from_disk(schema, pieces)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{file} cannot be read as {file.suffix[1:]}: {reason}") from None


def from_disk(schema: pa.Schema, pieces: Iterable[pa.RecordBatch]) -> datasets.Dataset:
    """Write the rows to a file of Arrow's format that the system removes once nothing reads it."""
    descriptor, name = tempfile.mkstemp(prefix="distilkit-", suffix=".arrow")
    os.close(descriptor)
    try:
        with pa.OSFile(name, "wb") as sink, pa.ipc.new_stream(sink, schema) as stream:
            for piece in pieces:
                stream.write_batch(piece)
        return datasets.Dataset.from_file(name)
    finally:
        with suppress(OSError):  # where the system keeps a file that is in use, it stays until it is cleaned
            os.unlink(name)


def read_lines(file: Path, column: str) -> datasets.Dataset:
    """Read the lines of a text file as rows of one column, stripped, without empty lines.

    Raises:
        UserError: when it cannot be read or is not text in UTF-8.
    """
    schema = pa.schema([(column, pa.string())])
    try:
        if _is_binary(file):
            raise UserError(f"{file} is not what its ending says: it holds binary data, not text.")
        with file.open(encoding="utf-8-sig") as stream:  # a mark of the encoding is no text
            lines = filter(None, map(str.strip, stream))
            pieces = iter(lambda: list(islice(lines, PIECE)), [])
            return from_disk(
                schema, (pa.RecordBatch.from_pydict({column: piece}, schema) for piece in pieces)
            )
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read as text: {error}") from None


def _is_binary(file: Path) -> bool:
    with file.open("rb") as stream:
        return b"\0" in stream.read(65536)


def _read_delimited(file: Path, columns: list[str], **parsing: object) -> pa.Table:
    # Texts and labels are read as texts whatever they look like: "null", "12" and "NA" are words here, and
    # labels 1, 2, 3 of one file are those of another that has "4+" as well.
    options = {
        "parse_options": pyarrow.csv.ParseOptions(**parsing),
        "convert_options": pyarrow.csv.ConvertOptions(
            column_types={column: pa.string() for column in columns}, strings_can_be_null=False
        ),
    }
    try:
        return pyarrow.csv.read_csv(file, **options)
    except pa.ArrowInvalid:  # one thread knows the row that is wrong
        return pyarrow.csv.read_csv(file, read_options=pyarrow.csv.ReadOptions(use_threads=False), **options)


def _read_jsonl(file: Path, columns: list[str]) -> pa.Table:
    try:
        table = pyarrow.json.read_json(file)
    except pa.ArrowInvalid:  # it reads columns that nobody asked for, and counts from a block's start
        return _read_jsonl_by_line(file, columns)
    # Texts that all look like dates were read as dates; read again, told that they are texts.
    dates = [field.name for field in table.schema if pa.types.is_temporal(field.type)]
    if dates := [name for name in dates if name in columns]:
        texts = pa.schema([(name, pa.string()) for name in dates])
        table = pyarrow.json.read_json(file, parse_options=pyarrow.json.ParseOptions(explicit_schema=texts))
    return table


def _read_jsonl_by_line(file: Path, columns: list[str]) -> pa.Table:
    """Read JSON lines one by one: other columns may hold anything, and a fault names its row."""
    rows, values = [], list[dict[str, Any]]()
    for row, line in enumerate(file.read_text(encoding="utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            parsed = json.loads(line)
        except ValueError as error:
            raise UserError(f"{file} cannot be read as jsonl: row {row} is no JSON: {error}.") from None
        if not isinstance(parsed, dict):
            raise UserError(f"{file} cannot be read as jsonl: row {row} is no object {{…}}.")
        rows.append(row)
        values.append(parsed)
    table = {}
    for column in dict.fromkeys(name for row in values for name in row):
        cells = [row.get(column) for row in values]
        array = _as_column(cells)
        if array is None and column in columns:
            row, cell, why = _odd_one(rows, cells)
            raise UserError(f"{file} cannot be read as jsonl: row {row} has {cell!r} for {column!r}, {why}.")
        table[column] = pa.array([json.dumps(cell) for cell in cells]) if array is None else array
    return pa.table(table)


def _as_column(cells: list[Any]) -> pa.Array | None:
    """Make a column of cells; return `None` where no type fits all of them."""
    try:
        return pa.array(cells)
    except (pa.ArrowException, UnicodeEncodeError, OverflowError):
        return None


def _odd_one(rows: list[int], cells: list[Any]) -> tuple[int, Any, str]:
    """Find the first row that keeps cells from being a column; return it, its cell and the reason."""
    good: list[Any] = []
    for row, cell in zip(rows, cells, strict=True):
        if _as_column([cell]) is None:
            return row, cell, "which is no text or number"
        if cell is not None and _as_column([*good[:1], cell]) is None:
            return row, cell, f"and a row before it {good[0]!r}. Write all as text, or all as numbers"
        good += [cell] if cell is not None else []
    return rows[-1], cells[-1], "which does not go with the rows before it"


def check_is_text(column: pa.ChunkedArray, where: str) -> None:
    """Raise `UserError` unless the values are texts, or missing."""
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        raise UserError(f"{where}: it holds {column.type}, not text.")


def check_texts(column: pa.ChunkedArray, where: str) -> None:
    """Raise `UserError`, naming the row, unless every value is a text with something in it."""
    check_is_text(column, where)
    seen = 0
    for chunk in column.chunks:  # one by one, so that a copy of all texts is never in memory
        empty = pc.fill_null(pc.equal(pc.utf8_trim_whitespace(chunk), ""), True)
        if row := pc.index(empty, True).as_py() + 1:
            raise UserError(
                f"{where}, row {seen + row}: the text is missing or empty. Fill it in or drop the row."
            )
        seen += len(chunk)
