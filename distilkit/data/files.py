"""Files of rows: Parquet, CSV, TSV, JSON lines and Arrow, read so that memory does not grow with them."""

import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from distilkit.data.contents import (
    PIECE_ROWS,
    Table,
    check_binary_content,
    check_content,
    explain_compression,
    explaining_damage,
    incomplete,
    not_utf8,
    open_text,
    pick_columns,
    unique_names,
)
from distilkit.data.delimited import BLOCK_BYTES, RowTooLong, open_delimited
from distilkit.data.formats import is_whole, quote_names, shorten, split_name
from distilkit.data.json_lines import open_json
from distilkit.errors import UserError

SHOWN_ROWS = 8
# What the readers of Arrow and of Python raise for a damaged file.
READ_FAULTS = (
    pa.ArrowException,
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    OverflowError,
    RecursionError,
    EOFError,
    NotImplementedError,
)


@dataclass(frozen=True)
class ColumnNames:
    """The names of all columns of a file, read or not, and what may be wrong with them."""

    names: tuple[str, ...]
    hint: str = ""

    def require(self, column: str, where: str, advice: str) -> None:
        """Raise `UserError` unless there is such a column: with the hint, or else the advice."""
        if column not in self.names:
            raise UserError(
                f"{where}: no column {column!r}, only {quote_names(self.names)}. {self.hint or advice}"
            )


def read_file(
    file: Path, columns: Sequence[str], *, nested_as_json: bool = False
) -> tuple[datasets.Dataset, ColumnNames]:
    """Read the rows of one file, as `read_files` does."""
    return read_files([file], columns, nested_as_json=nested_as_json)


def read_files(
    files: Sequence[Path],
    columns: Sequence[str],
    *,
    with_texts: bool = False,
    nested_as_json: bool = False,
) -> tuple[datasets.Dataset, ColumnNames]:
    """Read the rows of files through Arrow's format on disk, so that memory does not grow with them.

    Only `columns` are read, those of them that there are: what other columns hold never matters. Texts are
    checked to be UTF-8. A column of integers to which a file gives names is a `ClassLabel` in the features.

    Args:
        with_texts: read all other columns of texts too.
        nested_as_json: return lists and objects as texts of JSON, which they are in a CSV anyway.

    Raises:
        UserError: naming the file, and the row where one is wrong.
    """
    for block_bytes in BLOCK_BYTES:
        with suppress(RowTooLong):
            return _Reader(
                files, tuple(dict.fromkeys(columns)), with_texts, nested_as_json, block_bytes
            ).read()
    raise UserError(
        f"{files[0]}: a row is longer than {BLOCK_BYTES[-1] >> 30} GiB. Is a quotation mark never closed?"
    )


@dataclass(frozen=True)
class _Reader:
    files: Sequence[Path]
    columns: tuple[str, ...]
    with_texts: bool
    nested_as_json: bool
    block_bytes: int

    def read(self) -> tuple[datasets.Dataset, ColumnNames]:
        with naming(self.files[0]):
            table = self._open(self.files[0])
            class_names = {
                name: names
                for name, names in table.class_names.items()
                if name in table.schema.names and pa.types.is_integer(table.schema.field(name).type)
            }
            types = {field.name: self._kept_type(field.type) for field in table.schema}
            schema = pa.schema(types | dict.fromkeys(class_names, pa.int64()), _metadata(class_names))
        column_names = ColumnNames(tuple(table.column_names), table.hint)
        if not types:
            return datasets.Dataset.from_dict({}), column_names
        pieces = self._read_pieces(table, schema, class_names)
        with naming(self.files[0]):  # a type that `datasets` does not have
            return from_disk(schema, pieces), column_names

    def _open(self, file: Path) -> Table:
        ending = split_name(file)[1]
        if ending == ".parquet":
            return open_parquet(file, self.columns, with_texts=self.with_texts)
        if ending == ".arrow":
            return open_arrow(file, self.columns, with_texts=self.with_texts)
        if ending in (".csv", ".tsv"):
            return open_delimited(
                file, self.columns, with_texts=self.with_texts, block_bytes=self.block_bytes
            )
        return open_json(file, self.columns, with_texts=self.with_texts, nested_as_json=self.nested_as_json)

    def _kept_type(self, type_: pa.DataType) -> pa.DataType:
        type_ = plain_type(type_)
        return pa.string() if self.nested_as_json and pa.types.is_nested(type_) else type_

    def _read_pieces(
        self, table: Table, schema: pa.Schema, class_names: dict[str, list[str]]
    ) -> Iterator[pa.RecordBatch]:
        for file in self.files:
            with naming(file):
                if file != self.files[0]:
                    table = self._open(file)
                    self._check_alike(file, table, schema, class_names)
                row = 1
                for batch in table.batches:
                    arrays = [
                        self._convert(file, field, batch.column(field.name), row)
                        if field.name in batch.schema.names
                        else pa.nulls(len(batch), field.type)
                        for field in schema
                    ]
                    row += len(batch)
                    yield pa.RecordBatch.from_arrays(arrays, schema=schema)

    def _check_alike(
        self, file: Path, table: Table, schema: pa.Schema, class_names: dict[str, list[str]]
    ) -> None:
        """Raise `UserError` unless a file has the columns and the class names of the first one."""
        for name in schema.names:
            if name in self.columns and name not in table.schema.names:
                raise UserError(f"{file} has no column {name!r}, but {self.files[0]} has.")
            if class_names.get(name, []) != table.class_names.get(name, class_names.get(name, [])):
                raise UserError(f"{file} gives other names to the ids in {name!r} than {self.files[0]}.")

    def _convert(self, file: Path, field: pa.Field, array: pa.Array, row: int) -> pa.Array:
        """Return a checked column of a piece, whose first row is `row`, as the type it is kept in."""
        is_selected = field.name in self.columns
        array = to_plain(array)
        if self.nested_as_json and pa.types.is_nested(array.type):
            array = _to_json(array)
        try:
            array.validate(full=True)
        except pa.ArrowInvalid as error:
            if not is_selected:
                return pa.nulls(len(array), field.type)
            match = re.search(r"UTF8 .* index (\d+)", str(error))
            if match is None:
                raise incomplete(file, error) from None
            value = array.cast(pa.binary())[int(match[1])].as_py()
            where = f"column {field.name}, row {row + int(match[1])}"
            raise not_utf8(file, where, value) from None
        if array.type == field.type:
            return array
        if not is_selected:
            return pa.nulls(len(array), field.type)
        if not _may_become(array.type, field.type):
            raise UserError(
                f"{file}: the column {field.name!r} holds {shorten(str(array.type))}, in {self.files[0]} "
                f"{shorten(str(field.type))}. Write both alike."
            )
        return array.cast(field.type)


@contextmanager
def naming(file: Path) -> Iterator[None]:
    """Turn what readers raise for a damaged file into a `UserError` that names the file."""
    try:
        yield
    except READ_FAULTS as error:
        if damage := explain_compression(file):
            raise damage from None
        reason = shorten(" ".join(str(error).split()) or type(error).__name__, 300)
        ending = split_name(file)[1]
        title = "text" if ending == ".txt" else ending[1:]
        raise UserError(f"{file} cannot be read as {title}: {reason}") from None


def open_parquet(file: Path, columns: Sequence[str] | None, *, with_texts: bool = False) -> Table:
    """Open a Parquet file; all its columns where `columns` is `None`."""
    check_binary_content(file)
    with explaining_damage(file):
        reader = pyarrow.parquet.ParquetFile(file)
        schema = reader.schema_arrow
    picked = _pick(file, schema, columns, with_texts=with_texts)
    pieces = _read_all(file, reader.iter_batches(batch_size=PIECE_ROWS, columns=picked))
    batches = (batch.select(picked) for batch in pieces)
    return Table(
        schema.names,
        pa.schema([schema.field(name) for name in picked]),
        batches if picked else iter(()),
        _class_names(schema),
    )


def open_arrow(file: Path, columns: Sequence[str] | None, *, with_texts: bool = False) -> Table:
    """Open an Arrow file; all its columns where `columns` is `None`."""
    check_binary_content(file)
    source = pa.memory_map(str(file))
    reader: pa.RecordBatchReader | pa.RecordBatchFileReader
    try:
        reader = pa.ipc.open_stream(source)
        batches: Iterable[pa.RecordBatch] = reader
    except pa.ArrowInvalid:
        with explaining_damage(file):
            reader = pa.ipc.open_file(source)
        batches = map(reader.get_batch, range(reader.num_record_batches))
    schema = reader.schema
    picked = _pick(file, schema, columns, with_texts=with_texts)
    indices = [schema.names.index(name) for name in picked]
    fields = [schema.field(index) for index in indices]
    selected = (
        pa.RecordBatch.from_arrays([batch.column(index) for index in indices], schema=pa.schema(fields))
        for batch in _read_all(file, batches)
    )
    return Table(schema.names, pa.schema(fields), selected if picked else iter(()), _class_names(schema))


def _read_all(file: Path, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yield the batches of a binary file.

    Raises:
        UserError: where it is damaged.
    """
    rest = iter(batches)
    while True:
        with explaining_damage(file):
            batch = next(rest, None)
        if batch is None:
            return
        yield batch


def _pick(file: Path, schema: pa.Schema, columns: Sequence[str] | None, *, with_texts: bool) -> list[str]:
    picked = pick_columns(file, schema.names, schema.names if columns is None else columns)
    texts = unique_names(schema.names) if with_texts else []
    texts = [name for name in texts if pa.types.is_string(plain_type(schema.field(name).type))]
    return [name for name in schema.names if name in picked or name in texts]


def _class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """Return the names that `datasets` wrote beside ids; whatever else is written there does not matter."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        named = {
            name: feature["names"]
            for name, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and feature.get("names")
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
    return {
        name: names
        for name, names in named.items()
        if isinstance(names, list)
        and all(isinstance(title, str) for title in names)
        and len(set(names)) == len(names)
    }


def _metadata(class_names: dict[str, list[str]]) -> dict[str, str] | None:
    features = {name: {"names": names, "_type": "ClassLabel"} for name, names in class_names.items()}
    return {"huggingface": json.dumps({"info": {"features": features}})} if features else None


def plain_type(type_: pa.DataType) -> pa.DataType:
    """Return the type that values are kept in: texts are strings however they are encoded."""
    if isinstance(type_, pa.BaseExtensionType):
        return plain_type(type_.storage_type)
    if pa.types.is_dictionary(type_):
        return plain_type(type_.value_type)
    if pa.types.is_large_binary(type_):
        return pa.large_string()
    is_bytes = (
        pa.types.is_binary(type_) or pa.types.is_binary_view(type_) or pa.types.is_fixed_size_binary(type_)
    )
    if is_bytes or pa.types.is_string_view(type_) or pa.types.is_null(type_):
        return pa.string()
    return type_


def to_plain(array: pa.Array) -> pa.Array:
    """Return an array in its `plain_type`; bytes that are no text are kept, to be named."""
    if isinstance(array, pa.ExtensionArray):
        return to_plain(array.storage)
    if pa.types.is_dictionary(array.type):
        return to_plain(array.dictionary_decode())
    type_ = plain_type(array.type)
    if type_ == array.type:
        return array
    if pa.types.is_fixed_size_binary(array.type):
        array = array.cast(pa.binary())
    return pc.cast(array, options=pc.CastOptions(type_, allow_invalid_utf8=True))


def _to_json(array: pa.Array) -> pa.Array:
    """Return lists and objects as texts of JSON; a map is an object."""
    is_map = pa.types.is_map(array.type)
    values = (None if value is None else dict(value) if is_map else value for value in array.to_pylist())
    texts = [None if value is None else json.dumps(value, default=str) for value in values]
    return pa.array(texts, pa.string())


def _may_become(type_: pa.DataType, target: pa.DataType) -> bool:
    """Return whether another file's column may be cast: within integers, floats or texts."""
    kinds = (
        pa.types.is_integer,
        pa.types.is_floating,
        lambda type_: pa.types.is_string(type_) or pa.types.is_large_string(type_),
    )
    return any(is_kind(type_) and is_kind(target) for is_kind in kinds)


def from_disk(schema: pa.Schema, pieces: Iterable[pa.RecordBatch]) -> datasets.Dataset:
    """Write the rows to a file of Arrow's format that the system removes once nothing reads it."""
    descriptor, name = tempfile.mkstemp(prefix="distilkit-", suffix=".arrow")
    os.close(descriptor)
    try:
        with pa.OSFile(name, "wb") as sink, pa.ipc.new_stream(sink, schema) as stream:
            for piece in pieces:
                stream.write_batch(piece)
        return datasets.Dataset.from_file(name)
    except OSError as error:
        raise UserError(
            f"{tempfile.gettempdir()}: the rows cannot be kept there while they are used: {error}. "
            "Set TMPDIR to a folder with space."
        ) from None
    finally:
        with suppress(OSError):  # where the system keeps a file that is in use, it stays until it is cleaned
            os.unlink(name)


def read_lines(file: Path, column: str) -> datasets.Dataset:
    """Read the lines of a text file as rows of one column, stripped, without empty lines.

    Raises:
        UserError: when it cannot be read or is not text in UTF-8.
    """
    schema = pa.schema([(column, pa.string())])
    return from_disk(schema, _pieces_of_lines(file, schema))


def _pieces_of_lines(file: Path, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    column, rows = schema.names[0], 0
    with naming(file):
        check_content(file)
        with open_text(file) as stream:
            lines = filter(None, map(str.strip, stream))
            while piece := list(islice(lines, PIECE_ROWS)):
                try:
                    batch = pa.RecordBatch.from_pydict({column: piece}, schema)
                except UnicodeEncodeError:
                    row, line = next((row, line) for row, line in enumerate(piece, 1) if not is_whole(line))
                    value = line.encode("utf-8", "surrogateescape")
                    raise not_utf8(file, f"column {column}, row {rows + row}", value) from None
                yield batch
                rows += len(piece)


def check_is_text(column: pa.ChunkedArray, where: str) -> None:
    """Raise `UserError` unless the values are texts, or missing."""
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        raise UserError(f"{where}: it holds {shorten(str(column.type))}, not text.")


def check_texts(column: pa.ChunkedArray, where: str) -> None:
    """Raise `UserError`, naming rows, unless every value is a text with something in it."""
    check_is_text(column, where)
    first_rows, count, seen = list[int](), 0, 0
    for chunk in column.chunks:  # one by one, so that a copy of all texts is never in memory
        empty = pc.fill_null(pc.equal(pc.utf8_trim_whitespace(chunk), ""), True)
        rows = np.flatnonzero(empty.to_numpy(zero_copy_only=False))
        count += len(rows)
        first_rows += (rows[: SHOWN_ROWS - len(first_rows)] + seen + 1).tolist()
        seen += len(chunk)
    if count == 1:
        raise UserError(
            f"{where}, row {first_rows[0]}: the text is missing or empty. Fill it in or drop the row."
        )
    if count:
        listed = ", ".join(map(str, first_rows)) + (" …" if count > len(first_rows) else "")
        raise UserError(
            f"{where}, rows {listed}: {count:,} of {seen:,} texts are missing or empty. "
            "Fill them in or drop the rows."
        )
