"""JSON: one object a line, or one array of objects."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from distilkit.data.contents import (
    PIECE_ROWS,
    Table,
    check_content,
    check_not_empty,
    incomplete,
    not_utf8,
    open_text,
)
from distilkit.data.formats import is_whole, quote_names, shorten, split_name
from distilkit.errors import UserError

LARGEST_INTEGER = 2**63 - 1
LONGEST_WORD = len("-Infinity")  # of JSON, of which the beginning alone is no value


class RepeatedNames(dict[str, object]):
    """An object in which a name stands more than once."""

    names: frozenset[str] = frozenset()


def open_json(file: Path, columns: Sequence[str], *, with_texts: bool, nested_as_json: bool = False) -> Table:
    """Read the selected columns of a JSON file into memory; other columns may hold anything.

    Args:
        with_texts: read all other columns of texts too.
        nested_as_json: return lists and objects as texts of JSON, whose shapes may differ from row to row.
            NaN stays what it is among numbers: it may stand in a list, where it is no missing row.

    Raises:
        UserError: naming the row that is no JSON, no object, or does not go with those before it.
    """
    check_not_empty(file)
    check_content(file)
    reader = _Reader(file, columns, with_texts, nested_as_json)
    rows = (values for _, values in parse_rows(file, keeps_nan=nested_as_json))
    tables = list(iter(lambda: reader.read_piece(list(islice(rows, PIECE_ROWS))), None))
    table = pa.concat_tables(tables, promote_options="permissive") if tables else pa.table({})
    table = table.select([name for name in reader.names if name in table.column_names])
    return Table(list(reader.names), table.schema, iter(table.to_batches()), hint=reader.hint)


@dataclass
class _Reader:
    """Columns of pieces of rows. `examples` holds a value and the type of each column, from earlier rows."""

    file: Path
    columns: Sequence[str]
    with_texts: bool
    nested_as_json: bool = False
    names: dict[str, None] = field(default_factory=dict)
    examples: dict[str, tuple[object, pa.DataType]] = field(default_factory=dict)
    rows: int = 0
    hint: str = ""

    def read_piece(self, piece: list[dict[str, object]]) -> pa.Table | None:
        """Return the columns of some rows; `None` where there are no rows."""
        if not piece:
            return None
        for row, values in enumerate(piece, start=self.rows + 1):
            self.names.update(dict.fromkeys(values))
            if isinstance(values, RepeatedNames) and (twice := values.names & set(self.columns)):
                raise UserError(f"{self.file}, row {row}: {min(twice)!r} stands there twice. Drop one.")
        if not self.rows and len(piece) == 1 and not self.nested_as_json:
            self._check_shape(piece[0])
        # Every selected column is in every piece, also where none of its rows has it.
        arrays = {
            name: self._read_column(name, [values.get(name) for values in piece]) for name in self.columns
        }
        for name in self.names if self.with_texts else ():
            if name not in arrays and is_whole(name):
                array = _as_array([values.get(name) for values in piece])
                is_text = array is not None and pa.types.is_string(array.type)
                arrays[name] = array if is_text else pa.nulls(len(piece), pa.string())
        self.rows += len(piece)
        return pa.table(arrays)

    def _read_column(self, name: str, cells: list[object]) -> pa.Array:
        if self.nested_as_json and any(isinstance(cell, str | list | dict) for cell in cells):
            cells = [None if cell != cell else cell for cell in cells]
        if self.nested_as_json and any(isinstance(cell, list | dict) for cell in cells):
            cells = [cell if cell is None or isinstance(cell, str) else json.dumps(cell) for cell in cells]
        array = _as_array(cells)
        if array is None:
            raise self._fault(name, cells)
        if not pa.types.is_null(array.type):
            _, known_type = self.examples.setdefault(
                name, (next(cell for cell in cells if cell is not None), array.type)
            )
            if not _go_together(known_type, array.type):
                raise self._fault(name, cells)
        return array

    def _fault(self, name: str, cells: list[object]) -> UserError:
        """Return the error about the first cell that keeps cells from being a column."""
        earlier = [self.examples[name][0]] if name in self.examples else []
        for row, cell in enumerate(cells, start=self.rows + 1):
            if _as_array([cell]) is None:
                return self._wrong_cell(name, row, cell)
            if cell is None:
                continue
            if _as_array([*earlier, cell]) is None:
                return UserError(
                    f"{self.file}, row {row} has {_show(cell)} for {name!r}, and a row before it "
                    f"{_show(earlier[0])}. Write all as text, or all as numbers."
                )
            earlier = earlier or [cell]
        return UserError(f"{self.file}: the values of {name!r} are not of one type. Write all as text.")

    def _wrong_cell(self, name: str, row: int, cell: object) -> UserError:
        where = f"{self.file}, row {row}"
        if isinstance(cell, int) and abs(cell) > LARGEST_INTEGER:
            return UserError(
                f"{where} has {shorten(str(cell))} for {name!r}, too large for a number. Write it as text."
            )
        if isinstance(cell, str):
            if not _is_utf8(self.file):
                return not_utf8(
                    self.file, f"column {name}, row {row}", cell.encode("utf-8", "surrogateescape")
                )
            half = next(letter for letter in cell if "\ud800" <= letter <= "\udfff")
            return UserError(
                f"{self.file}, column {name}, row {row}: the text holds {half!r}, a lone surrogate: half "
                "a character. Write the whole character, or drop it."
            )
        return UserError(f"{where} has {_show(cell)} for {name!r}, which is no text or number.")

    def _check_shape(self, values: dict[str, object]) -> None:
        """Look at the only row of a file, which may hold all rows."""
        parts = [name for name, value in values.items() if isinstance(value, list | dict) and len(value) > 1]
        if any(name in self.columns for name in parts):
            raise UserError(
                f"{self.file} holds whole columns, {quote_names(parts)}, not rows. Write one object a line; "
                "in pandas: frame.to_json(…, orient='records', lines=True)."
            )
        if parts:
            self.hint = (
                f"It is one object; if {parts[0]!r} holds the rows, write one a line: "
                f"jq -c '.{parts[0]}[]' {self.file.name}"
            )


def _as_array(cells: list[object]) -> pa.Array | None:
    """Return cells as an array; `None` where no type fits all of them."""
    try:
        return pa.array(cells)
    except (pa.ArrowException, UnicodeEncodeError, OverflowError, RecursionError, ValueError, TypeError):
        return None


def _go_together(first: pa.DataType, second: pa.DataType) -> bool:
    """Return whether values of two types may stand in one column: equal ones, integers and floats."""

    def is_number(type_: pa.DataType) -> bool:
        return bool(pa.types.is_integer(type_) or pa.types.is_floating(type_))

    return bool(first == second) or (is_number(first) and is_number(second))


def _show(cell: object) -> str:
    return shorten(repr(cell), 80)


def _is_utf8(file: Path) -> bool:
    with open_text(file) as stream:
        stream.reconfigure(errors="strict")
        try:
            return all(True for _ in stream)
        except UnicodeDecodeError:
            return False


def parse_rows(
    file: Path, on_fault: Callable[[int, str], None] | None = None, *, keeps_nan: bool = False
) -> Iterator[tuple[int, dict[str, object]]]:
    """Parse the rows of a file with their numbers, from 1: line by line unless it is one array.

    Args:
        on_fault: called with the number of a row that is no JSON or no object, and what is wrong with it,
            instead of raising `UserError`.
        keeps_nan: whether NaN stays a number that is none, and is not a missing value.
    """
    # NaN, as pandas and Python write a missing value, is none; Infinity stays a number.
    parse_constant = float if keeps_nan else _parse_constant
    decoder = json.JSONDecoder(object_pairs_hook=_to_object, parse_constant=parse_constant)
    with open_text(file) as stream:
        lines = (line for line in stream if line.strip())
        first = next(lines, "")
        if first.lstrip().startswith("["):
            rows: Iterable[object] = _parse_array(file, decoder, first, stream.read())
            parse: Callable[[int, Any], dict[str, object]] = partial(_check_element, file)
        else:
            rows = chain([first] if first else [], lines)
            parse = partial(_parse_line, file, decoder)
        for row, content in enumerate(rows, start=1):
            try:
                values = parse(row, content)
            except UserError as error:
                if on_fault is None:
                    raise
                on_fault(row, str(error))
            else:
                yield row, values


def _parse_line(file: Path, decoder: json.JSONDecoder, row: int, line: str) -> dict[str, object]:
    try:
        values = decoder.decode(line.strip())
    except RecursionError:
        raise UserError(_refusal(file, f"row {row} is nested too deeply")) from None
    except ValueError as error:
        if _is_cut(error, line, "}") and not line.endswith("},"):
            raise incomplete(file, f"it ends in the middle of row {row:,}") from None
        raise UserError(_explain_line(file, row, line.strip(), error)) from None
    if not isinstance(values, dict):
        raise UserError(_refusal(file, f"row {row} is no object {{…}}"))
    return values


def _parse_array(file: Path, decoder: json.JSONDecoder, first: str, rest: str) -> list[object]:
    text = first + rest
    try:
        elements: list[object] = decoder.decode(text.strip())
    except RecursionError:
        raise UserError(_refusal(file, "it is nested too deeply")) from None
    except ValueError as error:
        if _is_cut(error, text.rstrip(), "]"):
            raise incomplete(file, "its array [ never ends") from None
        reason = str(error)
        if reason.startswith("Extra data"):
            reason = "row 1 is an array. Write one object {…} a line, or one array of all objects"
        raise UserError(_refusal(file, f"it begins as an array [ and is no JSON: {reason}")) from None
    return elements


def _check_element(file: Path, row: int, element: object) -> dict[str, object]:
    if not isinstance(element, dict):
        raise UserError(_refusal(file, f"row {row} of its array is no object {{…}}"))
    return element


def _parse_constant(name: str) -> float | None:
    return None if name == "NaN" else float(name)


def _to_object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values = dict(pairs)
    if len(values) == len(pairs):
        return values
    repeated = RepeatedNames(values)
    names = [name for name, _ in pairs]
    repeated.names = frozenset(name for name in values if names.count(name) > 1)
    return repeated


def _explain_line(file: Path, row: int, line: str, error: ValueError) -> str:
    """Return the message about a line that is no JSON."""
    if line.endswith(",") and _is_json(line[:-1]):
        return _refusal(
            file, f"row {row} ends with a comma. Write one object a line with nothing between, or all in [ ]"
        )
    if (
        row == 1
        and line.startswith("{")
        and isinstance(error, json.JSONDecodeError)
        and error.pos >= len(line) - 1
    ):
        return _refusal(
            file, f"its first object goes over several lines. Write one object a line: jq -c . {file.name}"
        )
    return _refusal(file, f"row {row} is no JSON: {shorten(str(error), 200)}")


def _is_cut(error: ValueError, text: str, closing: str) -> bool:
    """Return whether the last text of a file, which is no JSON, ends too early."""
    if text.endswith(("\n", closing)) or not isinstance(error, json.JSONDecodeError):
        return False
    return error.msg.startswith("Unterminated string") or error.pos >= len(text) - LONGEST_WORD


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _refusal(file: Path, reason: str) -> str:
    return f"{file} cannot be read as {split_name(file)[1][1:]}: {reason}."
