"""Rows read as a stream: in order, all columns kept, with no more in memory than a piece at a time."""

import io
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import IO, TypeAlias

import pyarrow as pa

from distilkit.data.contents import PIECE_ROWS, Table, check_content, not_utf8, open_text
from distilkit.data.delimited import BLOCK_BYTES, RowTooLong, open_delimited
from distilkit.data.files import (
    ColumnNames,
    check_is_text,
    naming,
    open_arrow,
    open_parquet,
    to_plain,
)
from distilkit.data.formats import is_whole, split_name
from distilkit.data.json_lines import RepeatedNames, parse_rows
from distilkit.data.texts import Texts
from distilkit.errors import UserError

TEXT = "text"
EMPTY = "the text is missing or empty"
Fault = tuple[int, str]
Cells: TypeAlias = pa.Table | list[dict[str, object]]


@dataclass(frozen=True)
class TextColumns:
    """Name the columns of texts: the first of `candidates` that a file has, and that of second texts."""

    candidates: tuple[str, ...] = (TEXT,)
    pair: str | None = None

    def choose(self, column_names: ColumnNames, file: Path) -> list[str]:
        """Return the one or two columns of a file that hold its texts. Raises `UserError` without them."""
        present = [name for name in self.candidates if name in column_names.names]
        text = present[0] if present else self.candidates[0]
        column_names.require(text, str(file), "Name the column with --text-column.")
        if self.pair is None:
            return [text]
        column_names.require(
            self.pair, str(file), "It holds the second texts; name another with --text-pair-column."
        )
        return [text, self.pair]


@dataclass(frozen=True)
class Piece:
    """Some rows of a file, in order.

    Attributes:
        row_numbers: where each row stands in its file, from 1.
        cells: all columns of these rows, as a table or as objects of JSON.
        faults: the numbers of rows that were left out, and what is wrong with each.
        end: the number of the last row that was read, left out or not.
    """

    row_numbers: list[int]
    texts: Texts
    cells: Cells
    faults: list[Fault] = field(default_factory=list)
    end: int = 0

    def __len__(self) -> int:
        return len(self.row_numbers)

    def split(self, rows: int) -> tuple["Piece", "Piece"]:
        """Return the first rows, fewer than all, and the rest."""
        end = self.row_numbers[rows - 1] if rows else 0
        head = [fault for fault in self.faults if fault[0] <= end]
        tail = self.faults[len(head) :]
        return self._slice(slice(0, rows), head, end), self._slice(slice(rows, None), tail, self.end)

    def after(self, row: int) -> "Piece":
        """Return what comes after this row of the file."""
        position = bisect_right(self.row_numbers, row)
        faults = [fault for fault in self.faults if fault[0] > row]
        return self._slice(slice(position, None), faults, self.end)

    def _slice(self, rows: slice, faults: list[Fault], end: int) -> "Piece":
        texts = Texts(*(column[rows] for column in self.texts.columns))
        if isinstance(self.cells, list):
            return Piece(self.row_numbers[rows], texts, self.cells[rows], faults, end)
        length = None if rows.stop is None else rows.stop - rows.start
        return Piece(self.row_numbers[rows], texts, self.cells.slice(rows.start, length), faults, end)


def _join(pieces: Sequence[Piece]) -> Piece:
    columns = [piece.texts.columns for piece in pieces]
    texts = Texts(*([text for column in side for text in column] for side in zip(*columns, strict=True)))
    tables = [piece.cells for piece in pieces if not isinstance(piece.cells, list)]
    cells: Cells = (
        pa.concat_tables(tables)
        if tables
        else [cells for piece in pieces if isinstance(piece.cells, list) for cells in piece.cells]
    )
    return Piece(
        [row for piece in pieces for row in piece.row_numbers],
        texts,
        cells,
        [fault for piece in pieces for fault in piece.faults],
        pieces[-1].end,
    )


def regroup(pieces: Iterable[Piece], rows: int) -> Iterator[Piece]:
    """Yield the same rows in pieces of `rows` each, but for the last."""
    waiting: list[Piece] = []
    for piece in pieces:
        waiting.append(piece)
        while sum(map(len, waiting)) > rows:
            head, tail = _join(waiting).split(rows)
            yield head
            waiting = [tail]
    if waiting:
        yield _join(waiting)


def read_rows(file: Path, columns: TextColumns) -> Iterator[Piece]:
    """Read a file of rows or, where its ending is .txt, of a text a line.

    Rows that cannot be read, or have no text, are left out and listed as `faults`.

    Raises:
        UserError: where the file as a whole cannot be read, or lacks a column.
    """
    ending = split_name(file)[1]
    with naming(file):
        if ending == ".txt":
            check_content(file)
            with open_text(file) as stream:
                yield from read_lines(stream, TextColumns(columns.candidates[-1:]), str(file))
        elif ending in (".parquet", ".arrow"):
            yield from _read_binary(file, columns, open_parquet if ending == ".parquet" else open_arrow)
        elif ending in (".csv", ".tsv"):
            yield from _read_delimited(file, columns)
        else:
            check_content(file)
            yield from _read_json(file, columns)


def make_texts(texts: Sequence[str], columns: TextColumns) -> Piece:
    """Return texts as a piece, numbered from 1."""
    return _from_objects([(row, {columns.candidates[0]: text}) for row, text in enumerate(texts, 1)], columns)


def read_lines(stream: Iterable[str], columns: TextColumns, where: str) -> Iterator[Piece]:
    """Read a text a line; lines that are blank at the end are none. Bytes that are not UTF-8 are faults."""
    name = columns.candidates[0]
    rows: list[tuple[int, dict[str, object]]] = []
    faults: list[Fault] = []
    blank: list[int] = []
    for row, line in enumerate(stream, start=1):
        text = line.rstrip("\r\n")
        if not text.strip():
            blank.append(row)
            continue
        faults += [(row, f"{where}, row {row:,}: {EMPTY}") for row in blank]
        blank.clear()
        if is_encodable(text):
            rows.append((row, {name: text}))
        else:
            value = text.encode("utf-8", "surrogateescape")
            faults.append((row, str(not_utf8(Path(where), f"row {row:,}", value))))
        if len(rows) + len(faults) >= PIECE_ROWS:
            yield _from_objects(rows, TextColumns((name,)), faults, row)
            rows, faults = [], []
    if rows or faults:
        yield _from_objects(rows, TextColumns((name,)), faults)


def open_lines(stream: IO[bytes]) -> io.TextIOWrapper:
    """Return the lines of stdin, without a byte order mark; other bytes than UTF-8 become lone surrogates."""
    return io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape")


def is_encodable(text: str) -> bool:
    """Return whether a text has no lone surrogate, which also stands for a byte that is not UTF-8."""
    return text.isascii() or is_whole(text)


def _from_objects(
    rows: Sequence[tuple[int, dict[str, object]]],
    columns: TextColumns,
    faults: Sequence[Fault] = (),
    end: int = 0,
) -> Piece:
    names = [columns.candidates[0], *([columns.pair] if columns.pair else [])]
    row_numbers = [row for row, _ in rows]
    texts = Texts(*([str(values[name]) for _, values in rows] for name in names))
    last_fault = faults[-1][0] if faults else 0
    end = max(end, last_fault, row_numbers[-1] if row_numbers else 0)
    return Piece(row_numbers, texts, [values for _, values in rows], list(faults), end)


def _read_json(file: Path, columns: TextColumns) -> Iterator[Piece]:
    faults: list[Fault] = []
    rows: list[tuple[int, dict[str, object]]] = []
    chosen: TextColumns | None = None

    def choose() -> TextColumns:
        names = dict.fromkeys(name for _, values in rows for name in values)
        return _as_chosen(columns.choose(ColumnNames(tuple(names)), file))

    def make_piece(chosen: TextColumns) -> Piece:
        wrong = {row: _find_fault(file, row, values, chosen) for row, values in rows}
        faults.extend((row, message) for row, message in wrong.items() if message)
        good = [(row, values) for row, values in rows if not wrong[row]]
        piece = _from_objects(good, chosen, sorted(faults), rows[-1][0] if rows else 0)
        rows.clear()
        faults.clear()
        return piece

    for pair in parse_rows(file, lambda row, message: faults.append((row, message))):
        rows.append(pair)
        if len(rows) >= PIECE_ROWS:
            chosen = chosen or choose()
            yield make_piece(chosen)
    if rows or faults:
        yield make_piece(chosen or (choose() if rows else columns))


def _as_chosen(names: Sequence[str]) -> TextColumns:
    return TextColumns((names[0],), names[1] if len(names) > 1 else None)


def _find_fault(file: Path, row: int, values: dict[str, object], columns: TextColumns) -> str:
    """Return what is wrong with an object of JSON; empty where nothing is."""
    where = f"{file}, row {row:,}"
    for name in (columns.candidates[0], columns.pair):
        if name is None:
            continue
        if isinstance(values, RepeatedNames) and name in values.names:
            return f"{where}: {name!r} stands there twice"
        value = values.get(name)
        if value is None or (isinstance(value, str) and not value.strip()):
            return f"{where}: {EMPTY}"
        if not isinstance(value, str):
            return f"{where}: {name!r} holds no text but {str(value)[:40]!r}"
    for name, value in values.items():
        if isinstance(value, str) and not is_encodable(value):
            return f"{where}: {name!r} holds a lone surrogate, or bytes that are not UTF-8"
    return ""


def _read_binary(file: Path, columns: TextColumns, open_table: Callable[..., Table]) -> Iterator[Piece]:
    table = open_table(file, None)
    chosen = columns.choose(ColumnNames(tuple(table.column_names), table.hint), file)
    end = 0
    for batch in table.batches:
        row_numbers = list(range(end + 1, end + len(batch) + 1))
        end += len(batch)
        yield _from_batch(file, batch, row_numbers, chosen, [], end)


def _read_delimited(file: Path, columns: TextColumns) -> Iterator[Piece]:
    end = 0
    for block_bytes in BLOCK_BYTES:
        with suppress(RowTooLong):
            for piece in _read_blocks(file, columns, block_bytes):
                if piece.end > end:  # else it was read with shorter blocks
                    yield piece.after(end)
                    end = piece.end
            return
    raise UserError(
        f"{file}: a row is longer than {BLOCK_BYTES[-1] >> 30} GiB. Is a quotation mark never closed?"
    )


def _read_blocks(file: Path, columns: TextColumns, block_bytes: int) -> Iterator[Piece]:
    irregular: dict[int, str] = {}
    looked_for = [*columns.candidates, *([columns.pair] if columns.pair else [])]
    first_look = open_delimited(
        file, looked_for, with_texts=False, block_bytes=block_bytes, on_irregular=lambda row, message: None
    )
    chosen = columns.choose(ColumnNames(tuple(first_look.column_names), first_look.hint), file)
    table = open_delimited(
        file, None, with_texts=False, block_bytes=block_bytes, on_irregular=irregular.__setitem__
    )
    end = 0
    for batch in table.batches:
        following = (row for row in count(end + 1) if row not in irregular)
        row_numbers = [next(following) for _ in range(len(batch))]
        end = max([end, *row_numbers[-1:]])
        faults = [(row, irregular.pop(row)) for row in sorted(irregular) if row < end]
        yield _from_batch(file, batch, row_numbers, chosen, faults, end)
    if irregular:
        empty = pa.RecordBatch.from_pylist([], table.schema)
        yield _from_batch(file, empty, [], chosen, sorted(irregular.items()), max(irregular))


def _from_batch(
    file: Path,
    batch: pa.RecordBatch,
    row_numbers: list[int],
    text_columns: Sequence[str],
    faults: Sequence[Fault],
    end: int,
) -> Piece:
    """Return the good rows of a batch, whose rows have these `row_numbers` in their file."""
    names = batch.schema.names
    plain = [
        to_plain(column) if name in text_columns else _decode(column)
        for name, column in zip(names, batch.columns, strict=True)
    ]
    wrong: dict[int, str] = {}
    for name, array in zip(names, plain, strict=True):
        for i, value in _find_not_utf8(array):
            wrong.setdefault(i, str(not_utf8(file, f"column {name}, row {row_numbers[i]:,}", value)))
    sides: list[list[str]] = []
    for name in text_columns:
        array = plain[names.index(name)]
        check_is_text(pa.chunked_array([array]), f"{file}, column {name}")
        values: list[str | None] = array.to_pylist() if not wrong else _skip(array, wrong)
        sides.append([value or "" for value in values])
        for i, text in enumerate(sides[-1]):
            if not text.strip():
                wrong.setdefault(i, f"{file}, row {row_numbers[i]:,}: {EMPTY}")
    good = [i for i in range(len(row_numbers)) if i not in wrong]
    table = pa.Table.from_arrays(plain, names=names)
    return Piece(
        [row_numbers[i] for i in good],
        Texts(*([side[i] for i in good] for side in sides)),
        table.take(good) if wrong else table,
        sorted([*faults, *((row_numbers[i], message) for i, message in wrong.items())]),
        end,
    )


def _skip(array: pa.Array, indices: Collection[int]) -> list[str | None]:
    """Return the values of a column, with `None` for those at `indices`, which may not be UTF-8."""
    return [None if i in indices else value.as_py() for i, value in enumerate(array)]


def _decode(array: pa.Array) -> pa.Array:
    """Return a column as values; other types than dictionaries and extensions are kept as they are."""
    is_coded = isinstance(array, pa.ExtensionArray) or pa.types.is_dictionary(array.type)
    return to_plain(array) if is_coded else array


def _find_not_utf8(array: pa.Array) -> Iterator[tuple[int, bytes]]:
    """Yield index and value of the texts that are not UTF-8."""
    if not _is_text(array.type):
        return
    try:
        array.validate(full=True)
    except pa.ArrowInvalid:
        for i, value in enumerate(array.cast(pa.large_binary())):
            content = value.as_py()
            if content is not None and not is_encodable(content.decode("utf-8", "surrogateescape")):
                yield i, content


def _is_text(type_: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_string_view(type_)
    )
