"""Rows and what is added to them, as bytes of a format: piece by piece, so that memory stays flat."""

import base64
import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from distilkit.data.formats import quote_names
from distilkit.data.streams import Piece
from distilkit.errors import UserError

Columns = Mapping[str, Any]  # of sequences, or of Arrow's arrays where their type matters
SEPARATORS = {".csv": ",", ".tsv": "\t"}


class RowEncoder:
    """Turn pieces, one after the other, into the bytes of a file.

    A Parquet file ends with its index, so its pieces become a stream of Arrow's, which `write_parquet` turns
    into the file.

    Attributes:
        state: what a later process needs to go on, as JSON; empty before the first piece.
    """

    def __init__(self, ending: str, state: Mapping[str, Any] | None = None) -> None:
        self._ending = ending
        self.state: dict[str, Any] = dict(state or {})

    def encode(self, piece: Piece, added: Columns, where: str) -> bytes:
        """Return the rows of a piece with the `added` columns.

        Args:
            where: what messages call the piece's file.

        Raises:
            UserError: where a column is there already, or the rows do not have the columns of those before.
        """
        present = _column_names(piece)
        if self._ending != ".txt" and (taken := [name for name in added if name in present]):
            raise UserError(
                f"{where}: it has a column {quote_names(taken)} already. Give the added columns other names, "
                f"such as --prefix predicted_ for predicted_{taken[0]}."
            )
        if self._ending == ".parquet":
            return self._encode_arrow(piece, added, where)
        if self._ending in SEPARATORS:
            return self._encode_delimited(piece, added, where)
        if self._ending == ".txt":
            labels = next(iter(added.values()))
            text = "".join(f"{label or ''}\n" for label in labels)
        else:
            text = "".join(
                json.dumps(row, ensure_ascii=False, default=_show) + "\n" for row in _add(piece, added)
            )
        return text.encode("utf-8", "backslashreplace")

    def _encode_delimited(self, piece: Piece, added: Columns, where: str) -> bytes:
        text = io.StringIO()
        writer = csv.writer(text, delimiter=SEPARATORS[self._ending], lineterminator="\n")
        column_names = [*_column_names(piece), *added]
        if "columns" not in self.state:
            self.state["columns"] = column_names
            writer.writerow(column_names)
        columns = self.state["columns"]
        self._check_columns(column_names, columns, where)
        for row in _add(piece, added):
            writer.writerow([_show(row.get(name)) for name in columns])
        return text.getvalue().encode("utf-8", "backslashreplace")

    def _encode_arrow(self, piece: Piece, added: Columns, where: str) -> bytes:
        header = b""
        if "schema" not in self.state:
            schema = _make_table(piece, added, None, where).schema.remove_metadata()
            header = schema.serialize().to_pybytes()
            self.state["schema"] = base64.b64encode(header).decode()
        schema = pa.ipc.read_schema(pa.BufferReader(base64.b64decode(self.state["schema"])))
        self._check_columns([*_column_names(piece), *added], schema.names, where)
        table = _make_table(piece, added, schema, where)
        return header + b"".join(
            batch.serialize().to_pybytes() for batch in table.combine_chunks().to_batches()
        )

    def _check_columns(self, column_names: Sequence[str], columns: Sequence[str], where: str) -> None:
        new = [name for name in column_names if name not in columns]
        if new:
            raise UserError(
                f"{where}: its column {quote_names(new)} is not among those of the rows before it, which a "
                f"{self._ending} file cannot hold. Write .jsonl instead, or a file for each input."
            )


def write_parquet(stream: Path, file: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Turn a stream of Arrow's into a Parquet file, a row group for each of its batches.

    Args:
        metadata: what is said of the file as a whole.
    """
    with (
        pa.memory_map(str(stream)) as source,
        pa.ipc.open_stream(source) as reader,
        pa.parquet.ParquetWriter(file, reader.schema.with_metadata(metadata)) as writer,
    ):
        for batch in reader:
            writer.write_batch(batch)


def _column_names(piece: Piece) -> list[str]:
    if isinstance(piece.cells, list):
        return list(dict.fromkeys(name for row in piece.cells for name in row))
    return list(piece.cells.column_names)


def _add(piece: Piece, added: Columns) -> list[dict[str, Any]]:
    cells = piece.cells if isinstance(piece.cells, list) else piece.cells.to_pylist()
    columns = [values.to_pylist() if isinstance(values, pa.Array) else values for values in added.values()]
    rows = zip(*columns, strict=True)
    return [row | dict(zip(added, values, strict=True)) for row, values in zip(cells, rows, strict=True)]


def _make_table(piece: Piece, added: Columns, schema: pa.Schema | None, where: str) -> pa.Table:
    """Return the rows as a table, of this schema unless it is `None`."""
    arrays: dict[str, pa.Array | pa.ChunkedArray] = {}
    for name in _column_names(piece) if schema is None else schema.names:
        type_ = None if schema is None else schema.field(name).type
        if name not in added:
            arrays[name] = _convert(_column(piece, name), type_, name, where)
    for name, values in added.items():
        type_ = _type(values) if schema is None else schema.field(name).type
        arrays[name] = values if isinstance(values, pa.Array) else pa.array(values, type_)
    return pa.table(arrays) if schema is None else pa.table([arrays[name] for name in schema.names], schema)


def _type(values: Sequence[Any]) -> pa.DataType:
    """Return the type of an added column: that of an array, else floats or texts."""
    if isinstance(values, pa.Array):
        return values.type
    return pa.float64() if all(isinstance(value, float) for value in values) else pa.string()


def _column(piece: Piece, name: str) -> Any:
    """Return the values of a column; nulls where the rows have none of that name."""
    if isinstance(piece.cells, list):
        return [row.get(name) for row in piece.cells]
    return piece.cells.column(name) if name in piece.cells.column_names else [None] * len(piece)


def _convert(values: Any, type_: pa.DataType | None, name: str, where: str) -> Any:
    try:
        if isinstance(values, pa.ChunkedArray):
            return values if type_ is None else values.cast(type_)
        return pa.array(values, type_)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        reason = " ".join(str(error).split())[:150]
        raise UserError(
            f"{where}: its column {name!r} cannot be written as one type, as Parquet asks: {reason}. "
            "Write .jsonl instead."
        ) from None


def _show(value: Any) -> str:
    """Return a value as the text of a cell."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, bool | list | dict):
        return json.dumps(value, ensure_ascii=False, default=_show)
    return str(value)
