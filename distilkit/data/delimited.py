"""CSV and TSV: read in constant memory, with every selected column as text."""

import csv
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from distilkit.data.contents import (
    REMEDY,
    Table,
    check_content,
    check_not_empty,
    not_utf8,
    open_bytes,
    open_text,
    pick_columns,
    unique_names,
)
from distilkit.data.formats import is_whole, quote_names, shorten, split_name
from distilkit.errors import UserError

BLOCK_BYTES = (1 << 20, 1 << 24, 1 << 28, 1 << 30)  # the next is tried where a row is longer than a block
_QUOTED = re.compile(r'"(?:[^"]|"")*"')
_IRREGULAR = re.compile(
    r"(Row #(?P<row>\d+): )?Expected (?P<expected>\d+) columns, got (?P<actual>\d+): (?P<text>.*)", re.DOTALL
)
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}


class RowTooLong(Exception):
    """A row does not fit into a block: it is long, or a quotation mark is never closed."""


def open_delimited(
    file: Path,
    columns: Sequence[str] | None,
    *,
    with_texts: bool,
    block_bytes: int,
    on_irregular: Callable[[int, str], None] | None = None,
) -> Table:
    """Open a CSV or TSV file, whose columns are read as texts whatever they look like.

    "null", "12" and "NA" are words here, and labels 1, 2, 3 of one file are those of another that has "4+"
    as well.

    Args:
        columns: those to read; `None` for all.
        with_texts: read all other columns too.
        on_irregular: called with the number of a row that has more or fewer columns than the header, and what
            is wrong with it, as the row is left out; without it such a row raises `UserError`.

    Raises:
        UserError: naming the row that has more or fewer columns than the header.
        RowTooLong: when a row is longer than `block_bytes`.
    """
    check_not_empty(file)
    check_content(file)
    parsing: dict[str, Any] = {"delimiter": ",", "newlines_in_values": True}
    if split_name(file)[1] == ".tsv":
        # As GLUE writes it, a quotation mark is a character and a line is a row; pandas quotes as in a CSV.
        is_quoted = _is_quoted(file)
        parsing = {
            "delimiter": "\t",
            "newlines_in_values": is_quoted,
            "quote_char": '"' if is_quoted else False,
        }
    with open_text(file) as stream:
        header = stream.readline(1 << 16)
    if not is_whole(header):
        raise not_utf8(file, "in the header", header.encode("utf-8", "surrogateescape"))
    if on_irregular is not None:
        parsing["invalid_row_handler"] = lambda row: "skip"  # by the first look, at the names
    options: dict[str, Any] = {
        "read_options": pyarrow.csv.ReadOptions(use_threads=False, block_size=block_bytes),
        "parse_options": pyarrow.csv.ParseOptions(**parsing),
    }
    try:
        with open_bytes(file) as stream:
            names = pyarrow.csv.open_csv(stream, **options).schema.names
        columns = names if columns is None else columns
        picked = pick_columns(file, names, columns)
        texts = set(unique_names(names)) if with_texts else set()
        read = [name for name in names if name in picked or name in texts]
        schema = pa.schema([(name, pa.string()) for name in read])
        batches: Iterator[pa.RecordBatch] = iter(())
        if on_irregular is not None:
            parsing["invalid_row_handler"] = partial(_leave_out, file, header, on_irregular)
            options["parse_options"] = pyarrow.csv.ParseOptions(**parsing)
        if read:
            conversion = pyarrow.csv.ConvertOptions(
                include_columns=read,
                column_types=schema,
                strings_can_be_null=False,
                check_utf8=False,  # rows that are not UTF-8 are named as those of other formats are
            )
            batches = iter(pyarrow.csv.open_csv(open_bytes(file), convert_options=conversion, **options))
    except pa.ArrowInvalid as error:
        raise _explain(file, header, error) from None
    hint = _explain_header(file, header, names, columns)
    return Table(names, schema, _read_batches(file, header, picked, batches), hint=hint)


def _read_batches(
    file: Path, header: str, picked: list[str], batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    rows = 0
    try:
        for batch in batches:
            _check_no_second_header(file, batch, picked, rows)
            rows += len(batch)
            yield batch
    except pa.ArrowInvalid as error:
        raise _explain(file, header, error) from None


def _leave_out(
    file: Path, header: str, on_irregular: Callable[[int, str], None], row: pyarrow.csv.InvalidRow
) -> str:
    counts = f"Expected {row.expected_columns} columns, got {row.actual_columns}"
    error = pa.ArrowInvalid(f"Row #{row.number}: {counts}: {row.text}")
    on_irregular(row.number - 1, str(_explain(file, header, error)))
    return "skip"


def _check_no_second_header(file: Path, batch: pa.RecordBatch, picked: list[str], rows: int) -> None:
    if len(picked) < 2:
        return
    repeats = [pc.equal(batch.column(name), name) for name in picked]
    row = pc.index(repeats[0] if len(repeats) == 1 else pc.and_(repeats[0], repeats[1]), True).as_py()
    if row >= 0:
        raise UserError(f"{file}, row {rows + row + 1}: it repeats the header. Drop the row.")


def _explain(file: Path, header: str, error: pa.ArrowInvalid) -> Exception:
    """Return what to raise for an error of Arrow's."""
    match = _IRREGULAR.search(str(error))
    if match is None and "Empty CSV file" in str(error):
        return UserError(f"{file} has no rows. {REMEDY.capitalize()}.")
    if match is None:
        return RowTooLong(str(error)) if "straddl" in str(error) else error
    where = f"row {int(match['row']) - 1:,}" if match["row"] else "a row"  # the header is none of the rows
    expected, actual = int(match["expected"]), int(match["actual"])
    remark = _explain_first_line(header) if where == "row 1" else ""
    remedy = "Put quotation marks around a text that holds a separator, and double those within a text."
    if actual == expected + 1 and match["text"].rstrip().endswith((",", "\t")):
        remedy = "The row ends with a separator: remove it there, or add one at the end of the header."
    elif actual == 1 and '"' not in match["text"]:
        remedy = "If it is a remark and no row, remove it."
    elif actual < expected and match["text"].count('"') % 2:
        remedy = "Its quotation mark is never closed: close it, or double it where it is part of the text."
    elif '\\"' in match["text"]:
        remedy = 'Double the quotation marks within a text (""): a backslash before them is not enough.'
    return UserError(
        f"{file} cannot be read as {split_name(file)[1][1:]}: {where} has {_columns(actual)}, the header "
        f"{_columns(expected)}: {shorten(match['text'], 80)!r}. "
        f"{remark or _explain_separator(file, header, expected) or remedy}"
    )


def _columns(count: int) -> str:
    return f"{count:,} column" + ("s" if count != 1 else "")


def _explain_header(file: Path, header: str, names: list[str], columns: Sequence[str]) -> str:
    """Return what may be wrong with a header that lacks a column; empty where nothing is odd about it."""
    if hint := _explain_first_line(header) or _explain_separator(file, header, len(names)):
        return hint
    plain = {name.strip(' "'): name for name in names}
    blank = [plain[column] for column in columns if column not in names and column in plain]
    if blank:
        remedy = _rewrite(file, "skipinitialspace=True")
        return f"There are blanks around {quote_names(blank)}: remove them, {remedy}."
    if not set(columns) & set(names) and any(map(_looks_like_data, names)):
        return f"Its first row looks like data: add a row of names above it, such as {','.join(columns)}."
    return ""


def _explain_first_line(header: str) -> str:
    """Return what is wrong with a first line that is a remark or a note to Excel; empty for other lines."""
    line = header.strip().strip('"')
    if re.fullmatch(r"sep=.?,*", line, re.IGNORECASE):
        return f"Its first line, {line!r}, is a note to Excel and names no columns: remove that line."
    if line.startswith("#"):
        return "Its first line begins with #: remove that line, or only the # where it names the columns."
    return ""


def _looks_like_data(name: str) -> bool:
    return len(name.split()) > 3 or len(name) > 60 or re.fullmatch(r"-?\d+(\.\d+)?", name) is not None


def _explain_separator(file: Path, header: str, columns: int) -> str:
    separators = [mark for mark in _SEPARATORS if mark in header]
    if columns == 1 and "," in header and split_name(file)[1] == ".tsv":
        return f"Its columns seem to be separated by commas: rename it to {split_name(file)[0]}.csv."
    if columns > 1 or not separators or split_name(file)[1] == ".tsv":
        return ""
    mark = max(separators, key=header.count)
    remedy = _rewrite(file, f"sep={mark!r}")
    hint = f"Its columns seem to be separated by {_SEPARATORS[mark]}: write commas, {remedy}"
    return f"{hint}, or rename it to {split_name(file)[0]}.tsv." if mark == "\t" else f"{hint}."


def _rewrite(file: Path, option: str) -> str:
    code = f"import pandas; pandas.read_csv({file.name!r}, {option}).to_csv({file.name!r}, index=False)"
    return f'for example by: python -c "{code}"'


def _is_quoted(file: Path) -> bool:
    """Return whether a TSV is quoted as a CSV is: all its quotation marks, and some that prove it."""
    tabs, is_regular, is_well_formed, is_evident = None, True, True, False
    with open_text(file) as lines:
        for line in lines:
            line = line.rstrip("\n")
            if not line:
                continue
            is_header = tabs is None
            tabs = line.count("\t") if tabs is None else tabs
            is_regular = is_regular and line.count("\t") == tabs
            if '"' in line and is_well_formed:
                quoted = [part for part in line.split("\t") if '"' in part]
                is_well_formed = all(_QUOTED.fullmatch(part) for part in quoted)
                is_evident = is_evident or is_header or any('""' in part[1:-1] for part in quoted)
            if not is_regular and not is_well_formed:
                break
    if is_regular:
        return is_well_formed and is_evident
    return _is_regular_csv(file)


def _is_regular_csv(file: Path) -> bool:
    """Return whether all rows of a TSV have the same number of columns, read strictly as CSV is quoted."""
    limit = csv.field_size_limit(sys.maxsize)
    try:
        with open_text(file, newline="") as stream:
            widths: set[int] = set()
            for row in csv.reader(stream, delimiter="\t", strict=True):
                widths.add(len(row))
                if len(widths - {0}) > 1:
                    return False
        return True
    except csv.Error:
        return False
    finally:
        csv.field_size_limit(limit)
